"""Handlers of the admin API for the calls of clients: callers, recordings and replays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from aiohttp import web

from gateway import __version__
from gateway.admin import api
from gateway.admin.http import Handler, body, check_range, json, query
from gateway.core.admin.access import Caller
from gateway.core.admin.records import ClientKey, ClientRecord, MethodId, Rejected, StateRefused
from gateway.core.routing import selection
from gateway.core.routing.call_record import ReadRecord, is_harmless, recorded
from gateway.core.routing.route import Route
from gateway.pipeline.recorder import Recorder, RecordingLimits, RecordingSession
from gateway.pipeline.replay import Replayer, ReplayRequest
from gateway.state.store import StateStore

MAX_CLIENTS = 10_000  # callers that the state keeps
MAX_REPLAYED = 100  # calls of one replay request
MAX_SECONDS = 86_400.0  # seconds of a recording
MAX_CALLS = 1_000_000  # calls of a recording
MAX_BYTES = 4 * 1024**3  # bytes of a recording
LINES = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class Traffic:
    """The parts of the running gateway that these handlers use."""

    routes: Callable[[], Sequence[Route]]
    revision: Callable[[], str]
    state: StateStore
    recorder: Recorder
    replayer: Replayer


def traffic_handlers(traffic: Traffic) -> dict[str, Handler]:
    """Handlers by the names in `api.OPERATIONS`."""

    async def clients(request: web.Request, _caller: Caller) -> web.Response:
        return json(await _clients(traffic, query(request, api.ClientsQuery)))

    async def record(request: web.Request, _caller: Caller) -> web.StreamResponse:
        recording = _recording(traffic, await body(request, api.RecordBody))
        if isinstance(recording, StateRefused):
            return json(recording)
        return await _stream(request, recording, traffic.revision())

    async def replay(request: web.Request, caller: Caller) -> web.Response:
        wanted = await body(request, api.ReplayBody)
        options = ReplayRequest(wanted.given, wanted.writes, wanted.noise)
        return json(await traffic.replayer.run(_calls(wanted.calls), options, str(caller)))

    return {"clients": clients, "record": record, "replay": replay}


async def _clients(traffic: Traffic, wanted: api.ClientsQuery) -> Sequence[api.ClientRow] | StateRefused:
    check_range("limit", wanted.limit, 1, MAX_CLIENTS)
    records = await traffic.state.clients(wanted.service, None, None, wanted.since, MAX_CLIENTS)
    if isinstance(records, StateRefused):
        return records
    rows = [_row(key, record) for key, record in records.items() if _matches(wanted.method, key.method)]
    return rows[: wanted.limit]


def _matches(pattern: str | None, method: MethodId) -> bool:
    return pattern is None or fnmatchcase(method.method, pattern) or fnmatchcase("/".join(method), pattern)


def _row(key: ClientKey, record: ClientRecord) -> api.ClientRow:
    return {
        "service": key.method.service,
        "method": key.method.method,
        "protocol": key.protocol,
        "peer": key.peer,
        "agent": key.agent,
        "user": key.user,
        "domid": key.domid,
        "count": record.count,
        "first": record.first,
        "last": record.last,
    }


def _recording(traffic: Traffic, wanted: api.RecordBody) -> RecordingSession | StateRefused:
    check_range("calls", wanted.calls, 1, MAX_CALLS)
    check_range("seconds", wanted.seconds, 0.001, MAX_SECONDS)
    check_range("size", wanted.size, 1, MAX_BYTES)
    limits = RecordingLimits(wanted.calls, wanted.seconds, wanted.size, wanted.writes)
    methods = _methods(traffic.routes(), wanted.patterns or ["*"], writes=wanted.writes)
    return methods if isinstance(methods, StateRefused) else traffic.recorder.begin(methods, limits)


def _methods(routes: Sequence[Route], patterns: Sequence[str], *, writes: bool) -> frozenset[MethodId] | Rejected:
    selected: list[Route] = []
    for pattern in patterns:
        found = selection.select(routes, pattern)
        if not found:
            return Rejected(selection.no_match(routes, pattern))
        selected += found
    recorded_routes = [route for route in selected if writes or is_harmless(route)]
    if not recorded_routes:
        return Rejected(f"only reads are recorded without `writes`, and these methods write: {_named(selected)}")
    return frozenset(MethodId.of(route) for route in recorded_routes)


def _named(routes: Sequence[Route]) -> str:
    return selection.names(list({id(route): route for route in routes}.values()))


async def _stream(request: web.Request, recording: RecordingSession, revision: str) -> web.StreamResponse:
    """Send line by line until the recording ends or the connection is closed."""
    response = web.StreamResponse(headers={"Content-Type": LINES})
    with recording:
        try:
            await response.prepare(request)
            async for line in recording.lines(__version__, revision):
                await response.write(line)
            await response.write_eof()
        except ConnectionError:
            recording.close("the reader has disconnected")
    return response


def _calls(documents: Sequence[object]) -> list[ReadRecord]:
    check_range("calls", len(documents), 1, MAX_REPLAYED)
    return [_call(number, document) for number, document in enumerate(documents)]


def _call(number: int, document: object) -> ReadRecord:
    try:
        return recorded(document)
    except ValueError as error:
        raise ValueError(f"calls[{number}]: {error}") from error
