"""Keeping extended regions up to date: the log, its snapshots, and what travels back.

Extended regions dial the primary, both ends pinned to certificates. What arrives is
believed for the author's signatures and the chain alone, opened under the pair key and
wrapped again inside the own HSM, and stored in one transaction; whatever does not fit
stops the link, with an alarm, and changes nothing.
"""
