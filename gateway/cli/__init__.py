"""The command `xcp-gateway`: says what was asked and shows what came back; decides nothing itself."""

from gateway.cli import alone, running  # each adds its commands
from gateway.cli.command import app

__all__ = ["alone", "app", "main", "running"]


def main() -> None:
    """Entry point of the console script."""
    app()
