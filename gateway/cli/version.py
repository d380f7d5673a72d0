"""The commands `demo` and `version`, which need no running gateway and no config."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path
from typing import Annotated

import typer

from gateway import __version__
from gateway.cli.app import OTHER, UNUSABLE, app, fail
from gateway.cli.output import out


@app.command(rich_help_panel=OTHER)
def demo(
    *,
    stay: Annotated[bool, typer.Option("--stay", help="Leave everything running and print what to try.")] = False,
) -> None:
    """Start a private bus, the sample toolstack and a gateway; call it with real clients; show what the bus saw.

    Exit status 0 only when every answer was right.
    """
    checkout = Path(__file__).parents[2] / "docker"
    installed = Path(sysconfig.get_path("data")) / "share" / "xcp-gateway"
    place = next((each for each in (checkout, installed) if (each / "demo").is_dir()), None)
    if place is None:
        fail(f"the demo is not installed: expected {installed / 'demo'}", UNUSABLE)
    program = [sys.executable, "-m", "demo", *(["--stay"] if stay else [])]
    path = os.pathsep.join(filter(None, [str(place), os.environ.get("PYTHONPATH", "")]))
    os.execve(program[0], program, {**os.environ, "PYTHONPATH": path})  # noqa: S606 - our own program


@app.command(rich_help_panel=OTHER)
def version() -> None:
    """Print the version."""
    out.print(f"xcp-gateway {__version__}")
