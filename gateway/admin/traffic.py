"""Handlers of the admin API for the calls of clients (callers, recordings, replays) and for what they would see."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from fnmatch import fnmatchcase
from typing import Any

import msgspec
from aiohttp import web
from msgspec import Struct
from msgspec.structs import asdict, replace

from gateway import __version__
from gateway.admin import api
from gateway.admin.http import Handler, check_range
from gateway.core.admin.access import Caller
from gateway.core.admin.records import ClientKey, ClientRecord, MethodId, Rejected, StateRefused
from gateway.core.comparison.redaction import Redaction
from gateway.core.routing import selection
from gateway.core.routing.call_record import ReadRecord, is_harmless, recorded
from gateway.core.routing.route import ObjectClass, Route
from gateway.core.rpc.model import Call, Fault, Peer, Reply, Value
from gateway.pipeline.event_methods import EventMethods, Following
from gateway.pipeline.recorder import Recorder, RecordingLimits, RecordingSession
from gateway.pipeline.replay import Replayer, ReplayRequest
from gateway.state.store import StateStore

MAX_CLIENTS = 10_000  # callers that the state keeps
MAX_REPLAYED = 100  # calls of one replay request
MAX_SECONDS = 86_400.0  # seconds of a recording
MAX_CALLS = 1_000_000  # calls of a recording
MAX_BYTES = 4 * 1024**3  # bytes of a recording
HEARTBEAT = 1.0  # seconds between two empty lines of a stream without a change
LINES = "application/x-ndjson"


class Traffic(Struct, frozen=True):
    """The parts of the running gateway that these handlers use."""

    routes: Callable[[], Sequence[Route]]
    revision: Callable[[], str]
    state: StateStore
    recorder: Recorder
    replayer: Replayer
    events: EventMethods | None = None


def traffic_handlers(traffic: Traffic) -> Mapping[str, Handler]:
    """Handlers by the names in `api.OPERATIONS`."""

    async def record(request: web.Request, wanted: api.RecordBody, _caller: Caller) -> object:
        recording = _recording(traffic, wanted)
        if isinstance(recording, StateRefused):
            return recording
        with recording:
            return await _streamed(request, recording.lines(__version__, traffic.revision()))

    async def replay(_request: web.Request, wanted: api.ReplayBody, caller: Caller) -> object:
        options = ReplayRequest(wanted.given, wanted.writes, wanted.noise)
        return await traffic.replayer.run(_calls(wanted.calls), options, str(caller))

    async def watch(request: web.Request, wanted: api.WatchBody, _caller: Caller) -> object:
        following = await _following(traffic, wanted.what)
        if isinstance(following, StateRefused):
            return following
        return await _streamed(request, _watched(*following))

    return {"record": record, "replay": replay, "watch": watch}


async def _streamed(request: web.Request, lines: AsyncIterator[bytes]) -> web.StreamResponse:
    """Answer with lines as they come, until they end or the reader has disconnected."""
    response = web.StreamResponse(headers={"Content-Type": LINES})
    with suppress(ConnectionError):
        await response.prepare(request)
        async for line in lines:
            await response.write(line)
        await response.write_eof()
    return response


async def callers(traffic: Traffic, wanted: api.ClientsQuery) -> Sequence[api.ClientRow] | StateRefused:
    """The callers of methods, the latest first."""
    check_range("limit", wanted.limit, 1, MAX_CLIENTS)
    records = await traffic.state.clients(wanted.service, wanted.since, MAX_CLIENTS)
    if isinstance(records, StateRefused):
        return records
    pattern = "*" if wanted.method is None else wanted.method
    rows = [
        _row(key, record)
        for key, record in records.items()
        if fnmatchcase(key.method.method, pattern) or fnmatchcase("/".join(key.method), pattern)
    ]
    return rows[: wanted.limit]


def _row(key: ClientKey, record: ClientRecord) -> api.ClientRow:
    row: Any = {"service": key.method.service, **asdict(key), **asdict(record), "method": key.method.method}
    return row  # type: ignore[no-any-return]


def _recording(traffic: Traffic, wanted: api.RecordBody) -> RecordingSession | StateRefused:
    check_range("calls", wanted.calls, 1, MAX_CALLS)
    check_range("seconds", wanted.seconds, 0.001, MAX_SECONDS)
    check_range("size", wanted.size, 1, MAX_BYTES)
    routes, selected = traffic.routes(), dict[int, Route]()
    for pattern in wanted.patterns or ["*"]:
        found = selection.select(routes, pattern)
        if not found:
            return Rejected(selection.no_match(routes, pattern))
        selected |= {id(route): route for route in found}
    methods = frozenset(MethodId.of(route) for route in selected.values() if wanted.writes or is_harmless(route))
    if not methods:
        named = selection.names(list(selected.values()))
        return Rejected(f"only reads are recorded without `writes`, and these methods write: {named}")
    return traffic.recorder.begin(methods, RecordingLimits(wanted.calls, wanted.seconds, wanted.size, wanted.writes))


async def _following(traffic: Traffic, what: str) -> tuple[EventMethods, Following] | StateRefused:
    """The operator as a client of the event hub: it needs no session, and secrets are left out."""
    route = next((route for route in traffic.routes() if route.events == "From"), None)
    if route is None or traffic.events is None:
        return Rejected("no mapping file has `events: from`, so there are no objects to watch")
    open_route = replace(route, session_check=None, session=None)
    call = Call(route.method, peer=Peer("admin"))
    following = await traffic.events.begin(open_route, call, [what], "")
    if isinstance(following, Fault):
        return Rejected(following.message)
    known = following.request.service.classes
    name = what.partition("/")[0]
    if name != "*" and name.lower() not in known:
        names = ", ".join(each.name for each in known.values())
        return Rejected(f"unknown class '{name[:100]}'; expected *, or one of {names}")
    return traffic.events, following


async def _watched(methods: EventMethods, following: Following) -> AsyncIterator[bytes]:
    """The lines of a stream of changes."""
    service = following.request.service
    is_ready, count = False, 0
    async with aclosing(methods.follow(following, HEARTBEAT)) as changes:
        async for batch in changes:
            if batch is None or isinstance(batch, Fault):
                yield b"\n"
                continue
            for event in batch.events:
                count += 1
                yield msgspec.json.encode(_without_secrets(service.classes, event)) + b"\n"
            if not is_ready and batch.token == service.log.token:
                is_ready = True
                yield msgspec.json.encode({"ready": count}) + b"\n"


def _without_secrets(classes: Mapping[str, ObjectClass], event: Value) -> Value:
    assert isinstance(event, dict), "an event is a struct"
    each = classes.get(str(event["class"]))
    if each is None or "snapshot" not in event:
        return event
    outcome = Reply(event["snapshot"])
    hidden = Redaction(each.routes[0].migration.redact, Call(each.name), outcome).outcome(outcome)
    return {**event, "class": each.name, "snapshot": hidden.value if isinstance(hidden, Reply) else None}


def _calls(documents: Sequence[object]) -> list[ReadRecord]:
    check_range("calls", len(documents), 1, MAX_REPLAYED)
    calls: list[ReadRecord] = []
    for number, document in enumerate(documents):
        try:
            calls.append(recorded(document))
        except ValueError as error:
            raise ValueError(f"calls[{number}]: {error}") from error
    return calls
