from __future__ import annotations

import asyncio

import pytest

from gateway.core.interfaces import HttpExchange
from gateway.core.migration.modes import Side
from gateway.core.routing.route import CallFinished
from gateway.core.rpc.model import (
    ABANDONED,
    HUNG_UP,
    Answer,
    Call,
    Fault,
    FaultCode,
    Outcome,
    Peer,
    Reply,
    RequestMetadata,
)
from gateway.pipeline.dispatcher import UNMAPPED, Dispatcher
from gateway.pipeline.passthrough import BAD_GATEWAY, STATUSES, Passthrough
from tests.kit import backends
from tests.kit import upstreams as kit
from tests.kit.exchanges import MemoryExchange

GET = RequestMetadata("GET", "/rrd_updates?start=1", ((b"User-Agent", b"rrd2csv"),))


class Way:
    """A passage to a legacy service that answers so, and what was noted of it."""

    def __init__(self, whole: Answer | Fault) -> None:
        self.upstreams = kit.Scripted({}, whole)
        self.noted: list[tuple[str, Call, Outcome, Side | None]] = []
        self.passage = Passthrough(Dispatcher(backends.MemoryBackend({}), self._note, upstreams=self.upstreams), "xapi")

    def _note(self, finished: CallFinished) -> None:
        self.noted.append((finished.route.method, finished.call, finished.outcome, finished.side))


async def test_a_message_goes_to_the_upstream_and_its_answer_comes_back() -> None:
    answer = Answer(b"<xport/>", "text/xml", None, 200, "OK")
    way = Way(answer)
    exchange = MemoryExchange(GET, peer=Peer("tcp:10.0.0.1:5"))
    assert await way.passage.stream(exchange) is None
    assert (exchange.head, exchange.body, exchange.is_finished) == (answer, b"<xport/>", True)
    assert way.upstreams.forwarded == [("xapi", b"", GET)]
    ((method, call, outcome, side),) = way.noted
    assert (method, outcome, side) == (UNMAPPED, Reply(), Side.LEGACY)
    assert (call.peer.address, call.extensions) == ("tcp:10.0.0.1:5", {"protocol": "http", "agent": "rrd2csv"})


async def test_an_answer_that_tells_of_a_failure_goes_back_and_is_noted_as_one() -> None:
    way = Way(Answer(b"no", "text/html", None, 404, "Not Found"))
    exchange = MemoryExchange(GET)
    assert await way.passage.stream(exchange) is None
    assert exchange.body == b"no"
    assert way.noted[0][2] == Fault(FaultCode.REMOTE, "HTTP 404", name="404")


@pytest.mark.parametrize("code", FaultCode)
async def test_why_nothing_came_back_is_an_answer_in_plain_words(code: FaultCode) -> None:
    fault = Fault(code, "because")
    way = Way(fault)
    got = await way.passage.stream(MemoryExchange(GET))
    assert got is not None
    assert (got.body, got.fault) == (b"because\n", fault)
    assert (got.status, got.reason) == STATUSES.get(code, BAD_GATEWAY)
    assert got.headers == ((b"Content-Type", b"text/plain"),)
    assert way.noted[0][2] == fault


async def test_an_old_service_that_closes_without_a_word_is_a_closed_connection_to_the_client() -> None:
    fault = Fault(FaultCode.NO_REPLY, "closed", name=HUNG_UP)
    way = Way(fault)
    got = await way.passage.stream(MemoryExchange(GET))
    assert got is not None
    assert (got.hang_up, got.body) == (True, None)
    assert way.noted[0][2] == fault


async def test_a_message_whose_client_leaves_is_noted_once() -> None:
    class Hung(kit.Scripted):
        async def relay(self, upstream: str, exchange: HttpExchange) -> Answer | Fault:
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

    way = Way(Fault(FaultCode.BUSY, ""))
    way.passage = Passthrough(Dispatcher(backends.MemoryBackend({}), way._note, upstreams=Hung({})), "xapi")
    asking = asyncio.ensure_future(way.passage.stream(MemoryExchange(GET)))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait({asking})
    assert [(method, outcome, side) for method, _, outcome, side in way.noted] == [(UNMAPPED, ABANDONED, Side.LEGACY)]


async def test_a_response_that_breaks_off_resets_the_client_and_is_noted_as_a_fault() -> None:
    class BreaksOff(kit.Scripted):
        async def relay(self, upstream: str, exchange: HttpExchange) -> Answer | Fault:
            await exchange.respond(Answer(None, "", None, 200, "OK"))
            return Fault(FaultCode.NO_REPLY, "closed", name=HUNG_UP)

    way = Way(Fault(FaultCode.BUSY, ""))
    way.passage = Passthrough(Dispatcher(backends.MemoryBackend({}), way._note, upstreams=BreaksOff({})), "xapi")
    exchange = MemoryExchange(GET)
    assert await way.passage.stream(exchange) is None
    assert (exchange.is_aborted, exchange.is_finished) == (True, False)
    assert way.noted[0][2] == Fault(FaultCode.NO_REPLY, "closed", name=HUNG_UP)
