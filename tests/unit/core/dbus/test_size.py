from __future__ import annotations

import pytest

from gateway.core.dbus.marshal import MAX_ARRAY, MarshalError, Variant, body_size

# Counted by hand from the specification's rules of alignment.
SIZES: list[tuple[str, list[object], int]] = [
    ("", [], 0),
    ("y", [1], 1),
    ("yu", [1, 2], 8),
    ("yx", [1, 2], 16),
    ("ynqiuxtdb", [1, 2, 3, 4, 5, 6, 7, 0.5, True], 6 + 2 + 4 + 4 + 24 + 4),
    ("s", [""], 5),
    ("s", ["é"], 4 + 2 + 1),
    ("o", ["/a"], 7),
    ("g", ["ai"], 4),
    ("ay", [b"abc"], 7),
    ("au", [[1, 2]], 12),
    ("at", [[]], 8),
    ("at", [[1]], 16),
    ("as", [["a", "b"]], 4 + 6 + 2 + 6),
    ("(yu)", [(1, 2)], 8),
    ("y(y)", [1, (2,)], 9),
    ("v", [Variant("u", 5)], 8),
    ("v", [Variant("t", 5)], 16),
    ("v", [Variant("av", [Variant("s", "a")])], 4 + 4 + 3 + 1 + 6),
    ("a{sv}", [{}], 8),
    ("a{sv}", [{"a": Variant("y", 1)}], 8 + 6 + 3 + 1),
    ("a{us}", [{1: "a", 2: "b"}], 8 + 10 + 6 + 10),
]


@pytest.mark.parametrize(("signature", "body", "size"), SIZES)
def test_the_size_of_a_body_follows_the_wire_format(signature: str, body: list[object], size: int) -> None:
    assert body_size(signature, body) == size


def test_an_array_over_the_specifications_limit_is_refused_with_its_place() -> None:
    assert body_size("sau", ["a", [0] * (MAX_ARRAY // 4)]) == 8 + 4 + MAX_ARRAY
    with pytest.raises(
        MarshalError, match=r"^\$\.body\[1\]: expected an array of at most 67108864 bytes, got 67108868$"
    ):
        body_size("sau", ["a", [0] * (MAX_ARRAY // 4 + 1)])
