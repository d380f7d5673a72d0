"""Who a caller is, as a real bus says."""

from __future__ import annotations

import os

import pytest

from adapters.admin_dbus.calls import Callers
from gateway.admin.peer_credentials import user_name
from tests.kit.admin import dbus_admin_client
from tests.kit.buses import ANONYMOUS, private_bus

pytestmark = pytest.mark.bus


async def test_a_caller_is_who_its_process_is() -> None:
    with private_bus() as bus:
        async with dbus_admin_client(bus.address) as one, dbus_admin_client(bus.address) as other:
            callers = Callers(one.bus, user_name)
            caller = await callers.of(str(other.bus.unique_name))
            assert caller is not None
            assert (caller.uid, caller.name) == (os.geteuid(), user_name(os.geteuid()))
            assert os.getegid() in caller.gids
            assert await callers.of(str(other.bus.unique_name)) is caller


async def test_who_has_left_is_nobody() -> None:
    with private_bus() as bus:
        async with dbus_admin_client(bus.address) as one:
            assert await Callers(one.bus, user_name).of(":1.4711") is None


async def test_who_came_without_credentials_is_nobody() -> None:
    with private_bus(listen="tcp:host=127.0.0.1,port=0", auth=ANONYMOUS) as bus:
        async with dbus_admin_client(bus.address) as one, dbus_admin_client(bus.address) as other:
            assert await Callers(one.bus, user_name).of(str(other.bus.unique_name)) is None
