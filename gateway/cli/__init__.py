"""The command `xcp-gateway`: a client of the admin API, and the start of the gateway itself."""

from gateway.cli import (  # noqa: F401 - each adds its commands
    daemon,
    mode,
    promote,
    reference,
    replay,
    rollout,
    scaffold,
    traffic,
    watch,
)
from gateway.cli.app import app

__all__ = ["app", "main"]


def main() -> None:
    """Entry point of the console script."""
    app()
