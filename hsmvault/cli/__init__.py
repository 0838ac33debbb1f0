"""The command line: every RPC, a region's whole life, and a demonstration.

What it prints is for people, or JSON on request; what goes wrong is one message on
stderr that says what to do, and an exit code that says which group it belongs to.
"""
