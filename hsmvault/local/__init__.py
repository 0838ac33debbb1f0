"""How the processes of one region talk to each other: Unix sockets in its directory.

Whoever may open the sockets is trusted; their directory is 0700. Errors cross as
google.rpc.Status, and are of the same class on the other side.
"""
