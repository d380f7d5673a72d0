"""Tests run on the daemon's loop; those of what the transport itself does run on asyncio's own loop too."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping

import pytest
import uvloop

uvloop.new_event_loop().close()  # libuv opens a pipe of its own with the first loop of a process, and keeps it

ON_BOTH = {"test_connection.py", "test_exchange.py", "test_client_connection.py"}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    own = {"asyncio": asyncio.new_event_loop} if item.path.name in ON_BOTH else {}
    return {**own, "uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def _nothing_is_logged(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No client can make the transport log an exception, but for the endpoint that breaks its contract."""
    yield
    if "a_bug_behind" not in request.node.name:
        assert [record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.ERROR] == []
