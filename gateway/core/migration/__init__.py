"""TODO package gateway/core/migration."""
