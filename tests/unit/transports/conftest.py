"""Transports run on the daemon's loop and on asyncio's own: every test here meets both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

uvloop.new_event_loop().close()  # libuv opens a pipe of its own with the first loop of a process, and keeps it


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
