"""Style `chunked`: slices of 512 bytes each way, and the node that commits them."""

from __future__ import annotations

import pytest

from tests.kit.xenstore_clients import ERROR, Tried

CHUNKED = Tried("chunked", "/local/domain/{server}/RPC/fe/{domid}")
CHANNEL = "/local/domain/0/RPC/fe/7"
QUERY, REPLY = f"{CHANNEL}/query/3", f"{CHANNEL}/reply/3"


def test_a_query_is_taken_when_it_is_committed() -> None:
    tree = {"": b"", "cmd": b"run", "data00": b"a" * 512, "data01": b"b"}
    assert CHUNKED.request(QUERY, tree) is None
    got = CHUNKED.request(QUERY, {**tree, "submit": b"2"})
    assert got is not None
    assert (got.method, got.pairs) == ("run", [("data", b"a" * 512 + b"b")])
    assert got.conditions[f"{QUERY}/data01"] == b"b"
    assert CHUNKED.style.read_set(CHUNKED.match(QUERY)).response == f"{REPLY}/submit"


def test_a_query_without_data_has_no_parameter() -> None:
    got = CHUNKED.request(QUERY, {"cmd": b"run", "submit": b"0"})
    assert got is not None
    assert got.pairs == []


@pytest.mark.parametrize(
    ("tree", "why"),
    [
        ({"submit": b"0"}, "expected a node 'cmd'"),
        ({"cmd": b"", "submit": b"0"}, "expected a node 'cmd'"),
        ({"cmd": b"run", "submit": b"2", "data00": b""}, "'data01' is not there"),
        ({"cmd": b"run", "submit": b"100", "data00": b""}, "at most 99 slices, got 100"),
    ],
)
def test_a_query_that_makes_no_sense_is_refused(tree: dict[str, bytes], why: str) -> None:
    got = CHUNKED.request(QUERY, tree)
    assert got is not None
    assert got.fault is not None
    assert why in got.fault.message
    assert got.conditions[f"{QUERY}/submit"] == tree["submit"]


@pytest.mark.parametrize("submit", [b"", b"x", b"-1", b"1" * 10, b"1.0", b" 1"])
def test_what_is_no_count_of_slices_commits_nothing(submit: bytes) -> None:
    assert CHUNKED.request(QUERY, {"cmd": b"run", "submit": submit}) is None


def test_the_reply_is_sliced_and_committed_last() -> None:
    asked = CHUNKED.request(QUERY, {"cmd": b"run", "submit": b"0"})
    assert asked is not None
    assert CHUNKED.answer(QUERY, asked, [("", b"x" * 513)]) == [
        (REPLY, b""),
        (f"{REPLY}/status", b"success"),
        (f"{REPLY}/data00", b"x" * 512),
        (f"{REPLY}/data01", b"x"),
        (f"{REPLY}/submit", b"2"),
    ]
    assert CHUNKED.answer(QUERY, asked, [])[-1] == (f"{REPLY}/submit", b"0")


def test_an_error_is_its_text_with_its_code_beside() -> None:
    asked = CHUNKED.request(QUERY, {"cmd": b"run", "submit": b"0"})
    assert asked is not None
    assert CHUNKED.answer(QUERY, asked, ERROR)[1:] == [
        (f"{REPLY}/status", b"error"),
        (f"{REPLY}/data00", b"no"),
        (f"{REPLY}/code", b"2"),
        (f"{REPLY}/submit", b"1"),
    ]


def test_more_than_one_text_and_more_than_99_slices_are_refused() -> None:
    asked = CHUNKED.request(QUERY, {"cmd": b"run", "submit": b"0"})
    assert asked is not None
    assert "one text" in CHUNKED.refusal(QUERY, asked, [("a", b"x")])
    assert len(CHUNKED.answer(QUERY, asked, [("", b"x" * 512 * 99)])) == 99 + 3
    assert "50688 bytes in slices" in CHUNKED.refusal(QUERY, asked, [("", b"x" * (512 * 99 + 1))])
