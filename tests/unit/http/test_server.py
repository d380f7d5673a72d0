from __future__ import annotations

import asyncio
import gzip
import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from adapters.http.server import HttpLimits, HttpServer
from gateway.core.interfaces import Endpoint
from gateway.core.rpc.model import NO_METADATA, Answer, Fault, FaultCode, Peer, RequestMetadata
from tests.kit.cases import each_case
from tests.kit.clients import chunked, connect, post
from tests.kit.listeners import CONTENT_TYPE, Echo, Fixed, Waiting
from tests.kit.programs import TIMEOUT
from tests.unit.http.listening import GET, LOCAL, ask, begin, connected, serving, talking

FAULT = Answer(b"a fault", CONTENT_TYPE, Fault(FaultCode.PARSE_ERROR, "<no> message"))


# What is answered


@each_case(
    ("body", "status", "headers"),
    [(b"<a/>", 200, {"content-type", "date", "content-length"}), (None, 204, {"date"})],
)
async def test_an_answer_has_the_endpoints_bytes_and_exact_content_type_and_no_more_headers(
    body: bytes | None, status: int, headers: set[str]
) -> None:
    async with talking(Fixed(Answer(body, "text/xml"))) as wire:
        await wire.send(post(b"call") * 2)
        for _ in range(2):
            reply = await wire.reply()
            assert (reply.status, reply.body) == (status, body or b"")
            assert reply.headers.get("content-type", "text/xml") == "text/xml"
            assert set(reply.headers) == headers


async def test_the_listeners_headers_are_on_every_answer() -> None:
    headers = {"Access-Control-Allow-Origin": "*", "cache-control": "no-cache, no-store"}
    async with talking(headers=headers) as wire:
        for request in (post(b"x"), GET, b"garbage\r\n\r\n"):
            reply = await ask(wire, request)
            assert {name: reply.headers[name.lower()] for name in headers} == headers


async def test_a_method_that_is_not_served_is_405_which_names_the_one_that_is_and_head_gets_no_body() -> None:
    async with talking() as wire:
        reply = await ask(wire, GET)
        assert (reply.status, reply.headers["allow"], reply.headers["content-type"]) == (405, "POST", "text/plain")
        await wire.send(GET.replace(b"GET", b"HEAD").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        head, _, body = (await wire.rest()).partition(b"\r\n\r\n")
    assert (head[:13], body) == (b"HTTP/1.1 405 ", b"")


async def test_the_path_is_resolved_without_its_query_and_empty_segments() -> None:
    asked: list[str] = []
    echo = Echo()

    def resolve(path: str) -> Endpoint | None:
        asked.append(path)
        return echo if path.startswith("/rpc") else None

    async with connected(resolve) as (_, wire):
        for path in ("/rpc?session=1", "/rpc%2e", "/elsewhere", "http://gateway/rpc?a=b", "/rpc//a"):
            assert (await ask(wire, post(b"x", path))).status == (404 if path == "/elsewhere" else 200)
    assert asked == ["/rpc", "/rpc%2e", "/rpc.", "/rpc%2e", "/elsewhere", "/rpc", "/rpc/a"]


# The conventions for a message that could not be read


async def test_a_refused_message_is_answered_in_its_protocol_or_with_a_page() -> None:
    """A page is what old xapi sends, and what a dialect of its servers wants."""
    as_page = replace(FAULT, as_page=True)
    async with talking(Fixed(FAULT)) as wire:
        reply = await ask(wire, post(b"junk"))
        assert (reply.status, reply.body, reply.headers["content-type"]) == (200, b"a fault", CONTENT_TYPE)
    async with talking(Fixed(as_page), malformed_response="protocol") as wire:
        assert (await ask(wire, post(b"junk"))).body == b"a fault"
    for served in (talking(Fixed(as_page)), talking(Fixed(FAULT), malformed_response="http500")):
        async with served as wire:
            reply = await ask(wire, post(b"junk"))
            assert await wire.rest() == b""
        kind = (reply.status, reply.headers["content-type"], reply.headers["connection"])
        assert kind == (500, "text/html", "close")
        assert b"&lt;no&gt; message" in reply.body


@each_case(
    "request_",
    [
        chunked(b"x"),
        b"POST / HTTP/1.1\r\nHost: gateway\r\n\r\n",
        post(b"x", "/", "Expect: 100-continue"),
        post(b"x" * 1001),
        post(b"x", "/", "Content-Encoding: br"),
    ],
)
async def test_what_old_xapi_cannot_read_is_refused_its_way(request_: bytes) -> None:
    echo = Echo()
    async with talking(echo, HttpLimits(body=1000), malformed_response="http500") as wire:
        reply = await ask(wire, request_)
        assert (reply.status, reply.headers["content-type"], reply.headers["connection"]) == (500, "text/html", "close")
        assert await wire.rest() == b""
    assert echo.seen == []


# Peers and addresses


async def test_two_addresses_are_one_listener_and_each_names_its_peers(tmp_path: Path) -> None:
    echo, names = Echo(), []
    unix = f"unix:{tmp_path}/rpc"
    async with serving(echo, binds=[LOCAL, "tcp:[::1]:0", unix]) as server:
        for address in server.addresses:
            async with connect(address) as wire:
                assert (await ask(wire, post(b"x"))).body == b"x"
                names.append(unix if address == unix else wire.name)
    assert server.addresses == ()
    assert len({peer.connection for _, peer in echo.seen} - {None}) == 3
    assert not any(peer.connection.is_open for _, peer in echo.seen if peer.connection is not None)
    tcp, tcp6, local = (replace(peer, connection=None) for _, peer in echo.seen)
    assert (tcp, tcp6.address) == (Peer(names[0]), names[1].replace("::1", "[::1]"))
    assert local == Peer(unix, uid=os.getuid(), gid=os.getgid(), pid=os.getpid())


async def test_a_listener_that_cannot_have_all_its_addresses_has_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    path = tmp_path / "rpc"
    transport = HttpServer("rpc", [f"unix:{path}", f"unix:{tmp_path}/file"], lambda path: None)
    with pytest.raises(OSError, match=f"{tmp_path}/file"):
        await transport.start()
    assert transport.addresses == ()
    assert not path.exists()


# The end


async def test_stop_answers_the_call_in_flight_and_closes_what_is_idle() -> None:
    waiting = Waiting()
    async with connected(waiting) as (server, busy), connect(server.addresses[0]) as idle:
        address = server.addresses[0]
        await ask(idle, GET)
        await begin(busy, waiting)
        stopping = asyncio.ensure_future(server.stop(TIMEOUT))
        assert await idle.rest() == b""
        with pytest.raises(ConnectionRefusedError):
            async with connect(address):
                pass
        waiting.release.set()
        reply = await busy.reply()
        assert (reply.body, reply.headers["connection"]) == (b"x", "close")
        assert await asyncio.wait_for(stopping, TIMEOUT) == 0
        assert await busy.rest() == b""


async def test_stop_cuts_what_does_not_end_in_time_and_counts_it() -> None:
    waiting = Waiting()
    async with connected(waiting) as (server, one), connect(server.addresses[0]) as two, connect(server.addresses[0]):
        for wire in (one, two):
            await begin(wire, waiting)
        assert await asyncio.wait_for(server.stop(0.05), TIMEOUT) == 2
        assert await one.rest() == await two.rest() == b""


async def test_stop_waits_for_a_call_whose_client_has_closed_its_side() -> None:
    waiting = Waiting()
    async with serving(waiting) as server:
        async with connect(server.addresses[0]) as wire:
            await begin(wire, waiting, post(b"write this"))
        stopping = asyncio.ensure_future(server.stop(TIMEOUT))
        await asyncio.sleep(0)
        waiting.release.set()
        assert await asyncio.wait_for(stopping, TIMEOUT) == 0
    assert [body for body, _ in waiting.seen] == [b"write this"]


async def test_stop_is_not_held_up_by_a_client_that_does_not_read_nor_by_none() -> None:
    begun = asyncio.Event()

    class Large(Echo):
        async def answer(self, body: bytes, peer: Peer, carried: RequestMetadata = NO_METADATA) -> Answer:
            begun.set()
            return Answer(bytes(16_000_000), CONTENT_TYPE)

    async with connected(Large()) as (server, wire):
        await wire.send(post(b"x"))
        await asyncio.wait_for(begun.wait(), TIMEOUT)
        assert await asyncio.wait_for(server.stop(0.05), TIMEOUT) == 1
    async with serving(None) as server:
        assert await asyncio.wait_for(server.stop(60), TIMEOUT) == 0


# Legacy servers behind it

RELAYED = Answer(b"<a/>\xff", "text/xml", None, 299, "So \udcff", ((b"X-Odd", b"\xff"), (b"content-type", b"text/xml")))


async def test_a_legacy_services_answer_goes_back_byte_for_byte_and_nothing_of_ours_with_it() -> None:
    head = b"HTTP/1.1 299 So \xff\r\nX-Odd: \xff\r\ncontent-type: text/xml\r\nContent-Length: 5\r\n\r\n"
    async with talking(Fixed(RELAYED), headers={"X-Ours": "1"}) as wire:
        for _ in range(2):
            await wire.send(post(b"x"))
            assert await wire.raw(len(head) + 5) == head + b"<a/>\xff"


async def test_a_legacy_services_length_stays_as_it_wrote_it() -> None:
    answer = Answer(b"", "", None, 200, "OK", ((b"content-length", b"500"),))
    async with talking(passthrough=Fixed(answer)) as wire:
        await wire.send(GET.replace(b"GET", b"HEAD"))
        head = b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n"
        assert await wire.raw(len(head)) == head
        assert (await ask(wire, post(b"still here"))).body == b"still here"


@each_case(
    ("answer", "told"),
    [
        (RELAYED, b"HTTP/1.1 299 So \xff\r\nX-Odd: \xff\r\ncontent-type: text/xml\r\nContent-Length: 5\r\n"),
        *((Answer(b"", "", None, status, "x"), f"HTTP/1.1 {status} x\r\n".encode()) for status in (204, 304)),
    ],
)
async def test_a_connection_ends_as_the_client_wants_and_what_has_no_content_gets_no_length(
    answer: Answer, told: bytes
) -> None:
    async with talking(Fixed(answer)) as wire:
        await wire.send(post(b"x", "/", "Connection: close"))
        assert await wire.rest() == told + b"Connection: close\r\n\r\n" + (answer.body or b"")


async def test_where_a_legacy_service_closed_without_a_word_so_does_the_listener() -> None:
    async with talking(Fixed(Answer(None, "", hang_up=True))) as wire:
        await wire.send(post(b"x") + post(b"y"))
        assert await wire.rest() == b""


async def test_what_no_endpoint_takes_goes_to_the_one_for_the_rest() -> None:
    echo, rest = Echo(), Echo()
    async with connected({"/": echo}.get, passthrough=rest) as (_, wire):
        assert (await ask(wire, post(b"call"))).body == b"call"
        assert (await ask(wire, post(b"hello", "/a?b", "X-Odd: 1", "Connection: keep-alive"))).body == b"hello"
        assert (await ask(wire, b"GET http://gateway/rrd?x=%20 HTTP/1.1\r\nHost: gateway\r\n\r\n")).body == b""
        await ask(wire, b"OPTIONS * HTTP/1.1\r\nHost: gateway\r\n\r\n")
        await ask(wire, GET)
    assert [body for body, _ in echo.seen] == [b"call"]
    targets = [(each.verb, each.target) for each in rest.carried]
    assert targets == [("POST", "/a?b"), ("GET", "/rrd?x=%20"), ("OPTIONS", "*"), ("GET", "/")]
    assert rest.carried[0].headers == (
        *((b"Host", b"gateway"), (b"Content-Length", b"5"), (b"X-Odd", b"1"), (b"Connection", b"keep-alive")),
    )


async def test_a_body_is_inflated_for_an_endpoint_and_left_alone_for_the_rest() -> None:
    packed = gzip.compress(b"hello")
    echo, rest = Echo(), Echo()
    async with talking(echo, passthrough=rest) as wire:
        await ask(wire, post(packed, "/", "Content-Encoding: gzip"))
        await ask(wire, post(packed, "/", "Content-Encoding: gzip").replace(b"POST", b"PUT"))
    assert (echo.seen[0][0], rest.seen[0][0]) == (b"hello", packed)
    told = [any(name == b"Content-Encoding" for name, _ in each.carried[0].headers) for each in (echo, rest)]
    assert told == [False, True]


@each_case(
    ("path", "status"),
    [
        *(("/rpc", 200), ("//rpc", 200), ("/rpc%20x", 201), ("/import?path=../rpc", 201), ("/./other", 201)),
        *(
            ("/../rpc", 400),
            ("/x/%2e%2E/rpc", 400),
            ("/%72pc", 400),
            ("/rpc/../other", 400),
            ("/other%2f..%2Frpc", 400),
        ),
    ],
)
async def test_a_path_that_a_server_could_read_as_that_of_an_endpoint_is_never_passed_on(
    path: str, status: int
) -> None:
    endpoint, rest = Fixed(Answer(b"", "text/xml", None, 200)), Fixed(Answer(b"", "text/xml", None, 201, "Passed on"))

    def resolve(path: str) -> Endpoint | None:
        return endpoint if path == "/rpc" or path.startswith("/rpc/") else None

    async with connected(resolve, passthrough=rest) as (_, wire):
        assert (await ask(wire, post(b"x", path))).status == status


@each_case(
    ("path", "status"),
    [("/other", 501), ("/console/../import", 400), ("/console/%2e%2e/import", 400), ("/x/../console", 400)],
)
async def test_no_tunnel_opens_at_a_path_that_leads_out_of_those_that_are_listed(path: str, status: int) -> None:
    rest = Echo()
    async with talking(passthrough=rest, limits=HttpLimits(tunnels=("/console",))) as wire:
        assert (await ask(wire, f"CONNECT {path} HTTP/1.1\r\nHost: gateway\r\n\r\n".encode())).status == status
        assert await wire.rest() == b""
    assert rest.seen == []


async def test_the_limit_of_a_body_holds_for_no_body_that_is_streamed_but_that_of_calls_does() -> None:
    put = post(b"large").replace(b"POST", b"PUT")
    async with talking(passthrough=Echo(), limits=HttpLimits(body=3)) as wire:
        assert (await ask(wire, put)).body == b"large"
    async with talking(passthrough=Echo(), limits=HttpLimits(max_calls=0)) as wire:
        assert (await ask(wire, put)).status == 503
