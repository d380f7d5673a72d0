"""TODO package gateway/core/routing."""
