"""A list of byte strings as one: whole, cut anywhere, and junk."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.xenstore.paths import pack, unpack

ITEMS = st.lists(st.binary(max_size=30), max_size=6)


@given(items=ITEMS)
def test_what_is_packed_comes_back(items: list[bytes]) -> None:
    assert unpack(pack(items)) == items


@given(items=ITEMS, data=st.data())
def test_a_list_that_is_cut_is_a_shorter_list_or_none_at_all(items: list[bytes], data: st.DataObject) -> None:
    packed = pack(items)
    cut = packed[: data.draw(st.integers(0, len(packed)))]
    try:
        found = unpack(cut)
    except ValueError:
        return
    assert found == items[: len(found)]


@pytest.mark.parametrize(
    ("packed", "why"),
    [
        (b"x", "a length and a colon at byte 0"),
        (b":a,", "a length and a colon at byte 0"),
        (b"01:a,", "a length and a colon at byte 0"),
        (b"1:a,2", "a length and a colon at byte 4"),
        (b"-1:a,", "a length and a colon at byte 0"),
        (b"9999999999:a,", "a length and a colon at byte 0"),
        (b"2:a,", "a comma at byte 4"),
        (b"1:ab", "a comma at byte 3"),
    ],
)
def test_junk_is_refused_with_its_place(packed: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=f"^expected {why}$"):
        unpack(packed)
