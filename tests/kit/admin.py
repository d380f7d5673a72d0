"""The admin service for tests, over HTTP and on D-Bus: a toy gateway, a real state, and clients of both.

The HTTP client checks each answer against the OpenAPI document.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import msgspec
from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus
from jsonschema import Draft202012Validator
from msgspec.structs import replace
from typer.testing import Result

from adapters.admin_dbus.objects import BUS_NAME, ROOT
from adapters.admin_dbus.service import AdminBusService
from adapters.dbus import connect
from gateway.admin.api import CallBody, document
from gateway.admin.handlers import application
from gateway.admin.peer_credentials import user_name
from gateway.admin.service import AdminService
from gateway.admin.sockets import AdminServer, AdminSocket
from gateway.core.admin.access import AccessRules, Caller
from gateway.core.admin.status import UpstreamStatus
from gateway.core.migration.modes import Key, Migration, Mode, Setting
from gateway.core.migration.rollout_plan import DEFAULT
from gateway.core.routing.route import Effect, Route
from gateway.migration.active_overrides import ActiveOverrides
from gateway.migration.rollout_commands import RolloutCommands
from gateway.state.store import StateStore
from tests.kit.command import command
from tests.kit.mappings import route
from tests.kit.programs import TIMEOUT
from tests.kit.traffic import Sides

# The OpenAPI document


DOCUMENT: dict[str, Any] = document()


def operation(verb: str, path: str) -> dict[str, Any]:
    """Return what the document says of a path; the query is ignored."""
    found: dict[str, Any] = DOCUMENT["paths"][path.partition("?")[0]][verb.lower()]
    return found


def check_response(verb: str, path: str, status: int, answer: object) -> None:
    """Fail unless the document has this status for the path, and the answer matches its schema."""
    content = operation(verb, path)["responses"][str(status)]["content"]
    validator(content["application/json"]["schema"]).validate(answer)


def validator(schema: dict[str, Any]) -> Draft202012Validator:
    """Return a validator for a schema that may refer to the document."""
    return Draft202012Validator({**schema, "components": DOCUMENT["components"]})


_T = TypeVar("_T")

KEY = Key("vm", lambda call: str(call.params[0]) if call.params else None)
OLD = Migration(Setting(Mode.LEGACY), upstream="old", key=KEY, may_shadow=True)
STATE = replace(route("VM.get_state", migration=OLD, effect=Effect.READ, rollout=DEFAULT), service="xenopsd")
START = replace(route("VM.start", migration=replace(OLD, may_shadow=False, group="life")), service="xenopsd")


class Toy:
    """The operations of a gateway, which answer what a test sets."""

    def __init__(self) -> None:
        self.ready = True
        self.problems: list[str] = []
        self.changed: list[str] = []  # methods, by a reload
        self.failure: Exception | None = None
        self.upstreams: Sequence[UpstreamStatus] = ()

    async def status(self) -> Mapping[str, object]:
        return {
            "ready": self.ready, "reasons": await self.unready(), "warnings": self.warnings(), "revision": "r1",
            "version": "1", "in_flight": 3, "listening": ["tcp:127.0.0.1:1"], "metrics": None, "tasks": 1,
            "buffered": 0,
            "operators": None, "state": {"place": "in memory", "trouble": ""}, "upstreams": self.upstreams,
            **dict.fromkeys(("buses", "services", "stores", "workers", "ungoverned"), ()),
        }  # fmt: skip

    async def unready(self) -> list[str]:
        """Return the reasons for not being ready."""
        return [] if self.ready else ["no bus"]

    def warnings(self) -> list[str]:
        return []

    async def metrics(self) -> bytes:
        return b"toy_total 1.0\n"

    def mappings(self) -> Mapping[str, object]:
        return {}

    def routes(self) -> list[Mapping[str, object]]:
        return []

    async def reload(self) -> Mapping[str, object]:
        """Return the new revision, or the problems."""
        if self.problems:
            return {"revision": "r1", "problems": self.problems}
        same: dict[str, list[str]] = {"added": [], "removed": [], "changed": []}
        others = {"buses": same, "upstreams": same, "needs_restart": [], "notes": []}
        return {"revision": "r2", "before": "r1", **same, "changed": self.changed, **others}

    async def totals(self) -> tuple[int, int]:
        """Return some calls, and a fault."""
        return 7, 1

    def invite(self, caller: Caller) -> str:
        return f"http://127.0.0.1:1/enter?token={caller}"

    async def call(self, request: CallBody) -> Mapping[str, object]:
        """Return the parameters, or raise `failure`."""
        if self.failure is not None:
            raise self.failure
        return {"value": request.params, "endpoint": "rpc /", "codec": "xmlrpc", "steps": []}


class Api:
    """A running server, and a client of it."""

    def __init__(self, socket: Path, state: StateStore) -> None:
        self.socket = socket
        self.state = state
        self.overrides = ActiveOverrides()
        self.toy = Toy()
        self.routes = [STATE, START]
        commands = RolloutCommands(state, lambda: self.routes)
        digests = {"toy.yaml": "toy"}
        self.admin_service = AdminService(lambda: self.routes, self.overrides, state, commands, lambda: digests)
        self.sides = Sides()
        self.traffic = self.sides.traffic(state)

    async def ask(self, verb: str, path: str, body: object = None) -> tuple[int, Any]:
        """Make a request; return status and answer, which matches the document."""
        status, answer = await ask(self.socket, verb, path, None if body is None else msgspec.json.encode(body))
        check_response(verb, path, status, answer)
        return status, answer


async def ask(socket: Path, verb: str, path: str, body: bytes | None = None, /, **headers: str) -> tuple[int, Any]:
    """Make a request, with more headers (`sec_fetch_site="none"`); return status and answer, unchecked."""
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as session,
        session.request(verb, f"http://gateway{path}", data=body, headers=more) as response,
    ):
        return response.status, await response.json()


@asynccontextmanager
async def serving(folder: Path, file: Path | None = None) -> AsyncIterator[Api]:
    """Serve the API on a socket of its own. `file`: of the state; None keeps it in memory."""
    async with StateStore(file) as state:
        api = Api(folder / "control", state)
        rules = AccessRules(os.geteuid())
        make = partial(application, api.toy, api.admin_service, api.traffic, rules)
        server = AdminServer(AdminSocket(api.socket), make)
        await server.start()
        try:
            yield api
        finally:
            await server.stop()


class Served:
    """The API in a thread of its own, for commands, which run their own event loop."""

    api: Api

    def __init__(self, folder: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.socket = str(folder / "control")

    def do(self, work: Awaitable[_T]) -> _T:
        """Run something in that thread and return its result."""

        async def done() -> _T:
            return await work

        return asyncio.run_coroutine_threadsafe(done(), self.loop).result(TIMEOUT)

    def run(self, *words: str) -> Result:
        """Run a command against this API."""
        return command(*words, socket=self.socket)


@contextmanager
def served(folder: Path) -> Iterator[Served]:
    """Serve the API until the block ends."""
    running, context = Served(folder), serving(folder)
    thread = threading.Thread(target=running.loop.run_forever)
    thread.start()
    try:
        running.api = running.do(context.__aenter__())
        try:
            yield running
        finally:
            running.do(context.__aexit__(None, None, None))
    finally:
        running.loop.call_soon_threadsafe(running.loop.stop)
        thread.join()
        running.loop.close()


# The service on D-Bus


GET_STATE = f"{ROOT}/method/xenopsd_2fVM_2eget_5fstate"


class DBusAdmin:
    """The D-Bus service, with the state and the admin service behind it."""

    def __init__(self, address: str, rights: AccessRules) -> None:
        self.overrides = ActiveOverrides()
        self.state = StateStore(None, self._changed)
        self.routes: list[Route] = [STATE, START]
        commands = RolloutCommands(self.state, lambda: self.routes)
        self.admin_service = AdminService(lambda: self.routes, self.overrides, self.state, commands)
        self.service = AdminBusService(address, self.admin_service, rights, user_name, "1.2.3")

    def _changed(self) -> None:
        self.overrides.replace(self.state.overrides)


class DBusAdminClient:
    """A client on the bus; `heard` has the signals of the service."""

    def __init__(self, bus: MessageBus) -> None:
        self.bus = bus
        self.heard: asyncio.Queue[Message] = asyncio.Queue()
        self._owned = asyncio.Event()
        bus.add_message_handler(self._received)

    async def ask(self, path: str, member: str, signature: str = "", *body: Any, to: str = BUS_NAME) -> Message:
        """Call `interface.Member` and return the reply message."""
        interface, _, name = member.rpartition(".")
        call = Message(to, path, interface or None, name, signature=signature, body=list(body))
        answer = await asyncio.wait_for(self.bus.call(call), TIMEOUT)
        assert answer is not None
        return answer

    async def call(self, path: str, member: str, signature: str = "", *body: Any) -> Any:
        """Make a call that must succeed; return the body."""
        answer = await self.ask(path, member, signature, *body)
        assert answer.message_type is MessageType.METHOD_RETURN, (answer.error_name, answer.body)
        return answer.body

    async def error(self, path: str, member: str, signature: str = "", *body: Any) -> tuple[str, str]:
        """Make a call that must fail; return the name and the text of the error."""
        answer = await self.ask(path, member, signature, *body)
        assert answer.message_type is MessageType.ERROR, answer.body
        return str(answer.error_name), answer.body[0]

    async def listen(self) -> None:
        """Receive the signals of the service from now on."""
        rule = f"type='signal',sender='{BUS_NAME}'"
        await self.ask("/org/freedesktop/DBus", "org.freedesktop.DBus.AddMatch", "s", rule, to="org.freedesktop.DBus")

    async def signal(self) -> tuple[str, str, Sequence[Any]]:
        """Return the next signal: path, member and body."""
        message = await asyncio.wait_for(self.heard.get(), TIMEOUT)
        return str(message.path), str(message.member), message.body

    async def owner(self) -> str | None:
        """Return the owner of the gateway's name."""
        bus = "org.freedesktop.DBus"
        answer = await self.ask("/org/freedesktop/DBus", f"{bus}.GetNameOwner", "s", BUS_NAME, to=bus)
        return str(answer.body[0]) if answer.message_type is MessageType.METHOD_RETURN else None

    async def until_there(self) -> None:
        """Wait until the gateway's name has an owner."""
        await self.until_owner(lambda owner: owner is not None)

    async def until_owner(self, holds: Callable[[str | None], bool]) -> None:
        """Wait until the owner of the gateway's name is as wanted (None: no owner); a bus learns late of an end."""
        bus = "org.freedesktop.DBus"
        rule = f"type='signal',sender='{bus}',member='NameOwnerChanged',arg0='{BUS_NAME}'"
        await self.ask("/org/freedesktop/DBus", f"{bus}.AddMatch", "s", rule, to=bus)
        async with asyncio.timeout(TIMEOUT):
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
async def dbus_admin_client(address: str) -> AsyncIterator[DBusAdminClient]:
    """Connect a client to a bus."""
    bus = await connect.connect(address)
    try:
        yield DBusAdminClient(bus)
    finally:
        await connect.close(bus)


@asynccontextmanager
async def dbus_admin(address: str, rights: AccessRules | None = None) -> AsyncIterator[DBusAdmin]:
    """Run the service, which connects to this bus as soon as it can."""
    made = DBusAdmin(address, rights or AccessRules(os.geteuid()))
    async with made.state:
        await made.service.start()
        try:
            yield made
        finally:
            await made.service.stop()


def mode_options(**given: tuple[str, object]) -> dict[str, Variant]:
    """Return options as SetMode reads them: name=(signature, value)."""
    return {name: Variant(signature, value) for name, (signature, value) in given.items()}
