"""Who answers, by which deadline, and that there is always an outcome."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.core.interfaces import NOT_SENT, Wanted, always
from gateway.core.migration.modes import Migration, Mode, Setting, Side
from gateway.core.routing.overrides import Override
from gateway.core.routing.route import CallFinished, Effect, Route, local_route
from gateway.core.rpc.model import (
    ABANDONED,
    NO_METADATA,
    WITHDRAWN,
    Answer,
    Call,
    Fault,
    FaultCode,
    Outcome,
    Peer,
    PeerConnection,
    Reply,
    Value,
)
from gateway.migration.active_overrides import ActiveOverrides
from gateway.pipeline.dispatcher import Dispatcher
from tests.kit import upstreams as kit
from tests.kit.cases import each_case, expect, present
from tests.kit.mappings import TARGET, route
from tests.kit.programs import TIMEOUT
from tests.kit.traffic import ScriptedBus


async def echo(_route: Route, call: Call) -> Outcome:
    return Reply(call.params[0])


async def hang(_route: Route, _call: Call) -> Outcome:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


async def bug(_route: Route, _call: Call) -> Outcome:
    raise KeyError("a secret that no client may see")


class Scene:
    """A dispatcher between a scripted D-Bus side and a legacy service, and how each call has ended."""

    def __init__(
        self, answer: Callable[[Route, Call], Awaitable[Outcome]] = echo, old: kit.Scripted | None = None, **more: Any
    ) -> None:
        self.backend, self.old = ScriptedBus(answer), old or kit.Scripted({})
        self.ended: list[tuple[str, Outcome, Side | None]] = []
        self.toggles = ActiveOverrides()
        self.dispatcher = Dispatcher(self.backend, self._note, upstreams=self.old, toggles=self.toggles, **more)

    def _note(self, finished: CallFinished) -> None:
        assert finished.seconds >= 0
        self.ended.append((finished.route.method, finished.outcome, finished.side))

    def override(self, pattern: str, mode: Mode) -> None:
        self.toggles.replace([Override(pattern, Setting(mode), "alice", 1.0)])

    async def answer(self, route: Route, *params: Value) -> Outcome:
        return await self.dispatcher.answer(route, Call(route.method, params or ("a",)))

    async def leave(self, route: Route) -> None:
        """A call whose client leaves while it waits."""
        task = asyncio.ensure_future(self.answer(route))
        await asyncio.sleep(0)
        assert self.dispatcher.in_flight == 1
        task.cancel()
        await asyncio.wait({task})
        assert (task.cancelled(), self.dispatcher.in_flight) == (True, 0)


OLD = Migration(Setting(Mode.LEGACY), upstream="old")
INTERNAL = Fault(FaultCode.INTERNAL, "internal error")


def timeout(text: str) -> Fault:
    return Fault(FaultCode.TIMEOUT, text)


async def times_out(_route: Route, _call: Call) -> Outcome:
    raise TimeoutError


async def stand_in_line(_route: Route, _call: Call) -> Outcome:
    """Wait for ever, before a byte was sent."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError as error:
        error.args = (*error.args, NOT_SENT)
        raise
    raise AssertionError("unreachable")


async def check_slowly(asked: Route, call: Call) -> Outcome:
    return await (hang if asked.method == "session check" else echo)(asked, call)


KEEPER = dataclasses.replace(TARGET, bus_name="org.xen.xcp.keeper")
SLOWLY_CHECKED = route("session check", timeout=3600.0, target=KEEPER)


@each_case(
    ("answer", "asked", "outcome"),
    [
        (echo, route(), Reply("a")),
        (hang, route(timeout=0.01, effect=Effect.READ), timeout("no answer from org.xen.xcp.toy within 0.01 s")),
        (
            hang,
            route(timeout=0.01, effect=Effect.WRITE),
            timeout("no answer from org.xen.xcp.toy within 0.01 s; it may have been executed"),
        ),
        (
            stand_in_line,
            route(timeout=0.01, effect=Effect.WRITE),
            timeout("no answer from org.xen.xcp.toy within 0.01 s; the call was not sent"),
        ),
        (
            check_slowly,  # it has the deadline of the call
            replace(route(timeout=0.01), session_check=SLOWLY_CHECKED),
            timeout("no answer from org.xen.xcp.keeper within 0.01 s; echo was not called"),
        ),
        (bug, route(), INTERNAL),
        (times_out, route(), INTERNAL),  # a bug of the backend, and no deadline
    ],
)
async def test_each_call_has_an_outcome_which_is_noted_once(
    answer: Callable[[Route, Call], Awaitable[Outcome]],
    asked: Route,
    outcome: Outcome,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.clear()
    scene = Scene(answer)
    assert await scene.answer(asked) == outcome
    assert scene.ended == [("echo", outcome, Side.DBUS)]
    assert ("a bug answered this call" in caplog.text) is (outcome == INTERNAL)
    assert (scene.dispatcher.in_flight, present(asyncio.current_task()).cancelling()) == (0, 0)
    async with asyncio.timeout(TIMEOUT):  # after a timeout the task can go on waiting
        await asyncio.sleep(0)


GUARDED = route("VM.start", session_check=route("session check"), effect=Effect.WRITE)


async def test_a_session_check_comes_first_and_its_fault_is_the_answer() -> None:
    invalid = Fault(FaultCode.APPLICATION, "SESSION_INVALID", "SESSION_INVALID", ["stale"])
    seen: list[tuple[str, bool]] = []

    async def check(asked: Route, call: Call) -> Outcome:
        seen.append((asked.method, call.oneway))
        return invalid if call.params[0] == "stale" else await echo(asked, call)

    scene = Scene(check)
    assert await scene.answer(GUARDED, "stale") == invalid
    assert await scene.answer(GUARDED, "good") == Reply("good")
    await scene.dispatcher.answer(GUARDED, Call("VM.start", ("good",), oneway=True))  # it is waited for all the same
    assert [method for method, _ in seen] == ["session check", *["session check", "VM.start"] * 2]
    assert [oneway for _, oneway in seen[-2:]] == [False, True]


async def test_a_local_route_is_answered_by_the_gateway_within_its_timeout_and_reported() -> None:
    async def never(call: Call) -> Outcome:
        return await hang(route(), call)

    async def broken(call: Call) -> Outcome:
        return await bug(route(), call)

    async def answer(call: Call) -> Outcome:
        return Reply(call.method)

    scene = Scene()
    scene.override("*", Mode.OFF)
    routes = [local_route("a", answer), replace(local_route("b", never), timeout=0.01), local_route("c", broken)]
    outcomes = [await scene.answer(each) for each in routes]
    assert outcomes == [Reply("a"), timeout("no answer from the gateway itself within 0.01 s"), INTERNAL]
    assert scene.ended == [(method, outcome, None) for method, outcome in zip("abc", outcomes, strict=True)]
    assert (scene.backend.asked, scene.dispatcher.in_flight) == ([], 0)


async def test_a_cancellation_from_outside_is_no_timeout_even_when_both_come_at_once() -> None:
    task = asyncio.ensure_future(Scene(hang).answer(route(timeout=0.0)))
    asyncio.get_running_loop().call_later(0.0, task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task


@each_case("code", FaultCode)
async def test_a_call_falls_back_only_where_nothing_was_executed_for_certain(code: FaultCode) -> None:
    async def fail(_route: Route, _call: Call) -> Outcome:
        return Fault(code, "no")

    told: list[tuple[str, Side, Fault]] = []
    scene = Scene(fail, on_fallback=lambda route, _call, side, fault, _: told.append((route.method, side, fault)))
    outcome = await scene.answer(route(migration=Migration(Setting(Mode.DBUS), upstream="old", fallback=True)))
    if code in (FaultCode.UNAVAILABLE, FaultCode.BUSY):
        assert (outcome, scene.ended) == (Reply("old"), [("echo", Reply("old"), Side.LEGACY)])
        assert told == [("echo", Side.DBUS, Fault(code, "no"))]
    else:
        assert (outcome, scene.ended) == (Fault(code, "no"), [("echo", Fault(code, "no"), Side.DBUS)])
        assert (told, scene.old.called) == ([], [])


async def test_a_call_that_is_only_observed_asks_those_that_are_there_for_it_and_is_not_noted() -> None:
    observing, apart = ScriptedBus(echo), kit.Scripted({})
    scene = Scene(observing=observing, observing_upstreams=apart)
    call = Call("VM.start", ("s",))
    assert await scene.dispatcher.observe(Side.DBUS, GUARDED, call) == Reply("s")
    assert await scene.dispatcher.observe(Side.LEGACY, GUARDED, call) == Reply("old")
    assert (scene.backend.asked, observing.asked, scene.ended) == ([], ["session check", "VM.start"], [])
    assert (scene.old.called, apart.called) == ([], ["VM.start"])


async def test_an_old_service_has_its_own_timeout_unless_it_is_only_observed() -> None:
    async def slow(_route: Route, _call: Call) -> Outcome:
        await asyncio.sleep(0.02)
        return Reply("old")

    stat = route("VM.stat", migration=OLD, timeout=0.001, effect=Effect.READ)
    scene = Scene(old=kit.Scripted({}, answer=slow))
    assert await scene.answer(stat) == Reply("old")
    late = timeout("no answer from the legacy service 'old' within 0.001 s")
    assert await scene.dispatcher.observe(Side.LEGACY, stat, Call("VM.stat")) == late
    hung = Scene(old=kit.Scripted({}, answer=hang, timeout=0.01))
    says = "no answer from the legacy service 'old' within 0.01 s; it may have been executed"
    assert await hung.answer(route(migration=OLD, timeout=0.001)) == timeout(says)


async def test_a_whole_message_has_a_deadline_too() -> None:
    class Mute(kit.Scripted):
        async def forward(self, *_: object, **__: object) -> Answer | Fault:
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

    scene = Scene(old=Mute({}, timeout=0.01))
    says = "no answer from the legacy service 'old' within 0.01 s; it may have been executed"
    assert await scene.dispatcher.forward("old", b"", NO_METADATA) == timeout(says)
    assert scene.dispatcher.in_flight == 0


@each_case(
    ("answer", "asked", "noted", "warns"),
    [
        (stand_in_line, route("VM.start", effect=Effect.WRITE), WITHDRAWN, False),
        (hang, route("VM.start", effect=Effect.WRITE), ABANDONED, True),
        (hang, route("VM.start", effect=Effect.READ), ABANDONED, False),
        (hang, GUARDED, WITHDRAWN, False),  # while its session is checked
    ],
)
async def test_a_call_whose_client_leaves_is_noted_as_what_is_known_of_it(
    answer: Callable[[Route, Call], Awaitable[Outcome]],
    asked: Route,
    noted: Fault,
    warns: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.clear()
    scene = Scene(answer)
    await scene.leave(asked)
    assert scene.ended == [("VM.start", noted, Side.DBUS)]
    assert ("it is unknown whether the call was executed" in caplog.text) is warns


# Calls that wait for a legacy service when their mode changes


class Line(kit.Scripted):
    """A legacy service without a free slot: a call waits until it is no longer wanted."""

    def __init__(self) -> None:
        super().__init__({"old": ("jsonrpc", "plain")})
        self.waiting: list[tuple[Wanted, asyncio.Future[None]]] = []

    async def call(self, route: Route, call: Call, wanted: Wanted = always) -> Outcome:
        self.called.append(call.method)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append((wanted, turn))
        await turn
        return Fault(FaultCode.BUSY, "not wanted any more")

    def review(self) -> None:
        for wanted, turn in self.waiting:
            if not wanted() and not turn.done():
                turn.set_result(None)


@each_case(
    ("mode", "outcome", "side"),
    [
        (Mode.DBUS, Reply("a"), Side.DBUS),
        (Mode.OFF, Fault(FaultCode.UNAVAILABLE, "VM.start is switched off"), None),
    ],
)
async def test_a_call_that_waits_for_an_old_service_goes_where_its_new_mode_says(
    mode: Mode, outcome: Outcome, side: Side | None
) -> None:
    scene = Scene(old=Line())
    moves = asyncio.ensure_future(scene.answer(route("VM.start", migration=OLD, effect=Effect.WRITE)))
    stays = asyncio.ensure_future(scene.answer(route("VM.stop", migration=OLD, effect=Effect.WRITE)))
    await asyncio.sleep(0)
    scene.override("toy/VM.start", mode)
    assert await asyncio.wait_for(moves, TIMEOUT) == outcome
    assert (scene.ended, stays.done()) == ([("VM.start", outcome, side)], False)
    assert scene.backend.asked == (["VM.start"] if side else [])
    assert scene.old.called == ["VM.start", "VM.stop"]
    stays.cancel()
    await asyncio.wait({stays})


async def test_a_call_for_a_task_that_waits_is_not_made_on_d_bus_when_its_mode_changes() -> None:
    """D-Bus would answer with the result, where the client expects the reference of a task."""
    scene = Scene(old=Line())
    start = route("VM.start", migration=OLD, effect=Effect.WRITE)
    waits = asyncio.ensure_future(scene.answer(replace(start, method="Async.VM.start", task_of=start)))
    await asyncio.sleep(0)
    scene.override("toy/VM.start", Mode.DBUS)
    outcome = expect(Fault, await asyncio.wait_for(waits, TIMEOUT))
    assert outcome.message.startswith("Async.VM.start has no side that answers: ")
    assert scene.backend.asked == []


async def test_a_call_that_waits_at_its_service_gives_back_its_slot() -> None:
    slots: list[str] = []
    connection = PeerConnection()

    def wait() -> Callable[[], object]:
        slots.append("freed")
        return lambda: slots.append("taken")

    waiting = replace(route("Hold"), waits=True)
    dispatcher, call = Scene().dispatcher, Call("hold", ("x",), peer=Peer(connection=connection))
    connection.on_wait = wait
    assert await dispatcher.answer(waiting, call) == Reply("x")
    assert slots == ["freed", "taken"]
    connection.on_wait = lambda: None
    assert expect(Fault, await dispatcher.answer(waiting, call)).code is FaultCode.BUSY
    assert dispatcher.in_flight == 0
