"""The gRPC edge: who is calling, may they, and what we answer. Decides nothing else."""
