"""TODO package adapters/xenstore."""
