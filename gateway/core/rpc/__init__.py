"""TODO package gateway/core/rpc."""
