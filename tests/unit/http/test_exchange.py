"""The listener's side of a streamed request: framing, deadlines while nothing moves, order on one connection."""

from __future__ import annotations

import asyncio

import pytest

from adapters.http.request_parser import BODY_PIECE, HEAD_PIECE
from adapters.http.server import HttpLimits
from gateway.core.interfaces import HttpExchange
from gateway.core.rpc.model import Answer, Headers
from tests.kit.cases import each_case
from tests.kit.clients import chunked, post
from tests.kit.listeners import Echo
from tests.kit.programs import TIMEOUT
from tests.unit.http.listening import ask, connected, running, talking

GET = b"GET /x HTTP/1.1\r\nHost: gateway\r\n\r\n"
LARGE = bytes(16 * 1024**2)  # more than the kernel takes of it


class Streams(Echo):
    """Answers with a head and pieces, before it has read the request body or after."""

    def __init__(self, *pieces: bytes, head: Answer | None = None, reads: bool = True) -> None:
        super().__init__()
        self._pieces = pieces
        self._head = head or Answer(None, "", None, 200, "OK")
        self._reads = reads
        self.ended = asyncio.Semaphore(0)
        self.body = b""

    async def stream(self, exchange: HttpExchange) -> Answer | None:
        self.carried.append(exchange.metadata)
        try:
            while self._reads and (piece := await exchange.read()):
                self.body += piece
            await exchange.respond(self._head)
            for piece in self._pieces:
                await exchange.write(piece)
            await exchange.finish()
        finally:
            self.ended.release()
        return None


@each_case(
    ("version", "head", "expected"),
    [
        ("1.1", (), b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"),
        ("1.1", ((b"content-length", b"3"),), b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc"),
        ("1.0", (), b"HTTP/1.0 200 OK\r\n\r\nabc"),
        ("1.0", ((b"content-length", b"3"),), b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nabc"),
    ],
)
async def test_a_response_is_framed_as_its_head_and_the_clients_version_have_it(
    version: str, head: tuple[tuple[bytes, bytes], ...], expected: bytes
) -> None:
    answers = Streams(b"a", b"bc", head=Answer(None, "", None, 200, "OK", head))
    async with talking(passthrough=answers) as wire:
        await wire.send(GET.replace(b"1.1", version.encode()))
        assert await wire.raw(len(expected)) == expected
        wire.end()
        assert await wire.rest() == b""


async def test_requests_that_come_at_once_are_answered_in_their_order() -> None:
    rest = Echo()
    async with talking(passthrough=rest) as wire:
        put = post(b"two").replace(b"POST", b"PUT")
        await wire.send(GET + put + chunked(b"th", b"ree").replace(b"POST", b"PUT") + post(b"four"))
        assert [(await wire.reply()).body for _ in range(4)] == [b"", b"two", b"three", b"four"]
    assert [each.verb for each in rest.carried] == ["GET", "PUT", "PUT"]


@each_case("cut", [1, 7, 10_000])
async def test_a_body_and_its_trailers_arrive_whole_however_they_are_cut_and_reach_no_other_request(cut: int) -> None:
    class Tells(Streams):
        async def stream(self, exchange: HttpExchange) -> Answer | None:
            await super().stream(exchange)
            told.append(exchange.trailers)
            return None

    told: list[Headers] = []
    body = bytes(range(256)) * 20
    bad = b"Host: b\r\nAuthorization: no\r\nSet-Cookie: no\r\n"
    first = chunked(body[:100], body[100:]).removesuffix(b"\r\n") + bad + b"X-Sum: 7\r\n\r\n"
    answers = Tells(head=Answer(None, "", None, 200, "OK", ((b"content-length", b"0"),)))
    async with talking(passthrough=answers) as wire:
        message = (first + post(body)).replace(b"POST", b"PUT") + GET
        for at in range(0, len(message), cut):
            await wire.send(message[at : at + cut])
        assert [(await wire.reply()).status for _ in range(3)] == [200, 200, 200]
    assert answers.body == body * 2
    assert told == [((b"X-Sum", b"7"),), (), ()]
    assert answers.carried[2].headers == ((b"Host", b"gateway"),)


async def test_a_trailer_that_would_frame_the_body_is_refused() -> None:
    async with talking(passthrough=Echo()) as wire:
        message = chunked(b"a").replace(b"POST", b"PUT").removesuffix(b"\r\n")
        reply = await ask(wire, message + b"Content-Length: 9\r\n\r\n")
        assert await wire.rest() == b""
    assert b"the body is broken: after 1 bytes: Content-Length can't be present" in reply.body


@pytest.mark.parametrize(("version", "sent"), [("1.1", b"0\r\nX-Sum: 7\r\n\r\n"), ("1.0", b"a")])
async def test_trailers_of_a_response_go_where_there_are_chunks(version: str, sent: bytes) -> None:
    class Trailing(Streams):
        async def stream(self, exchange: HttpExchange) -> Answer | None:
            await exchange.respond(Answer(None, "", None, 200, "OK", ((b"Trailer", b"X-Sum"),)))
            await exchange.write(b"a")
            await exchange.finish(((b"X-Sum", b"7"),))
            return None

    async with talking(passthrough=Trailing()) as wire:
        await wire.send(GET.replace(b"1.1", version.encode()))
        wire.end()
        answer = await wire.rest()
    assert answer.endswith(sent)
    assert (b"Trailer: X-Sum" in answer) == (version == "1.1")


@each_case("left", [b"\r\n0\r\n\r\n", b"0\r\n\r\n", b"\n", b""])
async def test_the_end_of_a_body_is_seen_when_it_waits_behind_a_full_buffer(left: bytes) -> None:
    """The bytes `left` are parsed only when the exchange has room again, and hold no piece of the body."""
    answers = Streams(b"ok")
    head = b"PUT / HTTP/1.1\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\n\r\n"
    size = HEAD_PIECE + 4 * BODY_PIECE - len(head) - len(b"10fff\r\n") - len(b"\r\n0\r\n\r\n") + len(left)
    message = head + b"%x\r\n%b\r\n0\r\n\r\n" % (size, bytes(size))
    assert len(message) == HEAD_PIECE + 4 * BODY_PIECE + len(left)
    async with connected(None, passthrough=answers) as (server, wire):
        await wire.send(b"OPTIONS * HTTP/1.1\r\nHost: gateway\r\n\r\n")
        assert await wire.raw(12) == b"HTTP/1.1 200"
        (connection,) = server._connections
        connection.data_received(message)
        for _ in range(2):
            await asyncio.wait_for(answers.ended.acquire(), 60)
    assert len(answers.body) == size


async def test_what_follows_an_answer_that_comes_before_the_body_is_no_request() -> None:
    endpoint = Echo()
    early = Streams(head=Answer(None, "", None, 403, "No", ((b"Content-Length", b"0"),)), reads=False)
    async with talking(endpoint, passthrough=early) as wire:
        reply = await ask(wire, b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        assert (reply.status, reply.headers["connection"]) == (403, "close")
        await wire.send(post(b"no call"))
        assert await wire.rest() == b""
    assert endpoint.seen == []


@each_case(
    ("message", "why"),
    [
        (post(b"x" * 9).replace(b"POST", b"PUT")[:-8], "sent nothing of its body for 0.05 s"),
        (GET, "read nothing of its answer for 0.05 s"),
    ],
)
async def test_a_client_that_sends_or_reads_nothing_is_cut(message: bytes, why: str) -> None:
    cuts: asyncio.Queue[str] = asyncio.Queue()
    answers, limits = Streams(LARGE), HttpLimits(body_timeout=0.05, write_timeout=0.05)
    async with talking(passthrough=answers, limits=limits, on_abort=cuts.put_nowait) as wire:
        await wire.send(message)
        assert why in await asyncio.wait_for(cuts.get(), TIMEOUT)
        await asyncio.wait_for(answers.ended.acquire(), TIMEOUT)


async def test_each_piece_of_a_body_sets_its_deadline_anew() -> None:
    answers = Streams()
    async with connected(None, passthrough=answers) as (server, wire):
        await wire.send(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n")
        moments: list[float] = []
        async with asyncio.timeout(TIMEOUT):
            for count in range(1, 4):
                await wire.send(b"x")
                while len(answers.body) < count:  # noqa: ASYNC110 - the endpoint does not tell
                    await asyncio.sleep(0.005)  # so that the moments differ
                (connection,) = server._connections
                assert connection._exchange is not None
                moments.append(connection._exchange.active_at)
        assert moments == sorted(set(moments))
        await wire.send(b"x")
        assert await wire.raw(12) == b"HTTP/1.1 200"


async def test_a_tunnel_has_no_deadline_and_ends_when_its_client_has_left() -> None:
    class Opens(Streams):
        async def stream(self, exchange: HttpExchange) -> Answer | None:
            try:
                await exchange.respond(Answer(None, "", None, 101, "Go"), opens_tunnel=True)
                while self.body != b"hello" and (piece := await exchange.read()):
                    self.body += piece
                await exchange.write(LARGE)
                await asyncio.Event().wait()
            finally:
                self.ended.release()
            return None

    cuts: list[str] = []
    opens = Opens()
    limits = HttpLimits(tunnels=("/console",), write_timeout=0.02, body_timeout=0.02)
    async with talking(passthrough=opens, limits=limits, on_abort=cuts.append) as wire:
        await wire.send(b"GET /console HTTP/1.1\r\nHost: x\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\nhel")
        assert await wire.raw(19) == b"HTTP/1.1 101 Go\r\n\r\n"
        await asyncio.sleep(0.1)
        await wire.send(b"lo")
        await asyncio.sleep(0.1)
        assert (await wire.raw(100), cuts) == (bytes(100), [])
        wire.reset()
        await asyncio.wait_for(opens.ended.acquire(), 60)
    assert opens.body == b"hello"


@each_case("pieces", [(LARGE,), (b"part",)])
async def test_a_stop_resets_what_streams_when_the_grace_is_over(pieces: tuple[bytes, ...]) -> None:
    """An HTTP/1.0 client would take the mere end of its connection for the end of the response."""

    class NeverEnds(Streams):
        async def stream(self, exchange: HttpExchange) -> Answer | None:
            await exchange.respond(self._head)
            for piece in self._pieces:
                await exchange.write(piece)
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

    async with running(passthrough=NeverEnds(*pieces)) as address:
        host, _, port = address.removeprefix("tcp:").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(GET.replace(b"1.1", b"1.0"))
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(4)
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), 60)
    writer.transport.abort()
