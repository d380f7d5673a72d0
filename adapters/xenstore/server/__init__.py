"""TODO package adapters/xenstore/server."""
