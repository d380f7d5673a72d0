"""TODO package adapters/xenstore/publish."""
