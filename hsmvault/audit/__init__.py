"""The audit trail: who did what, in files that only grow, each line chained.

One file per process, so that no two ever write to one; written before the answer
leaves; read, merged and verified without the vault that wrote it.
"""
