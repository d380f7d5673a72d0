"""What both servers of the operator's side share: bound first, open later, gone after stop."""

from __future__ import annotations

import asyncio
import socket

import aiohttp
import pytest
from aiohttp import web

from gateway.admin.http import SocketServer


class Local(SocketServer):
    """Any free port of this machine."""

    port = 0

    def bind(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]


async def status(port: int) -> int:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/") as response:
        return response.status


async def test_start_binds_where_nobody_has() -> None:
    server = Local("local", web.Application())
    await server.start()
    assert await status(server.port) == 404
    await server.stop()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", server.port)


async def test_what_is_bound_before_is_taken_as_it_is() -> None:
    server = Local("local", web.Application())
    server.bind()
    port = server.port
    await server.start()
    assert server.port == port
    assert await status(port) == 404
    await server.stop()


async def test_stop_closes_what_was_bound_and_never_opened() -> None:
    server = Local("local", web.Application())
    server.bind()
    await server.stop()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", server.port)
