from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.dbus import names

GOOD: list[tuple[Callable[[str], str], list[str]]] = [
    (names.bus_name, ["org.xen.xcp.xapi", "a.b", "_a.-b", "org.x-zip", ":1.42", "a." + "b" * 253]),
    (names.unique_name, [":1.42", ":1.0.a-b", ":_.-"]),
    (names.interface, ["org.xen.xcp.VM1", "a.b", "_._", "a." + "b" * 253]),
    (names.error_name, ["org.xen.xcp.Error.NotFound"]),
    (names.member, ["Start", "_", "a1", "b" * 255]),
    (names.object_path, ["/", "/a", "/org/xen_1/0", "/" + "a" * 5000]),
]
BAD: list[tuple[Callable[[str], str], list[str]]] = [
    (names.bus_name, ["", "org", ".a.b", "a..b", "a.b.", "a.1b", "a.b\n", "a.é", "a b.c", ":", ":1", "a." + "b" * 254]),
    (names.unique_name, ["1.42", ":1", ":1..2", ":1.", ":1.2 "]),
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


@pytest.mark.parametrize(("check", "text"), [(check, text) for check, texts in GOOD for text in texts])
def test_a_name_within_the_grammar_is_returned(check: Callable[[str], str], text: str) -> None:
    assert check(text) == text


@pytest.mark.parametrize(("check", "text"), [(check, text) for check, texts in BAD for text in texts])
def test_a_name_outside_the_grammar_is_refused(check: Callable[[str], str], text: str) -> None:
    with pytest.raises(ValueError, match=r"^expected an? ") as caught:
        check(text)
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()


def test_the_message_says_what_was_expected_and_what_came() -> None:
    with pytest.raises(ValueError, match=r"^expected a member such as GetAll, got 'VM\.start'$"):
        names.member("VM.start")


def test_the_message_for_a_name_that_is_too_long_says_how_long_it_may_be() -> None:
    message = r"^expected a member such as GetAll and at most 255 bytes long, got 256 characters$"
    with pytest.raises(ValueError, match=message):
        names.member("a" * 256)


def test_a_bad_name_is_shortened_in_the_message() -> None:
    with pytest.raises(ValueError, match=r"\.\.\.'$") as caught:
        names.object_path("x" * 100_000)
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize(("text", "element"), ESCAPED)
def test_a_path_element_is_escaped_as_sd_bus_does(text: str, element: str) -> None:
    assert names.escape_path_element(text) == element
    assert names.unescape_path_element(element) == (element if "\0" in text else text)


@given(st.text(st.characters()))
def test_any_text_becomes_one_valid_element_and_comes_back(text: str) -> None:
    element = names.escape_path_element(text)
    assert names.is_object_path(f"/{element}")
    assert element.count("/") == 0
    assert names.unescape_path_element(element) == (element if re.search(r"[\x00-\x1f\x7f]", text) else text)


@pytest.mark.parametrize(
    ("element", "text"),
    [
        ("my_vm", "my_vm"),
        ("a_", "a_"),
        ("a_2d", "a-"),
        ("a_2D", "a_2D"),
        ("__2d", "__2d"),
        ("_2", "_2"),
        ("_ff", "_ff"),
        ("_61", "_61"),
        ("a_zz_2d", "a_zz_2d"),
        ("dev_11_22", "dev_11_22"),
        ("dev_11_22_33_44_55_66", "dev_11_22_33_44_55_66"),
    ],
)
def test_an_element_that_nobody_escaped_stays_as_it_is(element: str, text: str) -> None:
    assert names.unescape_path_element(element) == text


@given(st.text("abf_0123456789ABF", min_size=1))
def test_no_two_elements_become_one_text(element: str) -> None:
    text = names.unescape_path_element(element)
    assert text == element or names.escape_path_element(text) == element


def test_a_text_in_a_message_is_short_and_on_one_line_of_ascii() -> None:
    assert names.quoted("echo") == "'echo'"
    assert names.quoted("\u202eo\n\u00e9") == r"'\u202eo\n\xe9'"
    assert names.quoted("x" * 100) == f"'{'x' * 60}...'"
