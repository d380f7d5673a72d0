from __future__ import annotations

import asyncio
import gzip
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest

from adapters.http.client_socket import NEVER, RESTING
from adapters.http.server import HttpLimits
from adapters.limits import Quota
from gateway.core.rpc.model import Answer
from tests.kit.cases import each_case
from tests.kit.clients import chunked, connect, post
from tests.kit.listeners import CONTENT_TYPE, Broken, Echo, Fixed, Waiting
from tests.kit.programs import TIMEOUT
from tests.unit.http.listening import GET, HEAD, LOCAL, ask, begin, connected, running, serving, talking

WATCHFUL = HttpLimits(poll_interval=0.02, probe_after=0.05)


# Heads


@pytest.mark.parametrize("drips", [False, True])
async def test_a_head_that_does_not_come_in_time_is_408_however_often_it_drips(drips: bool) -> None:
    told: list[str] = []
    async with talking(limits=HttpLimits(header_timeout=0.2), on_abort=told.append) as wire:

        async def drip() -> None:
            await wire.send(b"POST / HTTP/1.1\r\n")
            while True:
                await wire.send(b"X-Slow: 1\r\n")
                await asyncio.sleep(0.02)

        dripping = asyncio.ensure_future(drip() if drips else asyncio.sleep(0))
        reply = await wire.reply()
        dripping.cancel()
        await asyncio.wait([dripping])
        assert dripping.cancelled() or dripping.exception() is None or isinstance(dripping.exception(), ConnectionError)
        assert (reply.status, reply.headers["connection"]) == (408, "close")
        assert told == [f"{wire.name} sent no complete request within 0.2 s"]


async def test_the_head_timer_does_not_run_while_a_call_is_served_or_the_connection_rests() -> None:
    waiting = Waiting()
    async with connected(waiting) as (server, wire):
        await begin(wire, waiting)
        (connection,) = server._connections
        assert connection._due == NEVER
        waiting.release.set()
        assert (await wire.reply()).status == 200
        assert connection._state == RESTING


async def test_an_idle_connection_is_closed_without_a_word() -> None:
    async with talking(limits=HttpLimits(keepalive_timeout=0.05)) as wire:
        assert (await ask(wire, post(b"x"))).status == 200
        assert await wire.rest() == b""


async def test_a_long_head_behind_a_request_is_431_after_its_answer_however_it_is_cut() -> None:
    long, waiting = post(b"second", "/", "X: " + "x" * 1000), Waiting()
    async with running(waiting, HttpLimits(header_bytes=1000)) as address:
        async with connect(address) as wire:
            await begin(wire, waiting, post(b"first"))
            await wire.send(long)
            waiting.release.set()
            assert [(await wire.reply()).status for _ in range(2)] == [200, 431]
            assert await wire.rest() == b""
        for cut in (0, 10, 500, 900, len(long)):
            async with connect(address) as wire:
                await wire.send(post(b"first") + long[:cut])
                if cut < len(long):
                    assert (await wire.reply()).body == b"first"
                await wire.send(long[cut:])
                wire.end()
                statuses = [(await wire.reply()).status for _ in range(1 if cut < len(long) else 2)]
                assert statuses[-1] == 431


# What makes two servers on one path read one message as two (RFC 9112 section 11.2).
SMUGGLING = tuple(
    b"%b\r\n" % line
    for lines in (
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: chunked\r\nContent-Length: 5"),
        (b"Content-Length: 5\r\nContent-Length: 6", b"Content-Length: 5\r\nContent-Length: 5", b"Content-Length: 5, 5"),
        (b"Content-Length: +5", b"Content-Length: 0x5", b"Content-Length: ", b"Content-Length: 5 5"),
        (b"Content-Length : 5", b"Content-Length\x0b: 5", b"X: y\nContent-Length: 5", b"X: y\rContent-Length: 5"),
        (b"X: y\r", b"X: y\0", b": y", b"X", b"X: y\r\n Content-Length: 5", b"X:\r\n\tContent-Length: 5"),
        (b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: chunked, gzip", b"Transfer-Encoding: identity"),
        (b"Transfer-Encoding: chunked, chunked", b"Transfer-Encoding: chunked;q=1", b"Transfer-Encoding: xchunked"),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: "),
        (b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",),
        (b"Transfer-Encoding : chunked", b"Transfer-Encoding:\x0bchunked"),
    )
    for line in lines
)


@each_case(
    ("garbage", "found"),
    [
        (b"garbage\r\n\r\n", "found 'garbage' as the method; expected METHOD TARGET HTTP/1.1"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "found a TLS handshake; expected HTTP/1.1 or HTTP/1.0"),
        (b"POST / HTTP/1.1\r\n\r\n", 'no Host header; HTTP/1.1 needs one (or `missing_host = "accept"`'),
        (b"POST / HTTP/9.9\r\nHost: gateway\r\n\r\n", "Invalid HTTP version; expected METHOD"),
        (b"POST / HTTP/1.1\r\nHost: gateway\r\nContent-Length: x\r\n\r\n", "Invalid character in Content-Length"),
        (b"POST / HTTP/1.1\r\nHost: gateway\r\nA\x00: b\r\n\r\n", "Invalid header token"),
        (b"POST http://[/ HTTP/1.1\r\nHost: gateway\r\n\r\n", "found the target http://[/; expected a path"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "found the preface of HTTP/2; expected HTTP/1.1 or HTTP/1.0"),
        (bytes(range(256)), "as the method"),
        (b"GET / HTTP/0.9\r\n\r\n", "found HTTP/0.9; expected HTTP/1.1 or HTTP/1.0"),
        (b"GET / HTTP/2.0\r\nHost: gateway\r\n\r\n", "found HTTP/2.0; expected HTTP/1.1 or HTTP/1.0"),
        (b"POST a HTTP/1.1\r\nHost: gateway\r\n\r\n", "Invalid characters in url"),
        (b"POST ftp://a/ HTTP/1.1\r\nHost: gateway\r\n\r\n", "found the target ftp://a/; expected a path"),
        (
            b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "found Transfer-Encoding in HTTP/1.0; expected Content-Length",
        ),
        (
            HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "found Transfer-Encoding: gzip, chunked; expected chunked alone",
        ),
        (b"POST / HTTP/1.1\nHost: gateway\nContent-Length: 0\n\n", "Expected CRLF after version"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "found Host: a, a; expected one host"),
    ],
)
async def test_garbage_is_answered_with_one_line_that_says_what_was_found(garbage: bytes, found: str) -> None:
    echo = Echo()
    async with talking(echo) as wire:
        reply = await ask(wire, garbage)
        assert await wire.rest() == b""
    assert reply.status == 400
    line = reply.body.decode("ascii")
    assert line.startswith("invalid HTTP request: ")
    assert found in line
    assert (line.count("\n"), line[:-1].isprintable()) == (1, True)
    assert set(reply.headers) == {"content-type", "date", "content-length", "connection"}
    assert echo.seen == []


@each_case("lines", SMUGGLING)
async def test_what_smuggles_is_refused_however_it_is_cut_and_nothing_behind_it_is_served(lines: bytes) -> None:
    echo = Echo()
    async with running(echo) as address:
        for parts in ([post(b"first"), HEAD, lines, b"\r\n", post(b"x", "/admin")], None):
            async with connect(address) as wire:
                if parts is None:
                    await wire.send(post(b"first") + HEAD + lines + b"\r\n" + post(b"x", "/admin"))
                else:
                    with suppress(ConnectionError):
                        for part in parts:
                            await wire.send(part)
                assert (await wire.reply()).body == b"first"
                assert (await wire.reply()).status == 400
                assert await wire.rest() == b""
    assert [body for body, _ in echo.seen] == [b"first"] * 2


async def test_a_bug_behind_the_transport_is_500_and_logged_but_not_told(caplog: pytest.LogCaptureFixture) -> None:
    async with talking(Broken()) as wire:
        reply = await ask(wire, post(b"x"))
        assert await wire.rest() == b""
    assert (reply.status, reply.body) == (500, b"internal error\n")
    assert "a secret of ours" in caplog.text


# Connections


async def test_pipelined_requests_are_answered_in_order_each_after_the_one_before() -> None:
    waiting = Waiting()
    async with talking(waiting) as wire:
        await begin(wire, waiting, b"".join(post(b"%d" % n) for n in range(100)))
        assert waiting.begun.locked()
        waiting.release.set()
        assert [(await wire.reply()).body for _ in range(100)] == [b"%d" % n for n in range(100)]


async def test_a_client_that_has_sent_its_last_byte_still_gets_its_answers() -> None:
    async with talking() as wire:
        await wire.send(post(b"one") + post(b"two"))
        wire.end()
        assert [(await wire.reply()).body for _ in range(2)] == [b"one", b"two"]
        assert await wire.rest() == b""


@each_case("lines", [(), ("Expect: 100-continue",)])
async def test_a_body_that_ends_early_reaches_no_endpoint(lines: tuple[str, ...]) -> None:
    echo = Echo()
    async with talking(echo) as wire:
        await wire.send(post(b"hello", "/", *lines)[:-1])
        if lines:
            await wire.raw(25)
        wire.end()
        expected = b"invalid_request: the body is broken: found its end after 4 bytes; expected 5 (Content-Length)"
        assert (await wire.reply()).body == expected
        assert await wire.rest() == b""
    assert echo.seen == []


@each_case(
    ("unix", "ahead", "resets"),
    [(False, b"", True), (False, post(b"x" * 100_000) * 3, True), (False, b"", False), (True, b"", False)],
)
async def test_a_call_is_cancelled_when_its_client_leaves(
    tmp_path: Path, unix: bool, ahead: bytes, resets: bool
) -> None:
    """A close over TCP looks like a half-close until the client is told something."""
    endpoint, quota = Waiting(), Quota()
    bind = f"unix:{tmp_path}/rpc" if unix else LOCAL
    async with serving(endpoint, binds=[bind], limits=WATCHFUL, quota=quota) as server:
        async with connect(server.addresses[0]) as wire:
            await begin(wire, endpoint, post(b"write this") + ahead)
            if resets:
                wire.reset()
        await asyncio.wait_for(endpoint.cancelled.acquire(), TIMEOUT)
    assert (quota.calls, quota.buffered) == (0, 0)


async def test_a_call_that_is_cancelled_before_its_first_step_gives_its_place_back() -> None:
    quota, echo = Quota(), Echo()
    async with connected(echo, quota=quota) as (server, wire):
        await ask(wire, post(b"x"))
        (connection,) = server._connections
        connection.data_received(post(b"y"))
        assert quota.calls == 1
        connection.connection_lost(None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (quota.calls, server.quotas.calls, len(echo.seen)) == (0, 0, 1)


async def test_a_half_closed_client_that_waits_is_told_to_go_on_and_then_answered() -> None:
    waiting = Waiting()
    async with talking(waiting, WATCHFUL) as wire:
        await begin(wire, waiting, post(b"hello"))
        wire.end()
        assert await wire.raw(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        waiting.release.set()
        assert (await wire.reply()).body == b"hello"
        assert await wire.rest() == b""


async def test_a_client_that_does_not_read_is_cut_off() -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    endpoint = Fixed(Answer(bytes(16_000_000), CONTENT_TYPE))
    async with talking(endpoint, HttpLimits(write_timeout=0.05), on_abort=told.put_nowait) as wire:
        await wire.send(post(b"x"))
        why = await asyncio.wait_for(told.get(), TIMEOUT)
        assert why == f"{wire.name} did not read its answer within 0.05 s"
        assert len(await wire.rest()) < 16_000_000


async def test_a_client_that_sends_ahead_is_not_read_before_its_turn() -> None:
    waiting, size = Waiting(), 100_000
    async with talking(waiting) as wire:
        with pytest.raises(TimeoutError):  # 40 MB are more than the kernel takes: we do not read them
            await asyncio.wait_for(wire.send(post(b"x" * size) * 400), 0.3)
        waiting.release.set()
        assert [len((await wire.reply()).body) for _ in range(400)] == [size] * 400


async def test_many_small_requests_that_are_sent_ahead_wait_as_bytes() -> None:
    """Some 10,000 requests fit into one read; parsed, they would be fifty times their bytes."""
    waiting = Waiting()
    async with talking(waiting) as wire:
        tracemalloc.start()
        try:
            await begin(wire, waiting, post(b"x") + GET * 7_500)
            await asyncio.sleep(0.05)  # for the rest to arrive, or not
            assert tracemalloc.get_traced_memory()[1] < 2 * 1024 * 1024
        finally:
            tracemalloc.stop()
        waiting.release.set()
        assert (await wire.reply()).status == 200
        assert [(await wire.reply()).status for _ in range(7_500)] == [405] * 7_500


@each_case(("limits", "quota"), [(HttpLimits(max_calls=1), Quota()), (HttpLimits(), Quota(max_calls=1))])
async def test_calls_past_the_cap_of_a_listener_or_of_all_are_refused_in_the_clients_protocol(
    limits: HttpLimits, quota: Quota
) -> None:
    waiting = Waiting()
    async with (
        running(waiting, limits, quota=quota) as one,
        running(quota=quota) as other,
        connect(one) as first,
        connect(one if limits.max_calls == 1 else other) as second,
    ):
        await begin(first, waiting, post(b"one"))
        reply = await ask(second, post(b"two"))
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert reply.body == b"busy: too many calls at once, try again"
        waiting.release.set()
        assert (await first.reply()).body == b"one"
        assert (await ask(second, post(b"three"))).body == b"three"
    assert (quota.calls, quota.buffered) == (0, 0)


async def test_bodies_past_what_may_be_held_are_refused_before_they_arrive() -> None:
    quota, waiting = Quota(max_buffered=1000, max_buffered_per_peer=1000), Waiting()
    async with running(waiting, quota=quota) as address, connect(address) as first, connect(address) as second:
        await begin(first, waiting, post(b"x" * 600))
        assert quota.buffered == 600
        reply = await ask(second, post(b"x" * 401)[:-401])
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert quota.buffered == 600
        waiting.release.set()
        assert len((await first.reply()).body) == 600
        assert (await ask(first, post(b"x" * 1000))).status == 200


@each_case(
    "request_", [chunked(b"x" * 600, b"x" * 600), post(gzip.compress(bytes(1200)), "/", "Content-Encoding: gzip")]
)
async def test_a_body_that_tells_no_length_is_counted_as_it_comes(request_: bytes) -> None:
    quota = Quota(max_buffered=1000)
    async with running(quota=quota) as address, connect(address) as wire:
        reply = await ask(wire, request_)
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    assert quota.buffered == 0


async def test_an_answer_counts_until_its_client_has_taken_it() -> None:
    quota = Quota(max_buffered=10_000)
    async with (
        running(Fixed(Answer(bytes(16_000_000), CONTENT_TYPE)), quota=quota) as address,
        connect(address) as slow,
        connect(address) as other,
    ):
        await slow.send(post(b"x"))
        await slow.raw(1)
        assert (await ask(other, post(b"x"))).status == 503
        assert quota.buffered == 16_000_000
        await slow.raw(16_000_000)


async def test_slow_senders_take_no_room_from_calls() -> None:
    async with (
        running(limits=HttpLimits(max_calls=1)) as address,
        connect(address) as slow,
        connect(address) as quick,
    ):
        await slow.send(post(b"slow", "/", "Expect: 100-continue")[:-4])
        await slow.raw(25)
        assert (await ask(quick, post(b"quick"))).body == b"quick"
        assert (await ask(slow, b"slow")).body == b"slow"


async def test_connections_past_the_cap_are_told_and_closed_and_room_is_made_again() -> None:
    waiting = Waiting()
    async with running(waiting, HttpLimits(max_connections=1)) as address:
        async with connect(address) as first:
            await begin(first, waiting)
            async with connect(address) as second:
                reply = await second.reply()
                assert (reply.status, reply.headers["retry-after"]) == (503, "1")
                assert await second.rest() == b""
            waiting.release.set()
            assert (await first.reply()).body == b"x"
            await first.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            await first.rest()
        async with connect(address) as third:
            assert (await ask(third, post(b"x"))).status == 200
