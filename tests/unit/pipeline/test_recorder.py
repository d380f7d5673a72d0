"""Calls on their way into a recording: bounded, counted, and no client waits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

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
from tests.kit.traffic import GET, SET

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


async def test_calls_are_written_in_their_order_until_there_are_enough() -> None:
    recorder = Recorder(Dispatcher(MemoryBackend({})), lambda: 1000.0)
    found = begun(recorder, calls=2)
    for name in ("a", "b", "c"):
        await take(recorder, taken("S", name))
    first, *calls, last = await documents(found)
    assert first["methods"] == ["xapi/VM.get_name", "xapi/VM.set_name"]
    assert [(call["params"][1], call["when"]) for call in calls] == [("a", 1000.0), ("b", 1000.0)]
    assert last == {"end": "2 calls", "calls": 2, "seconds": 0.0, "no_room": 0, "too_large": 0}


async def test_the_recorder_is_active_only_during_a_recording() -> None:
    recorder = Recorder(Dispatcher(MemoryBackend({})))
    await take(recorder, taken())
    found = [recorder.active]
    with begun(recorder):
        found.append(recorder.active)
    assert [*found, recorder.active] == [False, True, False]


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
    offered: list[dict[str, Any]], counts: tuple[int, int, int], *, writes: bool
) -> None:
    recorder = Recorder(Dispatcher(MemoryBackend({})))
    found = begun(recorder, writes=writes, waiting=3, waiting_bytes=2_000)
    for each in offered:
        await take(recorder, taken(**each))
    recorder.stop()
    first, *calls, last = await documents(found)
    assert (len(calls), last["no_room"], last["too_large"]) == counts
    assert (first["writes"], last["calls"], last["end"]) == (writes, counts[0], "the gateway has stopped")


async def test_the_memory_of_a_call_is_free_again_once_it_is_written() -> None:
    recorder = Recorder(Dispatcher(MemoryBackend({})))
    found = begun(recorder, waiting_bytes=2_000)
    lines = found.lines("1.0", "r1")
    await anext(lines)
    for _ in range(3):
        await take(recorder, taken("x" * 1500))
        await anext(lines)
    assert found.counts.no_room == 0
    await lines.aclose()


async def test_a_large_outcome_is_left_out_and_not_viewed() -> None:
    recorder = Recorder(Dispatcher(MemoryBackend({})))
    found = begun(recorder)

    def view(outcome: Outcome) -> Outcome:
        raise AssertionError(outcome)

    await take(recorder, taken(outcome=Reply(["x"] * LARGEST), view=view))
    recorder.stop()
    _, call, _ = await documents(found)
    assert call["reply"] == {"$left_out": f"an answer of more than {LARGEST} bytes"}


async def test_a_recording_that_has_grown_large_ends() -> None:
    recorder = Recorder(Dispatcher(MemoryBackend({})))
    found = begun(recorder, size=900)
    for _ in range(10):
        await take(recorder, taken())
    *lines, last = await documents(found)
    assert last["end"] == "900 bytes"
    assert 0 < last["calls"] == len(lines) - 1 < 10
    assert not recorder.active


async def test_a_recording_ends_when_its_time_is_over() -> None:
    recorder = Recorder(Dispatcher(MemoryBackend({})))
    found = begun(recorder, seconds=0.01)
    first, last = await documents(found)
    assert (first["recording"], last["end"]) == (1, "0.01 s")


async def test_an_empty_line_says_that_nothing_has_come() -> None:
    recorder = Recorder(Dispatcher(MemoryBackend({})))
    found = begun(recorder)
    found.keepalive = 0.001
    lines = found.lines("1.0", "r1")
    await anext(lines)
    assert await anext(lines) == b"\n"
    await take(recorder, taken())
    async with asyncio.timeout(60):
        while await anext(lines) == b"\n":
            pass
    await lines.aclose()


async def test_a_call_wakes_who_waits_for_one() -> None:
    recorder = Recorder(Dispatcher(MemoryBackend({})))
    found = begun(recorder)
    found.keepalive = 60.0
    lines = found.lines("1.0", "r1")
    await anext(lines)
    asyncio.get_running_loop().call_soon(recorder.dispatcher.finish, taken())
    async with asyncio.timeout(60):
        assert b"VM.get_name" in await anext(lines)
    await lines.aclose()


async def test_a_bug_costs_its_own_line() -> None:
    recorder = Recorder(Dispatcher(MemoryBackend({})))
    found = begun(recorder)

    def bug(_: Outcome) -> Outcome:
        raise RuntimeError

    await take(recorder, taken("S", "lost", view=bug))
    await take(recorder, taken("S", "kept"))
    recorder.stop()
    _, call, last = await documents(found)
    assert (call["params"][1], last["calls"]) == ("kept", 1)


async def test_several_record_at_a_time_each_its_own_and_no_more_than_some() -> None:
    recorder = Recorder(Dispatcher(MemoryBackend({})))
    several = [begun(recorder) for _ in range(MAX_RECORDINGS)]
    refused = expect(StateRefused, recorder.begin(BOTH, RecordingLimits()))
    assert refused.conflict
    await take(recorder, taken())
    recorder.stop()
    assert [len(await documents(each)) for each in several] == [3] * MAX_RECORDINGS
    begun(recorder).close("done")
