"""The demo's old client of squeezed, for tests."""

from demo.old_squeezed import RpcError, Squeezed

__all__ = ["RpcError", "Squeezed"]
