"""WebSockets over a real listener: handshakes, frames whole, split and wrong, and what ends a connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    Request,
    TextMessage,
)

from adapters.codecs.jsonrpc import Codec
from adapters.http.server import HttpLimits, HttpServer
from adapters.http.websocket import WebSocket, open_websocket
from adapters.limits import Quota
from gateway.core.interfaces import HttpExchange, StreamingEndpoint
from gateway.core.rpc.model import NO_METADATA, Answer, Fault, Peer, RequestMetadata
from gateway.events.hub import EventHub
from gateway.pipeline import event_streams
from gateway.pipeline.endpoint import RpcEndpoint
from gateway.pipeline.event_methods import EventMethods
from gateway.pipeline.event_streams import EventStreams
from tests.kit.cases import each_case, expect, present
from tests.kit.clients import Wire, connect
from tests.kit.exchanges import MemoryExchange
from tests.kit.object_service import Service
from tests.kit.programs import TIMEOUT
from tests.unit.http.listening import ask, serving

MOST = 1000
KEY = b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: gateway\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    + KEY
    + b"\r\n"
)


class Channels(StreamingEndpoint):
    """Sends each message back; "close" ends the connection, "many" sends messages until the client reads no more."""

    def __init__(self) -> None:
        self.sent = 0
        self.ended = asyncio.Event()

    async def stream(self, exchange: HttpExchange) -> Answer | None:
        channel = await open_websocket(exchange, MOST)
        if isinstance(channel, Answer):
            return channel
        try:
            await self._serve(channel)
        finally:
            self.ended.set()
        return None

    async def _serve(self, channel: WebSocket) -> None:
        while (message := await channel.receive()) is not None:
            if message == b"close":
                await channel.close("as asked")
                return
            while message == b"many":
                await channel.send(bytes(1000).replace(b"\0", b"x"))
                self.sent += 1000
            await channel.send(message)
            channel.release(len(message))
        await channel.close()

    def refuse(self, fault: Fault) -> Answer:
        raise AssertionError(fault)


def listening(endpoint: StreamingEndpoint | None = None, **options: Any) -> AbstractAsyncContextManager[HttpServer]:
    served = endpoint or Channels()
    return serving(streams=lambda path, wants_upgrade: served if wants_upgrade else None, **options)


class Client:
    """The client's side of a WebSocket on a wire."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.frames = WSConnection(ConnectionType.CLIENT)

    async def send(self, event: Event) -> None:
        await self.wire.send(self.frames.send(event))

    async def receive(self) -> Event:
        text = ""
        while True:
            for event in self.frames.events():
                if not isinstance(event, TextMessage):
                    return event
                text += event.data
                if event.message_finished:
                    return TextMessage(text)
            self.frames.receive_data(await self.wire.raw(1))


async def opened(wire: Wire) -> Client:
    client = Client(wire)
    await client.send(Request(host="gateway", target="/"))
    assert isinstance(await client.receive(), AcceptConnection)
    return client


@asynccontextmanager
async def connected(endpoint: StreamingEndpoint | None = None, **options: Any) -> AsyncIterator[Client]:
    async with asyncio.timeout(TIMEOUT), listening(endpoint, **options) as server, connect(server.addresses[0]) as wire:
        yield await opened(wire)


def event_streams_to(find: Callable[[], RpcEndpoint | None], hub: EventHub | None = None) -> EventStreams:
    methods = EventMethods(hub or EventHub(Service()))
    return EventStreams(find, methods, open_websocket, codec=Codec(), max_message=MOST)


async def test_messages_go_both_ways_in_their_order_also_in_fragments_and_byte_by_byte_and_pings_between_them() -> None:
    texts = ("one", "", "zwölf", "x" * MOST)
    async with connected() as client:
        for text in texts:
            await client.send(TextMessage(text))
        for text in texts:
            assert await client.receive() == TextMessage(text)
        data = client.frames.send(TextMessage("frag", message_finished=False))
        data += client.frames.send(Ping(b"here"))
        data += client.frames.send(TextMessage("ment", message_finished=True))
        for at in range(len(data)):
            await client.wire.send(data[at : at + 1])
        assert await client.receive() == Pong(b"here")
        assert await client.receive() == TextMessage("fragment")


@each_case(
    ("event", "code", "reason"),
    [
        (BytesMessage(b"x"), 1003, "expected text messages, got a binary one"),
        (TextMessage("x" * (MOST + 1)), 1009, f"expected messages of at most {MOST} bytes"),
        (TextMessage("\u20ac" * (MOST // 2)), 1009, f"expected messages of at most {MOST} bytes"),
        (CloseConnection(1000, "bye"), 1000, "bye"),
        (b"\xff\xff\xff\xff\xff\xff", 1002, "Invalid opcode 0xf"),
    ],
)
async def test_what_ends_a_connection_says_why(event: Event | bytes, code: int, reason: str) -> None:
    endpoint = Channels()
    async with connected(endpoint) as client:
        await client.wire.send(event if isinstance(event, bytes) else client.frames.send(event))
        assert await client.receive() == CloseConnection(code, reason)
        await endpoint.ended.wait()


@each_case(
    ("old", "new", "status", "text"),
    [
        (b"Version: 13", b"Version: 8", 426, "found Sec-WebSocket-Version: 8; expected 13"),
        (KEY, b"", 400, "expected a Sec-WebSocket-Key of 16 bytes in base64"),
        (KEY, b"Sec-WebSocket-Key: short\r\n", 400, "expected a Sec-WebSocket-Key of 16 bytes in base64"),
        (b"HTTP/1.1", b"HTTP/1.0", 405, "send a POST"),
        (b"websocket", b"h2c", 400, "expected GET with Upgrade: websocket"),
        (KEY, KEY + b"Origin: https://evil.example\r\n", 403, "requests of web pages from 'https://evil.example'"),
    ],
)
async def test_a_handshake_that_is_wrong_is_refused(old: bytes, new: bytes, status: int, text: str) -> None:
    async with listening() as server, connect(server.addresses[0]) as wire:
        reply = await ask(wire, HANDSHAKE.replace(old, new))
        assert reply.status == status
        assert text in reply.body.decode()


async def test_a_client_that_does_not_read_holds_one_message_and_is_not_cut_until_it_leaves() -> None:
    endpoint = Channels()
    limits = HttpLimits(write_timeout=0.05, poll_interval=0.01, max_tunnels=1)
    async with listening(endpoint, limits=limits) as server:
        async with connect(server.addresses[0]) as wire:
            client = await opened(wire)
            await client.send(TextMessage("many"))
            before = -1
            while before != endpoint.sent:  # until the kernels of both sides take no more
                before = endpoint.sent
                await asyncio.sleep(0.2)  # far longer than `write_timeout`
            [connection] = server._connections
            assert connection._transport is not None
            assert connection._transport.get_write_buffer_size() < 64 * 1024
            assert connection._held <= 64 * 1024
            assert not endpoint.ended.is_set()
            async with connect(server.addresses[0]) as other:  # `max_tunnels` is for tunnels to upstreams
                again = await opened(other)
                await again.send(TextMessage("close"))
                assert await again.receive() == CloseConnection(1001, "as asked")
            endpoint.ended.clear()
        await asyncio.wait_for(endpoint.ended.wait(), TIMEOUT)


def frame(opcode: int, data: bytes, *, last: bool = True) -> bytes:
    """A frame of a client, with a mask of zeros."""
    return bytes([opcode | last << 7, 128 | len(data)]) + bytes(4) + data


@each_case("flood", [frame(0, b"", last=False), frame(0, b"x", last=False), frame(10, b"")])
async def test_while_many_small_frames_are_read_others_are_served(flood: bytes) -> None:
    count = 10_000
    exchange = MemoryExchange(NO_METADATA, frame(1, b"", last=False) + flood * count + frame(0, b"end"))
    reading = asyncio.ensure_future(WebSocket(exchange, 2 * count).receive())
    turns = 0
    while not reading.done():
        await asyncio.sleep(0)
        turns += 1
    assert present(await reading).endswith(b"end")
    assert turns > count / 100


async def test_messages_count_as_held_until_they_are_released_and_too_many_end_the_connection() -> None:
    text = frame(1, b"x" * 100)
    exchange = MemoryExchange(NO_METADATA, text + text[:50], text[50:] + text * 2, most_held=250)
    channel = WebSocket(exchange, MOST)
    for held in (100, 200):
        assert await channel.receive() == b"x" * 100
        assert (exchange.held, channel.held) == (held, held)
    channel.release(100)
    assert (exchange.held, channel.held) == (100, 100)
    assert await channel.receive() == b"x" * 100
    assert await channel.receive() is None
    await channel.close()
    assert b"\x03\xf5too many bytes are held (max_buffered), try again" in exchange.body


async def test_a_listener_counts_what_a_websocket_holds() -> None:
    quota = Quota(max_buffered=100_000)
    async with connected(quota=quota) as client:
        for more, answer, held in (("x" * 500, Pong(), 500), ("", TextMessage("x" * 500), 0)):
            await client.send(TextMessage(more, message_finished=not more))
            await client.send(Ping())
            assert await client.receive() == answer
            if not more:
                assert await client.receive() == Pong()
            assert quota.buffered == 16 * 1024 + held


class SlowEndpoint(RpcEndpoint):
    """Sends each message back when the test says so."""

    def __init__(self) -> None:
        self.begun: asyncio.Queue[bytes] = asyncio.Queue()
        self.may_answer = asyncio.Semaphore(0)

    async def answer(self, body: bytes, peer: Peer, carried: RequestMetadata = NO_METADATA) -> Answer:
        self.begun.put_nowait(body)
        await self.may_answer.acquire()
        return Answer(body, "")


@asynccontextmanager
async def calling() -> AsyncIterator[tuple[Client, SlowEndpoint, EventHub]]:
    """A client whose call "one" runs; "two" waits behind it."""
    endpoint, hub = SlowEndpoint(), EventHub(Service())
    async with connected(event_streams_to(lambda: endpoint, hub)) as client:
        await client.send(TextMessage("one"))
        await client.send(TextMessage("two"))
        assert await endpoint.begun.get() == b"one"
        yield client, endpoint, hub


@each_case("end", [CloseConnection(1000, "bye"), None])
async def test_calls_that_came_before_the_end_are_answered(end: CloseConnection | None) -> None:
    async with calling() as (client, endpoint, _hub):
        if end is None:
            client.wire.end()
        else:
            await client.send(end)
        assert await client.receive() == Ping()  # is it still there?
        endpoint.may_answer.release()
        endpoint.may_answer.release()
        answers = [await client.receive() for _ in range(3)]
        assert answers[:2] == [TextMessage("one"), TextMessage("two")]
        assert isinstance(answers[2], CloseConnection)
        assert answers[2].code == (1001 if end is None else 1000)


async def test_while_a_call_runs_pings_are_answered_and_at_a_stop_no_other_one_begins() -> None:
    async with calling() as (client, endpoint, hub):
        hub.release()
        await client.send(Ping(b"there?"))
        assert await client.receive() == Pong(b"there?")
        endpoint.may_answer.release()
        assert await client.receive() == TextMessage("one")
        assert await client.receive() == CloseConnection(1001, "the gateway stops")
        assert endpoint.begun.empty()


async def test_calls_go_to_the_endpoint_that_serves_the_path_now() -> None:
    served: list[SlowEndpoint] = []
    async with connected(event_streams_to(lambda: served[0] if served else None)) as client:
        for text in ("first", "second"):
            served[:] = [SlowEndpoint()]  # a reload
            served[0].may_answer.release()
            await client.send(TextMessage(text))
            assert await client.receive() == TextMessage(text)
        served.clear()
        await client.send(TextMessage("third"))
        answer = expect(TextMessage, await client.receive())
        assert "no mapping file serves this path any more" in answer.data


async def test_a_call_of_a_client_that_has_said_its_end_and_left_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_streams, "PROBE_INTERVAL", 0.01)
    endpoint = SlowEndpoint()
    async with listening(event_streams_to(lambda: endpoint)) as server:
        async with connect(server.addresses[0]) as wire:
            client = await opened(wire)
            await client.send(TextMessage("one"))
            assert await endpoint.begun.get() == b"one"
            await client.send(CloseConnection(1000))
        while server._connections:  # noqa: ASYNC110 - the listener does not tell
            await asyncio.sleep(0.01)
