from __future__ import annotations

import pytest

from adapters.backends.dbus_connection import ConnectError, Connection, Limits
from adapters.backends.dbus_unixexec import command
from gateway.core.model import Fault
from gateway.core.route import MethodCall
from tests.kit.bus import private_bus

GET_ID = MethodCall("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "GetId", "")


def test_the_command_stands_in_the_address_with_its_arguments_in_order() -> None:
    address = "unixexec:path=/usr/bin/ssh,argv2=host%2cname,argv1=-xT,argv3=systemd-stdio-bridge"
    assert command(address) == ["/usr/bin/ssh", "-xT", "host,name", "systemd-stdio-bridge"]


def test_an_address_without_a_path_is_refused() -> None:
    with pytest.raises(ValueError, match="needs path="):
        command("unixexec:argv1=-xT")


async def test_a_bus_is_reached_through_a_process() -> None:
    with private_bus() as bus:
        inner = bus.address.split(",")[0].replace("=", "%3d").replace(":", "%3a")
        address = f"unixexec:path=/usr/bin/systemd-stdio-bridge,argv1=--bus-path%3d{inner}"
        connection = await Connection.open(address, Limits())
        got = await connection.call(GET_ID)
        assert got is not None
        assert not isinstance(got, Fault), got
        assert not got.error_name, got
        connection.close()
        await connection.closed()


@pytest.mark.parametrize("path", ["/no/such/command", "/bin/false", "/bin/cat"])
async def test_a_process_that_is_no_bus_is_refused_and_not_left_running(path: str) -> None:
    with pytest.raises(ConnectError):
        await Connection.open(f"unixexec:path={path}", Limits())


async def test_a_process_that_says_nothing_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.backends.dbus_connection.OPEN_TIMEOUT", 0.05)
    monkeypatch.setattr("adapters.backends.dbus_unixexec.PATIENCE", 0.01)
    with pytest.raises(ConnectError):
        await Connection.open("unixexec:path=/bin/sleep,argv1=1000", Limits())
