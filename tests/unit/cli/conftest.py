"""An API for commands, and one command tree for all tests: to build it takes longer than most commands."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer import testing

from tests.kit.admin import Served, served

testing._get_command = functools.cache(testing._get_command)  # type: ignore[attr-defined]


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as running:
        yield running
