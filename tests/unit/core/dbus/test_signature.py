from __future__ import annotations

import pytest

from gateway.core.dbus.signature import BASIC, Type, parse, parse_one

GOOD = [
    *BASIC,
    "v",
    "as",
    "a{sv}",
    "(s)",
    "(s(ua{sas})v)",
    "a" * 32 + "s",
    "(" * 32 + "s" + ")" * 32,
    "a" * 32 + "(" * 32 + "s" + ")" * 32,
    "s" * 255,
    "a{s" * 31 + "s" + "}" * 31,
]
BAD = [
    ("k", "unknown type 'k' in signature 'k' at 0"),
    ("ak", "unknown type 'k' in signature 'ak' at 1"),
    ("a", "signature 'a' ends where a type is expected"),
    ("(s", "signature '(s' ends where a type is expected"),
    ("()", "signature '()' has an empty struct at 0"),
    ("s)", "unknown type ')' in signature 's)' at 1"),
    ("{ss}", "signature '{ss}' has a dict entry outside an array at 0"),
    ("({ss})", "signature '({ss})' has a dict entry outside an array at 1"),
    ("a{vs}", "signature 'a{vs}' has a dict key of type 'v' at 2, a basic type is needed"),
    ("a{ass}", "signature 'a{ass}' has a dict key of type 'as' at 2, a basic type is needed"),
    ("a{s}", "unknown type '}' in signature 'a{s}' at 3"),
    ("a{sss}", "signature 'a{sss}' has a dict entry that is not closed after key and value at 4"),
    ("a{ss", "signature 'a{ss' has a dict entry that is not closed after key and value at 4"),
    ("s" * 256, "signature is 256 characters long, at most 255 are allowed"),
    ("a" * 33 + "s", f"signature '{'a' * 33}s' nests more than 32 arrays"),
    ("(" * 33 + "s" + ")" * 33, f"signature '{'(' * 33}s{')' * 33}' nests more than 32 structs"),
    ("a{s" * 33 + "s" + "}" * 33, f"signature '{'a{s' * 33}s{'}' * 33}' nests more than 32 arrays"),
    ("(" * 32 + "a{ss}" + ")" * 32, f"signature '{'(' * 32}a{{ss}}{')' * 32}' nests more than 32 structs"),
    ("é", r"signature '\xe9' holds a character that is no type"),
    ("s\ud800", r"signature 's\ud800' holds a character that is no type"),
    ("s\n", r"signature 's\n' holds a character that is no type"),
    ("\0", r"signature '\x00' holds a character that is no type"),
]


@pytest.mark.parametrize("signature", GOOD)
def test_a_type_is_written_as_it_was_read(signature: str) -> None:
    assert "".join(map(str, parse(signature))) == signature


@pytest.mark.parametrize(("signature", "message"), BAD)
def test_a_bad_signature_is_refused_with_the_place(signature: str, message: str) -> None:
    with pytest.raises(ValueError, match="signature") as caught:
        parse(signature)
    assert str(caught.value) == message


def test_a_signature_is_split_into_its_complete_types() -> None:
    assert parse("sa{u(bb)}") == (
        Type("s"),
        Type("a", (Type("{", (Type("u"), Type("(", (Type("b"), Type("b"))))),)),
    )
    assert parse("") == ()


@pytest.mark.parametrize(("signature", "count"), [("", 0), ("su", 2)])
def test_one_complete_type_is_one(signature: str, count: int) -> None:
    with pytest.raises(ValueError, match=f"^expected one complete type, got {count} in '{signature}'$"):
        parse_one(signature)


def test_a_dict_is_an_array_of_dict_entries() -> None:
    assert parse_one("a{sv}").is_dict
    assert not parse_one("a(sv)").is_dict
    assert not parse_one("(a{sv})").is_dict


@pytest.mark.parametrize(("signature", "found"), [("v", True), ("a{s(iav)}", True), ("a{s(ias)}", False)])
def test_a_variant_is_found_at_any_depth(signature: str, found: bool) -> None:
    assert parse_one(signature).has_variant is found


@pytest.mark.parametrize(("signature", "found"), [("h", True), ("a{s(iah)}", True), ("a{hs}", True), ("v", False)])
def test_a_file_descriptor_is_found_at_any_depth(signature: str, found: bool) -> None:
    assert parse_one(signature).has_file_descriptor is found
