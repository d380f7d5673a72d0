"""TODO package adapters/xenstore/client."""
