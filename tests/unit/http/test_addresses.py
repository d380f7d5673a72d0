from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import stat
from pathlib import Path

import pytest

from adapters.http import addresses
from adapters.http.addresses import InheritedSockets
from tests.kit.cases import each_case
from tests.kit.clients import connect


class Silent(asyncio.Protocol):
    """Closes every connection at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


async def bound(address: str, factory: addresses.ProtocolFactory = Silent) -> addresses.Bound:
    one = await addresses.bind(address, 0o660, InheritedSockets({}))
    try:
        await one.accept(factory)
    except OSError:
        one.close()
        raise
    return one


@each_case("address", ["tcp:127.0.0.1", "tcp:::1:80", "udp:127.0.0.1:80", "tcp:127.0.0.1:80x", ""])
async def test_an_address_of_no_known_form_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(address))):
        await bound(address)


async def test_an_address_that_cannot_be_had_is_named_also_where_it_is_taken_before_it_accepts() -> None:
    one = await addresses.bind("tcp:127.0.0.1:0", 0o660, InheritedSockets({}))
    other = await addresses.bind(one.addresses[0], 0o660, InheritedSockets({}))
    await one.accept(Silent)
    for address in ("tcp:no.such.host.invalid:80", f"unix:/tmp/{'x' * 120}", one.addresses[0]):
        with pytest.raises(OSError, match=re.escape(f"cannot listen on {address}: ")) as caught:
            await (other.accept(Silent) if address == one.addresses[0] else bound(address))
    assert caught.value.errno == errno.EADDRINUSE
    one.close()
    other.close()


async def test_nobody_is_let_in_before_accept_and_what_never_accepts_is_released_too(tmp_path: Path) -> None:
    server = await addresses.bind(f"unix:{tmp_path}/rpc", 0o660, InheritedSockets({}))
    with pytest.raises(ConnectionRefusedError):
        async with connect(f"unix:{tmp_path}/rpc"):
            pass
    server.close()
    await server.closed()
    assert not list(tmp_path.iterdir())


async def test_a_socket_file_replaces_a_stale_one_has_its_mode_and_goes_away_unless_it_is_anothers(
    tmp_path: Path,
) -> None:
    path, other = tmp_path / "rpc", tmp_path / "other"
    os.close(listening_unix(str(path)))
    server = await bound(f"unix:{path}")
    assert server.addresses == (f"unix:{path}",)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    async with connect(f"unix:{path}") as wire:
        assert await wire.rest() == b""
    server.close()
    assert not path.exists()
    server = await bound(f"unix:{path}")
    os.close(listening_unix(str(other)))
    other.rename(path)
    server.close()
    assert path.is_socket()


async def test_what_is_no_socket_is_never_removed(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("precious")
    link.symlink_to(tmp_path / "elsewhere")
    for path in (file, link, tmp_path):
        with pytest.raises(OSError, match="exists and is not a socket"):
            await bound(f"unix:{path}")
        assert path.lstat()


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


def listening_unix(name: str) -> int:
    """A descriptor as systemd passes it: no object of this process owns it."""
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(name)
        made.listen()
        return made.detach()


@pytest.mark.parametrize("abstract", [False, True])
async def test_a_socket_of_systemd_is_taken_as_it_is_and_its_file_stays(tmp_path: Path, abstract: bool) -> None:
    name = f"\0gateway-{os.getpid()}" if abstract else f"{tmp_path}/rpc"
    passed = InheritedSockets({"rpc": [listening_unix(name)]})
    says = "cannot listen on systemd:web: systemd passed no socket named 'web'; left to take: 'rpc'"
    with pytest.raises(OSError, match=f"^{re.escape(says)}$"):
        await addresses.bind("systemd:web", 0o600, passed)
    server = await addresses.bind("systemd:rpc", 0o600, passed)
    assert server.addresses == (f"unix:{name}".replace("\0", "@"),)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(name)  # the kernel holds it until we accept
        await server.accept(Silent)
        assert await asyncio.to_thread(client.recv, 1) == b""
    server.close()
    await server.closed()
    assert abstract or Path(name).is_socket()
    assert passed.names == ()
