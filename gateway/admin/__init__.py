"""TODO package gateway/admin."""
