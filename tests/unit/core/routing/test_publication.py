from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.core.dbus.scalars import MarshalError
from gateway.core.routing.publication import (
    Content,
    Flag,
    NodeTemplate,
    Publication,
    RelatedNode,
    Text,
    WatchTrigger,
    digest,
    grants,
)
from gateway.core.xenstore.paths import template
from tests.kit.backends import toy_route
from tests.kit.cases import each_case
from tests.kit.mappings import HEAD, build_methods

MEMORY = NodeTemplate(
    template("/local/domain/{domid}/memory"),
    {("target",): Text("{kib}"), ("uncooperative",): Flag("deaf"), ("note",): Text("{kib} KiB of {name}")},
    Text("n0,r{domid}"),
)
TARGET = "/local/domain/5/memory/target"


def test_a_picture_has_all_nodes_whose_values_are_there() -> None:
    node_set = MEMORY.render({"domid": "5", "kib": 262144, "deaf": True})
    assert node_set.leaves == {TARGET: b"262144", "/local/domain/5/memory/uncooperative": b""}
    assert node_set.grants == (("n", 0), ("r", 5))
    assert node_set.domain == "/local/domain/5"
    more = MEMORY.render({"domid": 5, "kib": 1, "deaf": False, "name": "web"}).leaves
    assert more["/local/domain/5/memory/note"] == b"1 KiB of web"
    assert more["/local/domain/5/memory/uncooperative"] is None


def test_no_value_leads_to_a_path_outside_or_says_more_permissions_than_one() -> None:
    nodes = NodeTemplate(template("/vm/{id}/name"), {(): Text("{name}")}, Text("n0,r{domid}"))
    outside = nodes.render({"id": "../../x", "name": "", "domid": 7})
    assert list(outside.leaves) == ["/vm/@2e@2e@2f@2e@2e@2fx/name"]
    assert (outside.domain, outside.grants) == ("", (("n", 0), ("r", 7)))
    with pytest.raises(MarshalError, match="expected a domid"):
        nodes.render({"id": "a", "name": "", "domid": "7,b6"})
    for domid in ("..", "5/../6", "-1", "05", "", "100000"):
        with pytest.raises(MarshalError, match="expected a domid"):
            MEMORY.render({"domid": domid, "kib": 1})


@each_case(
    ("values", "problem"),
    [
        ({"id": "x" * 3073, "name": ""}, "a path of at most 3072 characters"),
        ({"id": "\ud800", "name": ""}, "lone surrogates"),
        ({"name": ""}, "a value for each name in the path"),
    ],
)
def test_what_no_store_takes_is_refused(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(MarshalError, match=problem):
        NodeTemplate(template("/vm/{id}/name"), {(): Text("{name}")}).render(values)


@each_case(
    ("name", "why"),
    [("y" * 2049, "expected a value of at most 2048 bytes"), ("\ud800", "expected text without lone surrogates")],
)
def test_a_value_that_no_node_holds_is_left_out_and_the_others_are_shown(name: str, why: str) -> None:
    nodes = NodeTemplate(template("/vm/{id}"), {("name",): Text("{name}"), ("kib",): Text("{kib}")})
    node_set = nodes.render({"id": "x", "name": name, "kib": 7})
    assert node_set.leaves == {"/vm/x/name": None, "/vm/x/kib": b"7"}
    (text_of,) = node_set.left_out
    assert text_of.startswith("/vm/x/name (name): ")
    assert why in text_of


@each_case("text", ["", "n", "n-1", "x0", "n0;r5", "n0,,r5", "r5 5"])
def test_permissions_have_one_form(text: str) -> None:
    with pytest.raises(ValueError, match="expected permissions such as n0,r5"):
        grants(text)


def test_an_object_is_known_by_the_last_element_of_its_path() -> None:
    all_of_them = Publication("store", MEMORY, (), "/org/example/domain/{domid}")
    assert all_of_them.parameter == "domid"
    assert all_of_them.key("/org/example/domain/_35") == "5"
    assert all_of_them.path("5") == "/org/example/domain/_35"
    for other in ("/org/example/domain", "/org/example/domain/_35/x", "/org/example/other/_35", "/"):
        assert all_of_them.key(other) is None
    assert all_of_them.node_set("5", {"kib": 1}).leaves == {TARGET: b"1"}
    one = Publication("store", NodeTemplate(template("/free"), {(): Text("{kib}")}), (), "/org/example")
    assert (one.parameter, one.key("/org/example"), one.key("/org/example/x")) == ("", "", None)
    assert one.path("") == "/org/example"
    assert one.node_set("", {"kib": 1}).leaves == {"/free": b"1"}


def test_an_element_that_a_service_does_not_escape_is_the_key(tmp_path: Path) -> None:
    devices = Publication("store", MEMORY, (), "/org/example/{domid}", is_escaped=False)
    for element in ("dev_11_22", "_35"):
        assert devices.key(f"/org/example/{element}") == element
        assert devices.path(element) == f"/org/example/{element}"
    entry = "{listener: store, object_path: '/a/{v}', node: '/x/{v}', property: Memory, escape: none}"
    head = HEAD.replace("methods:\n", f"publish:\n- {entry}\nmethods:\n")
    built = build_methods(tmp_path, "m: {member: Stat}", head)
    assert built.problems == []
    (publication,) = built.table.publications
    assert not publication.is_escaped
    assert publication.read_all is not None
    objects: dict[str, object] = {"/a/dev_2d": {"org.example.VM1": {}}}
    assert publication.read_all.decode_result([objects]) == {"dev_2d": {}}


# Rings


def trigger(**parameters: Text | RelatedNode) -> WatchTrigger:
    return WatchTrigger("store", template("/local/domain/{domid}/data/updated"), toy_route("Ring"), parameters)


def test_a_call_has_the_path_the_value_and_what_stands_beside() -> None:
    name, tree, gone = RelatedNode("os/name"), RelatedNode(".", tree=True), RelatedNode("gone")
    bell = trigger(domid=Text("{domid}"), text=Text("<{value}>"), name=name, all=tree, gone=gone, fixed=Text("x"))
    assert bell.related == (name, tree, gone)
    content = Content(b"1", {name: b"Debian", tree: {"os/name": b"Debian", "free": b"7"}, gone: None})
    call = bell.call(content, {"domid": "5"}, 5)
    assert call.method == "Ring"
    assert (call.peer.domid, call.peer.address) == (5, "domain 5")
    assert call.named == {
        "domid": "5",
        "text": "<1>",
        "name": "Debian",
        "all": {"os/name": "Debian", "free": "7"},
        "fixed": "x",
    }


@each_case("content", [Content(b"\xff"), Content(b"a\0b"), Content(b"", {RelatedNode("x"): b"\xff"})])
def test_what_is_no_text_is_refused_with_the_place(content: Content) -> None:
    with pytest.raises(MarshalError, match=r"expected (UTF-8 text|text without NUL)"):
        trigger(text=Text("{value}"), related=RelatedNode("x")).call(content, {"domid": "5"}, 0)


def test_a_digest_is_that_of_all_that_a_ring_tells() -> None:
    tree = RelatedNode(".", tree=True)
    same = Content(b"1", {tree: {"a": b"1", "b": b"2"}})
    assert same.digest == Content(b"1", {tree: {"b": b"2", "a": b"1"}}).digest
    others = [
        Content(b"1"),
        Content(b"1", {tree: {"a": b"1"}}),
        Content(b"2", same.related),
        Content(b"1", {tree: None}),
    ]
    assert len({each.digest for each in (*others, same)}) == 5
    assert Content(b"1").digest == digest(b"1")
