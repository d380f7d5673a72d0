from __future__ import annotations

import sys
from urllib.parse import quote

import pytest

from adapters.dbus.connect import command
from adapters.dbus.connection import BusConnectionLimits, ConnectError, DBusConnection
from gateway.core.dbus.target import MethodCall
from gateway.core.rpc.model import Fault
from tests.kit.buses import private_bus

GET_ID = MethodCall("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "GetId", "")

# What systemd-stdio-bridge does, for machines that have no systemd.
BRIDGE = """
import os, socket, sys, threading
bus = socket.socket(socket.AF_UNIX)
bus.connect(sys.argv[1])
def carry(source, sink):
    while data := os.read(source, 65536):
        os.write(sink, data)
    os._exit(0)
threading.Thread(target=carry, args=(0, bus.fileno())).start()
carry(bus.fileno(), 1)
"""


def test_the_command_stands_in_the_address_with_its_arguments_in_order() -> None:
    address = "unixexec:path=/usr/bin/ssh,argv2=host%2cname,argv1=-xT,argv3=systemd-stdio-bridge"
    assert command(address) == ["/usr/bin/ssh", "-xT", "host,name", "systemd-stdio-bridge"]


def test_an_address_without_a_path_is_refused() -> None:
    with pytest.raises(ValueError, match="needs path="):
        command("unixexec:argv1=-xT")


async def test_a_bus_is_reached_through_a_process() -> None:
    with private_bus() as bus:
        socket = bus.address.removeprefix("unix:path=").split(",")[0]
        address = f"unixexec:path={sys.executable},argv1=-c,argv2={quote(BRIDGE)},argv3={quote(socket)}"
        connection = await DBusConnection.open(address, BusConnectionLimits())
        got = await connection.call(GET_ID)
        assert got is not None
        assert not isinstance(got, Fault), got
        assert not got.error_name, got
        connection.close()
        await connection.closed()


@pytest.mark.parametrize("path", ["/no/such/command", "/bin/false", "/bin/cat"])
async def test_a_process_that_is_no_bus_is_refused_and_not_left_running(path: str) -> None:
    with pytest.raises(ConnectError):
        await DBusConnection.open(f"unixexec:path={path}", BusConnectionLimits())


async def test_a_process_that_says_nothing_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.dbus.connection.OPEN_TIMEOUT", 0.05)
    monkeypatch.setattr("adapters.dbus.connect.EXIT_TIMEOUT", 0.01)
    with pytest.raises(ConnectError):
        await DBusConnection.open("unixexec:path=/bin/sleep,argv1=1000", BusConnectionLimits())
