"""Legacy values for comparing: their places, and each of them changed at one place."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from gateway.core.comparison.json_path import Place
from gateway.core.rpc.model import Fault, FaultCode, Outcome, Reply, Value
from tests.kit.values import anything

texts = st.text(max_size=8) | st.sampled_from(["", "1", "a b", "\ud800", "\0", "'"])
outcomes: st.SearchStrategy[Outcome] = anything().map(Reply) | st.builds(
    Fault, st.sampled_from(FaultCode), texts, texts, anything()
)


def places(value: Value, place: Place = ()) -> Iterator[Place]:
    """Every place in a value, the whole of it first."""
    yield place
    inside: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, item in inside:
        yield from places(item, (*place, step))


def at(value: Any, place: Place) -> Value:
    """What stands at a place."""
    for step in place:
        value = value[step]
    found: Value = value
    return found


def changed(value: Value, place: Place, new: Value) -> Value:
    """The same value with something else at one place."""
    if not place:
        return new
    whole: Any = copy.copy(value)
    whole[place[0]] = changed(whole[place[0]], place[1:], new)
    result: Value = whole
    return result


def without(value: Value, place: Place) -> Value:
    """The same value without the member or item at a place."""
    *around, last = place
    holder: Any = copy.copy(at(value, tuple(around)))
    del holder[last]
    return changed(value, tuple(around), holder)
