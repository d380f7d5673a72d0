"""Recorded calls on both sides: compared as a client sees them, skipped where they may do harm, never counted."""

from __future__ import annotations

from typing import Any

from gateway.core.migration.modes import Mode, Side
from gateway.core.routing.call_record import recorded
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Reply
from gateway.pipeline.replay import ReplayRequest, ReplayResult
from tests.kit.cases import each_case
from tests.kit.traffic import SESSION, Sides, line

GIVEN = {"session": SESSION}


async def replayed(sides: Sides, document: dict[str, Any] | None = None, **wish: Any) -> ReplayResult:
    wanted = ReplayRequest(**{"given": GIVEN, **wish})
    (result,) = await sides.replaying.run([recorded(document or line())], wanted, "alice")
    return result


@each_case("mode", [Mode.LEGACY, Mode.DBUS, Mode.OFF])
async def test_both_sides_are_asked_whatever_the_mode_is(mode: Mode) -> None:
    sides = Sides(setting=mode)
    result = await replayed(sides)
    assert (result.service, result.method, result.verdict, result.pair) == ("xapi", "VM.get_name", "equal", None)
    assert [(side, call.params) for side, call in sides.asked] == [
        (Side.LEGACY, (SESSION, "vm")), (Side.DBUS, (SESSION, "vm")),
    ]  # fmt: skip
    assert result.legacy is not None
    assert result.dbus is not None


async def test_what_differs_is_a_pair_without_its_secrets() -> None:
    sides = Sides()
    sides.new = lambda call: Reply(f"{call.params[1]!s} of {SESSION}")
    result = await replayed(sides)
    assert (result.verdict, result.dbus is not None) == ("different", True)
    assert isinstance(result.pair, dict)
    assert result.pair["call"] == {"method": "VM.get_name", "params": [{"$redacted": "text"}, "vm"], "named": {}}
    assert result.pair["differences"] == [{"path": "$", "control": "vm", "candidate": "vm of (redacted)"}]
    assert result.pair["caller"] == "replay"


async def test_outcomes_are_compared_as_the_client_sees_them() -> None:
    sides = Sides("jsonrpc")
    sides.old, sides.new = lambda _: Reply("aGk="), lambda _: Reply(b"hi")
    assert (await replayed(sides, line(codec="jsonrpc"))).verdict == "equal"


async def test_a_side_that_fails_where_the_other_does_not_is_told() -> None:
    sides = Sides()
    sides.new = lambda _: Fault(FaultCode.UNAVAILABLE, "away")
    assert (await replayed(sides)).verdict == "error_different"


@each_case(
    ("old", "new", "why"),
    [
        (Fault(FaultCode.UNAVAILABLE, "away"), Reply("vm"), "legacy: away"),
        (Fault(FaultCode.TIMEOUT, "late"), Fault(FaultCode.TIMEOUT, "late too"), "legacy: late"),
        (Reply("vm"), Fault(FaultCode.BUSY, "no room"), "dbus: no room"),
    ],
)
async def test_nothing_is_compared_where_one_side_said_nothing(old: Outcome, new: Outcome, why: str) -> None:
    sides = Sides()
    sides.old, sides.new = lambda _: old, lambda _: new
    result = await replayed(sides)
    assert (result.verdict, result.why, result.pair) == ("unanswered", why, None)


async def test_what_the_control_contradicts_itself_in_is_no_difference_when_it_is_asked_twice() -> None:
    sides = Sides()
    answers = iter(range(100))

    def count(_: Call) -> Outcome:
        return Reply({"now": next(answers), "same": 1})

    sides.old = sides.new = count
    assert (await replayed(sides)).verdict == "different"
    assert (await replayed(sides, noise=True)).verdict == "ignored"
    assert [side.value for side, _ in sides.asked[2:]] == ["legacy", "dbus", "legacy"]


async def test_a_name_of_old_leads_to_its_method() -> None:
    assert (await replayed(Sides(), line("VM.name"))).method == "VM.get_name"


@each_case(
    ("document", "why"),
    [
        (line(path="/other"), "no endpoint rpc /other speaks xmlrpc"),
        (line(codec="jsonrpc"), "no endpoint rpc /RPC2 speaks jsonrpc"),
        (line("VM.nope"), "not mapped at rpc /RPC2"),
        (line("VM.get_new"), "it has no legacy service"),
        (line("VM.set_name"), "its effect is write: it would run twice"),
        (line(params=[{"$redacted": "text"}, 2**70]), "xmlrpc cannot carry this call"),
    ],
)
async def test_a_call_that_cannot_or_may_not_be_made_is_skipped_and_told_why(document: Any, why: str) -> None:
    sides = Sides()
    result = await replayed(sides, document)
    assert (result.verdict, result.why, sides.asked) == ("skipped", why, [])


async def test_a_place_that_was_masked_and_is_not_given_is_named() -> None:
    sides = Sides()
    result = await replayed(sides, line(named={"config": {"password": {"$redacted": "text"}}}), given={})
    assert (result.verdict, result.missing) == ("skipped", ("session", "config.password"))
    assert result.why == "redacted, and not given: session, config.password"
    assert sides.asked == []


async def test_a_write_runs_on_both_sides_only_when_it_is_asked_for_and_never_a_third_time() -> None:
    sides = Sides()
    result = await replayed(sides, line("VM.set_name"), writes=True, noise=True)
    assert (result.verdict, [side for side, _ in sides.asked]) == ("equal", [Side.LEGACY, Side.DBUS])


async def test_calls_are_made_in_their_order_one_after_another() -> None:
    sides = Sides()
    documents = [recorded(line(params=["S", name])) for name in ("a", "b")]
    await sides.replaying.run(documents, ReplayRequest(), "alice")
    assert [call.params[1] for _, call in sides.asked] == ["a", "a", "b", "b"]
