"""The command `xcp-gateway`: says what was asked and shows what came back; decides nothing itself."""

from gateway.cli import daemon, mode, promote, replay, rollout, traffic, version  # noqa: F401 - each adds its commands
from gateway.cli.app import app

__all__ = ["alone", "app", "main", "moving", "other", "promoting", "replay", "rollouts", "running", "traffic"]


def main() -> None:
    """Entry point of the console script."""
    app()
