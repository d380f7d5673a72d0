from __future__ import annotations

import pytest
from dbus_fast import Variant

from adapters.dbus.connection import to_library
from gateway.core.dbus import marshal


@pytest.mark.parametrize(
    ("signature", "ours", "theirs"),
    [
        ("v", marshal.Variant("u", 1), Variant("u", 1)),
        ("a{sv}", {"a": marshal.Variant("s", "x")}, {"a": Variant("s", "x")}),
        ("av", [marshal.Variant("b", True)], [Variant("b", True)]),
        ("(sv)", ("a", marshal.Variant("x", 1)), ["a", Variant("x", 1)]),
        ("a(sv)", [("a", marshal.Variant("x", 1))], [["a", Variant("x", 1)]]),
        ("a{sa{sv}}", {"a": {"b": marshal.Variant("i", 1)}}, {"a": {"b": Variant("i", 1)}}),
        ("v", marshal.Variant("av", [marshal.Variant("i", 1)]), Variant("av", [Variant("i", 1)])),
    ],
)
def test_a_variant_anywhere_becomes_the_librarys(signature: str, ours: object, theirs: object) -> None:
    assert to_library(signature)([ours]) == [theirs]


def test_a_body_without_variants_is_not_converted() -> None:
    value = {"a": [1, 2]}
    assert to_library("a{sau}")((value,))[0] is value


@pytest.mark.parametrize("signature", ["v", "av", "a{sv}"])
def test_what_is_no_variant_of_ours_is_refused(signature: str) -> None:
    """The library dies of a None where it expects a variant."""
    value = {"v": None, "av": [None], "a{sv}": {"a": None}}[signature]
    with pytest.raises(TypeError, match="a variant is expected"):
        to_library(signature)([value])
