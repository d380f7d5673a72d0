from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.core.migration.modes import Mode, Setting
from gateway.core.migration.rollout_plan import RolloutPlan, RolloutStep
from gateway.core.routing.overrides import By, Override
from gateway.core.routing.route import Route
from gateway.migration.rollout_storage import RolloutSubject, find, members, names, overridden, subject_of, unmovable
from tests.kit.migrations import movable

START, STOP, LIST = movable("VM.start", "life"), movable("VM.stop", "life"), movable("VM.list", aliases=("VM.get_all",))
OTHER = movable("VM.list", service="xapi")
ROUTES = [START, STOP, LIST]


def _changed(route: Route, **migration: object) -> Route:
    return replace(route, migration=replace(route.migration, **migration))  # type: ignore[arg-type]


def test_a_method_moves_alone_or_with_its_group() -> None:
    assert [subject_of(route) for route in ROUTES] == ["group:life", "group:life", "xenopsd/VM.list"]
    assert members("group:life", ROUTES) == (START, STOP)
    assert members("xenopsd/VM.start", ROUTES) == ()


@pytest.mark.parametrize("name", ["VM.list", "xenopsd/VM.list", "VM.get_all"])
def test_a_person_may_say_a_method_in_several_ways(name: str) -> None:
    assert find(name, ROUTES) == RolloutSubject("xenopsd/VM.list", (LIST,))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("VM.lst", "'VM.lst' is no mapped method and no group (did you mean 'VM.list'?)"),
        ("group:live", "'group:live' is no mapped method and no group (did you mean 'group:life'?)"),
        ("VM.start", "VM.start moves with its group: say group:life"),
        ("VM.list", "VM.list is a method of several services: say xapi/VM.list or xenopsd/VM.list"),
    ],
)
def test_what_a_person_cannot_mean_is_told_in_words(name: str, words: str) -> None:
    assert find(name, [*ROUTES, OTHER]) == words


def test_what_cannot_begin_to_move_says_why() -> None:
    assert unmovable(RolloutSubject("x", (LIST,))) == ""
    alone = _changed(LIST, upstream=None)
    assert unmovable(RolloutSubject("x", (LIST, alone))).startswith("no legacy service answers VM.list")
    assert (
        unmovable(RolloutSubject("x", (_changed(LIST, setting=Setting(Mode.OFF)),)))
        == "VM.list is switched off (toy.yaml:1)"
    )
    keyless = _changed(LIST, key=None)
    assert unmovable(RolloutSubject("x", (keyless,))).startswith("a canary of VM.list has no key to divide by")
    straight = replace(
        keyless, rollout=RolloutPlan("p", (RolloutStep(Setting(Mode.SHADOW)), RolloutStep(Setting(Mode.DBUS))))
    )
    assert unmovable(RolloutSubject("x", (straight,))) == ""


def _override(pattern: str, mode: Mode = Mode.LEGACY, by: By = "person", until: float | None = None) -> Override:
    return Override(pattern, Setting(mode), "bob", 1.0, "", until, by)


def test_what_a_person_has_set_for_any_member_stops_them_all() -> None:
    for pattern in ("VM.stop", "xenopsd/VM.stop", "*", "group:life"):
        assert overridden((START, STOP), [_override(pattern)], 5.0) == _override(pattern)
    strongest = [_override("*"), _override("VM.stop", Mode.OFF)]
    assert overridden((START, STOP), strongest, 5.0) == strongest[1]


def test_what_is_over_or_speaks_of_others_or_is_a_rollouts_stops_nobody() -> None:
    others = [_override("VM.list"), _override("VM.stop", until=5.0), _override("group:life", by="rollout")]
    assert overridden((START, STOP), others, 5.0) is None
    assert overridden((_changed(STOP, upstream=None),), [_override("*")], 5.0) is None  # nothing goes back to nowhere


def test_a_pattern_names_all_that_can_move() -> None:
    assert names("VM.*", [*ROUTES, OTHER, _changed(movable("VM.x"), upstream=None)]) == [
        "group:life",
        "xapi/VM.list",
        "xenopsd/VM.list",
    ]
