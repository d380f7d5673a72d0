"""TODO package gateway/migration."""
