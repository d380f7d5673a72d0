"""The command `xcp-gateway`: a client of the admin API, and the start of the gateway itself (commands.py, run.py)."""

from gateway.cli.app import app

__all__ = ["app", "main"]


def main() -> None:
    """Entry point of the console script."""
    app()
