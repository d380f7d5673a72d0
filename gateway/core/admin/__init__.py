"""TODO package gateway/core/admin."""
