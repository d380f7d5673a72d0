"""xcp-gateway: legacy RPC in, D-Bus out; this package decides, `adapters` talks."""

__version__ = "0.1.0"
