"""Paths of the operator's API for what clients call: who they are, recordings, replays. Knows not how it is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import msgspec
from aiohttp import web

from gateway import __version__
from gateway.admin.http import ApiPath, body, json, query
from gateway.core.admin.access import Caller, Right
from gateway.core.admin.records import ClientKey, ClientRecord, MethodId, Rejected, StateRefused
from gateway.core.routing import selection
from gateway.core.routing.call_record import ReadRecord, is_harmless, recorded
from gateway.core.routing.route import Route
from gateway.pipeline.recorder import Recorder, RecordingLimits, RecordingSession
from gateway.pipeline.replay import Replayer, ReplayRequest
from gateway.state.store import StateStore

EVERYBODY = 10_000  # clients that the state keeps
AT_ONCE = 100  # calls of one replay request
LONGEST = 86_400.0  # seconds of a recording
MOST = 1_000_000  # calls of a recording
LARGEST = 4 * 1024**3  # bytes of a recording
LINES = "application/x-ndjson"
_USUAL = RecordingLimits()


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the running gateway has for these paths."""

    routes: Callable[[], Sequence[Route]]
    revision: Callable[[], str]
    state: StateStore
    recorder: Recorder
    replaying: Replayer


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What every body and query is."""


class ClientsQuery(_Strict, frozen=True):
    """GET /v1/clients. `method`: a name or a pattern; `since`: seconds since 1970."""

    method: str | None = None
    service: str | None = None
    since: float = 0.0
    limit: int = 1_000


class RecordBody(_Strict, frozen=True):
    """Body of POST /v1/record. No patterns: all methods."""

    patterns: list[str] = []
    calls: int = _USUAL.calls
    seconds: float = _USUAL.seconds
    size: int = _USUAL.size
    writes: bool = False


class ReplayBody(_Strict, frozen=True):
    """Body of POST /v1/replay. `given`: values in place of what was redacted, by place."""

    calls: list[object]
    given: dict[str, str] = {}
    writes: bool = False
    noise: bool = False


def paths(traffic: Traffic) -> list[ApiPath]:
    """These paths."""

    async def clients(request: web.Request, _who: Caller) -> web.Response:
        return json(await _clients(traffic, query(request, ClientsQuery)))

    async def record(request: web.Request, _who: Caller) -> web.StreamResponse:
        recording = _recording(traffic, await body(request, RecordBody))
        if isinstance(recording, StateRefused):
            return json(recording)
        return await _stream(request, recording, traffic.revision())

    async def replay(request: web.Request, who: Caller) -> web.Response:
        asked = await body(request, ReplayBody)
        wish = ReplayRequest(asked.given, asked.writes, asked.noise)
        return json(await traffic.replaying.run(_calls(asked.calls), wish, str(who)))

    return [
        ApiPath("GET", "/v1/clients", Right.READ, clients),
        ApiPath("POST", "/v1/record", Right.CHANGE, record),
        ApiPath("POST", "/v1/replay", Right.CHANGE, replay),
    ]


# Clients


async def _clients(traffic: Traffic, asked: ClientsQuery) -> Sequence[Mapping[str, object]] | StateRefused:
    limit = _between("limit", asked.limit, 1, EVERYBODY)
    seen = await traffic.state.clients(asked.service, None, None, asked.since, EVERYBODY)
    if isinstance(seen, StateRefused):
        return seen
    rows = [_row(key, times) for key, times in seen.items() if _means(asked.method, key.method)]
    return rows[: int(limit)]


def _means(pattern: str | None, method: MethodId) -> bool:
    return pattern is None or fnmatchcase(method.method, pattern) or fnmatchcase("/".join(method), pattern)


def _row(key: ClientKey, seen: ClientRecord) -> Mapping[str, object]:
    return {
        "service": key.method.service,
        "method": key.method.method,
        "protocol": key.protocol,
        "peer": key.peer,
        "agent": key.agent,
        "user": key.user,
        "domid": key.domid,
        "count": seen.count,
        "first": seen.first,
        "last": seen.last,
    }


# Recordings


def _recording(traffic: Traffic, asked: RecordBody) -> RecordingSession | StateRefused:
    bounds = RecordingLimits(
        int(_between("calls", asked.calls, 1, MOST)),
        _between("seconds", asked.seconds, 0.001, LONGEST),
        int(_between("size", asked.size, 1, LARGEST)),
        asked.writes,
    )
    methods = _methods(traffic.routes(), asked.patterns or ["*"], writes=asked.writes)
    return methods if isinstance(methods, StateRefused) else traffic.recorder.begin(methods, bounds)


def _methods(routes: Sequence[Route], patterns: Sequence[str], *, writes: bool) -> frozenset[MethodId] | Rejected:
    meant: list[Route] = []
    for pattern in patterns:
        means = selection.select(routes, pattern)
        if not means:
            return Rejected(selection.no_match(routes, pattern))
        meant += means
    taken = [route for route in meant if writes or is_harmless(route)]
    if not taken:
        return Rejected(f"reads only are recorded unless you say --writes, and none of these is one: {_named(meant)}")
    return frozenset(MethodId.of(route) for route in taken)


def _named(routes: Sequence[Route]) -> str:
    return selection.names(list({id(route): route for route in routes}.values()))


async def _stream(request: web.Request, recording: RecordingSession, revision: str) -> web.StreamResponse:
    """Write line by line until the recording ends or nobody reads it any more."""
    response = web.StreamResponse(headers={"Content-Type": LINES})
    with recording:
        try:
            await response.prepare(request)
            async for line in recording.lines(__version__, revision):
                await response.write(line)
            await response.write_eof()
        except ConnectionError:
            recording.close("its reader has left")
    return response


# Replays


def _calls(documents: Sequence[object]) -> list[ReadRecord]:
    _between("calls", len(documents), 1, AT_ONCE)
    return [_call(number, document) for number, document in enumerate(documents)]


def _call(number: int, document: object) -> ReadRecord:
    try:
        return recorded(document)
    except ValueError as error:
        raise ValueError(f"calls[{number}]: {error}") from error


def _between(name: str, value: float, least: float, most: float) -> float:
    if not least <= value <= most:
        raise ValueError(f"{name}: expected {least:g} to {most:,.0f}, got {value:g}")
    return value
