"""`make soak` in its short form, and that its judge would not let pass what must not be."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence

import pytest

from gateway.core.rpc.model import FaultCode
from tests.kit.cases import each_case
from tests.kit.programs import ROOT
from tests.soak import verdict
from tests.soak.gauges import FITS
from tests.soak.healthy import Asked
from tests.soak.story import Disturbance, Ending, Ledger, Story
from tests.soak.verdict import Check
from tests.soak.world import CALM

FALSE, TWICE = "writes about which the client was told wrong", "writes executed twice"
STRANGE = "faults that do not fit what happened"


@pytest.mark.timeout(1800)  # seconds; 12 of them are its own, the rest is for a machine that has other things to do
def test_everything_holds_while_harm_is_done() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.soak"],
        env={"SEED": "1", **os.environ, "SOAK_SECONDS": "12", "SOAK_SLACK": "30"},
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    sys.stdout.write(ended.stdout)
    assert ended.returncode == 0, ended.stdout[ended.stdout.rfind("└") :]  # the offences: they stand after the tables


def told(ending: Ending, code: FaultCode | None = None, text: str = "is unknown", service: str = "alpha") -> Story:
    """A write from second 10 to second 11."""
    return Story("t", service, "write", "a client", 10.0, 11.0, ending, code, text)


def ledger_of(*stories: Story, harm: Iterable[Disturbance] = ()) -> Ledger:
    ledger = Ledger(disturbances=[*harm])
    for story in stories:
        ledger.keep(story, "a client", calm=story.service == CALM)
    return ledger


def broken(*checks: Check) -> list[str]:
    return [check.what for check in checks if not check.holds and not check.what.startswith("calls that went right")]


def fault(code: FaultCode, text: str = "is unknown") -> Story:
    return told(Ending.FAULT, code, text)


@each_case(
    ("story", "times", "what"),
    [
        (told(Ending.RIGHT), 1, []),
        (told(Ending.RIGHT), 0, [FALSE]),
        (told(Ending.RIGHT), 2, [TWICE, FALSE]),
        (told(Ending.SILENT), 1, ["calls without an answer"]),
        (told(Ending.WRONG), 1, ["wrong answers"]),
        (fault(FaultCode.UNAVAILABLE), 0, []),
        (fault(FaultCode.UNAVAILABLE), 1, [FALSE]),
        (fault(FaultCode.BUSY), 1, [STRANGE, FALSE]),
        (fault(FaultCode.NO_REPLY), 1, []),
        (fault(FaultCode.NO_REPLY), 2, [TWICE, FALSE]),
        (fault(FaultCode.NO_REPLY, "gone"), 1, ["writes whose outcome is not known, and not called so"]),
        (told(Ending.LEFT), 0, []),
        (told(Ending.NOTIFIED, service=CALM), 0, ["notifications lost without a cause"]),
    ],
)
def test_what_a_client_was_told_must_fit_the_harm_and_the_journal(story: Story, times: int, what: list[str]) -> None:
    ledger = ledger_of(story, harm=[Disturbance("service: kill", "alpha", 10.5, 12.0)])
    journals = {story.service: ["t"] * times}
    assert broken(*verdict.judge_calls(ledger), *verdict.judge_journals(ledger, journals)) == what


@each_case(
    ("kind", "place", "began", "ended", "code", "fits"),
    [
        ("service: kill", "alpha", 10.5, 12.0, FaultCode.TIMEOUT, False),
        ("service: kill", "alpha", 11.5, 12.0, FaultCode.UNAVAILABLE, False),  # only afterwards
        ("service: kill", "beta", 10.5, 12.0, FaultCode.UNAVAILABLE, False),
        ("broker: kill", "one", 9.0, 10.1, FaultCode.NO_REPLY, True),
        ("broker: kill", "two", 9.0, 10.1, FaultCode.NO_REPLY, False),
        ("service: stop", "alpha", 9.0, 12.0, FaultCode.TIMEOUT, True),
        ("service: stop", "alpha", 9.0, 12.0, None, False),
        ("legacy service: kill", "alpha", 9.0, 12.0, FaultCode.UNAVAILABLE, True),
        ("store: kill", "store", 9.0, 12.0, FaultCode.UNAVAILABLE, False),  # what it forgot is asked again
    ],
)
def test_a_fault_must_fit_what_was_done_then_and_there(
    kind: str, place: str, began: float, ended: float, code: FaultCode | None, fits: bool
) -> None:
    harm = Disturbance(kind, place, began, ended)
    assert verdict.is_expected(told(Ending.FAULT, code), [harm]) is fits


def test_what_nobody_asked_for_is_found_in_journals_and_stores() -> None:
    assert broken(*verdict.judge_journals(ledger_of(), {"beta": ["x"]})) == ["journal entries that nobody asked for"]
    left, answered = ledger_of(told(Ending.LEFT)), ledger_of(told(Ending.RIGHT))
    assert verdict.judge_store(left, ["t"]).holds
    assert not verdict.judge_store(answered, ["t"]).holds
    assert not verdict.judge_store(left, ["t", "/tool/xcp-gateway/claims/ab/cd"]).holds


def test_a_calm_call_that_was_held_up_is_found_unless_its_bus_was_down() -> None:
    slow, later = (Story("t", CALM, "read", "a client", at, at + took) for at, took in ((10.0, 3.0), (20.0, 0.1)))
    others = [Disturbance("service: stop", "alpha", 9.0, 14.0)]
    assert verdict.judge_calm(ledger_of(later, harm=others)).holds
    assert not verdict.judge_calm(ledger_of(slow, harm=others)).holds
    assert verdict.judge_calm(ledger_of(slow, later, harm=[Disturbance("broker: stop", "one", 9.0, 14.0)])).holds
    assert not verdict.judge_calm(ledger_of()).holds


WRITE = Asked("w", "write", 0.01, "right")
READS = [Asked(f"r{number}", "read", 0.01, "right") for number in range(30)]


@each_case(
    ("calls", "journal", "what"),
    [
        ([*READS, WRITE], ["w"], []),
        ([], [], ["calls"]),
        ([*READS, Asked("w", "write", 0.01, "no answer: TimeoutError()")], ["w"], ["calls without an answer"]),
        ([*READS, Asked("w", "write", 0.01, '{"code": -32001}')], [], ["other answers"]),
        ([*READS, Asked("w", "write", 1.5, "right")], ["w"], ["99th percentile"]),
        ([*READS, WRITE], ["w", "w"], ["writes executed twice"]),
        ([*READS, WRITE], [], ["writes told and not done"]),
    ],
)
def test_a_healthy_client_that_is_troubled_is_found(calls: list[Asked], journal: list[str], what: list[str]) -> None:
    found = broken(*verdict.judge_healthy({"http": calls}, journal))
    assert found == [f"healthy client, http: {each}" for each in what]


GROWS = "memory, after a third -> at the end"


@each_case(
    ("held", "memory", "what"),
    [
        ({}, [1000] * 36, []),
        *(({name: 40}, [1000] * 36, [name]) for name in FITS),
        ({}, [at * 1024 for at in range(36)], [GROWS]),
        ({}, [min(at, 9) * 10240 for at in range(36)], []),  # only in the beginning
        ({}, [at // 2 % 2 * 102400 for at in range(36)], []),  # it comes and goes
    ],
)
def test_what_is_still_held_is_found(held: dict[str, int], memory: Sequence[int], what: list[str]) -> None:
    before = dict.fromkeys(FITS, 0)
    assert broken(*verdict.judge_gauges(before, before | held, memory)) == what


PEACE = '{"event":"stopped, nothing in flight"}'


@each_case(
    ("lines", "status", "what"),
    [
        ([PEACE], 0, []),
        (["Traceback (most recent call last):", PEACE], 0, ["bugs in the gateway's log"]),
        (['{"event":"a bug answered this call"}', PEACE], 0, ["bugs in the gateway's log"]),
        (['{"event":"stopped after 10 s, 1 calls cut off"}'], 0, ["end of the gateway"]),
        ([PEACE], -9, ["end of the gateway"]),
    ],
)
def test_bugs_and_an_end_in_haste_are_found_in_the_log(lines: list[str], status: int, what: list[str]) -> None:
    assert broken(*verdict.judge_log(lines, status)) == what
