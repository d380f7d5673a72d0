"""The sample toolstack for the tests of a file: whole, as the demo has it, or its bus alone; and real stores."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from adapters.xenstore.client.client import XenstoreClient
from demo.environment import Environment, start_environment
from tests.kit.programs import TIMEOUT
from tests.kit.stores import BOTH, Xenstored, xenstored
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


@pytest.fixture(params=BOTH)
def daemon(request: pytest.FixtureRequest) -> Iterator[Xenstored]:
    """Each of the two stores."""
    with xenstored(name=request.param) as running:
        yield running


@pytest.fixture
async def store(daemon: Xenstored) -> AsyncIterator[XenstoreClient]:
    """Our client on it."""
    async with XenstoreClient(daemon.path) as store:
        await asyncio.wait_for(store.until_connected(), TIMEOUT)
        yield store
