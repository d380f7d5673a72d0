"""Values: equal and hashed by their fields, frozen where it is checked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gateway.core.rpc.model import Peer, Reply, value

ROOT = Path(__file__).parents[4]


@value
class Point:
    x: int
    y: int = 0


def test_values_are_equal_and_hashed_by_their_fields() -> None:
    assert Point(1) == Point(1, 0)
    assert len({Point(1), Point(1), Point(2)}) == 2
    assert repr(Reply(5)) == "Reply(value=5)"
    assert Peer("a") != Peer("b")


def test_a_value_has_its_fields_and_no_others() -> None:
    with pytest.raises(AttributeError):
        Point(1).z = 5  # type: ignore[attr-defined]


def test_mypy_refuses_to_change_a_value(tmp_path: Path) -> None:
    fields = {"Call": "method", "Reply": "value", "Fault": "code", "Envelope": "tags", "Answer": "body", "Peer": "uid"}
    changes = [f"def change_{name}(it: {name}) -> None:\n    it.{field} = it.{field}" for name, field in fields.items()]
    wrong = tmp_path / "wrong.py"
    wrong.write_text("\n".join([f"from gateway.core.rpc.model import {', '.join(fields)}", *changes]))
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", str(wrong)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    for name, field in fields.items():
        assert f'Property "{field}" defined in "{name}" is read-only' in checked.stdout
