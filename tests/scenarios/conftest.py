"""What dies under the D-Bus adapter dies on the daemon's loop; other scenarios run a real gateway, or need none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

uvloop.new_event_loop().close()  # libuv opens a pipe of its own with the first loop of a process, and keeps it

DAEMONS_LOOP = {"test_bus_lost.py", "test_services_that_fail.py"}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop} if item.path.name in DAEMONS_LOOP else {"asyncio": asyncio.new_event_loop}
