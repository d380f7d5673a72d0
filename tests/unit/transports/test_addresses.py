from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import stat
from pathlib import Path

import pytest

from adapters.transports import addresses
from gateway.core.model import Peer
from tests.kit.clients import connect


class Silent(asyncio.Protocol):
    """Closes every connection at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


async def bound(address: str) -> addresses.Bound:
    return await addresses.bind(address, Silent, 0o660)


@pytest.mark.parametrize(("written", "host"), [("tcp:127.0.0.1:0", "127.0.0.1"), ("tcp:[::1]:0", "[::1]")])
async def test_port_0_is_told_as_the_real_one(written: str, host: str) -> None:
    server = await bound(written)
    (address,) = server.addresses
    assert re.fullmatch(rf"tcp:{re.escape(host)}:[1-9]\d+", address)
    async with connect(address) as wire:
        assert await wire.rest() == b""
    server.close()
    await server.server.wait_closed()


async def test_a_taken_port_is_named() -> None:
    first = await bound("tcp:127.0.0.1:0")
    with pytest.raises(OSError, match=re.escape(f"cannot listen on {first.addresses[0]}: ")) as caught:
        await bound(first.addresses[0])
    assert caught.value.errno == errno.EADDRINUSE
    first.close()


@pytest.mark.parametrize("address", ["tcp:127.0.0.1", "tcp:::1:80", "udp:127.0.0.1:80", "tcp:127.0.0.1:80x", ""])
async def test_an_address_of_no_known_form_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(address))):
        await bound(address)


async def test_an_unknown_host_is_named() -> None:
    with pytest.raises(OSError, match=re.escape("cannot listen on tcp:no.such.host.invalid:80: ")):
        await bound("tcp:no.such.host.invalid:80")


async def test_a_socket_file_has_its_mode_and_goes_away_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "rpc"
    server = await bound(f"unix:{path}")
    assert server.addresses == (f"unix:{path}",)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    server.close()
    assert not path.exists()


async def test_a_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "rpc"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    server = await bound(f"unix:{path}")
    async with connect(f"unix:{path}") as wire:
        assert await wire.rest() == b""
    server.close()


@pytest.mark.parametrize("backlog", [5, 0])
async def test_a_socket_file_that_somebody_listens_on_is_left_alone(tmp_path: Path, backlog: int) -> None:
    path = tmp_path / "rpc"
    with socket.socket(socket.AF_UNIX) as alive, socket.socket(socket.AF_UNIX) as waiting:
        alive.bind(str(path))
        alive.listen(backlog)
        if not backlog:
            waiting.connect(str(path))  # the backlog is full
        with pytest.raises(OSError, match=re.escape(f"cannot listen on unix:{path}: Address already in use")):
            await bound(f"unix:{path}")
    assert path.is_socket()


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
async def test_what_is_no_socket_is_never_removed(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "rpc"
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="exists and is no socket"):
        await bound(f"unix:{path}")
    assert path.lstat()


async def test_a_socket_file_that_another_process_put_in_our_place_is_left(tmp_path: Path) -> None:
    path = tmp_path / "rpc"
    server = await bound(f"unix:{path}")
    other = tmp_path / "other"
    with socket.socket(socket.AF_UNIX) as successor:
        successor.bind(str(other))
        other.rename(path)
        server.close()
        assert path.is_socket()


async def test_a_path_too_long_for_a_socket_is_named(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 120)
    with pytest.raises(OSError, match=re.escape(f"cannot listen on unix:{path}: ")):
        await bound(f"unix:{path}")


async def test_the_peer_of_a_unix_socket_has_uid_gid_and_pid(tmp_path: Path) -> None:
    found: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    class Look(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            found.set_result(addresses.peer_of(transport))
            transport.close()

    path = tmp_path / "rpc"
    server = await addresses.bind(f"unix:{path}", Look, 0o600)
    async with connect(f"unix:{path}"):
        peer = await asyncio.wait_for(found, 5)
    assert peer == Peer(f"unix:{path}", uid=os.getuid(), gid=os.getgid(), pid=os.getpid())
    server.close()
