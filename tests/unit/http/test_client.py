from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from adapters.http.client.connection import ClientConnection
from adapters.http.client.request import parse_url
from adapters.http.client.upstream import ConnectionPoolLimits, HttpUpstreamConnection
from adapters.limits import Quota
from gateway.core.interfaces import NOT_SENT
from gateway.core.rpc.model import HUNG_UP, Answer, Fault, FaultCode, RequestMetadata
from tests.kit.cases import each_case, expect
from tests.kit.raw_server import make_certificate
from tests.kit.upstreams import Last, LegacyServer, legacy_server, ok

POST = RequestMetadata("POST", "/RPC2", ((b"Host", b"x"),))
HEAD = RequestMetadata("HEAD", "/", ((b"Host", b"x"),))


@asynccontextmanager
async def line(
    url: str, limits: ConnectionPoolLimits | None = None, quota: Quota | None = None
) -> AsyncIterator[HttpUpstreamConnection]:
    made = HttpUpstreamConnection("xapi", parse_url(url), limits or ConnectionPoolLimits(), quota=quota)
    await made.start()
    try:
        yield made
    finally:
        await asyncio.wait_for(made.stop(), 60)


async def send(
    line: HttpUpstreamConnection, carried: RequestMetadata = POST, *, repeatable: bool = False
) -> Answer | Fault:
    return await asyncio.wait_for(line.send(b"hi", carried, repeatable=repeatable), 60)


async def answer(line: HttpUpstreamConnection, carried: RequestMetadata = POST) -> Answer:
    return expect(Answer, await send(line, carried))


async def refusal(line: HttpUpstreamConnection) -> Fault:
    return expect(Fault, await send(line))


async def test_a_message_goes_out_and_its_answer_comes_back_over_connections_that_are_used_again() -> None:
    async with legacy_server() as old, line(old.url) as xapi:
        for _ in range(5):
            got = await answer(xapi)
            assert (got.status, got.reason, got.body) == (200, "OK", b"answer")
        assert old.requests == [b"POST /RPC2 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"] * 5
        assert (old.connections, xapi.status().idle) == (1, 1)


async def test_content_that_an_answer_to_head_announces_ends_its_connection() -> None:
    """A server that sends it all the same would answer the next call with it."""
    async with legacy_server(lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n") as old, line(old.url) as xapi:
        for _ in range(2):
            assert (await answer(xapi, HEAD)).body == b""
        assert old.connections == 2


async def test_each_request_has_a_connection_where_the_config_says_so() -> None:
    async with (
        legacy_server(lambda _: Last(ok(b"x"))) as old,
        line(old.url, ConnectionPoolLimits(keepalive=False)) as xapi,
    ):
        for _ in range(3):
            await answer(xapi)
        assert old.connections == 3
        assert all(b"\r\nConnection: close\r\n" in request for request in old.requests)


@pytest.mark.parametrize("keepalive", [True, None])
async def test_a_connection_that_rests_too_long_is_closed(keepalive: bool | None) -> None:
    limits = ConnectionPoolLimits(connections=2, idle=0.01, keepalive=keepalive)
    async with legacy_server() as old, line(old.url, limits) as xapi:
        for _ in range(2):
            await asyncio.gather(answer(xapi), answer(xapi))
            for _ in range(2):
                await asyncio.wait_for(old.left.acquire(), 60)
            assert xapi.status().idle == 0
        for _ in range(4):
            old.left.release()
        assert old.connections == 4


async def test_a_connection_that_was_closed_while_idle_costs_no_call() -> None:
    async with legacy_server() as old, line(old.url) as xapi:
        for _ in range(3):
            await answer(xapi)
            await old.close_connections()
        assert (old.connections, len(old.requests)) == (3, 3)


LEARNING = ConnectionPoolLimits(keepalive=None)
QUICK = ConnectionPoolLimits(keepalive=None, probe_interval=0.0)


@each_case(
    ("limits", "lines", "connections"),
    [(LEARNING, (), 5), (QUICK, (), 1), (LEARNING, ("Connection: Keep-Alive",), 1)],
)
async def test_connections_are_used_again_once_it_is_known_that_the_service_keeps_them(
    limits: ConnectionPoolLimits, lines: tuple[str, ...], connections: int
) -> None:
    async with legacy_server(lambda _: ok(b"x", *lines)) as old, line(old.url, limits) as xapi:
        for _ in range(5):
            await answer(xapi)
        assert old.connections == connections


async def test_a_service_that_closes_a_connection_is_not_trusted_with_the_others() -> None:
    async with legacy_server(lambda _: ok(b"x", "Connection: Keep-Alive")) as old, line(old.url, LEARNING) as xapi:
        for _ in range(2):
            await answer(xapi)
        assert (old.connections, xapi.status().idle) == (1, 1)
        await old.close_connections()
        old.answers = lambda _: ok(b"x")
        for _ in range(3):
            await answer(xapi)
        assert (old.connections, xapi.status().idle) == (4, 0)


async def test_no_call_is_lost_by_a_service_that_takes_one_request_for_each_connection_and_does_not_say_so() -> None:
    """The xapi-idl sockets: a request that crosses the close on its way would be lost."""
    async with legacy_server(lambda _: Last(ok(b"x"))) as old, line(old.url, LEARNING) as idl:
        for _ in range(200):
            await answer(idl)
        assert len(old.requests) == 200


async def test_more_calls_than_connections_wait_for_their_turn_and_too_many_are_refused() -> None:
    limits = ConnectionPoolLimits(connections=2, waiting=4)
    async with legacy_server(held=True) as old, line(old.url, limits) as xapi:
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(answer(xapi)) for _ in range(6)]
            for _ in range(2):
                await old.seen.acquire()
            assert (xapi.status().in_flight, xapi.status().waiting) == (6, 4)
            text = "the legacy service 'xapi' has 6 calls in flight; nothing was executed"
            assert await refusal(xapi) == Fault(FaultCode.BUSY, text)
            old.hold.set()
        assert [call.result().body for call in calls] == [b"answer"] * 6
        assert old.connections == 2


async def test_a_service_that_is_not_there_or_not_in_time_executed_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:  # accepts nothing: no connection is left half made
        for url, limits, why in (
            (f"http+unix://{tmp_path}/none", ConnectionPoolLimits(), "No such file or directory"),
            (
                f"http://127.0.0.1:{listening.getsockname()[1]}",
                ConnectionPoolLimits(connect_timeout=0),
                "no connection in time",
            ),
        ):
            async with line(url, limits) as xapi:
                text = f"the legacy service 'xapi' cannot be reached: {why}; nothing was executed"
                assert await refusal(xapi) == Fault(FaultCode.UNAVAILABLE, text)
                assert xapi.status().last_error == f"cannot be reached: {why}"
                assert xapi.is_idle


async def test_a_service_that_goes_away_in_mid_call_may_have_executed_it() -> None:
    async with legacy_server(lambda _: None) as old, line(old.url) as xapi:
        got = await refusal(xapi)
        assert (got.code, got.name) == (FaultCode.NO_REPLY, HUNG_UP)
        assert got.message.endswith(
            "closed the connection before it had answered; whether the call was executed is unknown"
        )
        assert len(old.requests) == 1


async def test_only_what_may_be_repeated_is_sent_again_when_a_used_connection_ends() -> None:
    async with legacy_server() as old, line(old.url) as xapi:
        old.answers = lambda _: ok(b"x") if len(old.requests) % 2 else None
        await answer(xapi)
        assert (await refusal(xapi)).code is FaultCode.NO_REPLY
        assert len(old.requests) == 2
        await answer(xapi)
        expect(Answer, await send(xapi, repeatable=True))
        assert len(old.requests) == 5


class Careless:
    """A legacy server that reads as a stream: it obeys at the last byte it needs, and dies with more to be read."""

    def __init__(self, path: Path) -> None:
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self._listening.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self.connections = 0
        self.obeyed = 0

    async def accept(self) -> socket.socket:
        connection, _ = await self._loop.sock_accept(self._listening)
        self.connections += 1
        return connection

    async def answer(self, connection: socket.socket, body: bytes) -> None:
        await self._loop.sock_recv(connection, 65536)
        await self._loop.sock_sendall(connection, ok(body))

    async def obey_and_die(self, connection: socket.socket) -> None:
        read = b""
        while not read.endswith(b"\r\n\r\nh"):  # of "hi"
            read += await self._loop.sock_recv(connection, 1)
        self.obeyed += 1
        connection.close()

    def close(self) -> None:
        self._listening.close()


@pytest.mark.parametrize(("used", "repeatable"), [(True, False), (False, False), (True, True)])
async def test_only_what_may_be_repeated_is_sent_again_after_a_reset_which_tells_nothing_of_what_was_read(
    tmp_path: Path, used: bool, repeatable: bool
) -> None:
    server = Careless(tmp_path / "socket")
    async with line(f"http+unix://{tmp_path}/socket") as xapi, asyncio.timeout(60), asyncio.TaskGroup() as group:
        if used:
            first = group.create_task(answer(xapi))
            connection = await server.accept()
            await server.answer(connection, b"first")
            assert (await first).body == b"first"
        call = group.create_task(send(xapi, repeatable=repeatable))
        if not used:
            connection = await server.accept()
        await server.obey_and_die(connection)
        if repeatable:
            again = await server.accept()
            await server.answer(again, b"again")
            assert expect(Answer, await call).body == b"again"
            again.close()
        else:
            fault = expect(Fault, await call)
            assert fault.code is FaultCode.NO_REPLY
            assert fault.message.endswith("whether the call was executed is unknown")
            assert (server.connections, server.obeyed) == (1, 1)
    server.close()


async def test_what_is_no_http_is_said_to_be_none() -> None:
    async with legacy_server(lambda _: b"0000000000000012{}") as old, line(old.url) as xapi:
        got = await refusal(xapi)
        assert "answered with something other than HTTP" in got.message
        assert got.name == ""


async def test_a_large_answer_is_refused_and_its_memory_given_back() -> None:
    quota = Quota()
    limits = ConnectionPoolLimits(answer=10)
    async with legacy_server(lambda _: ok(bytes(11))) as old, line(old.url, limits, quota) as xapi:
        got = await refusal(xapi)
        assert got == Fault(
            FaultCode.TOO_LARGE, "the answer of the legacy service 'xapi' is over 10 bytes; the call was executed"
        )
        assert (quota.buffered, xapi.status().idle) == (0, 0)


async def ask(line: HttpUpstreamConnection) -> frozenset[str]:
    """What a call that was cancelled tells; nothing of one that was answered."""
    try:
        await line.send(b"hi", POST)
    except asyncio.CancelledError as error:
        return frozenset(error.args)
    return frozenset()


async def unsent(call: asyncio.Task[frozenset[str]]) -> bool:
    """Cancel a call; whether it says that nothing of it was sent."""
    call.cancel()
    return NOT_SENT in await call


async def test_a_call_that_is_given_up_in_line_was_not_sent_and_one_at_the_service_may_be_executed() -> None:
    async with legacy_server(held=True) as old, line(old.url, ConnectionPoolLimits(connections=1)) as xapi:
        begin = asyncio.get_running_loop().create_task
        asked, waits, next_ = (begin(ask(xapi)) for _ in range(3))
        await old.seen.acquire()
        assert xapi.status().waiting == 2
        assert await unsent(waits)
        assert not await unsent(asked)
        old.hold.set()
        assert await next_ == frozenset()
        assert (len(old.requests), old.connections) == (2, 2)  # the connection of a cancelled call is closed
        assert (xapi.status().in_flight, xapi.status().waiting) == (0, 0)


async def test_a_request_that_a_full_socket_has_not_taken_was_not_sent(tmp_path: Path) -> None:
    """A stopped service with a full backlog, or a connection in which nothing fits."""
    near, far = socket.socketpair()
    near.setblocking(False)
    with far:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: ClientConnection(loop, tls=False), sock=near)
        assert connection.transport is not None
        while True:
            try:
                near.send(bytes(65536))
            except BlockingIOError:
                break
        assert connection.start(b"POST / HTTP/1.1\r\n\r\n", bodiless=False)
        connection.abort()
        assert connection.was_unwritten


async def test_whoever_waits_and_is_not_wanted_any_more_is_sent_away_and_who_is_asked_stays() -> None:
    async with legacy_server(held=True) as old, line(old.url, ConnectionPoolLimits(connections=1)) as xapi:
        begin = asyncio.get_running_loop().create_task
        moved: list[bool] = []
        asked = begin(xapi.send(b"hi", POST, wanted=lambda: not moved))
        await old.seen.acquire()
        waits = begin(xapi.send(b"hi", POST, wanted=lambda: not moved))
        stays = begin(xapi.send(b"hi", POST))
        await asyncio.sleep(0)  # until both stand in line
        moved.append(True)
        xapi.review()
        text = "the mode changed while the call waited for the legacy service 'xapi'; nothing was executed"
        assert await waits == Fault(FaultCode.BUSY, text)
        assert xapi.status().waiting == 1
        old.hold.set()
        assert all(isinstance(got, Answer) for got in await asyncio.gather(asked, stays))
        assert len(old.requests) == 2


async def test_a_line_that_is_replaced_ends_its_calls_and_keeps_no_connection() -> None:
    async with legacy_server(held=True) as old, line(old.url) as xapi:
        call = asyncio.ensure_future(answer(xapi))
        await old.seen.acquire()
        xapi.retire()
        assert not xapi.is_idle
        old.hold.set()
        assert (await call).body == b"answer"
        assert (xapi.is_idle, xapi.status().idle) == (True, 0)


async def test_a_line_that_is_stopped_fails_what_waits_and_asks_no_more() -> None:
    async with legacy_server(held=True) as old, line(old.url) as xapi:
        call = asyncio.get_running_loop().create_task(refusal(xapi))
        await old.seen.acquire()
        await xapi.stop()
        assert (await call).code is FaultCode.NO_REPLY
        assert (await refusal(xapi)).code is FaultCode.UNAVAILABLE


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@asynccontextmanager
async def tls_server(certificate: Path) -> AsyncIterator[LegacyServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    async with legacy_server(tls=context) as old:
        yield old


@pytest.mark.parametrize("trusting", [True, False])
async def test_a_service_is_reached_over_tls(certificate: Path, trusting: bool) -> None:
    ca_file = None if trusting else str(certificate)
    async with tls_server(certificate) as old:
        xapi = HttpUpstreamConnection("xapi", parse_url(old.url, ca_file=ca_file, verify=not trusting))
        for _ in range(3):
            assert (await answer(xapi)).body == b"answer"
        assert old.connections == 1
        await xapi.stop()


async def test_a_certificate_that_nobody_vouches_for_is_not_trusted(certificate: Path) -> None:
    async with tls_server(certificate) as old, line(old.url) as xapi:
        got = await refusal(xapi)
        assert got.code is FaultCode.UNAVAILABLE
        assert "its certificate is not trusted (self-signed certificate)" in got.message
        old.left.release()
