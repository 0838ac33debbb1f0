"""The life of regions: birth, adding, sealing what exists, staying in step, removal.

Every operation is a state in the region's record, and each step finds out by itself how
far it came: whoever starts after a crash goes on where the log says.
"""
