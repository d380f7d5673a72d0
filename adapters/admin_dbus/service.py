"""org.xen.xcp.gateway on a message bus: owns the name over a connection of its own and reconnects when it is lost.

Calls of legacy clients do not use this connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from time import time
from typing import TypeVar
from uuid import uuid4

from dbus_fast import RequestNameReply

from adapters.admin_dbus import objects
from adapters.admin_dbus.calls import Callers, CallServer
from adapters.dbus import connect
from gateway.core.admin.access import AccessRules
from gateway.core.admin.views import Notification
from gateway.core.interfaces import AdminOperations
from gateway.core.logger import Logger

OPEN_TIMEOUT = 10.0  # seconds for connecting, authenticating and asking for the name together
SOONEST, LATEST = 0.1, 5.0  # seconds before the next attempt to connect; doubled each time
VENDOR = "xcp-gateway"

_T = TypeVar("_T")
_log = Logger("admin")


class AdminBusService:
    """The admin service on one bus. `user_name` returns the name of a uid, for the audit."""

    def __init__(
        self,
        address: str,
        operator: AdminOperations,
        rights: AccessRules,
        user_name: Callable[[int], str],
        version: str,
    ) -> None:
        self._address = address
        self._operator = operator
        self._rights = rights
        self._user_name = user_name
        self._service = {
            "Name": "gateway", "Vendor": VENDOR, "Version": version, "Features": [], "InstanceId": str(uuid4()),
            "Since": int(time()),
        }  # fmt: skip
        self._running: asyncio.Task[None] | None = None
        self._serving: CallServer | None = None
        self._unsubscribe: Callable[[], None] = lambda: None
        self.last_error = "not connected yet"
        self.here = asyncio.Event()
        self.away = asyncio.Event()  # set once an attempt or a connection has ended

    @property
    def connected(self) -> bool:
        """Whether the bus name is owned, or queued for behind another gateway."""
        return self._serving is not None

    def status(self) -> Mapping[str, object]:
        """Return the row of `xcp-gateway status`."""
        return {"address": self._address, "connected": self.connected, "last_error": self.last_error}

    async def start(self) -> None:
        """Start to connect; returns at once, reconnects until `stop`."""
        self._unsubscribe = self._operator.subscribe(self._notify)
        self._running = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Release the name and close."""
        self._unsubscribe()
        self._unsubscribe = lambda: None
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])
            self._running = None

    def _notify(self, news: Notification) -> None:
        if self._serving is not None:
            self._serving.notify(news)

    async def _run(self) -> None:
        pause = SOONEST
        while True:
            try:
                await self._serve()
                pause = SOONEST
                error = "the bus has closed the connection"
            except AdminConnectError as failure:
                error = str(failure)
            if error != self.last_error:
                _log.warning("the admin service on D-Bus is not available", bus=self._address, error=error)
            self.last_error = error
            self.away.set()
            await asyncio.sleep(pause)
            pause = min(LATEST, pause * 2)

    async def _serve(self) -> None:
        """Serve one connection until it is lost; raises AdminConnectError if the name cannot be had.

        The handler is registered before the name is requested, so that no call is missed.
        """
        bus = await _in_time(connect.connect(self._address))
        serving = CallServer(bus, self._operator, self._rights, Callers(bus, self._user_name), self._service)
        try:
            reply = await _in_time(bus.request_name(objects.BUS_NAME))
            if reply is RequestNameReply.IN_QUEUE:
                _log.info("another gateway owns the name; queued for it", name=objects.BUS_NAME)
            self._serving, self.last_error = serving, ""
            self.away.clear()
            self.here.set()
            _log.info("the admin service is available on D-Bus", bus=self._address, name=objects.BUS_NAME)
            await serving.until_lost()
        finally:
            self._serving = None
            self.here.clear()
            try:
                await serving.end()
            finally:
                await connect.close(bus)


class AdminConnectError(Exception):
    """The bus cannot be reached, or refuses the name; the text is for the operator."""


async def _in_time(opening: Awaitable[_T]) -> _T:
    try:
        async with asyncio.timeout(OPEN_TIMEOUT):
            return await opening
    except Exception as error:
        raise AdminConnectError(str(error) or type(error).__name__) from error
