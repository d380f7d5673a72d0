"""What the demo takes for right: the very answer, and of the very type."""

from __future__ import annotations

import pytest

from demo.show import GATEWAY, OLD, SIDES, Printed, is_


@pytest.mark.parametrize(
    ("expected", "wrong"), [(0, False), ("", None), ("1", 1), (["a"], ("a",)), ([1], [2]), (None, "")]
)
def test_an_answer_of_another_type_is_wrong(expected: object, wrong: object) -> None:
    assert is_(expected)(expected)
    assert not is_(expected)(wrong)


def test_what_a_command_printed_is_text() -> None:
    assert Printed("done") == "done"
    assert isinstance(Printed("done"), str)


def test_a_method_has_two_sides() -> None:
    assert {GATEWAY, OLD} == SIDES
