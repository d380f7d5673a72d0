"""Messages that pass through without a task are as those that pass in one: same bytes, same counts, nothing left."""

from __future__ import annotations

import asyncio
import gzip
import re
import xmlrpc.client
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit.clients import post
from tests.kit.passthrough import Client, front
from tests.kit.upstreams import Last, legacy_server, ok


def call(method: str, *params: Any) -> bytes:
    """A call as a client writes it."""
    return xmlrpc.client.dumps(params, method).encode()


def result(text: str) -> bytes:
    """A result as a legacy service writes it."""
    return xmlrpc.client.dumps((text,), methodresponse=True).encode()


def multicall(*methods: str) -> bytes:
    """A batch."""
    return call("system.multicall", [{"methodName": each, "params": []} for each in methods])


FAULT = xmlrpc.client.dumps(xmlrpc.client.Fault(4, "no"), methodresponse=True).encode()

# What the legacy service answers; None: it closes the connection.
ANSWERS: dict[str, Callable[[], bytes | None]] = {
    "plain": lambda: ok(result("8a5b2c1e"), "Content-Type: text/xml"),
    "other length": lambda: ok(result("x" * 7), "Content-Type: text/xml"),
    "kept": lambda: ok(result("kept"), "Connection: keep-alive"),
    "lower case": lambda: ok(result("lower"), "content-type:text/xml", "x-server:   old  "),
    "fault": lambda: ok(FAULT, "Content-Type: text/xml"),
    "not XML": lambda: ok(b"<oops", "Content-Type: text/xml"),
    "other charset": lambda: ok(result("é").decode().encode("latin-1"), "Content-Type: text/xml; charset=iso-8859-1"),
    "encoded": lambda: ok(gzip.compress(result("zip"), mtime=0), "Content-Encoding: gzip"),
    "in several reads": lambda: ok(result("y" * 400_000), "Content-Type: text/xml"),
    "chunks": lambda: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "empty": lambda: ok(b""),
    "no content": lambda: b"HTTP/1.1 204 No Content\r\n\r\n",
    "failure": lambda: b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 2\r\n\r\nno",
    "redirect": lambda: b"HTTP/1.1 302 Found\r\nLocation: http://other/\r\nContent-Length: 0\r\n\r\n",
    "interim": lambda: b"HTTP/1.1 100 Continue\r\n\r\n" + ok(result("after")),
    "old version": lambda: b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nold",
    "closes": lambda: Last(ok(result("last"), "Connection: close")),
    "closes unsaid": lambda: Last(ok(result("last"))),
    "until the end": lambda: Last(b"HTTP/1.1 200 OK\r\n\r\nall of it"),
    "too short": lambda: Last(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort"),
    "too much": lambda: ok(result("more")) + b"HTTP/1.1 200 OK\r\n",
    "garbage": lambda: Last(b"oops\r\n\r\n"),
    "nothing": lambda: None,
}
# What the client sends, how many answers it waits for, and how many calls it makes.
REQUESTS: dict[str, tuple[tuple[bytes, ...], int, int]] = {
    "read": ((post(call("get", "a")),), 1, 1),
    "read of another": ((post(call("get", "<b>", "c")),), 1, 1),
    "write": ((post(call("set", "a")),), 1, 1),
    "unmapped": ((post(call("other")),), 1, 1),
    "migrated": ((post(call("new")),), 1, 1),
    "unreadable": ((post(b"<methodCall"),), 1, 0),
    "batch": ((post(multicall("get", "set")),), 1, 2),
    "mixed batch": ((post(multicall("get", "new")),), 1, 2),
    "in pieces": ((post(call("set", "a"))[:50], post(call("set", "a"))[50:]), 1, 1),
    "sent ahead": ((post(call("get", "a")) + post(call("get", "b")),), 2, 2),
    "closing": ((post(call("get", "a"), "/", "Connection: close"),), 1, 1),
    "HTTP/1.0": ((post(call("get", "a")).replace(b"HTTP/1.1", b"HTTP/1.0"),), 1, 1),
    "a header of its own": ((post(call("get", "a"), "/", "X-Request-Id: 7", "User-Agent: t"),), 1, 1),
    "expecting": ((post(call("get", "a"), "/", "Expect: 100-continue"),), 1, 1),
}
Step = tuple[str, str]  # of REQUESTS, and of ANSWERS


async def played(steps: list[Step], *, plainly: bool) -> object:
    """Every byte that the client and the legacy service got, and what was counted."""
    behaviour: list[str] = []

    def answer(_request: bytes) -> bytes | None:
        return ANSWERS[behaviour.pop() if behaviour else "plain"]()

    async with legacy_server(answer) as old, front(old.url, plainly=plainly) as gateway:
        client = Client(gateway.server.addresses[0])
        got: list[list[bytes]] = []
        # Once the heads of both sides are known, nothing of the usual messages needs to be parsed.
        for request, how in (("read", "plain"), ("write", "plain"), *steps):
            behaviour[:] = [how]
            pieces, answers, calls = REQUESTS[request]
            got.append(await client.ask(pieces, answers))
            await gateway.wait(calls)
        await client.close()
        while gateway.held != (0,) * 6:  # noqa: ASYNC110 - it has no event of its own
            await asyncio.sleep(0)
        counted = gateway.counted()
        requests = list(old.requests)
    return [[re.sub(rb"Date: [^\r]*", b"", each) for each in answers] for answers in got], requests, counted


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(REQUESTS)), st.sampled_from(sorted(ANSWERS))), max_size=6))
def test_both_ways_give_the_same_bytes_and_the_same_counts(steps: list[Step]) -> None:
    assert asyncio.run(played(steps, plainly=False)) == asyncio.run(played(steps, plainly=True))


def test_each_answer_to_each_request_is_the_same_both_ways() -> None:
    for request in ("read", "write", "batch", "sent ahead", "closing"):
        steps = [(request, answer) for answer in ANSWERS]
        assert asyncio.run(played(steps, plainly=False)) == asyncio.run(played(steps, plainly=True)), request
