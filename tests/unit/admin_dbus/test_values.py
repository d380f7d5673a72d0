from __future__ import annotations

from dataclasses import fields

import pytest
from dbus_fast import Variant

from adapters.admin_dbus.calls import INVALID, REFUSED, DBusError, explained, mode_request, moved, plain
from gateway.core.admin.records import StateRefused
from gateway.core.admin.views import Explanation, MethodMoved, ModeRequest, ModeResult, explanation
from gateway.core.migration.modes import Mode, Setting
from gateway.core.routing.policy import plan_call
from gateway.core.rpc.model import Call
from tests.kit.admin import STATE, mode_options


def test_options_become_a_wish() -> None:
    given = mode_options(
        percent=("d", 12.5), control=("s", ""), observe=("b", True), noise=("b", False), seconds=("u", 60)
    )
    assert mode_request("VM.*", "canary", given, "try") == ModeRequest(
        "VM.*", "canary", 12.5, "", True, False, 60, "try"
    )
    assert mode_request("VM.*", "canary", mode_options(percent=("s", "1%")), "") == ModeRequest("VM.*", "canary", "1%")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            mode_options(procent=("d", 1.0)),
            "unknown option 'procent'; expected one of percent, control, observe, noise, seconds",
        ),
        (mode_options(observe=("s", "yes")), "option 'observe': unexpected type 's'"),
        (mode_options(seconds=("b", True)), "option 'seconds': unexpected type 'b'"),
    ],
)
def test_an_option_that_makes_no_sense_is_told(given: dict[str, Variant], says: str) -> None:
    assert mode_request("VM.*", "canary", given, "") == DBusError(INVALID, says)


def test_a_change_is_told_method_by_method() -> None:
    changed = ModeResult("VM.*", "dbus", (MethodMoved("xenopsd", "VM.start", "legacy", "dbus"),))
    assert moved(changed) == [[["xenopsd", "VM.start", "legacy", "dbus", ""]]]
    assert moved(StateRefused("no")) == DBusError(REFUSED, "no")


@pytest.mark.parametrize("setting", [Setting(Mode.OFF), Setting(Mode.LEGACY), Setting(Mode.CANARY, 50_000)])
@pytest.mark.parametrize("value", [None, "vm-1"])
def test_an_explanation_has_no_null(setting: Setting, value: str | None) -> None:
    told = explained(explanation(STATE, setting, "the mapping", plan_call(STATE, setting, Call("x")), value))
    assert told.keys() == {field.name for field in fields(Explanation)}
    assert all(variant.value is not None for variant in told.values())
    assert told["value"].value == (value or "")


def test_variants_are_taken_apart() -> None:
    nested = Variant(
        "a{sv}", {"a": Variant("av", [Variant("i", 1), Variant("s", "x")]), "b": Variant("(ib)", [1, True])}
    )
    assert plain(nested) == {"a": [1, "x"], "b": [1, True]}
    assert plain(Variant("a{ii}", {1: 2})) == {"1": 2}
