"""The styles: nodes become requests, answers become nodes."""

from __future__ import annotations

import json
from importlib.resources import files

from adapters.xenstore.styles import STYLES
from adapters.xenstore.styles.base import (
    ANYTHING,
    ReadSet,
    Request,
    Write,
)
from adapters.xenstore.styles.words import word
from gateway.core.xenstore.paths import StateWords
from gateway.mapping.xenstore import endpoints
from tests.kit.cases import each_case, present
from tests.kit.xenstore_clients import ERROR, Tried, shown


def test_a_mapping_may_name_each_style_and_no_other() -> None:
    schema = json.loads(files("gateway.mapping").joinpath("mapping.schema.json").read_bytes())
    assert set(schema["$defs"]["expose"]["properties"]["style"]["enum"]) == set(STYLES) == set(endpoints.STYLES)


# All styles


# tree


TREE = Tried("tree", "/squeezed")
TREE_NODE = "/squeezed/rpc/request/reserve-memory/0f3c"
RESPONSE = "/squeezed/rpc/response/reserve-memory/0f3c"


def test_a_request_without_a_response_asks() -> None:
    assert TREE.style.requests.root == "/squeezed/rpc/request"
    match = TREE.match(f"{TREE_NODE}/kib")
    assert match.node == TREE_NODE
    assert TREE.style.read_set(match) == ReadSet((), TREE_NODE, RESPONSE)
    got = TREE.request(TREE_NODE, {"": b"", "kib": b"4", "vm": b"", "vm/name": b"x", "none": b""})
    pairs = [("kib", b"4"), ("vm/name", b"x"), ("none", b"")]
    assert got == Request("reserve-memory", pairs, {TREE_NODE: ANYTHING})
    assert present(TREE.request(TREE_NODE, {"": b"x"})).pairs == [("", b"x")]


def test_its_process_is_announced_where_the_path_has_no_parameter() -> None:
    assert shown(TREE.style.announce(7)) == [("/squeezed/pid", b"7")]
    assert Tried("tree", "/local/domain/{domid}/s").style.announce(7) == ()


def test_the_answer_is_the_response_which_is_handed_over_before_its_keys() -> None:
    asked = present(TREE.request(TREE_NODE, {"": b""}))
    assert TREE.answer(TREE_NODE, asked, []) == [(RESPONSE, b"")]
    assert TREE.answer(TREE_NODE, asked, [("", b"one")]) == [(RESPONSE, b"one")]
    assert TREE.style.respond(TREE.match(TREE_NODE), asked, [("kib", b"4"), ("d/0", b"x")]) == [
        Write(RESPONSE, owned=True),
        Write(f"{RESPONSE}/kib", b"4"),
        Write(f"{RESPONSE}/d/0", b"x"),
    ]
    assert TREE.answer(TREE_NODE, asked, ERROR)[1:] == [(f"{RESPONSE}/code", b"2"), (f"{RESPONSE}/description", b"no")]


def test_a_left_over_answer_goes_with_its_request_first() -> None:
    answers = present(TREE.style.responses)
    match = present(answers.match(RESPONSE))
    assert shown(TREE.style.removal(match)) == [(TREE_NODE, None), (RESPONSE, None)]


# chunked


CHUNKED = Tried("chunked", "/local/domain/{server}/RPC/fe/{domid}")
CHANNEL = "/local/domain/0/RPC/fe/7"
QUERY, REPLY = f"{CHANNEL}/query/3", f"{CHANNEL}/reply/3"


def test_a_query_is_taken_when_it_is_committed() -> None:
    tree = {"": b"", "cmd": b"run", "data00": b"a" * 512, "data01": b"b"}
    for submit in (b"", b"x", b"-1", b"1" * 10, b"1.0", b" 1"):  # no count of slices
        assert CHUNKED.request(QUERY, {**tree, "submit": submit}) is None
    assert CHUNKED.request(QUERY, tree) is None
    got = present(CHUNKED.request(QUERY, {**tree, "submit": b"2"}))
    assert (got.method, got.pairs) == ("run", [("data", b"a" * 512 + b"b")])
    assert got.conditions[f"{QUERY}/data01"] == b"b"
    assert CHUNKED.style.read_set(CHUNKED.match(QUERY)).response == f"{REPLY}/submit"
    assert present(CHUNKED.request(QUERY, {"cmd": b"run", "submit": b"0"})).pairs == []


@each_case(
    ("tree", "why"),
    [
        ({"submit": b"0"}, "expected a node 'cmd'"),
        ({"cmd": b"", "submit": b"0"}, "expected a node 'cmd'"),
        ({"cmd": b"run", "submit": b"2", "data00": b""}, "'data01' is not there"),
        ({"cmd": b"run", "submit": b"100", "data00": b""}, "at most 99 slices, got 100"),
    ],
)
def test_a_query_that_makes_no_sense_is_refused(tree: dict[str, bytes], why: str) -> None:
    got = present(CHUNKED.request(QUERY, tree))
    assert got.fault is not None
    assert why in got.fault.message
    assert got.conditions[f"{QUERY}/submit"] == tree["submit"]


def test_the_reply_is_sliced_and_committed_last() -> None:
    asked = present(CHUNKED.request(QUERY, {"cmd": b"run", "submit": b"0"}))
    assert CHUNKED.answer(QUERY, asked, [("", b"x" * 513)]) == [
        (REPLY, b""),
        (f"{REPLY}/status", b"success"),
        (f"{REPLY}/data00", b"x" * 512),
        (f"{REPLY}/data01", b"x"),
        (f"{REPLY}/submit", b"2"),
    ]
    assert CHUNKED.answer(QUERY, asked, [])[-1] == (f"{REPLY}/submit", b"0")
    assert CHUNKED.answer(QUERY, asked, ERROR)[1:] == [
        (f"{REPLY}/status", b"error"),
        (f"{REPLY}/data00", b"no"),
        (f"{REPLY}/code", b"2"),
        (f"{REPLY}/submit", b"1"),
    ]
    assert "one text" in CHUNKED.refusal(QUERY, asked, [("a", b"x")])
    assert len(CHUNKED.answer(QUERY, asked, [("", b"x" * 512 * 99)])) == 99 + 3
    assert "50688 bytes in slices" in CHUNKED.refusal(QUERY, asked, [("", b"x" * (512 * 99 + 1))])


# mailbox


ANSWERS = (
    ("save", StateWords(done="paused")),
    ("pci-ins", StateWords(done="pci-inserted", failed="pci-insert-failed")),
)
MAILBOX = Tried("mailbox", "/local/domain/0/device-model/{domid}", answers=ANSWERS)
MAILBOX_NODE = "/local/domain/0/device-model/5"
DEVICE = b"0000:00:19.0"
SAVE = Request("save", [], {f"{MAILBOX_NODE}/command": b"save", f"{MAILBOX_NODE}/parameter": None})
INSERT = Request(
    "pci-ins", [("parameter", DEVICE)], {f"{MAILBOX_NODE}/command": b"pci-ins", f"{MAILBOX_NODE}/parameter": DEVICE}
)


def test_a_command_asks_with_its_parameter() -> None:
    assert MAILBOX.request(MAILBOX_NODE, command=b"pci-ins", parameter=DEVICE) == INSERT
    assert MAILBOX.request(MAILBOX_NODE, command=b"save") == SAVE
    assert MAILBOX.request(MAILBOX_NODE, parameter=b"x") is None
    assert MAILBOX.request(MAILBOX_NODE, command=b"") is None
    assert MAILBOX.style.owner_node(MAILBOX.match(f"{MAILBOX_NODE}/state")) == f"{MAILBOX_NODE}/command"
    assert [word(value) for value in (b"pci-ins", b"a b/..", b"\xff")] == ["pci-ins", "a@20b@2f@2e@2e", "@ef@bf@bd"]


def test_what_is_done_is_told_by_the_state_and_the_command_is_gone() -> None:
    state, gone = f"{MAILBOX_NODE}/state", (f"{MAILBOX_NODE}/command", None)
    assert MAILBOX.answer(MAILBOX_NODE, SAVE, []) == [(state, b"paused"), gone]
    inserted = [(f"{MAILBOX_NODE}/parameter", b"0x20"), (state, b"pci-inserted"), gone]  # the result before the state
    assert MAILBOX.answer(MAILBOX_NODE, INSERT, [("", b"0x20")]) == inserted
    assert MAILBOX.answer(MAILBOX_NODE, INSERT, [("parameter", b"0x20")]) == inserted
    assert "one text" in MAILBOX.refusal(MAILBOX_NODE, INSERT, [("a", b"1"), ("b", b"2")])
    assert MAILBOX.answer(MAILBOX_NODE, INSERT, ERROR) == [(state, b"pci-insert-failed"), gone]
    for without_a_word in (SAVE, Request("no@2esuch", [], {})):
        assert MAILBOX.answer(MAILBOX_NODE, without_a_word, ERROR) == [gone]


# word


SHUTDOWN_NODE = "/local/domain/5/control/shutdown"
SHUTDOWN = Tried("word", "/local/domain/{domid}/control/shutdown")
SYSRQ = Tried("word", "/local/domain/{domid}/control/sysrq", method="sysrq")


def test_the_word_is_the_method_or_a_value_where_the_method_is_named() -> None:
    asked = Request("poweroff", (), {SHUTDOWN_NODE: b"poweroff"})
    assert SHUTDOWN.request(SHUTDOWN_NODE, shutdown=b"poweroff") == asked
    assert SHUTDOWN.request(SHUTDOWN_NODE, shutdown=b"") is None
    assert SHUTDOWN.request(SHUTDOWN_NODE) is None
    node = "/local/domain/5/control/sysrq"
    assert SYSRQ.request(node, sysrq=b"h") == Request("sysrq", [("value", b"h")], {node: b"h"})
    # It is acknowledged by the empty string, and an error by nothing being there.
    assert SHUTDOWN.answer(SHUTDOWN_NODE, asked, []) == [(SHUTDOWN_NODE, b"")]
    assert SHUTDOWN.answer(SHUTDOWN_NODE, asked, [("any", b"result")]) == [(SHUTDOWN_NODE, b"")]
    assert SHUTDOWN.answer(SHUTDOWN_NODE, asked, ERROR) == [(SHUTDOWN_NODE, None)]


# deletion


FOLDER = "/local/domain/5/control/snapshot"
ACTION = f"{FOLDER}/action"
SNAPSHOT_STATES = StateWords(node="status", done="snapshot-created", failed="snapshot-error")
SNAPSHOT = Tried(
    "deletion", "/local/domain/{domid}/control/snapshot/action", states=SNAPSHOT_STATES, parameters=("type",)
)
PLAIN = Tried("deletion", "/local/domain/{domid}/control/snapshot/action", method="snapshot")


def test_the_word_asks_with_the_nodes_beside_it() -> None:
    conditions = {ACTION: b"create-snapshot", f"{FOLDER}/type": b"vm"}
    asked = Request("create-snapshot", [("type", b"vm")], conditions)
    assert SNAPSHOT.request(ACTION, action=b"create-snapshot", type=b"vm") == asked
    assert SNAPSHOT.request(ACTION, action=b"", type=b"vm") is None
    got = present(PLAIN.request(ACTION, action=b"1"))
    assert (got.method, got.pairs) == ("snapshot", [])


def test_result_and_state_stand_beside_it_when_it_is_gone() -> None:
    asked = Request("create-snapshot")
    assert SNAPSHOT.answer(ACTION, asked, [("snapid/0", b"ab")]) == [
        (f"{FOLDER}/snapid", b""),
        (f"{FOLDER}/snapid/0", b"ab"),
        (f"{FOLDER}/status", b"snapshot-created"),
        (ACTION, None),
    ]
    assert SNAPSHOT.answer(ACTION, asked, ERROR)[2:] == [(f"{FOLDER}/status", b"snapshot-error"), (ACTION, None)]
    assert PLAIN.answer(ACTION, asked, []) == [(ACTION, None)]
    assert "a struct" in PLAIN.refusal(ACTION, asked, [("", b"x")])


# directory


BATCMD_NODE = "/local/domain/5/control/batcmd"
BATCMD_STATES = StateWords(
    commit="READY", in_progress="IN PROGRESS", done="SUCCESS", failed="FAILURE", truncated="TRUNCATED", limit=4
)
BATCMD = Tried("directory", "/local/domain/{domid}/control/batcmd", states=BATCMD_STATES, method="run_script")
ASKED = Request("run_script", [("script", b"ls")], {f"{BATCMD_NODE}/state": b"IN PROGRESS"})


def test_it_asks_once_its_state_says_so() -> None:
    tree = {"": b"", "script": b"ls"}
    assert BATCMD.request(BATCMD_NODE, tree) is None
    assert BATCMD.request(BATCMD_NODE, {**tree, "state": b"SUCCESS"}) is None
    assert BATCMD.request(BATCMD_NODE, {**tree, "state": b"READY"}) == ASKED
    assert BATCMD.style.owner_node(BATCMD.match(BATCMD_NODE)) == f"{BATCMD_NODE}/state"


def test_the_state_says_that_it_is_taken_or_what_it_asks_must_stay() -> None:
    assert present(BATCMD.request(BATCMD_NODE, {"": b"", "state": b"IN PROGRESS"})).started
    assert shown(BATCMD.style.start(BATCMD.match(BATCMD_NODE), ASKED)) == [(f"{BATCMD_NODE}/state", b"IN PROGRESS")]
    plain = Tried("directory", "/a/{domid}/b", states=StateWords(commit="x", done="y"), method="run")
    asked = plain.request("/a/1/b", {"": b"", "script": b"ls", "state": b"x"})
    assert asked == Request("run", [("script", b"ls")], {"/a/1/b/script": b"ls", "/a/1/b/state": b"x"})
    assert plain.style.start(plain.match("/a/1/b"), ASKED) == ()


def test_results_stand_there_before_the_state_tells() -> None:
    state = f"{BATCMD_NODE}/state"
    assert BATCMD.answer(BATCMD_NODE, ASKED, [("return", b"0")]) == [
        (f"{BATCMD_NODE}/return", b"0"),
        (state, b"SUCCESS"),
    ]
    assert BATCMD.answer(BATCMD_NODE, ASKED, ERROR)[2:] == [(state, b"FAILURE")]
    assert BATCMD.answer(BATCMD_NODE, ASKED, [("stdout", b"12345")]) == [
        (f"{BATCMD_NODE}/stdout", b"1234"),
        (state, b"TRUNCATED"),
    ]
    assert "a struct" in BATCMD.refusal(BATCMD_NODE, ASKED, [("", b"x")])
