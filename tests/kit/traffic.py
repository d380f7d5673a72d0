"""An endpoint with two sides that a test scripts, with its recorder and replayer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from msgspec.structs import replace

from adapters.codecs import CODECS
from adapters.dialects import DIALECTS
from gateway.admin.traffic import Traffic
from gateway.core.comparison import redaction
from gateway.core.comparison.redaction import RedactionRules
from gateway.core.interfaces import Backend
from gateway.core.migration.modes import Migration, Mode, Setting, Side
from gateway.core.routing.route import Effect, Route
from gateway.core.rpc.model import Call, Envelope, MessageLimits, Outcome, Peer, Reply
from gateway.mapping.table import EndpointKey, EndpointTable
from gateway.migration.collector import StatisticsCollector
from gateway.migration.shadow import Worker
from gateway.pipeline.dispatcher import Dispatcher
from gateway.pipeline.endpoint import Endpoints, RpcEndpoint
from gateway.pipeline.recorder import Recorder
from gateway.pipeline.replay import Replayer
from gateway.state.store import StateStore
from tests.kit.mappings import route
from tests.kit.upstreams import Scripted

HERE = EndpointKey("rpc", "/RPC2")
CLIENT = Peer("tcp:10.0.0.1:4711")
SESSION = "OpaqueRef:secret"

REDACTION = RedactionRules(
    (redaction.named("session"), redaction.parse("$.named.config.password")), ("session", "self", "config")
)
OLD = Migration(Setting(Mode.LEGACY), upstream="old", may_shadow=True, redact=REDACTION)
GET = replace(route("VM.get_name", migration=OLD, effect=Effect.READ), service="xapi", aliases=("VM.name",))
SET = replace(route("VM.set_name", migration=replace(OLD, may_shadow=False), effect=Effect.WRITE), service="xapi")
ALONE = replace(route("VM.get_new", migration=replace(OLD, upstream=None), effect=Effect.READ), service="xapi")
ROUTES = (GET, SET, ALONE)

Answers = Callable[[Call], Outcome]


def last(call: Call) -> Outcome:
    """Answer with the last parameter."""
    return Reply(call.params[-1] if call.params else None)


class ScriptedBus(Backend):
    """A D-Bus side that answers by calling a function, and remembers what it was asked."""

    def __init__(self, answer: Callable[[Route, Call], Awaitable[Outcome]]) -> None:
        self._answer = answer
        self.asked: list[str] = []
        self.calls: list[Call] = []

    async def start(self) -> None:
        """Nothing to connect."""

    async def call(self, route: Route, call: Call) -> Outcome:
        self.asked.append(route.method)
        self.calls.append(call)
        return await self._answer(route, call)

    async def stop(self) -> None:
        """Nothing to close."""


class Sides:
    """Both sides of the methods in ROUTES: `old` and `new` answer, `asked` has the calls."""

    def __init__(self, codec: str = "xmlrpc", setting: Mode = Mode.LEGACY) -> None:
        self.old: Answers = last
        self.new: Answers = last
        self.asked: list[tuple[Side, Call]] = []
        routes = [_set(each, setting) for each in ROUTES]
        self.routes: Mapping[str, Route] = {name: each for each in routes for name in (each.method, *each.aliases)}
        upstreams = Scripted({"old": ("other", "plain")}, answer=partial(self._answer, Side.LEGACY))
        self.dispatcher = Dispatcher(ScriptedBus(partial(self._answer, Side.DBUS)), upstreams=upstreams)
        self.recorder = Recorder(self.dispatcher, lambda: 1000.0)
        table = EndpointTable(HERE, codec, "plain", self.routes)
        codecs = CODECS[codec](MessageLimits()), DIALECTS["plain"](codec)
        self.exchange = RpcEndpoint(table, *codecs, self.dispatcher)
        self.endpoints = Endpoints({HERE: self.exchange})
        compare = StatisticsCollector().compare
        self.replaying = Replayer(self.endpoints, self.dispatcher.observe, compare, Worker())

    async def _answer(self, side: Side, _route: Route, call: Call) -> Outcome:
        self.asked.append((side, call))
        return (self.old if side is Side.LEGACY else self.new)(call)

    def traffic(self, state: StateStore) -> Traffic:
        """Return the traffic operations of the admin API."""
        routes = list({id(each): each for each in self.routes.values()}.values())
        return Traffic(lambda: routes, lambda: "r1", state, self.recorder, self.replaying)

    async def call(self, method: str, *params: Any) -> Outcome:
        """Make a client's call; return the outcome."""
        codec = self.exchange.client
        call = Call(method, params)
        answer = await self.exchange.answer(codec.encode_call(call), CLIENT)
        return codec.decode_answers(answer.body or b"", Envelope((call,)))[0]


def _set(each: Route, mode: Mode) -> Route:
    wanted = mode if each.migration.upstream is not None else Mode.DBUS
    return replace(each, migration=replace(each.migration, setting=Setting(wanted)))


def line(method: str = "VM.get_name", *params: Any, **changes: Any) -> dict[str, Any]:
    """Return a line of a recording, with the fields that a replay needs."""
    where = {"listener": HERE.listener, "path": HERE.path, "codec": "xmlrpc", "service": "xapi"}
    given: Sequence[Any] = params or ({"$redacted": "text"}, "vm")
    return {**where, "method": method, "effect": "read", "params": list(given), "named": {}, **changes}
