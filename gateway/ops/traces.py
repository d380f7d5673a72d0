"""Traces for OpenTelemetry: spans of calls, sent to a collector as OTLP over HTTP in JSON.

    client's span ─▶ METHOD (server) ─┬─ decode                  until the call is planned
                                      └─ dbus or legacy (client) the side that answered; an upstream gets its number
    dbus or legacy (client)           an observed call: a trace of its own with a link to METHOD

A call carries the numbers of its spans (`TraceContext`). When it has ended, they are made of the same record as its
line in the log. A call is traced if its client says so, and a share of the calls without a trace of the client. Where
the config has no collector there is no `Tracer`.

JSON and attributes: opentelemetry.io/docs/specs/otlp and .../semconv/rpc. It is one document, so no library makes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Mapping
from time import perf_counter, time_ns
from typing import Any

import aiohttp
import msgspec
from msgspec.structs import replace

from gateway.core.logger import Logger
from gateway.core.routing.route import CallFinished
from gateway.core.rpc.model import Call, Fault, Reply, RequestMetadata, caller, ended
from gateway.core.rpc.trace_context import KEY, SAMPLED, TraceContext, begun, new_span, observed, received
from gateway.ops.log import LONGEST

MOST_WAITING = 8192  # spans that wait to be sent; the oldest are lost beyond
MOST_SENT = 512  # in one request
PAUSE = 1.0  # seconds between two requests
ANSWER_TIMEOUT = 5.0  # seconds for the collector to answer
GRACE = 2.0  # seconds at stop for what is left
_DEBUG_NAMES = ("debug_info", "dbg")  # xapi-idl's first parameter, by name
_SERVER, _CLIENT, _INTERNAL = 2, 3, 1  # SpanKind of OTLP
_ERROR = 2  # StatusCode
_FIRST_FAILURE = 300  # HTTP statuses from here on are failures, redirects too

_log = Logger("traces")

Span = Mapping[str, Any]


class Tracer:
    """Makes spans and sends them to `url`. `share`: of the calls without a trace of the client, 0 to 1."""

    def __init__(self, url: str, share: float, version: str) -> None:
        self._url = url
        self._share = share
        self._version = version
        self._waiting: deque[Span] = deque(maxlen=MOST_WAITING)
        self._sending: asyncio.Task[None] | None = None
        self._is_away = False
        self.lost = 0

    # What the calls are asked for

    def begin(self, call: Call, metadata: RequestMetadata, arrived: float) -> TraceContext | None:
        """The trace of a call that was read; None if it has none."""
        texts = (*call.params[:1], *(call.named[name] for name in _DEBUG_NAMES if name in call.named))
        found = received(metadata.headers, texts, arrived)
        if found is None and self._share and random.random() < self._share:  # noqa: S311 - it hides nothing
            return begun(SAMPLED, arrived)
        return found

    def beside(self, call: Call) -> Call:
        """The call as the side that is only observed gets it."""
        context = call.extensions.get(KEY)
        if not isinstance(context, TraceContext):
            return call
        return replace(call, extensions={**call.extensions, KEY: observed(context)})

    def finished(self, done: CallFinished) -> None:
        """A call has ended, of a client or observed."""
        context = done.call.extensions.get(KEY)
        if not isinstance(context, TraceContext) or not context.is_sampled:
            return
        clock = time_ns() - int(perf_counter() * 1e9)
        started = done.started or perf_counter() - done.seconds
        first, last = clock + int(started * 1e9), clock + int((started + done.seconds) * 1e9)
        trace, observed_span = context.beside
        method, side = done.route.method, done.side
        spans = []
        if not trace:
            arrived = clock + int(context.arrived * 1e9) if context.arrived else first
            spans.append(_span(context, (context.span, context.parent), method, _SERVER, (arrived, last), done))
            spans.append(_span(context, (new_span(), context.span), "decode", _INTERNAL, (arrived, first), None))
        if side is not None:
            numbers = context.below, "" if trace else context.span
            made = _span(context, numbers, f"{side.value} {method}", _CLIENT, (first, last), done)
            spans.append({**made, "links": [{"traceId": trace, "spanId": observed_span}]} if trace else made)
        for span in spans:
            self.lost += len(self._waiting) == MOST_WAITING
            self._waiting.append(span)

    # Sending

    async def start(self) -> None:
        """Send from now on."""

        async def send_on() -> None:
            timeout = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT)
            async with aiohttp.ClientSession(timeout=timeout) as session:
                while True:
                    await asyncio.sleep(PAUSE)
                    while self._waiting and await self._send(session):
                        pass

        self._sending = asyncio.get_running_loop().create_task(send_on())  # `stop` waits for it

    async def stop(self) -> None:
        """Send what is left, for a short time."""
        if self._sending is not None:
            self._sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sending
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE), aiohttp.ClientSession() as session:
                while self._waiting and await self._send(session):
                    pass
        self.lost += len(self._waiting)
        self._waiting.clear()

    async def _send(self, session: aiohttp.ClientSession) -> bool:
        """Send the oldest spans; they are lost if the collector does not take them."""
        spans = [self._waiting.popleft() for _ in range(min(len(self._waiting), MOST_SENT))]
        why = ""
        try:
            headers = {"Content-Type": "application/json"}
            document = self._document(spans)
            async with session.post(self._url, data=document, headers=headers, allow_redirects=False) as answer:
                if answer.status >= _FIRST_FAILURE:
                    why = f"status {answer.status}"
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:  # ValueError: no name of a host
            why = str(error) or type(error).__name__
        except asyncio.CancelledError:
            self._waiting.extendleft(reversed(spans))
            raise
        if why and not self._is_away:
            _log.warning("the collector takes no spans; they are lost until it does", url=self._url, why=why)
        if not why and self._is_away:
            _log.info("the collector takes spans again", url=self._url)
        self._is_away = bool(why)
        if why:
            self.lost += len(spans)
        return not why

    def _document(self, spans: list[Span]) -> bytes:
        about = _attributes({"service.name": "xcp-gateway", "service.version": self._version})
        scope = {"scope": {"name": "xcp-gateway"}, "spans": spans}
        return msgspec.json.encode({"resourceSpans": [{"resource": {"attributes": about}, "scopeSpans": [scope]}]})


def _span(
    context: TraceContext,
    numbers: tuple[str, str],
    name: str,
    kind: int,
    times: tuple[int, int],
    done: CallFinished | None,
) -> Span:
    """A span; `numbers`: its own and its parent's; `times`: in nanoseconds since 1970.

    With `done` it has the attributes and the status of the call.
    """
    (number, parent), (first, last) = numbers, times
    made: dict[str, Any] = {
        "traceId": context.trace,
        "spanId": number,
        "name": name,
        "kind": kind,
        "startTimeUnixNano": str(first),
        "endTimeUnixNano": str(max(first, last)),
    }
    if parent:
        made["parentSpanId"] = parent
    if context.state:
        made["traceState"] = context.state
    if done is not None:
        made["attributes"] = _attributes(_about(done))
        if isinstance(done.outcome, Fault):
            made["status"] = {"code": _ERROR, "message": ended(done.outcome)}
    return made


def _about(done: CallFinished) -> dict[str, str]:
    """The attributes of a call: those of its line in the log, and never a value of it."""
    known = done.call.extensions
    told = {
        "rpc.system": str(known.get("protocol", "")),
        "rpc.service": done.route.service,
        "rpc.method": done.route.method,
        "client.address": caller(done.call.peer),
        "user_agent.original": str(known.get("agent", ""))[:LONGEST],
        "xcp.listener": str(known.get("listener", "")),
        "xcp.side": done.side.value if done.side is not None else "",
        "xcp.outcome": ended(done.outcome),
        "error.type": "" if isinstance(done.outcome, Reply) else ended(done.outcome),
    }
    return {name: value for name, value in told.items() if value}


def _attributes(values: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"key": name, "value": {"stringValue": value}} for name, value in values.items()]
