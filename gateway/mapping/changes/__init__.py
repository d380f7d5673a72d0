"""What a change of mapping files breaks, and for whom: `xcp-gateway check --against`."""
