from __future__ import annotations

import json
from dataclasses import replace

import pytest

from gateway.core.admin.records import Json
from gateway.core.migration.modes import Mode, Setting
from gateway.core.migration.rollout_plan import OnBreach, Progress, RolloutState, RolloutStep
from gateway.migration.rollout_storage import RolloutDocument, read, write
from gateway.state.clock import ClockReading
from tests.kit.migrations import PLAN, counts, side

DOCUMENT = RolloutDocument(
    replace(PLAN, on_breach=OnBreach.STEP_DOWN),
    Progress(RolloutState.WAITING, 1, 5.0, baseline=side(7, errors=1, seconds=0.1), why="so"),
    "alice",
    1.5,
    {"xenopsd/VM.start": counts(compared=3, different=1, calls=5, seconds=0.01)},
)


def test_a_document_is_the_same_after_a_restart() -> None:
    assert read(json.loads(json.dumps(write(DOCUMENT)))) == DOCUMENT
    fresh = RolloutDocument(PLAN, Progress(), "alice", 1.0)
    assert read(json.loads(json.dumps(write(fresh)))) == fresh


def test_the_beginning_of_a_step_is_read_by_the_clock_of_this_process() -> None:
    written = write(DOCUMENT)
    assert isinstance(written, dict)
    here = ClockReading.read(str(written["clock"]))
    earlier = replace(here, began=here.began - 100.0)  # a process whose wall clock was set otherwise as it began
    read_back = read({**written, "clock": str(earlier)})
    assert isinstance(read_back, RolloutDocument)
    assert read_back.progress.since == DOCUMENT.progress.since + 100.0
    assert isinstance(read({**written, "clock": "no clock"}), str)


def test_a_document_is_readable_for_people() -> None:
    written = write(DOCUMENT)
    assert isinstance(written, dict)
    assert written["progress"]["state"] == "waiting"
    assert written["plan"]["on_breach"] == "step-down"


@pytest.mark.parametrize("damage", [None, [], {}, {"plan": 5}, "text"])
def test_what_another_version_wrote_is_told_in_words(damage: Json) -> None:
    said = read(damage)
    assert isinstance(said, str)
    assert said.startswith("cannot be read by this version of the gateway: ")


@pytest.mark.parametrize(("step", "steps"), [(4, PLAN.steps), (-1, PLAN.steps), (0, ())])
def test_a_document_at_a_step_that_its_plan_does_not_have_cannot_be_read(
    step: int, steps: tuple[RolloutStep, ...]
) -> None:
    said = read(write(RolloutDocument(replace(PLAN, steps=steps), Progress(step=step), "alice", 1.0)))
    assert said == (
        f"cannot be read by this version of the gateway: it is at step {step}, and its plan has {len(steps)}"
    )


def test_a_step_that_begins_has_no_counts_yet() -> None:
    progress = DOCUMENT.progress
    assert DOCUMENT.at(replace(progress, state=RolloutState.PAUSED)).start == DOCUMENT.start
    assert DOCUMENT.at(replace(progress, step=2, since=9.0)).start is None


def test_a_document_says_where_it_is_and_whether_it_is_over() -> None:
    assert DOCUMENT.step.setting == Setting(Mode.CANARY, 10_000, observe=True)
    assert not DOCUMENT.over
    assert replace(DOCUMENT, progress=Progress(RolloutState.DONE)).over
