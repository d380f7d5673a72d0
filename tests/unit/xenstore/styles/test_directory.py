"""Style `directory`: nodes that a state commits, results beside them."""

from __future__ import annotations

from adapters.xenstore.styles.base import Request
from gateway.core.xenstore.exposure import StateWords
from tests.kit.xenstore_clients import ERROR, Tried, shown

NODE = "/local/domain/5/control/batcmd"
STATES = StateWords(
    commit="READY", in_progress="IN PROGRESS", done="SUCCESS", failed="FAILURE", truncated="TRUNCATED", limit=4
)
BATCMD = Tried("directory", "/local/domain/{domid}/control/batcmd", states=STATES, method="run_script")
ASKED = Request("run_script", [("script", b"ls")], {f"{NODE}/state": b"IN PROGRESS"})


def test_it_asks_once_its_state_says_so() -> None:
    tree = {"": b"", "script": b"ls"}
    assert BATCMD.request(NODE, tree) is None
    assert BATCMD.request(NODE, {**tree, "state": b"SUCCESS"}) is None
    assert BATCMD.request(NODE, {**tree, "state": b"READY"}) == ASKED
    assert BATCMD.style.owner_node(BATCMD.match(NODE)) == f"{NODE}/state"


def test_where_no_state_says_that_it_is_taken_what_it_asks_must_stay() -> None:
    plain = Tried("directory", "/a/{domid}/b", states=StateWords(commit="x", done="y"), method="run")
    asked = plain.request("/a/1/b", {"": b"", "script": b"ls", "state": b"x"})
    assert asked == Request("run", [("script", b"ls")], {"/a/1/b/script": b"ls", "/a/1/b/state": b"x"})


def test_one_that_was_taken_is_known_as_such() -> None:
    got = BATCMD.request(NODE, {"": b"", "state": b"IN PROGRESS"})
    assert got is not None
    assert got.started


def test_the_state_says_that_it_is_taken() -> None:
    assert shown(BATCMD.style.start(BATCMD.match(NODE), ASKED)) == [(f"{NODE}/state", b"IN PROGRESS")]
    plain = Tried("directory", "/a/{domid}/b", states=StateWords(commit="x", done="y"))
    assert plain.style.start(plain.match("/a/1/b"), ASKED) == ()


def test_results_stand_there_before_the_state_tells() -> None:
    state = f"{NODE}/state"
    assert BATCMD.answer(NODE, ASKED, [("return", b"0")]) == [(f"{NODE}/return", b"0"), (state, b"SUCCESS")]
    assert BATCMD.answer(NODE, ASKED, ERROR)[2:] == [(state, b"FAILURE")]
    assert BATCMD.answer(NODE, ASKED, [("stdout", b"12345")]) == [(f"{NODE}/stdout", b"1234"), (state, b"TRUNCATED")]
    assert "a struct" in BATCMD.refusal(NODE, ASKED, [("", b"x")])
