"""Connections are made: addresses and the first messages."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from adapters.dbus import connect
from adapters.dbus.connect import command
from adapters.dbus.connection import BusConnectionLimits, ConnectError, DBusConnection
from gateway.core.admin.status import Presence
from gateway.core.dbus.target import MethodCall
from gateway.core.rpc.model import Fault
from tests.kit.buses import private_bus
from tests.kit.cases import each_case
from tests.kit.programs import TIMEOUT

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


@each_case("path", ["/no/such/command", "/bin/false", "/bin/cat"])
async def test_a_process_that_is_no_bus_is_refused_and_not_left_running(path: str) -> None:
    with pytest.raises(ConnectError):
        await DBusConnection.open(f"unixexec:path={path}", BusConnectionLimits())


async def test_a_process_that_says_nothing_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.dbus.connection.OPEN_TIMEOUT", 0.05)
    monkeypatch.setattr("adapters.dbus.connect.EXIT_TIMEOUT", 0.01)
    with pytest.raises(ConnectError):
        await DBusConnection.open("unixexec:path=/bin/sleep,argv1=1000", BusConnectionLimits())


# Opening


pytestmark = pytest.mark.bus


async def test_a_connection_is_opened_and_its_socket_shut() -> None:
    with private_bus() as bus:
        opened = await connect.connect(bus.address)
        assert opened.connected
        await connect.close(opened)
        assert not opened.connected


async def test_nothing_is_left_of_an_attempt_that_is_given_up(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as mute:  # takes connections and never says a word
        mute.bind(str(tmp_path / "bus"))
        mute.listen()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await connect.connect(f"unix:path={tmp_path}/bus")


async def test_an_address_that_leads_nowhere_is_an_error() -> None:
    with pytest.raises(OSError, match="No such file"):
        await connect.connect("unix:path=/nowhere/bus")


async def test_a_bus_that_passes_no_descriptors_on_is_a_bus_all_the_same(tmp_path: Path) -> None:
    with private_bus() as bus:
        path = bus.address.removeprefix("unix:path=").partition(",")[0]

        async def refuse_descriptors(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            its_reader, its_writer = await asyncio.open_unix_connection(path)
            its_writer.write(await reader.readexactly(1))
            line = b""
            while line != b"BEGIN\r\n":
                line = await reader.readline()
                if line == b"NEGOTIATE_UNIX_FD\r\n":
                    writer.write(b"ERROR\r\n")
                    continue
                its_writer.write(line)
                if line.startswith(b"AUTH"):
                    writer.write(await its_reader.readline())
            its_writer.write(await reader.read(4096))  # Hello
            writer.write(await its_reader.read(4096))
            await reader.read()
            for each in (writer, its_writer):
                each.close()

        server = await asyncio.start_unix_server(refuse_descriptors, tmp_path / "bus")
        opened = await asyncio.wait_for(connect.connect(f"unix:path={tmp_path}/bus"), TIMEOUT)
        assert opened.unique_name
        await connect.close(opened)
        server.close()


def test_only_who_is_there_or_can_be_started_is_reachable() -> None:
    assert [presence for presence in Presence if presence.is_reachable] == [Presence.OWNED, Presence.ON_DEMAND]
