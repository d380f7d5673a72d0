from __future__ import annotations

from pathlib import Path

from gateway.core.dbus.marshal import to_dbus
from gateway.core.dbus.signature import parse_one
from gateway.mapping import load
from gateway.mapping.load import Scope


def _scope(text: str) -> Scope:
    document, _ = load.parse(Path("f.yaml"), text.encode())
    assert document is not None
    return Scope(document, {}, (), document.data)


def test_a_scope_goes_into_structs_and_lists() -> None:
    scope = _scope("a: [{b: 5}]")
    assert scope.at("a", 0, "b").data == 5
    assert scope.at("a", 0, "c", "d").data is None
    assert scope.at("a", 0).says("b")
    assert not scope.at("a").says("b")


def test_one_problem_is_noted_once() -> None:
    scope = _scope("a: 5")
    scope.at("a").fail("wrong")
    scope.at("a").fail("wrong")
    assert [str(problem) for problem in scope.problems] == ["f.yaml:1:4: a: wrong"]


def test_a_check_that_raises_is_a_problem() -> None:
    scope = _scope("a: [x, 5]").at("a")
    assert scope.attempt(to_dbus(parse_one("as")), scope.data) is None
    assert scope.at(0).attempt(int, scope.data[0], level="schema") is None
    assert [str(problem) for problem in scope.problems] == [
        "f.yaml:1:4: a: [1]: expected s, got 5",
        "f.yaml:1:5: a[0]: invalid literal for int() with base 10: 'x'",
    ]
