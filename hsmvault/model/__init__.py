"""What the vault is about: names, states, decisions. Touches nothing.

No clock, no randomness, no files, no threads: what it needs of them comes as arguments.
"""
