"""The public Python client: it knows every partition, and goes on when some are gone.

`hsmvault.connect` is the way in. Answers are the messages of package hsmvault.v1;
errors are the classes of hsmvault.model.errors.
"""
