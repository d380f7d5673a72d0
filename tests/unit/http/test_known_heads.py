"""A head that was served before is not parsed again, and what was sent means the same."""

from __future__ import annotations

import pytest

from adapters.http.request import LONGEST_HEAD, MOST_HEADS
from adapters.http.server import HttpLimits, HttpServer
from tests.kit.clients import connect, post
from tests.kit.listeners import LOCAL, Echo


def listener(endpoints: dict[str, Echo]) -> HttpServer:
    return HttpServer("rpc", [LOCAL], endpoints.get, HttpLimits(body=100))


async def test_requests_with_a_known_head_are_served_with_their_own_body() -> None:
    echo = Echo()
    server = listener({"/": echo})
    await server.start()
    try:
        async with connect(server.addresses[0]) as wire:
            for body in (b"first", b"again", b"third"):
                await wire.send(post(body))
                assert (await wire.reply()).body == body
                assert server.known_heads.find(post(b"12345")) is not None
        assert [body for body, _ in echo.seen] == [b"first", b"again", b"third"]
        assert len({(carried.verb, carried.target, carried.headers) for carried in echo.carried}) == 1
    finally:
        await server.stop(0)


@pytest.mark.parametrize("cut", [1, 20, len(post(b"12345")) - 5, len(post(b"12345")) - 1])
async def test_a_known_head_in_pieces_is_parsed(cut: int) -> None:
    echo = Echo()
    server = listener({"/": echo})
    await server.start()
    try:
        async with connect(server.addresses[0]) as wire:
            await wire.send(post(b"first"))
            await wire.reply()
            message = post(b"12345")
            await wire.send(message[:cut])
            async with connect(
                server.addresses[0]
            ) as other:  # the listener has read the piece by the time of its answer
                await other.send(post(b"other"))
                await other.reply()
            await wire.send(message[cut:])
            assert (await wire.reply()).body == b"12345"
    finally:
        await server.stop(0)


async def test_messages_that_are_sent_ahead_are_answered_in_their_order() -> None:
    server = listener({"/": Echo()})
    await server.start()
    try:
        async with connect(server.addresses[0]) as wire:
            await wire.send(post(b"first"))
            await wire.reply()
            await wire.send(post(b"1____") + post(b"2____") + post(b"3____"))
            assert [(await wire.reply()).body for _ in range(3)] == [b"1____", b"2____", b"3____"]
    finally:
        await server.stop(0)


async def test_blank_lines_behind_a_body_do_not_move_the_end_of_the_head() -> None:
    """RFC 9112 section 2.2: a server ignores an empty line before a request."""
    echo = Echo()
    server = listener({"/": echo})
    await server.start()
    try:
        async with connect(server.addresses[0]) as wire:
            await wire.send(post(b"\r\n\r\n") + b"\r\n\r\n")
            assert (await wire.reply()).body == b"\r\n\r\n"
            await wire.send(post(b"\r\n\r\n") + post(b"next"))
            assert [(await wire.reply()).body for _ in range(2)] == [b"\r\n\r\n", b"next"]
    finally:
        await server.stop(0)


async def test_another_endpoint_at_the_same_path_gets_the_requests() -> None:
    before, after = Echo(), Echo()
    endpoints = {"/": before}
    server = listener(endpoints)
    await server.start()
    try:
        async with connect(server.addresses[0]) as wire:
            for at in range(4):
                if at == 2:
                    endpoints["/"] = after
                await wire.send(post(b"x"))
                await wire.reply()
            del endpoints["/"]
            await wire.send(post(b"x"))
            assert (await wire.reply()).status == 404
        assert (len(before.seen), len(after.seen)) == (2, 2)
    finally:
        await server.stop(0)


@pytest.mark.parametrize(
    "message",
    [
        post(b"x", "/", "Connection: close"),
        post(b"x", "/", "Content-Encoding: identity"),
        post(b"x", "/", "Origin: http://page"),
        post(b"x", "/%2e"),
        post(b"x", "//"),
        post(b"x", "/./"),
        post(b"x", "/", f"X: {'x' * LONGEST_HEAD}"),
        post(b"x").replace(b"HTTP/1.1", b"HTTP/1.0"),
        post(b"x" * 101),
    ],
)
async def test_only_plain_heads_that_were_served_are_known(message: bytes) -> None:
    server = listener(dict.fromkeys(("/", "/%2e", "//", "/./"), Echo()))
    await server.start()
    try:
        async with connect(server.addresses[0]) as wire:
            await wire.send(message)
            await wire.reply()
        assert server.known_heads.find(message) is None
    finally:
        await server.stop(0)


async def test_a_listener_remembers_a_bounded_number_of_heads() -> None:
    server = listener({"/": Echo()})
    await server.start()
    try:
        async with connect(server.addresses[0]) as wire:
            for at in range(MOST_HEADS + 1):
                await wire.send(post(b"x", "/", f"X-Number: {at}"))
                await wire.reply()
        known = [server.known_heads.find(post(b"x", "/", f"X-Number: {at}")) for at in range(MOST_HEADS + 1)]
        assert [at for at, one in enumerate(known) if one is not None] == [MOST_HEADS]
    finally:
        await server.stop(0)
