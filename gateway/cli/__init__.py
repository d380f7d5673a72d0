"""The command `xcp-gateway`: says what was asked and shows what came back; decides nothing itself."""

from gateway.cli import alone, moving, other, promoting, replay, rollouts, running, traffic  # each adds its commands
from gateway.cli.command import app

__all__ = ["alone", "app", "main", "moving", "other", "promoting", "replay", "rollouts", "running", "traffic"]


def main() -> None:
    """Entry point of the console script."""
    app()
