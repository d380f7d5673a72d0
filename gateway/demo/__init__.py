"""`xcp-gateway demo`: bus, sample toolstack, gateway, and real calls by clients that are not ours, each one checked."""
