"""Backends that run for the length of a test; knows nothing of what they are asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from adapters.dbus import backend as dbus

PATIENCE = 60.0  # seconds before a test that waits for something gives up


@asynccontextmanager
async def dbus_backend(
    *buses: dbus.BusSettings, around: dbus.Dependencies | None = None
) -> AsyncIterator[dbus.Backend]:
    """A D-Bus backend that is connected to all its buses."""
    backend = dbus.Backend({bus.name: bus for bus in buses}, around)
    await backend.start()
    try:
        async with asyncio.timeout(PATIENCE):
            await backend.connected()
        yield backend
    finally:
        await backend.stop()
