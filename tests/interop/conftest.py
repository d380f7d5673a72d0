"""The sample toolstack for the tests of a file: whole, as the demo has it, or its bus alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from demo.environment import Environment, start_environment
from tests.kit.toolstack import Toolstack


@pytest.fixture(scope="module")
def running() -> Iterator[Environment]:
    """Bus, services, xenstore, legacy xapi, and a gateway with the shipped mappings."""
    with start_environment() as everything:
        yield everything


@pytest.fixture(scope="module")
def toolstack_bus() -> Iterator[str]:
    """The address of a bus whose services start on demand."""
    toolstack = Toolstack()
    with asyncio.Runner() as runner:
        runner.run(toolstack.__aenter__())
        yield toolstack.address
        runner.run(toolstack.__aexit__(None, None, None))
