from __future__ import annotations

import asyncio

import pytest

from gateway.core import ports
from gateway.core.model import Answer, Call, Carried, Fault, FaultCode, Outcome, Peer
from gateway.core.route import Route
from gateway.passage import STATUSES, Passage


class Upstreams(ports.Upstreams):
    def __init__(self, answer: Answer | Fault | None) -> None:
        self._answer = answer
        self.sent: list[tuple[str, bytes, Carried]] = []

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def call(self, route: Route, call: Call) -> Outcome:
        raise AssertionError("nothing is decoded")

    def speaks(self, upstream: str, codec: str, dialect: str) -> bool:
        raise AssertionError("nothing is decoded")

    async def forward(self, upstream: str, body: bytes, carried: Carried) -> Answer | Fault:
        self.sent.append((upstream, body, carried))
        if self._answer is None:
            await asyncio.Event().wait()
        assert self._answer is not None
        return self._answer


GET = Carried("GET", "/rrd_updates?start=1")


async def test_a_message_goes_to_the_upstream_and_its_answer_comes_back() -> None:
    answer = Answer(b"<xport/>", "text/xml", None, 200, "OK")
    upstreams = Upstreams(answer)
    assert await Passage(upstreams, "xapi", 5).answer(b"", Peer(), GET) is answer
    assert upstreams.sent == [("xapi", b"", GET)]


@pytest.mark.parametrize("code", FaultCode)
async def test_why_nothing_came_back_is_an_answer_in_plain_words(code: FaultCode) -> None:
    fault = Fault(code, "because")
    got = await Passage(Upstreams(fault), "xapi", 5).answer(b"", Peer(), GET)
    assert (got.body, got.fault) == (b"because\n", fault)
    assert (got.status, got.reason) == STATUSES.get(code, (502, "Bad Gateway"))
    assert got.headers == ((b"Content-Type", b"text/plain"),)


async def test_what_is_not_answered_in_time_is_a_timeout() -> None:
    got = await Passage(Upstreams(None), "xapi", 0.01).answer(b"", Peer(), GET)
    assert (got.status, got.body) == (
        504,
        b"no answer from the old service 'xapi' within 0.01 s; it may have been executed\n",
    )
