"""Who answers, by which deadline, and that there is always an outcome."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable

import pytest
from msgspec.structs import replace

from gateway.core.interfaces import NOT_SENT, Backend, Wanted, always
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
    RequestMetadata,
)
from gateway.migration.active_overrides import ActiveOverrides
from gateway.pipeline.dispatcher import Dispatcher
from tests.kit import upstreams as kit
from tests.kit.cases import each_case, expect, present
from tests.kit.mappings import TARGET, route
from tests.kit.programs import TIMEOUT


class Scripted(Backend):
    """Answers by calling a function, and remembers which routes it was asked for."""

    def __init__(self, answer: Callable[[Route, Call], Awaitable[Outcome]]) -> None:
        self._answer = answer
        self.asked: list[str] = []

    async def start(self) -> None:
        """Nothing to connect."""

    async def call(self, route: Route, call: Call) -> Outcome:
        self.asked.append(route.method)
        return await self._answer(route, call)

    async def stop(self) -> None:
        """Nothing to close."""


async def echo(_route: Route, call: Call) -> Outcome:
    return Reply(call.params[0])


async def hang(_route: Route, _call: Call) -> Outcome:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


async def bug(_route: Route, _call: Call) -> Outcome:
    raise KeyError("a secret that no client may see")


class Notes:
    """Remembers what goes to log and metrics."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, Outcome]] = []
        self.sides: list[Side | None] = []

    def __call__(self, finished: CallFinished) -> None:
        assert finished.seconds >= 0
        self.lines.append((finished.route.service, finished.route.method, finished.outcome))
        self.sides.append(finished.side)


async def test_the_backend_answers_and_the_call_is_noted_once() -> None:
    notes = Notes()
    outcome = await Dispatcher(Scripted(echo), notes).answer(route("VM.start"), Call("VM.start", ("a",)))
    assert outcome == Reply("a")
    assert notes.lines == [("toy", "VM.start", Reply("a"))]


async def test_past_the_deadline_the_caller_gets_a_timeout() -> None:
    read = route(timeout=0.01, effect=Effect.READ)
    outcome = await Dispatcher(Scripted(hang), Notes()).answer(read, Call("echo", ("a",)))
    assert outcome == Fault(FaultCode.TIMEOUT, "no answer from org.xen.xcp.toy within 0.01 s")


async def test_a_write_that_timed_out_says_that_it_may_have_been_executed() -> None:
    outcome = expect(Fault, await Dispatcher(Scripted(hang), Notes()).answer(route(timeout=0.01), Call("echo", ("a",))))
    assert outcome.message == "no answer from org.xen.xcp.toy within 0.01 s; it may have been executed"


async def test_a_bug_becomes_an_internal_fault_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    outcome = await Dispatcher(Scripted(bug), Notes()).answer(route(), Call("echo", ("a",)))
    assert outcome == Fault(FaultCode.INTERNAL, "internal error")
    assert "a bug answered this call" in caplog.text


async def test_a_method_that_is_off_is_refused_without_asking_anybody() -> None:
    backend = Scripted(echo)
    outcome = await Dispatcher(backend, Notes()).answer(
        route("VM.start", migration=Migration(Setting(Mode.OFF))), Call("VM.start", ("a",))
    )
    assert outcome == Fault(FaultCode.UNAVAILABLE, "VM.start is switched off")
    assert backend.asked == []


async def test_a_guard_is_asked_first_and_its_fault_is_the_answer() -> None:
    async def deny_the_check(asked: Route, call: Call) -> Outcome:
        if asked.method == "session check":
            return Fault(FaultCode.APPLICATION, "SESSION_INVALID", "SESSION_INVALID", ["stale"])
        return await echo(asked, call)

    backend = Scripted(deny_the_check)
    guarded = route("VM.start", session_check=route("session check"))
    outcome = await Dispatcher(backend, Notes()).answer(guarded, Call("VM.start", ("stale",)))
    assert outcome == Fault(FaultCode.APPLICATION, "SESSION_INVALID", "SESSION_INVALID", ["stale"])
    assert backend.asked == ["session check"]


async def test_when_the_guard_agrees_the_method_itself_is_called() -> None:
    backend = Scripted(echo)
    guarded = route("VM.start", session_check=route("session check"))
    assert await Dispatcher(backend, Notes()).answer(guarded, Call("VM.start", ("good",))) == Reply("good")
    assert backend.asked == ["session check", "VM.start"]


async def test_a_notification_waits_for_its_guard_all_the_same() -> None:
    seen: list[tuple[str, bool]] = []

    async def look(asked: Route, call: Call) -> Outcome:
        seen.append((asked.method, call.oneway))
        return Reply()

    guarded = route("VM.start", session_check=route("session check"))
    await Dispatcher(Scripted(look), Notes()).answer(guarded, Call("VM.start", ("s",), oneway=True))
    assert seen == [("session check", False), ("VM.start", True)]


async def test_guard_and_call_share_one_deadline() -> None:
    async def slow_check(asked: Route, call: Call) -> Outcome:
        return await (hang if asked.method == "session check" else echo)(asked, call)

    keeper = dataclasses.replace(TARGET, bus_name="org.xen.xcp.keeper")
    guarded = route("VM.start", session_check=route("session check", timeout=3600.0, target=keeper), timeout=0.01)
    outcome = await Dispatcher(Scripted(slow_check), Notes()).answer(guarded, Call("VM.start", ("s",)))
    says = "no answer from org.xen.xcp.keeper within 0.01 s; VM.start was not called"
    assert outcome == Fault(FaultCode.TIMEOUT, says)


async def test_calls_in_flight_are_counted_until_they_end() -> None:
    dispatcher = Dispatcher(Scripted(hang), Notes())
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(dispatcher.answer(route(timeout=0.05), Call("echo", ("a",))))
        await asyncio.sleep(0)
        assert dispatcher.in_flight == 1
    assert isinstance(waiting.result(), Fault)
    assert dispatcher.in_flight == 0


async def test_a_cancelled_call_is_not_counted_as_in_flight() -> None:
    dispatcher = Dispatcher(Scripted(hang), Notes())
    task = asyncio.ensure_future(dispatcher.answer(route(), Call("echo", ("a",))))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert dispatcher.in_flight == 0


def test_a_refused_call_is_reported_to_each_listener_once() -> None:
    first, second = Notes(), Notes()
    dispatcher = Dispatcher(Scripted(echo), first)
    fault = Fault(FaultCode.ACCESS_DENIED, "no")
    dispatcher.add_listener(second)
    assert dispatcher.refuse(Call("x"), fault, route()) is fault
    dispatcher.remove_listener(second)
    dispatcher.refuse(Call("x"), fault, route())
    assert (len(first.lines), len(second.lines)) == (2, 1)


async def test_a_local_route_is_answered_by_the_gateway_within_its_timeout_and_reported() -> None:
    async def never(_call: Call) -> Outcome:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def broken(_call: Call) -> Outcome:
        raise KeyError("a secret that no client may see")

    async def answer(call: Call) -> Outcome:
        return Reply(call.method)

    notes, backend = Notes(), Scripted(echo)
    dispatcher = Dispatcher(backend, notes, toggles=ActiveOverrides())
    dispatcher.toggles.replace([Override("*", Setting(Mode.OFF), "alice", 1.0)])
    routes = [local_route("a", answer), replace(local_route("b", never), timeout=0.01), local_route("c", broken)]
    assert [await dispatcher.answer(each, Call(each.method)) for each in routes] == [
        Reply("a"),
        Fault(FaultCode.TIMEOUT, "no answer from the gateway itself within 0.01 s"),
        Fault(FaultCode.INTERNAL, "internal error"),
    ]
    assert [line[:2] for line in notes.lines] == [("gateway", "a"), ("gateway", "b"), ("gateway", "c")]
    assert (notes.sides, backend.asked, dispatcher.in_flight) == ([None] * 3, [], 0)


async def test_a_cancellation_from_outside_is_no_timeout_even_when_both_come_at_once() -> None:
    dispatcher = Dispatcher(Scripted(hang), Notes())
    task = asyncio.ensure_future(dispatcher.answer(route(timeout=0.0), Call("echo", ("a",))))
    asyncio.get_running_loop().call_later(0.0, task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_after_a_timeout_the_task_can_go_on_waiting() -> None:
    dispatcher = Dispatcher(Scripted(hang), Notes())
    await dispatcher.answer(route(timeout=0.0), Call("echo", ("a",)))
    task = present(asyncio.current_task())
    assert task.cancelling() == 0
    async with asyncio.timeout(TIMEOUT):
        await asyncio.sleep(0)


async def test_a_timeout_error_of_a_backend_is_a_bug_and_no_deadline() -> None:
    async def raises(_route: Route, _call: Call) -> Outcome:
        raise TimeoutError

    outcome = await Dispatcher(Scripted(raises), Notes()).answer(route(), Call("echo", ("a",)))
    assert outcome == Fault(FaultCode.INTERNAL, "internal error")


OLD = Migration(Setting(Mode.LEGACY), upstream="old")


async def test_the_old_service_answers_what_is_legacy_and_is_noted_as_that_side() -> None:
    backend, upstreams, notes = Scripted(echo), kit.Scripted({}), Notes()
    dispatcher = Dispatcher(backend, notes, upstreams=upstreams)
    assert await dispatcher.answer(route("VM.stat", migration=OLD), Call("VM.stat", ("a",))) == Reply("old")
    assert (backend.asked, upstreams.called, notes.sides) == ([], ["VM.stat"], [Side.LEGACY])


async def test_an_override_moves_a_method_while_calls_come() -> None:
    backend, upstreams, toggles = Scripted(echo), kit.Scripted({}), ActiveOverrides()
    dispatcher = Dispatcher(backend, Notes(), upstreams=upstreams, toggles=toggles)
    stat, call = route("VM.stat", migration=OLD), Call("VM.stat", ("new",))
    assert await dispatcher.answer(stat, call) == Reply("old")
    toggles.replace([Override("VM.stat", Setting(Mode.DBUS), "alice", 0.0)])
    assert await dispatcher.answer(stat, call) == Reply("new")
    toggles.replace([])
    assert await dispatcher.answer(stat, call) == Reply("old")


async def test_without_old_services_a_legacy_method_says_so() -> None:
    outcome = await Dispatcher(Scripted(echo), Notes()).answer(route(migration=OLD), Call("echo", ("a",)))
    assert outcome == Fault(FaultCode.UNAVAILABLE, "no legacy service 'old' is configured; the call was not sent")


async def test_an_old_service_that_does_not_answer_in_time_is_named() -> None:
    upstreams = kit.Scripted({}, answer=hang, timeout=0.01)
    dispatcher = Dispatcher(Scripted(echo), Notes(), upstreams=upstreams)
    outcome = await dispatcher.answer(route(migration=OLD, timeout=0.001), Call("echo", ("a",)))
    says = "no answer from the legacy service 'old' within 0.01 s; it may have been executed"
    assert outcome == Fault(FaultCode.TIMEOUT, says)


@each_case("code", FaultCode)
async def test_a_call_falls_back_only_where_nothing_was_executed_for_certain(code: FaultCode) -> None:
    async def fail(_route: Route, _call: Call) -> Outcome:
        return Fault(code, "no")

    notes, upstreams = Notes(), kit.Scripted({})
    back = route(migration=Migration(Setting(Mode.DBUS), upstream="old", fallback=True))
    told: list[tuple[str, Side, Fault]] = []
    dispatcher = Dispatcher(
        Scripted(fail),
        notes,
        upstreams=upstreams,
        on_fallback=lambda route, _call, side, fault, _seconds: told.append((route.method, side, fault)),
    )
    outcome = await dispatcher.answer(back, Call("echo"))
    if code in (FaultCode.UNAVAILABLE, FaultCode.BUSY):
        assert (outcome, notes.sides) == (Reply("old"), [Side.LEGACY])
        assert told == [("echo", Side.DBUS, Fault(code, "no"))]
    else:
        assert (outcome, notes.sides, upstreams.called) == (Fault(code, "no"), [Side.DBUS], [])
        assert told == []


async def test_a_call_that_is_only_observed_asks_the_backend_for_that_and_is_not_noted() -> None:
    backend, observing, notes = Scripted(echo), Scripted(echo), Notes()
    upstreams, apart = kit.Scripted({}), kit.Scripted({})
    dispatcher = Dispatcher(backend, notes, observing=observing, upstreams=upstreams, observing_upstreams=apart)
    guarded = route("VM.stat", session_check=route("session check"))
    assert await dispatcher.observe(Side.DBUS, guarded, Call("VM.stat", ("s",))) == Reply("s")
    assert await dispatcher.observe(Side.LEGACY, guarded, Call("VM.stat", ("s",))) == Reply("old")
    assert (backend.asked, observing.asked, notes.lines) == ([], ["session check", "VM.stat"], [])
    assert (upstreams.called, apart.called) == ([], ["VM.stat"])


async def test_an_old_service_is_not_hurried_by_a_mapping_unless_it_is_only_observed() -> None:
    async def slow(_route: Route, _call: Call) -> Outcome:
        await asyncio.sleep(0.02)
        return Reply("old")

    dispatcher = Dispatcher(Scripted(echo), Notes(), upstreams=kit.Scripted({}, answer=slow))
    stat = route("VM.stat", migration=OLD, timeout=0.001, effect=Effect.READ)
    assert await dispatcher.answer(stat, Call("VM.stat")) == Reply("old")
    late = Fault(FaultCode.TIMEOUT, "no answer from the legacy service 'old' within 0.001 s")
    assert await dispatcher.observe(Side.LEGACY, stat, Call("VM.stat")) == late


async def test_a_whole_message_has_a_deadline_too() -> None:
    class Mute(kit.Scripted):
        async def forward(
            self,
            upstream: str,
            body: bytes,
            carried: RequestMetadata,
            *,
            repeatable: bool = False,
            wanted: Wanted = always,
        ) -> Answer | Fault:
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

    dispatcher = Dispatcher(Scripted(echo), Notes(), upstreams=Mute({}, timeout=0.01))
    fault = await dispatcher.forward("old", b"", NO_METADATA)
    says = "no answer from the legacy service 'old' within 0.01 s; it may have been executed"
    assert fault == Fault(FaultCode.TIMEOUT, says)
    assert dispatcher.in_flight == 0


async def test_a_whole_message_for_nobody_is_refused() -> None:
    dispatcher = Dispatcher(Scripted(echo), Notes())
    assert not dispatcher.speaks("old", "xmlrpc", "plain")
    fault = await dispatcher.forward("old", b"", NO_METADATA)
    assert fault == Fault(FaultCode.UNAVAILABLE, "no legacy service 'old' is configured; the call was not sent")


# Clients that leave


@pytest.mark.parametrize(
    ("said", "effect", "noted", "warns"),
    [
        ((NOT_SENT,), Effect.WRITE, WITHDRAWN, False),
        ((), Effect.WRITE, ABANDONED, True),
        ((), Effect.READ, ABANDONED, False),
    ],
)
async def test_a_call_whose_client_leaves_is_noted_as_what_is_known_of_it(
    said: tuple[str, ...], effect: Effect, noted: Fault, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def wait(_route: Route, _call: Call) -> Outcome:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            error.args = (*error.args, *said)
            raise
        raise AssertionError("unreachable")

    notes = Notes()
    dispatcher = Dispatcher(Scripted(wait), notes)
    task = asyncio.ensure_future(dispatcher.answer(route("VM.start", effect=effect), Call("VM.start")))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert (task.cancelled(), dispatcher.in_flight) == (True, 0)
    assert notes.lines == [("toy", "VM.start", noted)]
    assert notes.sides == [Side.DBUS]
    assert ("it is unknown whether the call was executed" in caplog.text) is warns


async def test_a_call_whose_client_leaves_while_its_guard_is_asked_was_not_sent() -> None:
    notes = Notes()
    guarded = route("VM.start", session_check=route("session_check"), effect=Effect.WRITE)
    task = asyncio.ensure_future(Dispatcher(Scripted(hang), notes).answer(guarded, Call("VM.start")))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert notes.lines == [("toy", "VM.start", WITHDRAWN)]


async def test_a_deadline_that_passes_in_line_says_that_the_call_was_not_sent() -> None:
    async def wait(_route: Route, _call: Call) -> Outcome:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            error.args = (*error.args, NOT_SENT)
            raise
        raise AssertionError("unreachable")

    start = route("VM.start", effect=Effect.WRITE, timeout=0.001)
    fault = expect(Fault, await Dispatcher(Scripted(wait), Notes()).answer(start, Call("VM.start")))
    assert fault.message == "no answer from org.xen.xcp.toy within 0.001 s; the call was not sent"


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
    notes, toggles, line, new = Notes(), ActiveOverrides(), Line(), Scripted(echo)
    dispatcher = Dispatcher(new, notes, upstreams=line, toggles=toggles)
    start = route("VM.start", migration=OLD, effect=Effect.WRITE)
    other = route("VM.stop", migration=OLD, effect=Effect.WRITE)
    moves = asyncio.ensure_future(dispatcher.answer(start, Call("VM.start", ("a",))))
    stays = asyncio.ensure_future(dispatcher.answer(other, Call("VM.stop", ("b",))))
    await asyncio.sleep(0)
    toggles.replace([Override("toy/VM.start", Setting(mode), "alice", 1.0)])
    assert await asyncio.wait_for(moves, TIMEOUT) == outcome
    assert (notes.sides, not stays.done()) == ([side], True)
    assert new.asked == (["VM.start"] if side else [])
    assert line.called == ["VM.start", "VM.stop"]
    stays.cancel()
    await asyncio.wait({stays})


async def test_a_call_for_a_task_that_waits_is_not_made_on_d_bus_when_its_mode_changes() -> None:
    """D-Bus would answer with the result, where the client expects the reference of a task."""
    toggles, line, new = ActiveOverrides(), Line(), Scripted(echo)
    dispatcher = Dispatcher(new, Notes(), upstreams=line, toggles=toggles)
    start = route("VM.start", migration=OLD, effect=Effect.WRITE)
    task = replace(start, method="Async.VM.start", task_of=start)
    waits = asyncio.ensure_future(dispatcher.answer(task, Call("Async.VM.start", ("a",))))
    await asyncio.sleep(0)
    toggles.replace([Override("toy/VM.start", Setting(Mode.DBUS), "alice", 1.0)])
    outcome = expect(Fault, await asyncio.wait_for(waits, TIMEOUT))
    assert outcome.message.startswith("Async.VM.start has no side that answers: ")
    assert new.asked == []


async def test_a_call_that_waits_at_its_service_gives_back_its_slot() -> None:
    slots: list[str] = []
    connection = PeerConnection()

    def wait() -> Callable[[], object]:
        slots.append("freed")
        return lambda: slots.append("taken")

    waiting = replace(route("Hold"), waits=True)
    dispatcher, call = Dispatcher(Scripted(echo)), Call("hold", ("x",), peer=Peer(connection=connection))
    connection.on_wait = wait
    assert await dispatcher.answer(waiting, call) == Reply("x")
    assert slots == ["freed", "taken"]
    connection.on_wait = lambda: None
    fault = await dispatcher.answer(waiting, call)
    assert isinstance(fault, Fault)
    assert fault.code is FaultCode.BUSY
    assert dispatcher.in_flight == 0
