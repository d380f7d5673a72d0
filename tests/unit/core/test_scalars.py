from __future__ import annotations

import pytest

from gateway.core.scalars import KEYS_IN, KEYS_OUT, LEGACY, STRICT, UNCHANGED
from gateway.core.signature import BASIC, INTEGER_RANGES


def test_every_basic_type_has_its_converters() -> None:
    assert set(STRICT) == set(LEGACY) == set(KEYS_IN) == set(BASIC)
    assert set(KEYS_OUT) == set(BASIC) - set("sog")  # whose keys are text already


@pytest.mark.parametrize(
    ("code", "values"),
    [
        ("s", ["a", "grüß", ""]),
        ("b", [True, False]),
        ("d", [0.5]),
        *((code, [low, high]) for code, (low, high) in INTEGER_RANGES.items()),
    ],
)
def test_good_values_pass_all_at_once(code: str, values: list[object]) -> None:
    assert UNCHANGED[code](values)
    assert UNCHANGED[code]({"key": values[0]}.values())


@pytest.mark.parametrize(
    ("code", "bad"),
    [
        *(("s", bad) for bad in (1, None, b"a", ["a"], "\0", "a\ud800")),
        *(("b", bad) for bad in (1, None, "true")),
        *(("d", bad) for bad in (1, None, "0.5")),
        *((code, bad) for code in INTEGER_RANGES for bad in (True, None, 1.0, "1", -(2**63) - 1, 2**64)),
    ],
)
def test_one_bad_value_among_good_ones_does_not_pass(code: str, bad: object) -> None:
    good = {"s": "a", "b": True, "d": 0.5}.get(code, 1)
    assert not UNCHANGED[code]([good, bad])
    assert not UNCHANGED[code]([bad, good])
