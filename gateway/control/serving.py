"""A web application on a socket that is bound first and lets people in later. Knows no address and no path."""

from __future__ import annotations

import asyncio
import socket

from aiohttp import web

from gateway.control.guard import BACKLOG, Guard, GuardLimits

STOP_PATIENCE = 1.0  # seconds for a request to end at stop; the calls of clients have had the grace time before


class Serving:
    """What the servers of the operator's side are. `bind` fills `_socket`; it raises OSError that names the address."""

    def __init__(self, name: str, application: web.Application, limits: GuardLimits | None = None) -> None:
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self.guard = Guard(name, limits)
        self.guard.over(application)
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=STOP_PATIENCE)

    def bind(self) -> None:
        """Take the address and let nobody in."""
        raise NotImplementedError

    async def start(self) -> None:
        """Let people in; bind first where that is not done."""
        if self._socket is None:
            self.bind()
        assert self._socket is not None
        await self._runner.setup()
        assert self._runner.server is not None
        protocols = self.guard.protocols(self._runner.server)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(protocols, sock=self._socket, backlog=BACKLOG)

    async def stop(self) -> None:
        """Close."""
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
