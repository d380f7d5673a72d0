"""A web application on a socket that is bound first and lets people in later. Knows no address and no path."""

from __future__ import annotations

import socket

from aiohttp import web

STOP_PATIENCE = 1.0  # seconds for a request to end at stop; the calls of clients have had the grace time before


class Serving:
    """What the servers of the operator's side are. `bind` fills `_socket`; it raises OSError that names the address."""

    def __init__(self, application: web.Application) -> None:
        self._socket: socket.socket | None = None
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
        await web.SockSite(self._runner, self._socket).start()

    async def stop(self) -> None:
        """Close."""
        await self._runner.cleanup()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
