"""Style `deletion`: a word asks, its removal answers."""

from __future__ import annotations

from adapters.xenstore.styles.base import Request
from gateway.core.xenstore.exposure import StateWords
from tests.kit.xenstore_clients import ERROR, Tried

FOLDER = "/local/domain/5/control/snapshot"
NODE = f"{FOLDER}/action"
STATES = StateWords(node="status", done="snapshot-created", failed="snapshot-error")
SNAPSHOT = Tried("deletion", "/local/domain/{domid}/control/snapshot/action", states=STATES, parameters=("type",))
PLAIN = Tried("deletion", "/local/domain/{domid}/control/snapshot/action", method="snapshot")


def test_the_word_asks_with_the_nodes_beside_it() -> None:
    conditions = {NODE: b"create-snapshot", f"{FOLDER}/type": b"vm"}
    asked = Request("create-snapshot", [("type", b"vm")], conditions)
    assert SNAPSHOT.request(NODE, action=b"create-snapshot", type=b"vm") == asked
    assert SNAPSHOT.request(NODE, action=b"", type=b"vm") is None
    got = PLAIN.request(NODE, action=b"1")
    assert got is not None
    assert (got.method, got.pairs) == ("snapshot", [])


def test_result_and_state_stand_beside_it_when_it_is_gone() -> None:
    asked = Request("create-snapshot")
    assert SNAPSHOT.answer(NODE, asked, [("snapid/0", b"ab")]) == [
        (f"{FOLDER}/snapid", b""),
        (f"{FOLDER}/snapid/0", b"ab"),
        (f"{FOLDER}/status", b"snapshot-created"),
        (NODE, None),
    ]
    assert SNAPSHOT.answer(NODE, asked, ERROR)[2:] == [(f"{FOLDER}/status", b"snapshot-error"), (NODE, None)]
    assert PLAIN.answer(NODE, asked, []) == [(NODE, None)]
    assert "a struct" in PLAIN.refusal(NODE, asked, [("", b"x")])
