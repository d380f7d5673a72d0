"""The service's connection: it comes, owns the name, goes with the broker and comes back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from adapters.admin_dbus.objects import ROOT
from adapters.admin_dbus.service import AdminConnectError, _connect
from tests.kit.admin import dbus_admin, dbus_admin_client
from tests.kit.buses import PrivateBus, private_bus

pytestmark = pytest.mark.bus


@pytest.fixture
def bus() -> Iterator[PrivateBus]:
    with private_bus() as bus:
        yield bus


async def test_it_owns_its_name_and_gives_it_back(bus: PrivateBus) -> None:
    async with dbus_admin_client(bus.address) as anybody:
        async with dbus_admin(bus.address) as made:
            await made.service.here.wait()
            await anybody.call(ROOT, "org.freedesktop.DBus.Peer.Ping")
            assert made.service.status() == {"address": bus.address, "connected": True, "last_error": ""}
        await anybody.until_owner(lambda owner: owner is None)


async def test_it_comes_back_with_the_bus(bus: PrivateBus) -> None:
    async with dbus_admin(bus.address) as made:
        await made.service.here.wait()
        bus.kill()
        await made.service.away.wait()
        bus.start()
        await made.service.here.wait()
        async with dbus_admin_client(bus.address) as anybody:
            await anybody.until_there()
            await anybody.call(ROOT, "org.freedesktop.DBus.Peer.Ping")


async def test_a_bus_that_is_not_there_keeps_nobody_from_starting_or_stopping() -> None:
    async with dbus_admin("unix:path=/nowhere/bus") as made:
        assert not made.service.connected
        await made.service.away.wait()
        assert "No such file" in made.service.last_error


async def test_a_second_gateway_stands_in_line_and_takes_over(bus: PrivateBus) -> None:
    async with dbus_admin_client(bus.address) as anybody, dbus_admin(bus.address) as second:
        await second.service.here.wait()
        first_owner = await anybody.owner()
        async with dbus_admin(bus.address) as third:
            await third.service.here.wait()
            assert await anybody.owner() == first_owner
            await second.service.stop()
            await anybody.until_owner(lambda owner: owner not in (None, first_owner))
            await anybody.call(ROOT, "org.freedesktop.DBus.Peer.Ping")


async def test_what_is_no_bus_is_told_in_words() -> None:
    with pytest.raises(AdminConnectError):
        await _connect("unix:path=/nowhere/bus")
