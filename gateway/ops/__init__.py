"""TODO package gateway/ops."""
