from __future__ import annotations

from pathlib import Path

import pytest

from gateway.core.routing.publication import RelatedNode, Text, WatchTrigger
from gateway.core.xenstore.exposure import DOM0_ALONE, Domains
from tests.kit.mappings import HEAD, Built, build_files

TOP = HEAD.removesuffix("methods:\n")  # eleven lines
METHODS = """\
methods:
  add: {member: Add, params: [name, memory], coerce: legacy}
  strict: {member: Add, params: [name, {name: memory, default: 1}], coerce: strict}
  tell: {member: Configure, params: [config, {name: pair, default: ["", 0]}]}
  plug: {member: Plug, params: [devices]}
  start: {member: Start, params: [paused, {name: force, default: false}], coerce: legacy}
  seen: {member: Start, params: [], args: {paused: true, force: true}, allowed_domains: [3]}
  forget: {member: Start, params: [{name: id, drop: true}], args: {paused: true, force: true}}
"""


def triggers(directory: Path, *entries: str, top: str = TOP) -> Built:
    """A file with these `trigger` entries, each on a line from 13 on."""
    text = "on_change:\n" + "".join(f"  - {{listener: store, {entry}}}\n" for entry in entries)
    return build_files(directory, x=f"{top}{text}{METHODS}")


def trigger(directory: Path, entry: str) -> WatchTrigger:
    built = triggers(directory, entry)
    assert built.problems == []
    (bell,) = built.table.triggers
    return bell


def test_parameters_are_texts_and_what_stands_beside_the_node(tmp_path: Path) -> None:
    bell = trigger(
        tmp_path, 'node: "/d/{id}/x/bell", method: add, params: {name: "{id}: {value}", memory: {node: os/memory}}'
    )
    assert bell.parameters == {"name": Text("{id}: {value}"), "memory": RelatedNode("os/memory")}
    assert (bell.route.method, bell.domains) == ("add", DOM0_ALONE)
    assert bell.node.root == "/d"
    assert bell.source.endswith("x.yaml:13")


def test_a_tree_becomes_a_dictionary(tmp_path: Path) -> None:
    bell = trigger(tmp_path, "node: /d/updated, method: tell, params: {config: {tree: .}}")
    assert bell.parameters == {"config": RelatedNode(".", tree=True)}


@pytest.mark.parametrize(
    ("said", "domains"),
    [
        ("x", DOM0_ALONE),
        ('allowed_domains: ["{domid}"]', Domains(named=frozenset({"domid"}))),
        ("allowed_domains: [7]", Domains(frozenset({7}))),
        ("allowed_domains: []", DOM0_ALONE),
    ],
)
def test_it_is_said_who_may_ring(tmp_path: Path, said: str, domains: Domains) -> None:
    said = "" if said == "x" else f", {said}"
    bell = trigger(tmp_path, f'node: "/d/{{domid}}", method: start, params: {{paused: "{{value}}"}}{said}')
    assert bell.domains == domains


def test_what_a_method_says_of_domains_holds_for_its_triggers(tmp_path: Path) -> None:
    built = triggers(tmp_path, "node: /d, method: seen")
    assert built.table.triggers[0].domains == Domains(frozenset({3}))


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("node: /a, method: ad", "on_change[0].method: 'ad' is no method of this file (did you mean 'add'?)"),
        (
            "node: /a, method: add, params: {name: x}",
            "on_change[0]: nobody gives the parameter 'memory' of add",
        ),
        (
            "node: /a, method: add, params: {nam: x, memory: x}",
            "on_change[0].params.nam: 'nam' is no parameter of add (did you mean 'name'?)",
        ),
        (
            'node: "/a/{id}", method: add, params: {name: "{domid}", memory: x}',
            "on_change[0].params.name: '{domid}' does not stand in 'node' (there are: id, value)",
        ),
        (
            'node: /a, method: strict, params: {name: x, memory: "{value}"}',
            "on_change[0].params.memory: 'memory u' takes no text; say coerce: legacy in the method",
        ),
        ("node: /a, method: plug, params: {devices: x}", "on_change[0].params.devices: 'devices a(su)' takes no text"),
        (
            "node: /a, method: plug, params: {devices: {tree: .}}",
            "on_change[0].params.devices: 'devices a(su)' takes no tree: a{ss} or a{sv} is needed",
        ),
        (
            "node: /a, method: add, params: {name: {node: ../b}, memory: x}",
            "on_change[0].params.name.node: expected a path such as /local/domain/{domid}/control, got '/../b'",
        ),
        (
            "node: /a, method: add, params: {name: {node: .}, memory: x}",
            "on_change[0].params.name.node: expected a path such as /local/domain/{domid}/control, got '/.'",
        ),
        (
            'node: "/a/{b}", method: add, params: {name: {node: "{b}"}, memory: x}',
            "on_change[0].params.name.node: expected the path of a node beside 'node', without names in braces",
        ),
        (
            "node: /a.b, method: forget",
            "on_change[0].node: expected a path such as /local/domain/{domid}/control, got '/a.b'",
        ),
        (
            'node: /a, method: start, params: {paused: x}, allowed_domains: ["{domid}"]',
            "on_change[0].allowed_domains[0]: {domid} does not stand in the path /a",
        ),
        ("node: /a, method: start, params: {paused: x}, allowed_domains: [-1]", None),
        ("node: /a, method: start, params: {paused: x}, allowed_domains: mine", None),
        ("node: /a, method: start, params: {paused: {node: a, tree: b}}", None),
    ],
)
def test_a_problem_is_told_with_its_place(tmp_path: Path, entry: str, expected: str | None) -> None:
    built = triggers(tmp_path, entry)
    assert built.table.triggers == ()
    assert built.problems
    assert all(problem.startswith("x.yaml:13:") for problem in built.problems)
    assert expected is None or expected in [problem.partition(": ")[2] for problem in built.problems]


def test_a_node_has_one_doorbell_whatever_the_file(tmp_path: Path) -> None:
    built = triggers(tmp_path, *['node: /a, method: start, params: {paused: "{value}"}'] * 2)
    assert built.problems == ["x.yaml:14:29: on_change[1].node: /a has a trigger already, in x.yaml:13"]


def test_a_file_whose_methods_are_rung_needs_no_client(tmp_path: Path) -> None:
    top = TOP.partition("expose:")[0]
    built = triggers(tmp_path, 'node: /a, method: start, params: {paused: "{value}"}', top=top)
    assert built.problems == []
    assert [route.method for route in built.table.routes()] == ["start"]


def test_a_fingerprint_changes_with_the_method_too(tmp_path: Path) -> None:
    entry = 'node: /a, method: start, params: {paused: "{value}"}'
    first = trigger(tmp_path, entry).fingerprint
    assert trigger(tmp_path, entry).fingerprint == first
    assert trigger(tmp_path, entry.replace("{value}", "1")).fingerprint != first
