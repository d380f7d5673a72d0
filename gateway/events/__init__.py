"""TODO package gateway/events."""
