"""TODO package gateway/pipeline."""
