"""xenstore: its client, requests as nodes, published nodes, upstreams behind nodes."""
