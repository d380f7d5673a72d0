"""Signatures, the sizes of bodies, names."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.dbus import names
from gateway.core.dbus.marshal import MAX_ARRAY, MarshalError, body_size
from gateway.core.dbus.signature import BASIC, Type, parse, parse_one
from tests.kit.cases import each_case

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
    ("é", r"signature '\xe9' holds a character that is not a type"),
    ("s\ud800", r"signature 's\ud800' holds a character that is not a type"),
    ("s\n", r"signature 's\n' holds a character that is not a type"),
    ("\0", r"signature '\x00' holds a character that is not a type"),
]
NOT_ONE = [("", "expected one complete type, got 0 in ''"), ("su", "expected one complete type, got 2 in 'su'")]


def test_a_type_is_written_as_it_was_read_and_split_into_complete_types() -> None:
    for signature in GOOD:
        assert "".join(map(str, parse(signature))) == signature
    dictionary = Type("a", (Type("{", (Type("u"), Type("(", (Type("b"), Type("b"))))),))
    assert parse("sa{u(bb)}") == (Type("s"), dictionary)
    assert parse("") == ()


@each_case(("signature", "message"), [*BAD, *NOT_ONE])
def test_a_bad_signature_is_refused_with_the_place(signature: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"signature|one complete type") as caught:
        parse_one(signature)
    assert str(caught.value) == message


@each_case(
    ("signature", "is_dict", "variant", "descriptor"),
    [
        ("a{sv}", True, True, False),
        ("a(sv)", False, True, False),
        ("(a{ss})", False, False, False),
        ("v", False, True, False),
        ("a{s(iav)}", True, True, False),
        ("h", False, False, True),
        ("a{s(iah)}", True, False, True),
        ("a{hs}", True, False, True),
    ],
)
def test_what_a_type_contains_at_any_depth(signature: str, is_dict: bool, variant: bool, descriptor: bool) -> None:
    kind = parse_one(signature)
    assert (kind.is_dict, kind.has_variant, kind.has_file_descriptor) == (is_dict, variant, descriptor)


# Sizes


def test_an_array_over_the_specifications_limit_is_refused_with_its_place() -> None:
    assert body_size("sau", ["a", [0] * (MAX_ARRAY // 4)]) == 8 + 4 + MAX_ARRAY
    with pytest.raises(
        MarshalError, match=r"^\$\.body\[1\]: expected an array of at most 67108864 bytes, got 67108868$"
    ):
        body_size("sau", ["a", [0] * (MAX_ARRAY // 4 + 1)])


# Names


GOOD_NAMES: list[tuple[Callable[[str], str], list[str]]] = [
    (names.bus_name, ["org.xen.xcp.xapi", "a.b", "_a.-b", "org.x-zip", ":1.42", "a." + "b" * 253]),
    (names.bus_name, [":1.42", ":1.0.a-b", ":_.-"]),
    (names.interface, ["org.xen.xcp.VM1", "a.b", "_._", "a." + "b" * 253]),
    (names.error_name, ["org.xen.xcp.Error.NotFound"]),
    (names.member, ["Start", "_", "a1", "b" * 255]),
    (names.object_path, ["/", "/a", "/org/xen_1/0", "/" + "a" * 5000]),
]
BAD_NAMES: list[tuple[Callable[[str], str], list[str]]] = [
    (names.bus_name, ["", "org", ".a.b", "a..b", "a.b.", "a.1b", "a.b\n", "a.é", "a b.c", ":", ":1", "a." + "b" * 254]),
    (names.bus_name, [":1", ":1..2", ":1.", ":1.2 "]),
    (names.interface, ["", "org", "a-b.c", "1a.b", "a.1b", ":1.42", "a..b", "a." + "b" * 254]),
    (names.error_name, ["Failed", "a.b-c"]),
    (names.member, ["", "a.b", "1a", "a-b", "a b", "Start\n", "é", "b" * 256]),
    (names.object_path, ["", "a", "a/b", "/a/", "//", "/a//b", "/a-b", "/é", "/a\n", "/a\0"]),
]

# What sd_bus_path_encode of libsystemd 252 makes of these.
ESCAPED: list[tuple[str, str]] = [
    ("", "_"),
    ("abcXYZ019", "abcXYZ019"),
    ("0a", "_30a"),
    ("42", "_342"),
    ("a0", "a0"),
    ("_", "_5f"),
    ("a-b", "a_2db"),
    ("../etc", "_2e_2e_2fetc"),
    ("é", "_c3_a9"),
    ("\U0001f600", "_f0_9f_98_80"),
    ("a\0", "a_00"),
    ("\u0663", "_d9_a3"),
]


@each_case(("check", "text"), [(check, text) for check, texts in GOOD_NAMES for text in texts])
def test_a_name_within_the_grammar_is_returned(check: Callable[[str], str], text: str) -> None:
    assert check(text) == text


@each_case(("check", "text"), [(check, text) for check, texts in BAD_NAMES for text in texts])
def test_a_name_outside_the_grammar_is_refused(check: Callable[[str], str], text: str) -> None:
    with pytest.raises(ValueError, match=r"^expected an? ") as caught:
        check(text)
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()


@each_case(
    ("check", "text", "message"),
    [
        (names.member, "VM.start", "expected a member such as GetAll, got 'VM.start'"),
        (names.member, "a" * 256, "expected a member such as GetAll and at most 255 bytes long, got 256 characters"),
        (
            names.object_path,
            "x" * 100_000,
            f"expected an object path such as /org/example/Service, got '{'x' * 60}...'",
        ),
    ],
)
def test_the_message_says_what_was_expected_and_what_came(check: Callable[[str], str], text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check(text)


@each_case(("text", "element"), ESCAPED)
def test_a_path_element_is_escaped_as_sd_bus_does(text: str, element: str) -> None:
    assert names.escape_path_element(text) == element
    assert names.unescape_path_element(element) == (element if "\0" in text else text)


@given(st.text(st.characters()))
def test_any_text_becomes_one_valid_element_and_comes_back(text: str) -> None:
    element = names.escape_path_element(text)
    assert names.is_object_path(f"/{element}")
    assert element.count("/") == 0
    assert names.unescape_path_element(element) == (element if re.search(r"[\x00-\x1f\x7f]", text) else text)


@each_case("element", ["my_vm", "a_", "a_2D", "__2d", "_2", "_ff", "_61", "a_zz_2d", "dev_11_22"])
def test_an_element_that_nobody_escaped_stays_as_it_is(element: str) -> None:
    assert names.unescape_path_element(element) == element
    assert names.unescape_path_element("a_2d") == "a-"


@given(st.text("abf_0123456789ABF", min_size=1))
def test_no_two_elements_become_one_text(element: str) -> None:
    text = names.unescape_path_element(element)
    assert text == element or names.escape_path_element(text) == element


def test_a_text_in_a_message_is_short_and_on_one_line_of_ascii() -> None:
    assert names.quoted("\u202eo\n\u00e9") == r"'\u202eo\n\xe9'"
