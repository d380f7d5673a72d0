"""Calls on their way into a recording: bounded, counted, and no client waits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.core.admin.records import MethodId, StateRefused
from gateway.core.migration.modes import Side
from gateway.core.routing.call_record import LARGEST
from gateway.core.routing.route import CallFinished, Route
from gateway.core.rpc.model import Call, Outcome, Reply
from gateway.pipeline.dispatcher import Dispatcher
from gateway.pipeline.recorder import MAX_RECORDINGS, Recorder, RecordingLimits, RecordingSession
from tests.kit.backends import MemoryBackend
from tests.kit.cases import each_case, expect
from tests.kit.programs import TIMEOUT
from tests.kit.traffic import GET, SET
from tests.kit.upstreams import Scripted

WEB = Reply("web")
ORIGIN = {"listener": "rpc", "path": "/RPC2", "protocol": "xmlrpc"}
BOTH = frozenset(MethodId(each.service, each.method) for each in (GET, SET))


def taken(
    first: str = "S",
    name: str = "vm",
    *,
    route: Route = GET,
    outcome: Outcome = WEB,
    oneway: bool = False,
    view: Callable[[Outcome], Outcome] | None = None,
) -> CallFinished:
    call = Call(route.method, (first, name), oneway=oneway, extensions=ORIGIN)
    return CallFinished(route, call, outcome, Side.LEGACY, 0.01, view)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder(Dispatcher(MemoryBackend({}), upstreams=Scripted({})), lambda: 1000.0)


async def take(recorder: Recorder, finished: CallFinished) -> None:
    """A call ends, and its answer leaves."""
    recorder.dispatcher.finish(finished)
    await asyncio.sleep(0)


def begun(recorder: Recorder, **limits: Any) -> RecordingSession:
    return expect(RecordingSession, recorder.begin(BOTH, RecordingLimits(**limits)))


async def documents(found: RecordingSession) -> list[dict[str, Any]]:
    """The whole of it, without empty lines."""
    lines = [line async for line in found.lines("1.0", "r1")]
    return [json.loads(line) for line in lines if line.strip()]


async def test_calls_are_written_in_their_order_until_there_are_enough(recorder: Recorder) -> None:
    found = [recorder.active]
    with begun(recorder, calls=2) as recording:
        found.append(recorder.active)
        for name in ("a", "b", "c"):
            await take(recorder, taken("S", name))
        first, *calls, last = await documents(recording)
    assert first["methods"] == ["xapi/VM.get_name", "xapi/VM.set_name"]
    assert [(call["params"][1], call["when"]) for call in calls] == [("a", 1000.0), ("b", 1000.0)]
    assert last == {"end": "2 calls", "calls": 2, "seconds": 0.0, "no_room": 0, "too_large": 0}
    assert [*found, recorder.active] == [False, True, False]


async def test_what_comes_after_the_last_call_is_not_counted_even_in_the_same_turn(recorder: Recorder) -> None:
    found = begun(recorder, calls=1)
    for first in ("S", "x" * LARGEST):
        recorder.dispatcher.finish(taken(first))
    await asyncio.sleep(0)
    *_, last = await documents(found)
    assert (last["end"], last["calls"], last["too_large"]) == ("1 call", 1, 0)


@each_case(
    ("offered", "writes", "counts"),
    [
        ([{"route": replace(GET, method="VM.other")}, {"oneway": True}, {"route": SET}], False, (0, 0, 0)),
        ([{"route": SET}], True, (1, 0, 0)),
        ([{"first": "x" * LARGEST}, {}], False, (1, 0, 1)),
        ([{}] * 5, False, (3, 2, 0)),  # more than may wait
        ([{"first": "x" * 1500}] * 3, False, (1, 2, 0)),  # more bytes than may wait
    ],
)
async def test_what_is_recorded_and_what_is_counted_instead(
    recorder: Recorder, offered: list[dict[str, Any]], counts: tuple[int, int, int], *, writes: bool
) -> None:
    found = begun(recorder, writes=writes, waiting=3, waiting_bytes=2_000)
    for each in offered:
        await take(recorder, taken(**each))
    recorder.stop()
    first, *calls, last = await documents(found)
    assert (len(calls), last["no_room"], last["too_large"]) == counts
    assert (first["writes"], last["calls"], last["end"]) == (writes, counts[0], "the gateway has stopped")


async def test_the_memory_of_a_call_is_free_again_once_it_is_written(recorder: Recorder) -> None:
    found = begun(recorder, waiting_bytes=2_000)
    async with aclosing(found.lines("1.0", "r1")) as lines:
        await anext(lines)
        for _ in range(3):
            await take(recorder, taken("x" * 1500))
            await anext(lines)
    assert found.counts.no_room == 0


async def test_a_large_outcome_is_left_out_and_not_viewed_and_a_bug_costs_its_own_line(recorder: Recorder) -> None:
    def bug(outcome: Outcome) -> Outcome:
        raise RuntimeError(outcome)

    found = begun(recorder)
    await take(recorder, taken(outcome=Reply(["x"] * LARGEST), view=bug))
    await take(recorder, taken("S", "lost", view=bug))
    await take(recorder, taken("S", "kept"))
    recorder.stop()
    _, large, kept, last = await documents(found)
    assert large["reply"] == {"$left_out": f"an answer of more than {LARGEST} bytes"}
    assert (kept["params"][1], last["calls"]) == ("kept", 2)


async def test_a_recording_that_has_grown_large_ends(recorder: Recorder) -> None:
    found = begun(recorder, size=900)
    for _ in range(10):
        await take(recorder, taken())
    *lines, last = await documents(found)
    assert last["end"] == "900 bytes"
    assert 0 < last["calls"] == len(lines) - 1 < 10
    assert not recorder.active


async def test_a_recording_ends_when_its_time_is_over(recorder: Recorder) -> None:
    first, last = await documents(begun(recorder, seconds=0.01))
    assert (first["recording"], last["end"]) == (1, "0.01 s")


@each_case("keepalive", [0.001, 60.0])
async def test_an_empty_line_says_that_nothing_has_come_and_a_call_wakes_who_waits_for_one(
    recorder: Recorder, keepalive: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.pipeline.recorder.KEEPALIVE", keepalive)
    with begun(recorder) as found:
        async with aclosing(found.lines("1.0", "r1")) as lines, asyncio.timeout(TIMEOUT):
            await anext(lines)
            if keepalive < 1:
                assert await anext(lines) == b"\n"
            asyncio.get_running_loop().call_soon(recorder.dispatcher.finish, taken())
            while (line := await anext(lines)) == b"\n":
                assert keepalive < 1
            assert b"VM.get_name" in line


async def test_several_record_at_a_time_each_its_own_and_no_more_than_some(recorder: Recorder) -> None:
    several = [begun(recorder) for _ in range(MAX_RECORDINGS)]
    assert expect(StateRefused, recorder.begin(BOTH, RecordingLimits())).conflict
    await take(recorder, taken())
    recorder.stop()
    assert [len(await documents(each)) for each in several] == [3] * MAX_RECORDINGS
    begun(recorder).close("done")
