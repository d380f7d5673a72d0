"""The gateway's D-Bus service for a test: a real state behind it, on a broker, and a client of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from adapters.admin_dbus.objects import BUS_NAME, ROOT
from adapters.admin_dbus.service import AdminBusService
from adapters.dbus import connect
from gateway.admin.peer_credentials import user_name
from gateway.admin.service import AdminService
from gateway.core.admin.access import AccessRules
from gateway.core.routing.route import Route
from gateway.migration.active_overrides import ActiveOverrides
from gateway.migration.rollout_commands import RolloutCommands
from gateway.state.store import StateStore
from tests.kit.control import START, STATE

PATIENCE = 60.0
GET_STATE = f"{ROOT}/method/xenopsd_2fVM_2eget_5fstate"


class Desk:
    """The service, and what stands behind it."""

    def __init__(self, address: str, rights: AccessRules) -> None:
        self.toggles = ActiveOverrides()
        self.state = StateStore(None, self._changed)
        self.routes: list[Route] = [STATE, START]
        orders = RolloutCommands(self.state, lambda: self.routes)
        self.steering = AdminService(lambda: self.routes, self.toggles, self.state, orders)
        self.service = AdminBusService(address, self.steering, rights, user_name, "1.2.3")

    def _changed(self) -> None:
        self.toggles.replace(self.state.overrides)


class Client:
    """Somebody on the bus."""

    def __init__(self, bus: MessageBus) -> None:
        self.bus = bus
        self.heard: asyncio.Queue[Message] = asyncio.Queue()
        self._owned = asyncio.Event()
        bus.add_message_handler(self._received)

    async def ask(self, path: str, member: str, signature: str = "", *body: Any, to: str = BUS_NAME) -> Message:
        """Call `interface.Member` and return what answers."""
        interface, _, name = member.rpartition(".")
        call = Message(to, path, interface or None, name, signature=signature, body=list(body))
        answer = await asyncio.wait_for(self.bus.call(call), PATIENCE)
        assert answer is not None
        return answer

    async def call(self, path: str, member: str, signature: str = "", *body: Any) -> Any:
        """The body of a call that works."""
        answer = await self.ask(path, member, signature, *body)
        assert answer.message_type is MessageType.METHOD_RETURN, (answer.error_name, answer.body)
        return answer.body

    async def error(self, path: str, member: str, signature: str = "", *body: Any) -> tuple[str, str]:
        """Name and text of the error of a call that does not work."""
        answer = await self.ask(path, member, signature, *body)
        assert answer.message_type is MessageType.ERROR, answer.body
        return str(answer.error_name), answer.body[0]

    async def listen(self) -> None:
        """Hear the service's signals from now on."""
        rule = f"type='signal',sender='{BUS_NAME}'"
        await self.ask("/org/freedesktop/DBus", "org.freedesktop.DBus.AddMatch", "s", rule, to="org.freedesktop.DBus")

    async def signal(self) -> tuple[str, str, Sequence[Any]]:
        """The next one: path, member and body."""
        message = await asyncio.wait_for(self.heard.get(), PATIENCE)
        return str(message.path), str(message.member), message.body

    async def owner(self) -> str | None:
        """Who owns the gateway's name."""
        bus = "org.freedesktop.DBus"
        answer = await self.ask("/org/freedesktop/DBus", f"{bus}.GetNameOwner", "s", BUS_NAME, to=bus)
        return str(answer.body[0]) if answer.message_type is MessageType.METHOD_RETURN else None

    async def until_there(self) -> None:
        """Wait until somebody owns the gateway's name."""
        await self.until_owner(lambda owner: owner is not None)

    async def until_owner(self, holds: Callable[[str | None], bool]) -> None:
        """Wait until the right one owns the gateway's name (None: nobody): a bus learns late who has gone."""
        bus = "org.freedesktop.DBus"
        rule = f"type='signal',sender='{bus}',member='NameOwnerChanged',arg0='{BUS_NAME}'"
        await self.ask("/org/freedesktop/DBus", f"{bus}.AddMatch", "s", rule, to=bus)
        async with asyncio.timeout(PATIENCE):
            while not holds(await self.owner()):
                await self._owned.wait()
                self._owned.clear()

    def _received(self, message: Message) -> bool:
        if message.member == "NameOwnerChanged" and message.body[0] == BUS_NAME:
            self._owned.set()
        if message.message_type is MessageType.SIGNAL and message.sender != "org.freedesktop.DBus":
            self.heard.put_nowait(message)
        return False


@asynccontextmanager
async def client(address: str) -> AsyncIterator[Client]:
    """A connection to a bus."""
    bus = await connect.connect(address)
    try:
        yield Client(bus)
    finally:
        await connect.close(bus)


@asynccontextmanager
async def desk(address: str, rights: AccessRules | None = None) -> AsyncIterator[Desk]:
    """The service, trying to be on this bus."""
    made = Desk(address, rights or AccessRules(os.geteuid()))
    async with made.state:
        await made.service.start()
        try:
            yield made
        finally:
            await made.service.stop()


def options(**given: tuple[str, object]) -> dict[str, Variant]:
    """As SetMode takes them: name=(signature, value)."""
    return {name: Variant(signature, value) for name, (signature, value) in given.items()}
