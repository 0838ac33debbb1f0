"""The processes of a region: supervisor, partition servers, pool manager.

Wiring, and nothing else: here the rooms meet, ports get what satisfies them, and it is
decided what starts, in which order, and what an end of it means.
"""
