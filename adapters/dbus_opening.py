"""Opens a connection to a message bus, and lets go of one without harm. Knows no message."""

from __future__ import annotations

import asyncio

from dbus_fast.aio import MessageBus
from dbus_fast.auth import AuthAnonymous, AuthExternal

GIVE_UP_TIMEOUT = 0.5  # seconds for a connection, or an attempt at one, to see that its socket is shut


async def connect(address: str) -> MessageBus:
    """Connect and authenticate; raises whatever the library does. Nothing is left of an attempt that is cancelled."""
    # Descriptors are not negotiated: none can enter this process, whatever a service sends. TCP carries no credentials.
    auth = AuthAnonymous() if address.startswith("tcp:") else AuthExternal()
    bus = MessageBus(bus_address=address, auth=auth)
    connecting = asyncio.ensure_future(bus.connect())
    try:
        return await asyncio.shield(connecting)
    except asyncio.CancelledError:
        await _give_up(bus, connecting)
        raise


async def close(bus: MessageBus) -> None:
    """Close a connection, and wait until its socket is shut."""
    bus.disconnect()
    await asyncio.wait({asyncio.ensure_future(bus.wait_for_disconnect())}, timeout=GIVE_UP_TIMEOUT)  # type: ignore[no-untyped-call] # theirs


async def _give_up(bus: MessageBus, connecting: asyncio.Task[MessageBus]) -> None:
    """End an attempt to connect from below, by its socket.

    A `connect` that is cancelled may close its descriptor and still watch it; uvloop aborts the process for that.
    """
    bus.disconnect()
    _, still = await asyncio.wait({connecting}, timeout=GIVE_UP_TIMEOUT)
    if still:  # it has no socket yet
        connecting.cancel()
        await asyncio.wait({connecting})
    if not connecting.cancelled() and connecting.exception() is None:
        await close(bus)
