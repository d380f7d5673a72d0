"""What the styles share: which nodes say something, what an error is."""

from __future__ import annotations

from adapters.xenstore.styles import value
from adapters.xenstore.styles.base import Request, error_of, named_only, only_value, pairs_below, shortened
from gateway.core.xenstore.exposure import Exposure
from gateway.core.xenstore.paths import template


def test_nodes_say_something_when_they_have_a_value_or_nothing_below() -> None:
    tree = {"": b"own", "a": b"", "a/b": b"", "a/b/c": b"1", "d": b"", "e": b"2", "e/f": b"3"}
    assert pairs_below(tree) == [("a/b/c", b"1"), ("d", b""), ("e", b"2"), ("e/f", b"3")]


def test_an_error_has_both_a_code_and_a_description() -> None:
    assert error_of([("description", b"d"), ("code", b"1")]) == (b"1", b"d")
    assert error_of([("code", b"1")]) is None


def test_a_long_error_is_cut_between_two_characters_and_keeps_its_code() -> None:
    long = [("code", b"1002"), ("description", b"x" + "é".encode() * 1024)]
    assert shortened(long) == [("code", b"1002"), ("description", b"x" + "é".encode() * 1023)]


def test_an_answer_is_nothing_or_one_value_or_nodes_with_names() -> None:
    assert [only_value(pairs) for pairs in ([], [("", b"x")], [("a", b"x")])] == [b"", b"x", None]
    assert [named_only(pairs) for pairs in ([], [("", b"x")], [("a", b"x")])] == [True, False, True]


def test_a_simple_style_announces_begins_and_leaves_nothing() -> None:
    style = value.Word(Exposure("word", template("/a/{b}")))
    match = style.requests.match("/a/1")
    assert match is not None
    assert style.owner_node(match) == "/a/1"
    assert (style.announce(1), style.responses, style.removal(match)) == ((), None, ())
    assert style.start(match, Request("f")) == ()
