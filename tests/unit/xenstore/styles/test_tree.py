"""Style `tree`: what squeezed's old client writes, and what it finds."""

from __future__ import annotations

from adapters.xenstore.styles.base import ANYTHING, ReadSet, Request, Write
from tests.kit.xenstore_clients import ERROR, Tried, shown

TREE = Tried("tree", "/squeezed")
NODE = "/squeezed/rpc/request/reserve-memory/0f3c"
RESPONSE = "/squeezed/rpc/response/reserve-memory/0f3c"


def test_requests_stand_by_function_and_id() -> None:
    assert TREE.style.requests.root == "/squeezed/rpc/request"
    assert TREE.match(f"{NODE}/kib").node == NODE


def test_its_process_is_announced_where_the_path_has_no_parameter() -> None:
    assert shown(TREE.style.announce(7)) == [("/squeezed/pid", b"7")]
    assert Tried("tree", "/local/domain/{domid}/s").style.announce(7) == ()


def test_a_request_without_a_response_asks() -> None:
    got = TREE.request(NODE, {"": b"", "kib": b"4", "vm": b"", "vm/name": b"x", "none": b""})
    pairs = [("kib", b"4"), ("vm/name", b"x"), ("none", b"")]
    assert got == Request("reserve-memory", pairs, {NODE: ANYTHING})


def test_a_value_of_the_requests_own_node_is_not_lost() -> None:
    got = TREE.request(NODE, {"": b"x"})
    assert got is not None
    assert got.pairs == [("", b"x")]


def test_what_says_that_one_is_answered_is_its_response() -> None:
    match = TREE.match(NODE)
    assert TREE.style.read_set(match) == ReadSet((), NODE, RESPONSE)


def test_the_answer_is_the_response_with_its_keys() -> None:
    asked = TREE.request(NODE, {"": b""})
    assert asked is not None
    assert TREE.answer(NODE, asked, []) == [(RESPONSE, b"")]
    assert TREE.answer(NODE, asked, [("", b"one")]) == [(RESPONSE, b"one")]
    assert TREE.answer(NODE, asked, [("kib", b"4"), ("d/0", b"x")]) == [
        (RESPONSE, b""),
        (f"{RESPONSE}/kib", b"4"),
        (f"{RESPONSE}/d/0", b"x"),
    ]
    assert TREE.answer(NODE, asked, ERROR)[1:] == [(f"{RESPONSE}/code", b"2"), (f"{RESPONSE}/description", b"no")]


def test_the_response_is_handed_over_before_there_is_anything_in_it() -> None:
    asked = TREE.request(NODE, {"": b""})
    assert asked is not None
    first, *rest = TREE.style.respond(TREE.match(NODE), asked, [("kib", b"4")])  # type: ignore[misc]
    assert first == Write(RESPONSE, owned=True)
    assert not any(step.owned for step in rest)  # type: ignore[union-attr]


def test_a_left_over_answer_goes_with_its_request_first() -> None:
    answers = TREE.style.responses
    assert answers is not None
    match = answers.match(RESPONSE)
    assert match is not None
    assert shown(TREE.style.removal(match)) == [(NODE, None), (RESPONSE, None)]
