"""The operator's service: HTTP API on a Unix socket, health and metrics."""
