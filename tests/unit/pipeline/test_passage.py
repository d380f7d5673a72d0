"""Passthrough; and what is known of a call: its side, its session, its deadline."""

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
    Fault,
    FaultCode,
    Outcome,
    Peer,
    Reply,
    RequestMetadata,
    ended,
)
from gateway.pipeline.dispatcher import UNMAPPED, Dispatcher
from gateway.pipeline.passthrough import BAD_GATEWAY, STATUSES, Passthrough
from gateway.pipeline.waiting import Deadlines
from tests.kit import backends
from tests.kit import upstreams as kit
from tests.kit.cases import each_case, present
from tests.kit.exchanges import MemoryExchange
from tests.kit.programs import TIMEOUT

NOTHING = Fault(FaultCode.BUSY, "")
GET = RequestMetadata("GET", "/rrd_updates?start=1", ((b"User-Agent", b"rrd2csv"),))


class Way:
    """A passage to a legacy service that answers so, and what was noted of it."""

    def __init__(self, whole: Answer | Fault = NOTHING, upstreams: kit.Scripted | None = None) -> None:
        self.upstreams = upstreams or kit.Scripted({}, whole)
        self.noted: list[CallFinished] = []
        dispatcher = Dispatcher(backends.MemoryBackend({}), self.noted.append, upstreams=self.upstreams)
        self.passage = Passthrough(dispatcher, "xapi")

    @property
    def outcome(self) -> Outcome:
        """That of the one request, which was noted once as one of the legacy service."""
        (finished,) = self.noted
        assert (finished.route.method, finished.side) == (UNMAPPED, Side.LEGACY)
        return finished.outcome

    async def leave(self, exchange: MemoryExchange, *, once_written: bool = False) -> None:
        """A client that leaves while it waits, or when it has got something."""
        asking = asyncio.ensure_future(self.passage.stream(exchange))
        await (asyncio.wait_for(exchange.written.wait(), TIMEOUT) if once_written else asyncio.sleep(0))
        asking.cancel()
        await asyncio.wait({asking})


async def test_a_message_goes_to_the_upstream_and_its_answer_comes_back() -> None:
    answer = Answer(b"<xport/>", "text/xml", None, 200, "OK")
    way = Way(answer)
    exchange = MemoryExchange(GET, b"12", b"345", length=5, peer=Peer("tcp:10.0.0.1:5"))
    assert await way.passage.stream(exchange) is None
    assert (exchange.head, exchange.body, exchange.is_finished) == (answer, b"<xport/>", True)
    assert way.upstreams.forwarded == [("xapi", b"12345", GET)]
    assert way.outcome == Reply()
    (finished,) = way.noted
    known = {"protocol": "http", "path": "/rrd_updates", "agent": "rrd2csv", "request_id": ""}
    assert (finished.call.peer.address, finished.call.extensions) == ("tcp:10.0.0.1:5", known)
    assert (finished.received, finished.sent) == (5, 8)


@each_case(("status", "word"), [(302, "redirect"), (307, "redirect"), (304, "ok"), (404, "remote"), (500, "remote")])
async def test_an_answer_that_tells_of_another_end_goes_back_and_is_noted_as_that(status: int, word: str) -> None:
    answer = Answer(b"no", "text/html", None, status, "x", ((b"Location", b"http://other/"),))
    way, exchange = Way(answer), MemoryExchange(GET)
    assert await way.passage.stream(exchange) is None
    assert (exchange.head, exchange.body) == (answer, b"no")
    assert ended(way.outcome) == word


@pytest.mark.parametrize(("opens", "ended"), [(False, ABANDONED), (True, Reply())])
async def test_a_client_that_leaves_is_noted_once_and_a_tunnel_has_ended_as_tunnels_do(
    ended: Outcome, *, opens: bool
) -> None:
    class Waits(kit.Scripted):
        async def relay(self, upstream: str, exchange: HttpExchange) -> Answer | Fault:
            if opens:
                await exchange.respond(Answer(None, "", None, 200, "OK"), opens_tunnel=True)
                await exchange.write(b"RFB")
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

    way = Way(upstreams=Waits({}))
    await way.leave(MemoryExchange(GET, is_tunnel=opens), once_written=opens)
    assert (way.outcome, way.noted[0].received, way.noted[0].sent) == (ended, 0, 3 if opens else 0)


@each_case("code", FaultCode)
async def test_why_nothing_came_back_is_an_answer_in_plain_words(code: FaultCode) -> None:
    fault = Fault(code, "because")
    way = Way(fault)
    got = await way.passage.stream(MemoryExchange(GET))
    assert got is not None
    assert (got.body, got.fault) == (b"because\n", fault)
    assert (got.status, got.reason) == STATUSES.get(code, BAD_GATEWAY)
    assert got.headers == ((b"Content-Type", b"text/plain"),)
    assert way.outcome == fault


async def test_an_old_service_that_closes_without_a_word_is_a_closed_connection_to_the_client() -> None:
    fault = Fault(FaultCode.NO_REPLY, "closed", name=HUNG_UP)
    way = Way(fault)
    got = await way.passage.stream(MemoryExchange(GET))
    assert got is not None
    assert (got.hang_up, got.body) == (True, None)
    assert way.outcome == fault


async def test_a_response_that_breaks_off_resets_the_client_and_is_noted_as_a_fault() -> None:
    class BreaksOff(kit.Scripted):
        async def relay(self, upstream: str, exchange: HttpExchange) -> Answer | Fault:
            await exchange.respond(Answer(None, "", None, 200, "OK"))
            return Fault(FaultCode.NO_REPLY, "closed", name=HUNG_UP)

    way = Way(upstreams=BreaksOff({}))
    exchange = MemoryExchange(GET)
    assert await way.passage.stream(exchange) is None
    assert (exchange.is_aborted, exchange.is_finished) == (True, False)
    assert way.outcome == Fault(FaultCode.NO_REPLY, "closed", name=HUNG_UP)


# Deadlines


async def wait(deadlines: Deadlines, seconds: float) -> str:
    """Wait for ever, or until the deadline."""
    deadline = deadlines.start(seconds)
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        if deadline.was_the_reason():
            return f"late after {seconds:g}"
        raise
    finally:
        deadline.lift()
    return "never"


async def test_each_task_has_its_own_time_in_whatever_order_they_began() -> None:
    deadlines = Deadlines()
    done: list[str] = []

    async def one(seconds: float) -> None:
        done.append(await wait(deadlines, seconds))

    async with asyncio.TaskGroup() as group:
        for seconds in (0.05, 0.01, 0.03, 0.01):
            group.create_task(one(seconds))
    assert done == ["late after 0.01", "late after 0.01", "late after 0.03", "late after 0.05"]
    assert len(deadlines) == 0


async def test_one_timer_serves_those_that_begin_later_too() -> None:
    deadlines = Deadlines()
    loop = asyncio.get_running_loop()
    first = asyncio.ensure_future(wait(deadlines, 0.03))
    await asyncio.sleep(0.02)
    began = loop.time()
    second = asyncio.ensure_future(wait(deadlines, 0.03))
    assert await first == await second == "late after 0.03"
    assert loop.time() - began >= 0.03


async def test_a_lifted_deadline_cancels_nobody_and_leaves_nothing() -> None:
    deadlines = Deadlines()
    for _ in range(10_000):
        deadlines.start(0.0).lift()
    assert len(deadlines) == 0
    async with asyncio.timeout(TIMEOUT):
        assert await wait(deadlines, 0.01) == "late after 0.01"
    assert present(asyncio.current_task()).cancelling() == 0
