"""The HTTP/1.1 client: connections to legacy services, at most once."""
