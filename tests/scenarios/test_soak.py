"""`make soak` in its short form, and that its judge would not let pass what must not be."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from gateway.core.rpc.model import FaultCode
from tests.kit.programs import ROOT
from tests.soak import verdict
from tests.soak.crowding import NUISANCES, chosen
from tests.soak.gauges import Memory, Reading
from tests.soak.healthy import Asked
from tests.soak.story import Disturbance, Ending, Ledger, Story
from tests.soak.verdict import Check
from tests.soak.world import CALM

SECONDS = "12"
HELD = Reading(
    descriptors=20,
    threads=2,
    tasks=10,
    in_flight=0,
    buffered=0,
    on_buses=0,
    unanswered=0,
    connections=8,
    late_replies=0,
)


@pytest.mark.timeout(1800)  # seconds; 12 of them are its own, the rest is for a machine that has other things to do
def test_everything_holds_while_harm_is_done() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.soak"],
        env={"SEED": "1", **os.environ, "SOAK_SECONDS": SECONDS, "SOAK_SLACK": "30"},
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    sys.stdout.write(ended.stdout)
    assert ended.returncode == 0, ended.stdout[ended.stdout.rfind("└") :]  # the offences: they stand after the tables


def told(ending: Ending, code: FaultCode | None = None, text: str = "", service: str = "alpha") -> Story:
    """A write from second 10 to second 11."""
    return Story("t", service, "write", "a client", 10.0, 11.0, ending, code, text)


def ledger_of(*stories: Story, harm: Iterable[Disturbance] = ()) -> Ledger:
    ledger = Ledger(disturbances=[*harm])
    for story in stories:
        ledger.keep(story, "a client", calm=story.service == CALM)
    return ledger


def broken(checks: Iterable[Check]) -> list[str]:
    return [check.what for check in checks if not check.holds and not check.what.startswith("calls that went right")]


@pytest.mark.parametrize(
    ("story", "what"),
    [
        (told(Ending.SILENT), "calls without an answer"),
        (told(Ending.WRONG), "wrong answers"),
        (told(Ending.FAULT, FaultCode.UNAVAILABLE), "faults that do not fit what happened"),
        (told(Ending.FAULT, FaultCode.BUSY, service="alpha"), "faults that do not fit what happened"),
    ],
    ids=str,
)
def test_an_answer_that_is_missing_wrong_or_without_a_cause_is_found(story: Story, what: str) -> None:
    assert broken(verdict.judge_calls(ledger_of(story))) == [what]


@pytest.mark.parametrize(
    ("kind", "place", "began", "ended", "code", "fits"),
    [
        ("service: kill", "alpha", 10.5, 12.0, FaultCode.UNAVAILABLE, True),
        ("service: kill", "alpha", 10.5, 12.0, FaultCode.INTERNAL, False),
        ("service: kill", "alpha", 10.5, 12.0, FaultCode.TIMEOUT, False),
        ("service: kill", "alpha", 11.5, 12.0, FaultCode.UNAVAILABLE, False),  # only afterwards
        ("service: kill", "beta", 10.5, 12.0, FaultCode.UNAVAILABLE, False),
        ("broker: kill", "one", 9.0, 10.1, FaultCode.NO_REPLY, True),
        ("broker: kill", "two", 9.0, 10.1, FaultCode.NO_REPLY, False),
        ("service: stop", "alpha", 9.0, 12.0, FaultCode.TIMEOUT, True),
        ("service: stop", "alpha", 9.0, 12.0, None, False),
        ("legacy service: kill", "alpha", 9.0, 12.0, FaultCode.UNAVAILABLE, True),
        ("legacy service: kill", "alpha", 9.0, 12.0, FaultCode.TIMEOUT, False),
        ("store: kill", "store", 9.0, 12.0, FaultCode.UNAVAILABLE, False),  # what it forgot is asked again
    ],
)
def test_a_fault_must_fit_what_was_done_then_and_there(
    kind: str, place: str, began: float, ended: float, code: FaultCode | None, fits: bool
) -> None:
    harm = Disturbance(kind, place, began, ended)
    assert verdict.is_expected(told(Ending.FAULT, code), [harm]) is fits


def test_an_unknown_outcome_must_be_called_so() -> None:
    harm = [Disturbance("service: stop and kill", "alpha", 9.0, 12.0)]
    curt = told(Ending.FAULT, FaultCode.NO_REPLY, "gone")
    clear = told(Ending.FAULT, FaultCode.NO_REPLY, "gone; it is unknown whether the call was executed")
    assert broken(verdict.judge_calls(ledger_of(curt, harm=harm))) == [
        "writes whose outcome is not known, and not called so"
    ]
    assert broken(verdict.judge_calls(ledger_of(clear, harm=harm))) == []


FALSE = "writes about which the client was told wrong"
TWICE = "writes executed twice"


@pytest.mark.parametrize(
    ("story", "times", "what"),
    [
        (told(Ending.RIGHT), 1, []),
        (told(Ending.RIGHT), 0, [FALSE]),
        (told(Ending.RIGHT), 2, [TWICE, FALSE]),
        (told(Ending.FAULT, FaultCode.UNAVAILABLE), 0, []),
        (told(Ending.FAULT, FaultCode.UNAVAILABLE), 1, [FALSE]),
        (told(Ending.FAULT, FaultCode.BUSY), 1, [FALSE]),
        (told(Ending.FAULT, FaultCode.NO_REPLY), 1, []),
        (told(Ending.FAULT, FaultCode.TIMEOUT), 2, [TWICE, FALSE]),
        (told(Ending.LEFT), 0, []),
        (told(Ending.NOTIFIED), 1, []),
        (told(Ending.NOTIFIED), 0, ["notifications lost without a cause"]),
    ],
)
def test_what_a_client_was_told_is_held_against_the_journal(story: Story, times: int, what: list[str]) -> None:
    assert broken(verdict.judge_journals(ledger_of(story), {"alpha": ["t"] * times})) == what


def test_a_journal_entry_that_nobody_asked_for_is_found() -> None:
    assert broken(verdict.judge_journals(ledger_of(), {"beta": ["x"]})) == ["journal entries that nobody asked for"]


def test_what_stands_in_the_store_is_found_unless_its_client_left() -> None:
    left, answered = told(Ending.LEFT), told(Ending.RIGHT)
    assert broken([verdict.judge_store(ledger_of(left), ["t"])]) == []
    assert broken([verdict.judge_store(ledger_of(answered), ["t"])]) == ["nodes in the store that nobody left there"]
    assert not verdict.judge_store(ledger_of(left), ["t", "/tool/xcp-gateway/claims/ab/cd"]).holds


def test_a_calm_call_that_was_held_up_is_found_unless_its_bus_was_down() -> None:
    slow = Story("t", CALM, "read", "a client", 10.0, 13.0, Ending.RIGHT)
    quick = Story("t", CALM, "read", "a client", 10.0, 10.1, Ending.RIGHT)
    later = Story("t", CALM, "read", "a client", 20.0, 20.1, Ending.RIGHT)
    others = [Disturbance("service: stop", "alpha", 9.0, 14.0)]
    assert verdict.judge_calm(ledger_of(quick, harm=others)).holds
    assert not verdict.judge_calm(ledger_of(slow, harm=others)).holds
    assert verdict.judge_calm(ledger_of(slow, later, harm=[Disturbance("broker: stop", "one", 9.0, 14.0)])).holds
    assert not verdict.judge_calm(ledger_of()).holds


def healthy_calls(**changes: Any) -> list[Asked]:
    """Many that went right, and one that did not."""
    return [*(Asked(f"r{number}", "read", 0.01, "right") for number in range(30)), Asked(**WRITE | changes)]


WRITE: dict[str, Any] = {"token": "w", "method": "write", "took": 0.01, "said": "right"}


@pytest.mark.parametrize(
    ("changes", "journal", "what"),
    [
        ({}, ["w"], []),
        ({"said": "no answer: TimeoutError()"}, ["w"], ["calls without an answer"]),
        ({"said": '{"code": -32001}'}, [], ["other answers"]),
        ({"took": 1.5}, ["w"], ["99th percentile"]),
        ({}, ["w", "w"], ["writes executed twice"]),
        ({}, [], ["writes told and not done"]),
    ],
)
def test_a_healthy_client_that_is_troubled_is_found(
    changes: dict[str, Any], journal: list[str], what: list[str]
) -> None:
    found = broken(verdict.judge_healthy({"http": healthy_calls(**changes)}, journal))
    assert found == [f"healthy client, http: {each}" for each in what]


def test_a_machine_that_has_other_things_to_do_takes_longer() -> None:
    assert broken(verdict.judge_healthy({"http": healthy_calls(took=1.5)}, ["w"], slack=2)) == []


def test_a_healthy_client_that_hardly_called_has_shown_nothing() -> None:
    assert broken(verdict.judge_healthy({"http": []}, [])) == ["healthy client, http: calls"]


@pytest.mark.parametrize(
    ("wish", "names"),
    [
        *((wish, [*NUISANCES]) for wish in ("", "all")),
        ("none", []),
        ("slow reader, hung service", ["hung service", "slow reader"]),
        ("-hung service", [*NUISANCES][1:]),
    ],
)
def test_which_nuisances_are_meant(wish: str, names: list[str]) -> None:
    assert [*chosen(wish)] == names


def test_a_nuisance_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="NUISANCES: no noise; there are: hung service, "):
        chosen("noise")


@pytest.mark.parametrize("name", ["descriptors", "threads", "tasks", "in_flight", "buffered", "on_buses", "unanswered"])
def test_what_is_still_held_is_found(name: str) -> None:
    after = replace(HELD, **{name: 40})
    flat = Memory(0, [1000] * 36)
    assert broken(verdict.judge_gauges(HELD, HELD, flat)) == []
    assert broken(verdict.judge_gauges(HELD, after, flat)) == after.held_beside(HELD) == [name]


def test_memory_that_grows_after_the_first_third_is_found() -> None:
    rising = Memory(0, [at * 1024 for at in range(36)])
    early = Memory(0, [min(at, 9) * 1024 * 10 for at in range(36)])
    swinging = Memory(0, [(at // 2 % 2) * 1024 * 100 for at in range(36)])
    assert broken(verdict.judge_gauges(HELD, HELD, rising)) == ["memory, after a third -> at the end"]
    assert broken(verdict.judge_gauges(HELD, HELD, early)) == []
    assert broken(verdict.judge_gauges(HELD, HELD, swinging)) == []


def test_a_traceback_and_an_end_in_haste_are_found_in_the_log() -> None:
    peace, bugs = '{"event":"stopped, nothing in flight"}', ["bugs in the gateway's log"]
    assert broken(verdict.judge_log([peace], 0)) == []
    assert broken(verdict.judge_log(["Traceback (most recent call last):", peace], 0)) == bugs
    assert broken(verdict.judge_log(['{"event":"a bug answered this call"}', peace], 0)) == [
        "bugs in the gateway's log"
    ]
    assert broken(verdict.judge_log(['{"event":"stopped after 10 s, 1 calls cut off"}'], 0)) == ["end of the gateway"]
    assert broken(verdict.judge_log([peace], -9)) == ["end of the gateway"]
