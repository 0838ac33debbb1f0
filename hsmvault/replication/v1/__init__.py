"""Generated from proto/hsmvault/replication/v1 by scripts/proto: package hsmvault.replication.v1."""
