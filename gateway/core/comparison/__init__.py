"""TODO package gateway/core/comparison."""
