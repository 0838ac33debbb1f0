"""The HSM partitions of one region. The only room that knows PKCS#11.

It generates, wraps, opens and uses keys, and holds the ceremonies by which a token gets
its region key, its pair keys and its identity. What a key may do is one table
(`templates`), which the token enforces and which is checked against the token. It knows
nothing of stores, networks, or who may ask.
"""
