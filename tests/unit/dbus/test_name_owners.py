"""Who is behind a bus name, as a real broker tells it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from adapters.dbus.connection import BusConnectionLimits, DBusConnection, ReplyFuture
from adapters.dbus.name_owners import OWNER_UNKNOWN, NameOwner, owners
from gateway.core.admin.status import Presence
from gateway.core.dbus.target import MethodCall
from gateway.core.rpc.model import Fault, FaultCode
from tests.kit.backends import TIMEOUT, TOY
from tests.kit.buses import private_bus
from tests.kit.toy_service import toy_service

SLEEPER = "org.example.Sleeper"
ABSENT = "org.example.Absent"


async def test_a_name_is_owned_or_starts_on_demand_or_is_absent(tmp_path: Path) -> None:
    (tmp_path / "sleeper.service").write_text(f"[D-BUS Service]\nName={SLEEPER}\nExec=/bin/false\n")
    with private_bus(activation=tmp_path) as bus, toy_service(bus.address, TOY):
        connection = await DBusConnection.open(bus.address, BusConnectionLimits())
        async with asyncio.timeout(TIMEOUT):
            found = await owners(connection.call, [TOY, SLEEPER, ABSENT])
        connection.close()
        await connection.closed()
    assert found.keys() == {TOY, SLEEPER, ABSENT}
    assert found[TOY].presence is Presence.OWNED
    assert found[TOY].unique_name.startswith(":1.")
    assert found[SLEEPER] == NameOwner(Presence.ON_DEMAND)
    assert found[ABSENT] == NameOwner(Presence.ABSENT)


async def test_nothing_is_known_of_a_bus_that_cannot_be_asked() -> None:
    async def lost(call: MethodCall) -> ReplyFuture | None:
        return Fault(FaultCode.UNAVAILABLE, "the connection to the message bus is lost; the call was not sent")

    assert await owners(lost, [TOY]) == {TOY: OWNER_UNKNOWN}


def test_only_who_is_there_or_can_be_started_is_reachable() -> None:
    assert [presence for presence in Presence if presence.is_reachable] == [Presence.OWNED, Presence.ON_DEMAND]
