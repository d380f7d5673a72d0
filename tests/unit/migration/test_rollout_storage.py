"""Rollouts as they are stored, and the names by which people ask for them."""

from __future__ import annotations

import json

from msgspec.structs import replace

from gateway.core.admin.records import Json
from gateway.core.migration.modes import Mode, Setting
from gateway.core.migration.rollout_plan import OnBreach, Progress, RolloutPlan, RolloutState, RolloutStep
from gateway.core.routing.overrides import By, Override
from gateway.core.routing.route import Route
from gateway.migration.rollout_storage import (
    RolloutDocument,
    find,
    members,
    read,
    set_by_persons,
    subject_of,
    unmovable,
    write,
)
from gateway.state.clock import ClockReading
from tests.kit.cases import each_case, expect
from tests.kit.migrations import PLAN, counts, movable, side

START, STOP, LIST = movable("VM.start", "life"), movable("VM.stop", "life"), movable("VM.list", aliases=("VM.get_all",))
OTHER = movable("VM.list", service="xapi")
ROUTES = [START, STOP, LIST]


def _changed(route: Route, **migration: object) -> Route:
    return replace(route, migration=replace(route.migration, **migration))


def test_a_method_moves_alone_or_with_its_group() -> None:
    assert [subject_of(route) for route in ROUTES] == ["group:life", "group:life", "xenopsd/VM.list"]
    assert members("group:life", ROUTES) == (START, STOP)
    assert members("xenopsd/VM.start", ROUTES) == ()


@each_case("name", ["VM.list", "xenopsd/VM.list", "VM.get_all"])
def test_a_person_may_say_a_method_in_several_ways(name: str) -> None:
    assert find(name, ROUTES) == (LIST,)


@each_case(
    ("name", "words"),
    [
        ("VM.lst", "'VM.lst' is neither a mapped method nor a group (did you mean 'VM.list'?)"),
        ("group:live", "'group:live' is neither a mapped method nor a group (did you mean 'group:life'?)"),
        ("VM.start", "VM.start moves with its group: say group:life"),
        ("VM.list", "VM.list is a method of several services: say xapi/VM.list or xenopsd/VM.list"),
    ],
)
def test_what_a_person_cannot_mean_is_told_in_words(name: str, words: str) -> None:
    assert find(name, [*ROUTES, OTHER]) == words


def test_what_cannot_begin_to_move_says_why() -> None:
    assert unmovable((LIST,)) == ""
    alone = _changed(LIST, upstream=None)
    assert unmovable((LIST, alone)).startswith("no legacy service answers VM.list")
    assert unmovable((_changed(LIST, setting=Setting(Mode.OFF)),)) == "VM.list is switched off (toy.yaml:1)"
    keyless = _changed(LIST, key=None)
    assert unmovable((keyless,)).startswith("a canary of VM.list has no key to divide by")
    straight = replace(
        keyless, rollout=RolloutPlan("p", (RolloutStep(Setting(Mode.SHADOW)), RolloutStep(Setting(Mode.DBUS))))
    )
    assert unmovable((straight,)) == ""


def _override(pattern: str, mode: Mode = Mode.LEGACY, by: By = "person", until: float | None = None) -> Override:
    return Override(pattern, Setting(mode), "bob", 1.0, "", until, by)


def test_what_a_person_has_set_for_any_member_stops_them_all_while_it_lasts() -> None:
    for pattern in ("VM.stop", "xenopsd/VM.stop", "*", "group:life"):
        assert set_by_persons((START, STOP), [_override(pattern)], 5.0) == [_override(pattern)]
    strongest = [_override("*"), _override("VM.stop", Mode.OFF)]
    assert set_by_persons((START, STOP), strongest, 5.0)[0] == strongest[1]
    others = [_override("VM.list"), _override("VM.stop", until=5.0), _override("group:life", by="rollout")]
    assert set_by_persons((START, STOP), others, 5.0) == []
    assert set_by_persons((_changed(STOP, upstream=None),), [_override("*")], 5.0) == []  # nothing goes back to nowhere


# Documents


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
    written = expect(dict, write(DOCUMENT))
    here = ClockReading.read(str(written["clock"]))
    earlier = replace(here, began=here.began - 100.0)  # a process whose wall clock was set otherwise as it began
    read_back = expect(RolloutDocument, read({**written, "clock": str(earlier)}))
    assert read_back.progress.since == DOCUMENT.progress.since + 100.0
    assert isinstance(read({**written, "clock": "no clock"}), str)


@each_case("damage", [None, [], {}, {"plan": 5}, "text"])
def test_what_another_version_wrote_is_told_in_words(damage: Json) -> None:
    said = expect(str, read(damage))
    assert said.startswith("cannot be read by this version of the gateway: ")


@each_case(("step", "steps"), [(4, PLAN.steps), (-1, PLAN.steps), (0, ())])
def test_a_document_at_a_step_that_its_plan_does_not_have_cannot_be_read(
    step: int, steps: tuple[RolloutStep, ...]
) -> None:
    said = read(write(RolloutDocument(replace(PLAN, steps=steps), Progress(step=step), "alice", 1.0)))
    assert said == (
        f"cannot be read by this version of the gateway: it is at step {step}, and its plan has {len(steps)}"
    )
