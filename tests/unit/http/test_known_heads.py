"""A head that was served before is not parsed again, and what was sent means the same."""

from __future__ import annotations

from adapters.http.request import LONGEST_HEAD, MOST_HEADS
from adapters.http.server import HttpLimits
from tests.kit.cases import each_case
from tests.kit.clients import connect, post
from tests.kit.listeners import Echo
from tests.unit.http.listening import ask, connected


async def test_requests_with_a_known_head_are_served_with_their_own_body_also_when_they_are_sent_ahead() -> None:
    echo = Echo()
    async with connected(echo) as (server, wire):
        for body in (b"first", b"again", b"third"):
            assert (await ask(wire, post(body))).body == body
            assert server.known_heads.find(post(b"12345")) is not None
        await wire.send(post(b"1____") + post(b"2____") + post(b"3____"))
        assert [(await wire.reply()).body for _ in range(3)] == [b"1____", b"2____", b"3____"]
    assert len({(carried.verb, carried.target, carried.headers) for carried in echo.carried}) == 1


@each_case("cut", [1, 20, len(post(b"12345")) - 5, len(post(b"12345")) - 1])
async def test_a_known_head_in_pieces_is_parsed(cut: int) -> None:
    async with connected(Echo()) as (server, wire):
        await ask(wire, post(b"first"))
        message = post(b"12345")
        await wire.send(message[:cut])
        async with connect(server.addresses[0]) as other:
            await ask(other, post(b"other"))  # the listener has read the piece by the time of its answer
        assert (await ask(wire, message[cut:])).body == b"12345"


async def test_another_endpoint_at_the_same_path_gets_the_requests() -> None:
    before, after = Echo(), Echo()
    endpoints = {"/": before}
    async with connected(endpoints.get) as (_, wire):
        for at in range(4):
            if at == 2:
                endpoints["/"] = after
            await ask(wire, post(b"x"))
        del endpoints["/"]
        assert (await ask(wire, post(b"x"))).status == 404
    assert (len(before.seen), len(after.seen)) == (2, 2)


@each_case(
    "message",
    [
        *(post(b"x", "/", line) for line in ("Connection: close", "Content-Encoding: identity", "Origin: http://page")),
        *(post(b"x", "/%2e"), post(b"x", "//"), post(b"x", "/./"), post(b"x", "/", f"X: {'x' * LONGEST_HEAD}")),
        *(post(b"x").replace(b"HTTP/1.1", b"HTTP/1.0"), post(b"x" * 101)),
    ],
)
async def test_only_plain_heads_that_were_served_are_known(message: bytes) -> None:
    async with connected(Echo(), limits=HttpLimits(body=100)) as (server, wire):
        await ask(wire, message)
        assert server.known_heads.find(message) is None


async def test_a_listener_remembers_a_bounded_number_of_heads() -> None:
    async with connected(Echo()) as (server, wire):
        messages = [post(b"x", "/", f"X-Number: {at}") for at in range(MOST_HEADS + 1)]
        for message in messages:
            await ask(wire, message)
        assert [each for each in messages if server.known_heads.find(each) is not None] == messages[-1:]
