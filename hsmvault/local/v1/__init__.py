"""Generated from proto/hsmvault/local/v1 by scripts/proto: package hsmvault.local.v1."""
