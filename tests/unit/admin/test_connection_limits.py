"""The bounds of the operator's sockets, with real connections: half requests, large ones, answers not taken."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from gateway.admin.connection_limits import BODY, HEAD, ConnectionLimits
from gateway.admin.sockets import SocketServer
from tests.kit.cases import each_case
from tests.kit.logs import logged
from tests.kit.programs import TIMEOUT

HALF = b"GET / HTTP/1.1\r\nHost: x\r\nX: "
WHOLE = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
WAITS = WHOLE.replace(b"/", b"/?wait", 1)  # until `go`


class Local(SocketServer):
    """Any free port of this machine; answers after a signal where the path asks for it, with as much as it asks for."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.go = asyncio.Event()
        self.may_make, self.broken = threading.Event(), 0
        self.may_make.set()
        super().__init__("local", lambda: socket.create_server(("127.0.0.1", 0)), self._application, limits)

    def _application(self) -> web.Application:
        assert self.may_make.wait(TIMEOUT)
        if self.broken:
            self.broken -= 1
            raise ImportError("no module")
        made = web.Application()

        async def answer(request: web.Request) -> web.Response:
            if "wait" in request.query:
                await self.go.wait()
            return web.Response(body=b"x" * int(request.query.get("size", "2")))

        made.router.add_route("*", "/", answer)
        return made

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        assert self._socket is not None
        return await asyncio.open_connection("127.0.0.1", self._socket.getsockname()[1])


@asynccontextmanager
async def serving(limits: ConnectionLimits | None = None, *, is_made: bool = True) -> AsyncIterator[Local]:
    """A server. `is_made`: it makes what answers at once, and not once it may."""
    server = Local(limits or ConnectionLimits())
    if not is_made:
        server.may_make.clear()
    await server.start()
    try:
        yield server
    finally:
        server.go.set()
        server.may_make.set()
        await server.stop()


async def asked(server: Local, request: bytes = WHOLE) -> bytes:
    """Everything that comes until the connection ends."""
    reader, writer = await server.connect()
    writer.write(request)
    try:
        return await rest(reader)
    finally:
        writer.close()


async def rest(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while not holds():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.005)


async def test_each_connection_carries_one_request() -> None:
    async with serving() as server:
        answer = await asked(server, WHOLE * 3)
        assert answer.count(b"HTTP/1.1 200 OK") == 1
        assert b"Connection: close" in answer


@each_case("half", [HALF, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf"])
async def test_a_half_request_is_cut_after_a_time_and_logged(half: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.clear()
    async with serving(ConnectionLimits(request=0.05)) as server:
        assert await asked(server, half) == b""
        assert [fields["why"] for _, fields in logged(caplog)] == ["its request did not arrive in time"]


async def test_an_answer_may_take_longer_than_a_request() -> None:
    async with serving(ConnectionLimits(request=1.0, answer=0.05)) as server:
        asking = asyncio.ensure_future(asked(server, WAITS))
        assert await asked(server, HALF) == b""  # by then the time for a request is over
        server.go.set()
        assert b"200 OK" in await asking


async def test_a_flood_of_half_requests_is_told_and_keeps_nobody_out(caplog: pytest.LogCaptureFixture) -> None:
    """The one that has waited longest gives way to the newcomer."""
    async with serving(ConnectionLimits(share=4, log_interval=0.0)) as server:
        half = [await server.connect() for _ in range(50)]
        for _, writer in half:
            writer.write(HALF)
        assert await rest(half[45][0]) == b""
        assert b"200 OK" in await asked(server)
        assert await rest(half[46][0]) == b""
        assert sum(fields["connections"] for _, fields in logged(caplog)) == 47
        for _, writer in half:
            writer.close()


@each_case("limits", [ConnectionLimits(share=2), ConnectionLimits(connections=2, share=9)])  # of a peer, of all
async def test_where_all_are_being_answered_the_newcomer_is_turned_away(limits: ConnectionLimits) -> None:
    async with serving(limits) as server:
        asking = [asyncio.ensure_future(asked(server, WAITS)) for _ in range(2)]
        await until(lambda: sum(not each.waits for each in server.limiter._open.values()) == 2)
        assert await asked(server) == b""
        server.go.set()
        for answer in asking:
            assert b"200 OK" in await answer
        assert b"200 OK" in await asked(server)


async def test_the_last_descriptors_are_left_to_others(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(ConnectionLimits(reserve=10**9)) as server:
        assert await asked(server) == b""
        assert [fields["why"] for _, fields in logged(caplog)] == ["few file descriptors are left"]


async def test_a_body_that_is_too_large_or_damaged_is_refused_and_an_endless_one_cut() -> None:
    async with serving() as server:
        head = b"POST / HTTP/1.1\r\nHost: x\r\n"
        large = head + b"Content-Length: %d\r\n\r\n" % (BODY + 1)
        assert b" 413 " in await asked(server, large + b"x" * (BODY + 1))
        assert b" 400 " in await asked(server, head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nnonsense\r\n")
        assert await asked(server, WAITS + b"x" * (2 * (HEAD + BODY))) == b""


@each_case("size", [100, 20_000_000])  # what fits into the kernel's buffers, and what does not
async def test_an_answer_that_is_not_taken_costs_its_place_for_a_time_only(
    size: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()
    async with serving(ConnectionLimits(answer=0.05)) as server:
        _reader, writer = await server.connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET /?size=%d HTTP/1.1\r\nHost: x\r\n\r\n" % size)
        await until(lambda: not server.limiter._open and len(logged(caplog)) == (size > 100))
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        writer.close()


# What answers is made with the first connection


async def test_the_first_connections_wait_for_what_answers_while_the_event_loop_goes_on() -> None:
    async with serving(is_made=False) as server:
        reader, writer = await server.connect()
        await until(lambda: len(server._waiting) == 1)
        writer.write(WHOLE[:5])
        await until(lambda: bytes(server._waiting[0]._early) == WHOLE[:5])
        writer.write(WHOLE[5:20])
        await until(lambda: bytes(server._waiting[0]._early) == WHOLE[:20])
        asking = asyncio.ensure_future(asked(server))
        await until(lambda: len(server._waiting) == 2)
        server.may_make.set()
        writer.write(WHOLE[20:])
        assert b"200 OK" in await reader.read()
        assert b"200 OK" in await asking
        assert b"200 OK" in await asked(server)
        writer.close()


async def test_the_limits_hold_while_a_connection_waits_for_what_answers(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(ConnectionLimits(share=2, request=0.05, log_interval=0.0), is_made=False) as server:
        assert await asked(server, b"x" * (2 * (HEAD + BODY))) == b""
        assert await asked(server) == b""  # its time is over
        why = [f"it sent more than {HEAD + BODY} bytes", "its request did not arrive in time"]
        assert [fields["why"] for _, fields in logged(caplog)] == why


async def test_a_peer_that_leaves_before_it_is_answered_leaves_nothing_behind() -> None:
    async with serving(is_made=False) as server:
        _, writer = await server.connect()
        writer.write(WHOLE)
        await until(lambda: len(server.limiter._open) == 1)
        writer.close()
        await until(lambda: not server.limiter._open)
        server.may_make.set()
        assert b"200 OK" in await asked(server)


async def test_where_what_answers_cannot_be_made_the_next_connection_tries_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving() as server:
        server.broken = 1
        assert await asked(server) == b""
        assert [event for event, _ in logged(caplog)] == ["no request can be answered"]
        assert b"200 OK" in await asked(server)


async def test_a_stop_does_not_wait_for_what_answers() -> None:
    async with serving(is_made=False) as server:
        asking = asyncio.ensure_future(asked(server))
        await until(lambda: len(server._waiting) == 1)
        await server.stop()
        assert await asking == b""


async def test_a_peer_that_has_left_is_not_said_to_read_slowly() -> None:
    async with serving(ConnectionLimits(answer=0.05)) as server:
        _, writer = await server.connect()
        writer.write(WAITS)
        await until(lambda: any(not each.waits for each in server.limiter._open.values()))
        (connection,) = server.limiter._open.values()
        writer.close()
        await until(lambda: not server.limiter._open)
        server.go.set()
        await until(lambda: connection._answered)
        assert connection._timer is None
