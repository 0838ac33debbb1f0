"""What a caller can ask for, in the order that makes a crash harmless.

Decides who may, what is allowed in which state, and in which order the HSM and the
store are used. Knows neither PKCS#11 nor SQL nor gRPC: see `ports`.
"""
