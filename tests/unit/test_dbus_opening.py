from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from adapters import dbus_opening
from tests.kit.bus import private_bus

pytestmark = pytest.mark.bus


async def test_a_connection_is_opened_and_its_socket_shut() -> None:
    with private_bus() as bus:
        opened = await dbus_opening.connect(bus.address)
        assert opened.connected
        await dbus_opening.close(opened)
        assert not opened.connected


async def test_nothing_is_left_of_an_attempt_that_is_given_up(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as mute:  # takes connections and never says a word
        mute.bind(str(tmp_path / "bus"))
        mute.listen()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await dbus_opening.connect(f"unix:path={tmp_path}/bus")


async def test_an_address_that_leads_nowhere_is_an_error() -> None:
    with pytest.raises(OSError, match="No such file"):
        await dbus_opening.connect("unix:path=/nowhere/bus")
