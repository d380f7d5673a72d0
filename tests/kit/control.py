"""The operator's API for a test: a toy gateway, a real state, and a client that holds answers to the document."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import msgspec

from gateway.admin.api import CallBody
from gateway.admin.http_server import AdminServer
from gateway.admin.service import AdminService
from gateway.core.admin.access import AccessRules
from gateway.core.migration.modes import Key, Migration, Mode, Setting
from gateway.core.migration.rollout_plan import DEFAULT
from gateway.core.routing.route import Effect, Route
from gateway.migration.active_overrides import ActiveOverrides
from gateway.migration.rollout_commands import RolloutCommands
from gateway.state.store import StateStore
from tests.kit.openapi import held
from tests.kit.routes import route
from tests.kit.traffic import Sides

_T = TypeVar("_T")

KEY = Key("vm", lambda call: str(call.params[0]) if call.params else None)
OLD = Migration(Setting(Mode.LEGACY), upstream="old", key=KEY, may_shadow=True)
STATE = replace(route("VM.get_state", migration=OLD, effect=Effect.READ, rollout=DEFAULT), service="xenopsd")
START = replace(route("VM.start", migration=replace(OLD, may_shadow=False, group="life")), service="xenopsd")


class Toy:
    """Operations that answer what a test sets."""

    def __init__(self) -> None:
        self.ready = True
        self.problems: list[str] = []
        self.failure: Exception | None = None

    async def status(self) -> Mapping[str, object]:
        """As the gateway would."""
        known = {"ready": self.ready, "reasons": await self.unready(), "revision": "r1", "version": "1", "in_flight": 3}
        known["warnings"] = self.warnings()
        more = dict.fromkeys(("buses", "services", "upstreams", "stores"), ())
        return {
            **known,
            **more,
            "listening": ["tcp:127.0.0.1:1"],
            "metrics": None,
            "tasks": 1,
            "buffered": 0,
            "operators": None,
            "state": {"place": "in memory", "trouble": ""},
            "ungoverned": [],
        }

    async def unready(self) -> list[str]:
        """Why."""
        return [] if self.ready else ["no bus"]

    def warnings(self) -> list[str]:
        """None."""
        return []

    async def metrics(self) -> bytes:
        """One series."""
        return b"toy_total 1.0\n"

    def routes(self) -> list[Mapping[str, object]]:
        """One route."""
        words = ("method", "endpoint", "protocol", "target", "effect", "mode", "source")
        return [{**dict.fromkeys(words, "x"), "timeout": 1.0, "spellings": ["y"]}]

    async def reload(self) -> Mapping[str, object]:
        """Done, or the problems."""
        if self.problems:
            return {"revision": "r1", "problems": self.problems}
        return {"revision": "r2", "before": "r1", "added": [], "removed": [], "changed": [], "needs_restart": []}

    async def call(self, request: CallBody) -> Mapping[str, object]:
        """The parameters."""
        if self.failure is not None:
            raise self.failure
        return {"value": request.params, "endpoint": "rpc /", "codec": "xmlrpc", "steps": []}


class Api:
    """A running server, and a client of it."""

    def __init__(self, socket: Path, state: StateStore, routes: Sequence[Route] = (STATE, START)) -> None:
        self.socket = socket
        self.state = state
        self.toggles = ActiveOverrides()
        self.toy = Toy()
        self.steering = AdminService(
            lambda: routes, self.toggles, state, RolloutCommands(state, lambda: routes), lambda: {"toy.yaml": "toy"}
        )
        self.sides = Sides()
        self.traffic = self.sides.traffic(state)

    async def ask(self, verb: str, path: str, body: object = None) -> tuple[int, Any]:
        """Status and answer; it looks like the document says."""
        status, answer = await ask(self.socket, verb, path, None if body is None else msgspec.json.encode(body))
        held(verb, path, status, answer)
        return status, answer


async def ask(socket: Path, verb: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
    """Status and answer, whatever the document says."""
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as session,
        session.request(verb, f"http://gateway{path}", data=body) as response,
    ):
        return response.status, await response.json()


@asynccontextmanager
async def serving(folder: Path, rights: AccessRules | None = None, file: Path | None = None) -> AsyncIterator[Api]:
    """The API on a socket of its own; `file`: of the state, else it is in memory."""
    async with StateStore(file) as state:
        api = Api(folder / "control", state)
        server = AdminServer(api.socket, api.toy, api.steering, api.traffic, rights or AccessRules(os.geteuid()))
        await server.start()
        try:
            yield api
        finally:
            await server.stop()


class Served:
    """The API in a thread of its own, for commands, which have an event loop of theirs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._context = serving(folder)
        self.socket = str(folder / "control")
        self.api: Api

    def do(self, work: Awaitable[_T]) -> _T:
        """Have something done in that thread."""

        async def done() -> _T:
            return await work

        return asyncio.run_coroutine_threadsafe(done(), self._loop).result(20)

    def start(self) -> None:
        """Serve."""
        self._thread.start()
        self.api = self.do(self._context.__aenter__())

    def stop(self) -> None:
        """Leave nothing behind."""
        self.do(self._context.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextmanager
def served(folder: Path) -> Iterator[Served]:
    """The API until the block ends."""
    running = Served(folder)
    running.start()
    try:
        yield running
    finally:
        running.stop()
