from __future__ import annotations

from typer.testing import CliRunner

from gateway import __version__
from gateway.cli import app


def test_version_is_one_line() -> None:
    assert CliRunner().invoke(app, ["version"]).stdout == f"xcp-gateway {__version__}\n"
