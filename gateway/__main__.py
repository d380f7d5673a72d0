"""`python -m gateway` is `xcp-gateway`."""

from gateway.cli import main

main()
