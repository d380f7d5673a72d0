from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from adapters.dbus import connect
from tests.kit.buses import private_bus

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
        opened = await asyncio.wait_for(connect.connect(f"unix:path={tmp_path}/bus"), 5)
        assert opened.unique_name
        await connect.close(opened)
        server.close()
