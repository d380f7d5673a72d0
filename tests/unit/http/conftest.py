"""Transports run on the daemon's loop and on asyncio's own: every test here meets both."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping

import pytest
import uvloop

uvloop.new_event_loop().close()  # libuv opens a pipe of its own with the first loop of a process, and keeps it


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def _nothing_is_logged(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No client can make the transport log an exception, but for the endpoint that breaks its contract."""
    yield
    if "a_bug_behind" not in request.node.name:
        assert [record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.ERROR] == []
