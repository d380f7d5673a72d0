"""Patterns, overrides and settings: what a pattern matches, which override wins, and what is not possible."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from gateway.core.migration.modes import Key, Migration, Mode, Setting, Side
from gateway.core.routing import selection
from gateway.core.routing.overrides import Override, matches
from gateway.core.routing.route import Effect
from gateway.core.rpc.model import Call
from tests.kit.cases import each_case
from tests.kit.mappings import route


def _vm(call: Call) -> str | None:
    return str(call.params[0]) if call.params else None


OLD = Migration(upstream="old", key=Key("vm", _vm))
READ = replace(OLD, may_shadow=True)
LIFE = replace(OLD, group="vm-lifecycle")

START = replace(route("VM.start", migration=LIFE, effect=Effect.WRITE), service="xenopsd")
STOP = replace(route("VM.shutdown", migration=LIFE, effect=Effect.WRITE), service="xenopsd")
STATE = replace(route("VM.state", migration=READ, effect=Effect.READ, aliases=("VM.stat",)), service="xenopsd")
SYNC = replace(route("VM.sync", migration=OLD, effect=Effect.IDEMPOTENT), service="xenopsd")
SCAN = replace(route("SR.scan", migration=Migration(upstream="old"), effect=Effect.WRITE), service="storage")
NEW = replace(route("VM.born", effect=Effect.READ), service="xenopsd")
ROUTES = (START, STOP, STATE, SYNC, SCAN, NEW)


def refusal(pattern: str, setting: Setting) -> str:
    return "; ".join(selection.setting_problems(ROUTES, pattern, setting))


def test_what_clients_call_is_found_by_name_alias_and_service() -> None:
    for name in ("VM.state", "VM.stat", "xenopsd/VM.state"):
        assert selection.routes_named(ROUTES, name) == (STATE,)
    assert selection.routes_named(ROUTES, "VM.*") == ()
    many = [replace(START, method=f"m{number}") for number in range(7)]
    assert selection.names(many) == "xenopsd/m0, xenopsd/m1, xenopsd/m2, xenopsd/m3, xenopsd/m4 and 2 more"
    assert selection.no_match((), "VM.start") == "no mapped method is named 'VM.start'"
    assert selection.no_match((), "group:x") == "no method is in group 'x' (there is none)"


@each_case(
    ("pattern", "says"),
    [
        ("VM.strt", "no mapped method is named 'VM.strt' (did you mean 'VM.start'?)"),
        ("xenops/VM.start", "no mapped method is named 'xenops/VM.start' (did you mean 'xenopsd/VM.start'?)"),
        ("group:vm-lifecycel", "no method is in group 'vm-lifecycel' (did you mean 'vm-lifecycle'?)"),
        ("group:sr", "no method is in group 'sr'; expected one of vm-lifecycle"),
        ("zzz", "no mapped method is named 'zzz'"),
    ],
)
def test_a_pattern_that_means_nothing_is_told_with_what_might_be_meant(pattern: str, says: str) -> None:
    assert refusal(pattern, Setting(Mode.DBUS)) == says


@each_case(
    ("pattern", "setting"),
    [
        ("VM.state", Setting(Mode.SHADOW)),
        ("xenopsd/VM.state", Setting(Mode.CANARY, 10, observe=True)),
        ("group:vm-lifecycle", Setting(Mode.CANARY, 10)),
        ("VM.s[th][au][rt]*", Setting(Mode.DBUS)),
        ("SR.*", Setting(Mode.CANARY, 0)),
        ("SR.*", Setting(Mode.CANARY, 100_000)),
        ("VM.born", Setting(Mode.DBUS)),
        ("*", Setting(Mode.OFF)),
        ("*", Setting(Mode.DBUS)),
        ("VM.start", Setting(Mode.OFF)),
    ],
)
def test_what_does_no_harm_is_not_refused(pattern: str, setting: Setting) -> None:
    assert refusal(pattern, setting) == ""


TWICE = "each call would run twice, and these are writes (no `effect: read` in the mapping)"
NO_UPSTREAM = "no upstream is configured for the legacy side of xenopsd/VM.born"


@each_case(
    ("pattern", "setting", "says"),
    [
        # nothing goes to an old service that is not there
        ("VM.born", Setting(Mode.LEGACY), f"legacy is refused: {NO_UPSTREAM}"),
        ("VM.born", Setting(Mode.CANARY, 0), f"canary is refused: {NO_UPSTREAM}"),
        ("VM.born", Setting(Mode.DBUS, observe=True), f"observe is refused: {NO_UPSTREAM}"),
        # a write never runs twice, and what is idempotent only where the mapping says so
        (
            "group:vm-lifecycle",
            Setting(Mode.SHADOW),
            f"shadow is refused: {TWICE}: xenopsd/VM.start, xenopsd/VM.shutdown",
        ),
        ("SR.scan", Setting(Mode.DBUS, observe=True), f"observe is refused: {TWICE}: storage/SR.scan"),
        (
            "VM.sync",
            Setting(Mode.SHADOW),
            "each call would run twice, and the mapping has no 'shadow: true' that allows it: xenopsd/VM.sync",
        ),
        # a share needs a key, but for all or nothing
        (
            "SR.scan",
            Setting(Mode.CANARY, 1),
            "canary is refused: the mapping has no 'key' to divide by; only 0% and 100% need none: storage/SR.scan",
        ),
        (
            "VM.start",
            Setting(Mode.DBUS),
            "split the group 'vm-lifecycle', which shares state: xenopsd/VM.shutdown would be left out; say group:vm-",
        ),
    ],
)
def test_what_does_harm_is_refused_with_the_methods(pattern: str, setting: Setting, says: str) -> None:
    assert says in refusal(pattern, setting)
    assert len(selection.setting_problems(ROUTES, "VM.s[ty][an][rc]*", Setting(Mode.SHADOW))) == 3  # all at once


@each_case(
    ("setting", "expected", "words"),
    [
        (selection.setting("legacy"), Setting(Mode.LEGACY), "legacy"),
        (selection.setting("canary", "12.5%"), Setting(Mode.CANARY, 12_500), "canary 12.5%"),
        (selection.setting("canary", "100"), Setting(Mode.CANARY, 100_000), "canary 100%"),
        (
            selection.setting("canary", 0.001, observe=True, noise=True),
            Setting(Mode.CANARY, 1, observe=True, noise=True),
            "canary 0.001% observed noise",
        ),
        (selection.setting("shadow", control="dbus"), Setting(Mode.SHADOW, control=Side.DBUS), "shadow of dbus"),
    ],
)
def test_a_setting_is_read_from_an_operators_words_and_says_itself(
    setting: Setting, expected: Setting, words: str
) -> None:
    assert (setting, str(setting)) == (expected, words)


@each_case(
    ("make", "says"),
    [
        (lambda: selection.setting("shadwo"), "unknown mode 'shadwo' (did you mean 'shadow'?)"),
        (lambda: selection.setting("x"), "unknown mode 'x'; expected one of legacy, shadow, canary, dbus, off"),
        (lambda: selection.setting("shadow", control="new"), "unknown side 'new'; expected legacy or dbus"),
        (lambda: selection.setting("canary"), "canary needs a share"),
        *(
            (lambda text=text: selection.setting("canary", text), "expected a share from 0% to 100%")
            for text in ("", "%", "-1%", "100.001%", "0.0001%", "ten", "nan", "inf")
        ),
        (lambda: selection.setting("dbus", 5), "a share belongs to canary, not to dbus"),
        (lambda: selection.setting("dbus", control="legacy"), "a control belongs to shadow, not to dbus"),
        (lambda: selection.setting("off", observe=True), "no side answers in mode off"),
        (lambda: selection.setting("dbus", noise=True), "noise needs both sides"),
    ],
)
def test_words_that_contradict_each_other_are_told(make: Callable[[], Setting], says: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(says)}"):
        make()


# Overrides


def override(pattern: str, mode: Mode = Mode.LEGACY, **more: object) -> Override:
    return replace(Override(pattern, Setting(mode), "alice", 0.0), **more)


def test_a_pattern_names_methods_by_name_by_service_or_by_group() -> None:
    for pattern in ("VM.start", "xenopsd/VM.start", "VM.*", "xenopsd/*", "*", "group:vm-lifecycle"):
        assert matches(pattern, START)
    for other in ("VM", "vm.start", "VM.stop", "xapi/*", "group:vm", "group:*", ""):
        assert not matches(other, START)


def test_the_most_specific_wins_a_person_before_a_rollout_and_the_later_one() -> None:
    weakest_first = [
        override("VM.start", by="rollout"),
        override("*"),
        override("VM.*"),
        override("group:vm-lifecycle"),
        override("VM.start"),
        override("xenopsd/VM.start"),
    ]
    strongest_first = sorted(weakest_first, key=lambda each: each.rank, reverse=True)
    assert strongest_first == weakest_first[::-1]
    earlier, later = override("VM.*t", when=1.0), override("VM.s*", when=2.0)
    assert max(later, earlier, key=lambda each: each.rank) is later


def test_an_override_applies_where_its_mode_is_possible() -> None:
    alone = replace(START, migration=Migration())
    for mode in (Mode.LEGACY, Mode.SHADOW, Mode.CANARY):  # without an old service nothing goes back to one
        assert override("*", mode).applies_to(START)
        assert not override("*", mode).applies_to(alone)
    assert override("*", Mode.OFF).applies_to(alone)
    off = replace(START, migration=replace(START.migration, setting=Setting(Mode.OFF)))
    assert not override("*").applies_to(off)  # everything to legacy switches nothing on
    assert override("VM.start").applies_to(off)
    assert override("*", Mode.OFF).applies_to(off)


def test_an_override_with_an_end_ends() -> None:
    assert not override("*").expired(1e12)
    assert not override("*", until=10.0).expired(9.9)
    assert override("*", until=10.0).expired(10.0)
