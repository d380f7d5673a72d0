"""What every transport keeps to, whatever it carries."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from adapters.http.server import HttpServer
from adapters.xenstore.server import listener
from gateway.core import interfaces
from gateway.core.interfaces import Endpoint
from tests.kit.listeners import Echo
from tests.kit.programs import TIMEOUT

TRANSPORTS: dict[str, type[interfaces.Transport]] = {"http": HttpServer, "xenstore": listener.XenstoreTransport}
EVERY = pytest.mark.parametrize("kind", TRANSPORTS.values(), ids=TRANSPORTS.keys())


def make(kind: type[interfaces.Transport], path: Path) -> interfaces.Transport:
    if kind is TRANSPORTS["xenstore"]:
        return kind("rpc", [f"xenstore:{path}"])  # type: ignore[call-arg] # the Protocol leaves construction open
    echo = Echo()

    def resolve(path: str) -> Endpoint | None:
        return echo

    return kind("rpc", [f"unix:{path}"], resolve)  # type: ignore[call-arg] # the Protocol leaves construction open


async def test_it_listens_only_between_start_and_stop_and_keeps_what_is_open(tmp_path: Path) -> None:
    transport = make(HttpServer, tmp_path / "socket")
    assert await transport.stop(0) == 0
    await transport.start()
    reader, writer = await asyncio.open_unix_connection(tmp_path / "socket")
    with pytest.raises(TimeoutError):  # it stays open
        await asyncio.wait_for(reader.read(), 0.05)
    writer.close()
    await writer.wait_closed()
    assert [await transport.stop(0) for _ in range(2)] == [0, 0]
    with pytest.raises(FileNotFoundError):
        await asyncio.open_unix_connection(tmp_path / "socket")


async def test_an_address_it_cannot_have_is_named(tmp_path: Path) -> None:
    (tmp_path / "socket").write_text("in the way")
    with pytest.raises(OSError, match=f"unix:{tmp_path}/socket"):
        await make(HttpServer, tmp_path / "socket").start()


@EVERY
async def test_it_starts_and_stops_again_and_nothing_was_in_flight(
    kind: type[interfaces.Transport], tmp_path: Path
) -> None:
    transport = make(kind, tmp_path / "socket")
    for _ in range(2):
        await transport.start()
        assert await asyncio.wait_for(transport.stop(TIMEOUT), TIMEOUT) == 0
    assert await transport.stop(0) == 0
