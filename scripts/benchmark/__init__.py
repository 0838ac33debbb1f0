"""What the vault costs, beside what the token and the transport cost anyway.

All figures come from one run on one machine. The floor is the same gRPC server, the
same mTLS and the same messages around the bare PKCS#11 call; the no-op server lacks
even that.
"""
