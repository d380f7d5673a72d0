"""Whatever a legacy server says, it is one answer or a fault, and never the answer to the next call."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.http.client.request import parse_url
from adapters.http.client.upstream import HttpUpstreamConnection
from gateway.core.rpc.model import Answer, Fault, RequestMetadata
from tests.fuzz.mutate import Chance, mutated
from tests.kit.upstreams import Last, legacy_server, ok

POST = RequestMetadata("POST", "/", ((b"Host", b"x"),))
GOOD = (
    ok(b"first", "X-A: b"),
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nfir\r\n2\r\nst\r\n0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" + ok(b"first"),
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nfirst",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    ok(b"first") + ok(b"another"),
)
TOKENS = (
    *(b"\r\n", b"\r\n\r\n", b": ", b"Content-Length: 3\r\n", b"Connection: close\r\n", b"0\r\n\r\n"),
    *(b"HTTP/1.1 ", b"101 ", b"\0"),
)
PATIENCE = 0.1  # seconds: what is half an answer may be waited for without end


async def _two_calls(said: bytes, *, closes: bool) -> tuple[Answer | Fault | None, Answer | Fault]:
    """What comes of a call that is answered so (None: nothing in time), and of the call after it."""
    async with legacy_server() as old:
        old.answers = lambda request: _said(request, said, closes=closes)
        line = HttpUpstreamConnection("old", parse_url(old.url))
        first = None
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                first = await line.send(b"1", POST)
        second = await asyncio.wait_for(line.send(b"2", POST), 60)
        await line.stop()
    return first, second


def _said(request: bytes, first: bytes, *, closes: bool) -> bytes:
    """By what is asked: on a slow machine the first request may be given up before it is read."""
    if request.endswith(b"2"):
        return ok(b"second")
    return Last(first) if closes else first


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32), closes=st.booleans())
def test_a_damaged_answer_harms_no_other_call(seed: int, closes: bool) -> None:
    damaged = mutated(Chance(random.Random(seed), TOKENS, GOOD))
    first, second = asyncio.run(_two_calls(damaged, closes=closes))
    assert isinstance(first, Answer | Fault | None)
    assert isinstance(second, Answer)
    assert second.body == b"second"
