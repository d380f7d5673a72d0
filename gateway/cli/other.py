"""Commands beside the gateway: the demo and the version."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway import __version__
from gateway.cli.command import OTHER, app
from gateway.cli.showing import out


@app.command(rich_help_panel=OTHER)
def demo(
    *,
    stay: Annotated[bool, typer.Option("--stay", help="Leave everything running and print what to try.")] = False,
) -> None:
    """Start a private bus, the sample toolstack and a gateway; call it with real clients; show what the bus saw.

    Exit status 0 only when every answer was right.
    """
    from gateway.demo import showing

    raise typer.Exit(showing.run(stay=stay))


@app.command(rich_help_panel=OTHER)
def version() -> None:
    """Print the version."""
    out.print(f"xcp-gateway {__version__}")
