"""Generated from proto/hsmvault/v1 by scripts/proto: package hsmvault.v1."""
