"""Events for clients that keep a connection open: JSON-RPC 2.0 over a WebSocket, and server-sent events.

Both send the notification `events.changed` with the changes of a subscription, the oldest first, each object with its
newest record: {"subscription", "events", "token"}. With the token a client goes on over a new connection. "snapshot":
true in a notification says that the full state follows from there on; the client discards what it had.

One message is made at a time, when the client has taken the one before, so a client that does not read costs one
message. Over a WebSocket every call can be made as over HTTP, one after the other: it takes a slot while it runs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Final
from urllib.parse import parse_qs, urlsplit

from gateway.core.dbus.signature import parse_one
from gateway.core.dbus.target import Parameter
from gateway.core.interfaces import Codec, HttpExchange, MessageChannel, OpenChannel, StreamingEndpoint
from gateway.core.logger import Logger
from gateway.core.migration.modes import Mode
from gateway.core.routing.route import Effect, Route, local_route
from gateway.core.rpc.model import Answer, Call, Envelope, Fault, FaultCode, Outcome, Peer, Reply, Value
from gateway.events.changes import Wanted
from gateway.mapping.table import EndpointTable
from gateway.pipeline.endpoint import RpcEndpoint
from gateway.pipeline.event_methods import Batch, EventMethods, Following, too_large
from gateway.pipeline.passthrough import in_plain_words
from gateway.pipeline.waiting import WaitingSlot

SUBSCRIBE, UNSUBSCRIBE = "events.subscribe", "events.unsubscribe"
CHANGED: Final = "events.changed"  # the notification with changes
ENDED: Final = "events.ended"  # the notification that a subscription has ended, and why
EVENTS = "events"  # the last segment of the path of server-sent events
MOST_SUBSCRIPTIONS = 32  # of one connection
MOST_AHEAD = 16  # messages of one connection that wait for the call before them
BYTES_AHEAD = 64 * 1024  # of these; past it nothing is read
PROBE_INTERVAL = 2.0  # seconds between two pings to a client that has ended its direction while its call runs
HEARTBEAT = 15.0  # seconds between two comments of a stream without a change
STREAM_HEADERS = ((b"Content-Type", b"text/event-stream"), (b"Cache-Control", b"no-store"))
BUSY = Fault(FaultCode.BUSY, "too many calls at once, try again")
GONE = Fault(FaultCode.UNAVAILABLE, "no mapping file serves this path any more; nothing was executed")
STATUSES: Mapping[str, tuple[int, str]] = {
    "SESSION_INVALID": (401, "Unauthorized"),
    "EVENT_FROM_TOKEN_PARSE_FAILURE": (400, "Bad Request"),
    "EVENT_SUBSCRIPTION_PARSE_FAILURE": (400, "Bad Request"),
}

_log = Logger()


def _notification(name: str, summary: str, **params: Value) -> Value:
    return {
        "name": name,
        "summary": summary,
        "paramStructure": "by-name",
        "params": [{"name": each, "required": each != "snapshot", "schema": schema} for each, schema in params.items()],
    }


_TEXT: Value = {"type": "string"}
_EVENT: Value = {
    "type": "object",
    "required": ["id", "class", "operation", "ref"],
    "properties": {
        "id": _TEXT,
        "class": _TEXT,
        "operation": {"enum": ["add", "mod", "del"]},
        "ref": _TEXT,
        "snapshot": {"type": "object"},
    },
}

# The notifications as OpenRPC describes methods.
NOTIFICATIONS: Final[tuple[Value, ...]] = (
    _notification(
        CHANGED,
        "Objects that have changed, each with its newest record. With `snapshot` the full state follows.",
        subscription=_TEXT,
        events={"type": "array", "items": _EVENT},
        token=_TEXT,
        snapshot={"const": True},
    ),
    _notification(ENDED, "A subscription has ended.", subscription=_TEXT, error={"type": "object"}),
)


def has_events(table: EndpointTable) -> bool:
    """Whether an endpoint has events to stream: `event.from` is mapped there, over JSON-RPC."""
    return table.codec == "jsonrpc" and _event_route(table) is not None


def _event_route(table: EndpointTable) -> Route | None:
    return next((route for route in table.routes.values() if route.events == "From"), None)


class EventStreams(StreamingEndpoint):
    """What one JSON-RPC endpoint streams. `current`: the endpoint that serves its path now; None: none does any more.

    A connection may outlive many reloads: each of its calls goes to the current endpoint.
    """

    def __init__(
        self,
        current: Callable[[], RpcEndpoint | None],
        methods: EventMethods,
        open_channel: OpenChannel,
        *,
        codec: Codec,
        max_message: int,
    ) -> None:
        self._current = current
        self.methods = methods
        self._open_channel = open_channel
        self._codec = codec
        self._max_message = max_message

    async def stream(self, exchange: HttpExchange) -> Answer | None:
        """Serve one connection to its end."""
        slot = WaitingSlot(exchange.peer.connection)
        try:
            if not slot.free():
                return self.refuse(Fault(FaultCode.BUSY, "too many clients wait for events (limit max_waiting)"))
            if not exchange.is_tunnel:
                return await self._serve_events(exchange)
            channel = await self._open_channel(exchange, self._max_message)
            if isinstance(channel, Answer):
                return channel
            await self._serve_channel(channel, exchange, slot)
            return None
        finally:
            slot.end()

    def refuse(self, fault: Fault) -> Answer:
        """Plain text and a status that fits."""
        other = (503, "Service Unavailable") if fault.code is not FaultCode.INVALID_PARAMS else (400, "Bad Request")
        name = f"{fault.name}: " if fault.name else ""
        return in_plain_words(fault, name + fault.message, STATUSES.get(fault.name, other))

    async def begin(self, session: str, peer: Peer, classes: Value, token: str) -> Following | Fault:
        """A new subscription of a client with this session."""
        endpoint = self._current()
        if endpoint is None:
            return GONE
        route = _event_route(endpoint.table)
        if route is None or endpoint.dispatcher.toggles.setting(route).mode is not Mode.DBUS:
            return Fault(FaultCode.UNAVAILABLE, "there are no events: event.from is not answered from D-Bus here")
        call = Call(route.method, (session, classes, token, 0.0), peer=peer, extensions=endpoint.origin)
        return await self.methods.begin(route, call, classes, token)

    def notification(self, subscription: str, news: Batch | Fault) -> bytes | None:
        """Write that there are changes, or why a subscription has ended.

        None, with a line in the log, when the protocol cannot carry one of the changes.
        """
        if isinstance(news, Fault):
            data: list[Value] = [*news.data] if isinstance(news.data, list) else []
            why: Value = {"message": news.name or news.message, "data": data}
            return self._codec.encode_call(Call(ENDED, (), {"subscription": subscription, "error": why}, oneway=True))
        params: dict[str, Value] = {"subscription": subscription, "events": news.events, "token": str(news.token)}
        if news.is_snapshot:
            params["snapshot"] = True
        try:
            return self._codec.encode_call(Call(CHANGED, (), params, oneway=True))
        except ValueError as error:
            _log.warning("events are left out: they cannot be written", why=str(error))
            return None

    # WebSocket

    async def _serve_channel(self, channel: MessageChannel, exchange: HttpExchange, slot: WaitingSlot) -> None:
        connection, hub = exchange.peer.connection, self.methods.hub
        assert connection is not None, "a connection that can be upgraded"
        try:
            async with asyncio.TaskGroup() as tasks:
                connection.subscriber = subscriber = Subscriber(self, channel, exchange, slot, tasks)
                hub.on_release[subscriber.stop] = None
                try:
                    await subscriber.run()
                finally:
                    hub.on_release.pop(subscriber.stop, None)
                await channel.close()
        finally:
            connection.subscriber = None

    async def answer(self, message: bytes, exchange: HttpExchange, slot: WaitingSlot) -> bytes | None:
        """Answer a call of a WebSocket, which takes a slot while it runs."""
        endpoint = self._current()
        if endpoint is None:
            return self._codec.encode(Envelope((GONE,)), (GONE,))
        if not slot.take():
            return endpoint.refuse(BUSY).body
        try:
            return (await endpoint.answer(message, exchange.peer, exchange.metadata)).body
        finally:
            slot.free()

    # Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html)

    async def _serve_events(self, exchange: HttpExchange) -> Answer | None:
        query = parse_qs(urlsplit(exchange.metadata.target).query)
        headers = {name.lower(): value.decode("latin-1").strip() for name, value in exchange.metadata.headers}
        session = session_of(headers, query)
        token = headers.get(b"last-event-id", "") or query.get("token", [""])[-1]
        following = await self.begin(session, exchange.peer, [*query.get("class", ["*"])], token)
        if isinstance(following, Fault):
            return self.refuse(following)
        await exchange.respond(Answer(None, "", None, 200, "OK", STREAM_HEADERS))
        async with aclosing(self.methods.follow(following, HEARTBEAT)) as changes:
            async for news in changes:
                data = b"" if news is None else self.notification("", news)
                if news is None:
                    await exchange.write(b": heartbeat\n\n")
                elif data is not None:
                    name = f"id: {news.token}\n".encode() if isinstance(news, Batch) else b""
                    await exchange.write(name + b"data: " + data + b"\n\n")
        await exchange.finish()
        return None


class Subscriber:
    """One WebSocket: its calls, and its subscriptions.

    Its task reads calls, and another one answers while there are any. Most of the time a client waits, so little is
    held for it then: a task and what belongs to it take 1 KB. A new subscription begins to send when the answer to its
    call has left.
    """

    __slots__ = (
        "_answerer", "_calling", "_channel", "_exchange", "_is_stopped", "_last", "_messages", "_new", "_reader",
        "_running", "_slot", "_streams", "_tasks", "_turn", "_unanswered", "_wanted", "_writer",
    )  # fmt: skip

    def __init__(
        self,
        streams: EventStreams,
        channel: MessageChannel,
        exchange: HttpExchange,
        slot: WaitingSlot,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._streams = streams
        self._channel = channel
        self._exchange = exchange
        self._slot = slot
        self._tasks = tasks
        self._messages: deque[bytes] | None = None  # those that wait
        self._unanswered = 0  # messages that wait, and the one that is being answered
        self._calling = asyncio.Lock()  # held while a call runs
        self._answerer: asyncio.Task[None] | None = None  # while there are messages
        self._reader: asyncio.Task[None] | None = None  # while messages are read
        self._writer: asyncio.Future[None] | None = None  # of the reader, until one more is answered
        self._is_stopped = False
        self._new: dict[str, Following] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._wanted: dict[str, Wanted] = {}
        self._last = 0
        self._turn = asyncio.Lock()  # one message is made at a time

    # Calls

    async def run(self) -> None:
        """Read and answer until the client sends no more, and every call is answered, or the gateway stops."""
        self._reader = asyncio.current_task()
        try:
            await self._read()
        except asyncio.CancelledError:
            if not self._is_stopped or self._reader is None or self._reader.uncancel():
                raise
        finally:
            self._reader = None
        while self._answerer is not None:  # the client sends no more, and may still read
            await self._channel.probe()
            await asyncio.wait([self._answerer], timeout=PROBE_INTERVAL)
        for task in self._running.values():
            task.cancel()

    async def _read(self) -> None:
        """Read ahead while a call runs, so that pings are answered meanwhile."""
        while (message := await self._channel.receive()) is not None:
            self._messages = self._messages or deque()
            self._messages.append(message)
            del message
            self._unanswered += 1
            if self._answerer is None:
                self._answerer = self._tasks.create_task(self._answer_all())
            while self._unanswered and (self._channel.held > BYTES_AHEAD or self._unanswered > MOST_AHEAD):
                self._writer = asyncio.get_running_loop().create_future()
                await self._writer

    async def _answer_all(self) -> None:
        try:
            while self._messages:
                message = self._messages.popleft()
                async with self._calling:
                    answer = await self._streams.answer(message, self._exchange, self._slot)
                if answer is not None:
                    await self._channel.send(answer)  # first in line, also when the gateway stops
                new, self._new = self._new, {}
                for name, following in new.items():
                    self._running[name] = self._tasks.create_task(self._send(name, following))
                self._channel.release(len(message))
                self._unanswered -= 1
                if self._writer is not None and not self._writer.done():
                    self._writer.set_result(None)
        finally:
            self._answerer = self._messages = None

    def stop(self) -> None:
        """The gateway stops: let the call that runs finish and be answered; no other one begins."""
        self._tasks.create_task(self._close())

    async def _close(self) -> None:
        async with self._calling:
            await self._channel.close("the gateway stops")
            self._is_stopped = True
            for task in (self._reader, self._answerer):
                if task is not None:
                    task.cancel()

    # Subscriptions

    async def subscribe(self, session: Value, classes: Value, token: Value) -> Outcome:
        """Begin a subscription."""
        if not isinstance(session, str) or not isinstance(classes, list) or not isinstance(token, str):
            return Fault(FaultCode.INVALID_PARAMS, "$.params: expected a session, a list of classes, and a token")
        if len(self._running) + len(self._new) >= MOST_SUBSCRIPTIONS:
            return Fault(FaultCode.BUSY, f"this connection has {MOST_SUBSCRIPTIONS} subscriptions; end one of them")
        following = await self._streams.begin(session, self._exchange.peer, classes, token)
        if isinstance(following, Fault):
            return following
        too_much = too_large(*self._wanted.values(), following.wanted)
        if too_much is not None:
            return too_much
        self._last += 1
        self._new[str(self._last)] = following
        self._wanted[str(self._last)] = following.wanted
        return Reply({"subscription": str(self._last)})

    async def unsubscribe(self, name: Value) -> Outcome:
        """End a subscription."""
        subscription = str(name)
        task = self._running.pop(subscription, None)
        self._wanted.pop(subscription, None)
        if self._new.pop(subscription, None) is None and task is None:
            return Fault(FaultCode.INVALID_PARAMS, f"$.params[0]: no subscription '{subscription[:100]}' here")
        if task is not None:
            task.cancel()
        return Reply(None)

    async def _send(self, name: str, following: Following) -> None:
        changes = self._streams.methods.follow(following, HEARTBEAT)
        try:
            async for news in changes:
                if news is not None:
                    async with self._turn:
                        message = self._streams.notification(name, news)
                        if message is not None:
                            await self._channel.send(message)
                        del message
                del news  # while a client waits, nothing is held for it
        finally:
            self._running.pop(name, None)
            self._wanted.pop(name, None)
            await changes.aclose()


def subscription_routes() -> Mapping[str, Route]:
    """The methods by which a client of a WebSocket subscribes."""
    text, texts = parse_one("s"), parse_one("as")
    asked = Parameter("session", text), Parameter("classes", texts), Parameter("token", text, required=False)
    named = (Parameter("subscription", text),)
    return {
        SUBSCRIBE: local_route(
            SUBSCRIBE,
            partial(_subscribed, Subscriber.subscribe, asked),
            parameters=asked,
            result=parse_one("a{sv}"),
            documentation=f"Have changes sent over this WebSocket from now on, as notifications {CHANGED}.",
            effect=Effect.WRITE,
        ),
        UNSUBSCRIBE: local_route(
            UNSUBSCRIBE,
            partial(_subscribed, Subscriber.unsubscribe, named),
            parameters=named,
            documentation="End a subscription of this WebSocket.",
            effect=Effect.IDEMPOTENT,
        ),
    }


async def _subscribed(
    answer: Callable[..., Awaitable[Outcome]], parameters: Sequence[Parameter], call: Call
) -> Outcome:
    """Have the subscriber of a WebSocket answer a call, whose parameters come by position or by name."""
    subscriber = call.peer.connection.subscriber if call.peer.connection is not None else None
    if not isinstance(subscriber, Subscriber):
        return Fault(FaultCode.INVALID_REQUEST, f"{call.method} is for a WebSocket; over HTTP use event.from")
    names = [each.name for each in parameters]
    defaults: dict[str, Value] = {each.name: "" for each in parameters if not each.required}
    given: dict[str, Value] = {**defaults, **dict(zip(names, call.params, strict=False)), **call.named}
    if given.keys() != set(names) or len(call.params) > len(names):
        data: Value = {"expected": len(names) - len(defaults), "received": len(call.params) + len(call.named)}
        return Fault(FaultCode.PARAMETER_COUNT, f"{call.method}: expected {', '.join(names)}", data=data)
    return await answer(subscriber, *(given[name] for name in names))


def session_of(headers: Mapping[bytes, str], query: Mapping[str, list[str]]) -> str:
    """The session of a request without a body, as xapi reads it: `Cookie: session_id=`, or in the query.

    Programs that can set headers may send `Authorization: Bearer` in their place.
    """
    kind, _, bearer = headers.get(b"authorization", "").partition(" ")
    if kind.lower() == "bearer" and bearer:
        return bearer.strip()
    for cookie in headers.get(b"cookie", "").split(";"):
        name, _, value = cookie.strip().partition("=")
        if name == "session_id":
            return value.strip('"')
    return query.get("session_id", [""])[-1]
