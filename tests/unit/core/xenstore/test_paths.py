"""Names of nodes there and back, and templates of paths."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.xenstore import paths

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(text=TEXTS)
def test_any_text_is_one_element_and_comes_back(text: str) -> None:
    for written in (paths.element(text), paths.member(text)):
        assert re.fullmatch("[A-Za-z0-9_@-]+", written)
        assert paths.text_of(written) == text
        assert paths.is_path(f"/{written}")


@given(one=TEXTS, other=TEXTS)
def test_two_texts_are_never_one_element(one: str, other: str) -> None:
    assert (paths.element(one) == paths.element(other)) == (one == other)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("reserve-memory", "reserve-memory"),
        ("session_id", "session_id"),
        ("VM.start", "VM@2estart"),
        ("org.xen.xcp:1", "org@2exen@2excp@3a1"),
        ("", "@"),
        ("@", "@40"),
        ("..", "@2e@2e"),
        ("a/b", "a@2fb"),
        ("\0", "@00"),
        ("é", "@c3@a9"),
    ],
)
def test_what_a_path_cannot_hold_is_written_by_its_bytes(text: str, written: str) -> None:
    assert paths.element(text) == written


def test_a_member_that_begins_with_a_digit_is_no_number_of_an_array() -> None:
    assert paths.member("10") == "@310"
    assert paths.index_of(paths.member("10")) is None
    assert [paths.index_of(text) for text in ("0", "10", "01", "-1", "", "x")] == [0, 10, None, None, None, None]


@pytest.mark.parametrize("written", ["", "a.b", "@2E", "@2", "a@", "@ff", "@61", "a b", "@@", "a/b", "@c3"])
def test_what_nobody_would_write_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="expected a name as an element of a path"):
        paths.text_of(written)


def test_half_of_a_surrogate_pair_is_no_name() -> None:
    with pytest.raises(ValueError, match="without lone surrogates"):
        paths.element("\ud800")


@pytest.mark.parametrize(
    ("path", "good"),
    [
        ("/a", True),
        ("/local/domain/0/a-b_c@", True),
        ("/", False),
        ("a", False),
        ("/a/", False),
        ("//a", False),
        ("/a.b", False),
        ("/a\0", False),
        ("/" + "a" * 3071, True),
        ("/" + "a" * 3072, False),
    ],
)
def test_a_path_is_one_that_a_store_can_have(path: str, good: bool) -> None:
    assert paths.is_path(path) is good


CHANNEL = paths.template("/local/domain/{server}/RPC/fe/{domid}")


def test_a_template_takes_a_path_apart() -> None:
    match = CHANNEL.match("/local/domain/0/RPC/fe/7/query/1/submit")
    assert match is not None
    assert match.node == "/local/domain/0/RPC/fe/7"
    assert match.parameters == {"server": "0", "domid": "7"}
    assert match.rest == ("query", "1", "submit")


@pytest.mark.parametrize("path", ["/local/domain/0", "/local/domain/0/RPC/other/7", "/squeezed", ""])
def test_another_path_does_not_match(path: str) -> None:
    assert CHANNEL.match(path) is None


def test_a_template_knows_its_parameters_and_where_it_begins() -> None:
    assert CHANNEL.parameters == ("server", "domid")
    assert CHANNEL.root == "/local/domain"
    assert paths.template("/squeezed").root == "/squeezed"
    assert str(CHANNEL.below("query", "{id}")) == "/local/domain/{server}/RPC/fe/{domid}/query/{id}"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("squeezed", "expected a path"),
        ("/", "expected a path"),
        ("/a/", "expected a path"),
        ("/a/{b}c", "expected a path"),
        ("/a.b", "expected a path"),
        ("/{a}/{a}", "each parameter once"),
    ],
)
def test_a_bad_template_says_why(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        paths.template(text)
