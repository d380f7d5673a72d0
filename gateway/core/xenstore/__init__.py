"""TODO package gateway/core/xenstore."""
