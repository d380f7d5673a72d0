from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path

import pytest

from adapters.http.client.connection import ClientConnection
from adapters.http.client.upstream import ConnectionPoolLimits, HttpUpstreamConnection
from adapters.limits import Quota
from gateway.core.interfaces import NOT_SENT
from gateway.core.rpc.model import HUNG_UP, Answer, Fault, FaultCode, RequestMetadata
from tests.kit.cases import each_case, expect
from tests.kit.raw_server import make_certificate, raw_server, read_head
from tests.kit.upstreams import Last, legacy_server, ok
from tests.unit.http.listening import pool

POST = RequestMetadata("POST", "/RPC2", ((b"Host", b"x"),))


async def send(xapi: HttpUpstreamConnection, *, repeatable: bool = False) -> Answer | Fault:
    return await asyncio.wait_for(xapi.send(b"hi", POST, repeatable=repeatable), 60)


async def answer(xapi: HttpUpstreamConnection) -> Answer:
    return expect(Answer, await send(xapi))


async def refusal(xapi: HttpUpstreamConnection) -> Fault:
    return expect(Fault, await send(xapi))


async def test_a_message_goes_out_and_its_answer_comes_back_over_connections_that_are_used_again() -> None:
    async with legacy_server() as old, pool(old.url) as xapi:
        for _ in range(5):
            got = await answer(xapi)
            assert (got.status, got.reason, got.body) == (200, "OK", b"answer")
        assert old.requests == [b"POST /RPC2 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"] * 5
        assert (old.connections, xapi.status().idle) == (1, 1)


async def test_content_that_an_answer_to_head_announces_ends_its_connection() -> None:
    """A server that sends it all the same would answer the next call with it."""
    head = RequestMetadata("HEAD", "/", ((b"Host", b"x"),))
    async with legacy_server(lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n") as old, pool(old.url) as xapi:
        for _ in range(2):
            assert expect(Answer, await asyncio.wait_for(xapi.send(b"hi", head), 60)).body == b""
        assert old.connections == 2


async def test_each_request_has_a_connection_where_the_config_says_so() -> None:
    async with (
        legacy_server(lambda _: Last(ok(b"x"))) as old,
        pool(old.url, ConnectionPoolLimits(keepalive=False)) as xapi,
    ):
        for _ in range(3):
            await answer(xapi)
        assert old.connections == 3
        assert all(b"\r\nConnection: close\r\n" in request for request in old.requests)


@pytest.mark.parametrize("keepalive", [True, None])
async def test_a_connection_that_rests_too_long_is_closed(keepalive: bool | None) -> None:
    limits = ConnectionPoolLimits(connections=2, idle=0.01, keepalive=keepalive)
    async with legacy_server() as old, pool(old.url, limits) as xapi:
        for _ in range(2):
            await asyncio.gather(answer(xapi), answer(xapi))
            for _ in range(2):
                await asyncio.wait_for(old.left.acquire(), 60)
            assert xapi.status().idle == 0
        for _ in range(4):
            old.left.release()
        assert old.connections == 4


async def test_a_connection_that_was_closed_while_idle_costs_no_call() -> None:
    async with legacy_server() as old, pool(old.url) as xapi:
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
    async with legacy_server(lambda _: ok(b"x", *lines)) as old, pool(old.url, limits) as xapi:
        for _ in range(5):
            await answer(xapi)
        assert old.connections == connections


async def test_a_connection_whose_answer_promised_nothing_waits_for_its_proof_whatever_another_promised() -> None:
    patient = ConnectionPoolLimits(keepalive=None, idle=600, probe_interval=600)
    async with legacy_server(lambda _: ok(b"x")) as old, pool(old.url, patient) as xapi:
        await answer(xapi)
        assert (old.connections, xapi.status().idle) == (1, 0)
        old.answers = lambda _: ok(b"x", "Connection: Keep-Alive")
        await answer(xapi)
        assert (old.connections, xapi.status().idle) == (2, 1)
        await asyncio.gather(answer(xapi), answer(xapi))
        assert (old.connections, xapi.status().idle) == (3, 2)


async def test_a_service_that_closes_a_connection_is_not_trusted_with_the_others() -> None:
    async with legacy_server(lambda _: ok(b"x", "Connection: Keep-Alive")) as old, pool(old.url, LEARNING) as xapi:
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
    async with legacy_server(lambda _: Last(ok(b"x"))) as old, pool(old.url, LEARNING) as idl:
        for _ in range(200):
            await answer(idl)
        assert len(old.requests) == 200


async def test_more_calls_than_connections_wait_for_their_turn_and_too_many_are_refused() -> None:
    limits = ConnectionPoolLimits(connections=2, waiting=4)
    async with legacy_server(held=True) as old, pool(old.url, limits) as xapi:
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
            async with pool(url, limits) as xapi:
                text = f"the legacy service 'xapi' cannot be reached: {why}; nothing was executed"
                assert await refusal(xapi) == Fault(FaultCode.UNAVAILABLE, text)
                assert xapi.status().last_error == f"cannot be reached: {why}"
                assert xapi.is_idle


async def test_only_what_may_be_repeated_is_sent_again_when_a_used_connection_ends() -> None:
    async with legacy_server() as old, pool(old.url) as xapi:
        old.answers = lambda _: ok(b"x") if len(old.requests) % 2 else None
        await answer(xapi)
        assert (await refusal(xapi)).code is FaultCode.NO_REPLY
        assert len(old.requests) == 2
        await answer(xapi)
        expect(Answer, await send(xapi, repeatable=True))
        assert len(old.requests) == 5


@pytest.mark.parametrize(("used", "repeatable"), [(True, False), (False, False), (True, True)])
async def test_only_what_may_be_repeated_is_sent_again_after_a_reset_which_tells_nothing_of_what_was_read(
    used: bool, repeatable: bool
) -> None:
    """A server that reads as a stream obeys at the last byte it needs, and dies with more to be read."""
    connections = 0

    def serve(connection: socket.socket) -> None:
        nonlocal connections
        connections += 1
        if used or connections > 1:
            connection.recv(65536)
            connection.sendall(ok(b"%d" % connections))
        if connections == 1:
            read_head(connection)
            assert connection.recv(1) == b"h"  # of "hi"

    with raw_server() as old:
        old.serve = serve
        async with pool(old.url) as xapi:
            if used:
                assert (await answer(xapi)).body == b"1"
            got = await send(xapi, repeatable=repeatable)
            if repeatable:
                assert expect(Answer, got).body == b"2"
            else:
                fault = expect(Fault, got)
                assert fault.code is FaultCode.NO_REPLY
                assert fault.message.endswith("whether the call was executed is unknown")
                assert connections == 1


@each_case(
    ("said", "name", "why"),
    [
        (None, HUNG_UP, "closed the connection before it had answered"),
        (b"0000000000000012{}", "", "answered with something other than HTTP"),
    ],
)
async def test_a_service_that_goes_away_in_mid_call_or_speaks_no_http_may_have_executed_it(
    said: bytes | None, name: str, why: str
) -> None:
    async with legacy_server(lambda _: said) as old, pool(old.url) as xapi:
        text = f"the legacy service 'xapi' {why}; whether the call was executed is unknown"
        assert await refusal(xapi) == Fault(FaultCode.NO_REPLY, text, name=name)
        assert len(old.requests) == 1


async def test_a_large_answer_is_refused_and_its_memory_given_back() -> None:
    quota = Quota()
    limits = ConnectionPoolLimits(answer=10)
    async with legacy_server(lambda _: ok(bytes(11))) as old, pool(old.url, limits, quota) as xapi:
        got = await refusal(xapi)
        assert got == Fault(
            FaultCode.TOO_LARGE, "the answer of the legacy service 'xapi' is over 10 bytes; the call was executed"
        )
        assert (quota.buffered, xapi.status().idle) == (0, 0)


async def ask(xapi: HttpUpstreamConnection) -> frozenset[str]:
    """What a call that was cancelled tells; nothing of one that was answered."""
    try:
        await xapi.send(b"hi", POST)
    except asyncio.CancelledError as error:
        return frozenset(error.args)
    return frozenset()


async def unsent(call: asyncio.Task[frozenset[str]]) -> bool:
    """Cancel a call; whether it says that nothing of it was sent."""
    call.cancel()
    return NOT_SENT in await call


async def test_a_call_that_is_given_up_in_line_was_not_sent_and_one_at_the_service_may_be_executed() -> None:
    async with legacy_server(held=True) as old, pool(old.url, ConnectionPoolLimits(connections=1)) as xapi:
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
    async with legacy_server(held=True) as old, pool(old.url, ConnectionPoolLimits(connections=1)) as xapi:
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
    async with legacy_server(held=True) as old, pool(old.url) as xapi:
        call = asyncio.ensure_future(answer(xapi))
        await old.seen.acquire()
        xapi.retire()
        assert not xapi.is_idle
        old.hold.set()
        assert (await call).body == b"answer"
        assert (xapi.is_idle, xapi.status().idle) == (True, 0)


async def test_a_line_that_is_stopped_fails_what_waits_and_asks_no_more() -> None:
    async with legacy_server(held=True) as old, pool(old.url) as xapi:
        call = asyncio.get_running_loop().create_task(refusal(xapi))
        await old.seen.acquire()
        await xapi.stop()
        assert (await call).code is FaultCode.NO_REPLY
        assert (await refusal(xapi)).code is FaultCode.UNAVAILABLE


async def test_a_service_is_reached_over_tls_where_somebody_vouches_for_it_or_nobody_asks(tmp_path: Path) -> None:
    certificate, context = make_certificate(tmp_path), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    async with legacy_server(tls=context) as old:
        for tls in ({"ca_file": str(certificate)}, {"verify": False}):
            async with pool(old.url, **tls) as xapi:
                for _ in range(3):
                    assert (await answer(xapi)).body == b"answer"
        assert old.connections == 2
        async with pool(old.url) as xapi:
            got = await refusal(xapi)
            assert got.code is FaultCode.UNAVAILABLE
            assert "its certificate is not trusted (self-signed certificate)" in got.message
            old.left.release()
