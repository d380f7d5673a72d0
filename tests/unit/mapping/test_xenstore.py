"""Xenstore endpoints, publications and watch triggers."""

from __future__ import annotations

from pathlib import Path

from gateway.core.dbus.target import Subscription
from gateway.core.routing.publication import Publication, RelatedNode, Text, WatchTrigger
from gateway.core.rpc.model import Call, Value
from gateway.core.xenstore.paths import DOM0_ALONE, Domains, Exposure, StateWords, template
from tests.kit.cases import each_case, present
from tests.kit.mappings import HEAD, Built, build_files

METHODS = """\
  start: {member: Start, params: [{name: domid, drop: true}, paused, force], aliases: [begin]}
  stat: {member: Stat, params: [{name: domid, drop: true}], allowed_domains: [3]}
"""


STORE = "listener: store, codec: xenstore"


def built(directory: Path, expose: str, methods: str = METHODS) -> Built:
    """A file with this one `expose` entry."""
    head = HEAD.replace("{listener: rpc, path: /rpc, codec: xmlrpc}", "{" + expose + "}")
    return build_files(directory, x=head + methods)


def exposure(directory: Path, options: str) -> Exposure:
    found = built(directory, f"{STORE}, {options}")
    assert found.problems == []
    (endpoint,) = found.table.endpoints.values()
    assert endpoint.exposure is not None
    return endpoint.exposure


DOMAIN = "path: '/local/domain/{domid}/x'"


def test_a_tree_has_defaults_and_may_keep_responses_for_ever(tmp_path: Path) -> None:
    assert exposure(tmp_path, "style: tree, path: /svc") == Exposure("tree", template("/svc"), Domains(), 3600.0)
    assert exposure(tmp_path, "style: tree, path: /svc, response_ttl: never").response_ttl is None
    assert exposure(tmp_path, "style: tree, path: /svc, response_ttl: 5m").response_ttl == 300.0


def test_domains_are_numbers_a_parameter_of_the_path_or_any_also_of_a_method(tmp_path: Path) -> None:
    got = exposure(tmp_path, f"style: tree, {DOMAIN}, allowed_domains: [5, '{{domid}}']")
    assert got.domains == Domains(frozenset({5}), frozenset({"domid"}))
    for written in ("any", "[any]", "[5, any]"):
        assert exposure(tmp_path, f"style: tree, path: /svc, allowed_domains: {written}").domains.everyone
    (endpoint,) = built(tmp_path, f"{STORE}, style: tree, path: /svc").table.endpoints.values()
    assert endpoint.routes["stat"].domains == Domains(frozenset({3}))
    assert endpoint.routes["start"].domains is None


def test_a_style_has_its_words_and_options(tmp_path: Path) -> None:
    mailbox = exposure(tmp_path, f"style: mailbox, {DOMAIN}, answers: {{start: on, stat: {{done: ok, failed: bad}}}}")
    words = StateWords(done="on")  # for the alias too
    assert mailbox.answers == (("start", words), ("begin", words), ("stat", StateWords(done="ok", failed="bad")))
    states = "{commit: READY, in_progress: IN PROGRESS, done: SUCCESS, failed: FAILURE, truncated: CUT, limit: 1024}"
    directory = exposure(tmp_path, f"style: directory, {DOMAIN}, method: start, states: {states}")
    assert directory.states == StateWords("state", "READY", "IN PROGRESS", "SUCCESS", "FAILURE", "CUT", 1024)
    assert directory.method == "start"
    deletion = exposure(tmp_path, f"style: deletion, {DOMAIN}, parameters: [paused], states: {{node: status}}")
    assert (deletion.parameters, deletion.states) == (("paused",), StateWords("status"))


def test_an_entry_may_reach_only_some_of_the_methods(tmp_path: Path) -> None:
    found = built(tmp_path, f"{STORE}, style: mailbox, {DOMAIN}, methods: [start], answers: {{start: on}}")
    assert found.problems == []
    (endpoint,) = found.table.endpoints.values()
    assert set(endpoint.routes) == {"start", "begin"}


@each_case(
    ("options", "method"),
    [
        ("style: chunked, path: /x", "{member: Stat, result: state}"),
        ("style: mailbox, path: /x, answers: {m: done}", "{member: Stat, result: {parameter: state}}"),
        ("style: deletion, path: /x", "{member: Stat}"),
        ("style: deletion, path: /x", "{member: Start, params: [paused, force]}"),
        ("style: word, path: /x", "{member: Disks}"),
        ("style: tree, path: /x", "{property: PowerState, aliases: [n]}"),
    ],
)
def test_a_style_accepts_the_results_that_it_can_write(tmp_path: Path, options: str, method: str) -> None:
    assert built(tmp_path, f"{STORE}, {options}", f"  m: {method}\n").problems == []


def test_files_that_share_an_endpoint_have_the_same_options(tmp_path: Path) -> None:
    texts = [
        HEAD.replace("listener: rpc, path: /rpc, codec: xmlrpc", f"{STORE}, style: {style}, path: /svc")
        + f"  {name}: {{member: At, params: [when]}}\n"
        for style, name in (("tree", "a"), ("chunked", "b"))
    ]
    problem = "b.yaml:11:5: expose[0]: endpoint store /svc already has other xenstore options (a.yaml:11)"
    assert build_files(tmp_path, a=texts[0], b=texts[1]).problems == [problem]


TOP = HEAD.removesuffix("methods:\n")  # eleven lines
PROPERTIES = "org.freedesktop.DBus.Properties"
OF_VM = "org.example.VM1"


def published(directory: Path, entry: str) -> Publication:
    """A file with this `publish` entry, in line 13."""
    text = f"publish:\n  - {{listener: store, {entry}}}\nmethods:\n  m: {{member: Stat}}\n"
    built = build_files(directory, x=TOP + text)
    assert built.problems == []
    (publication,) = built.table.publications
    return publication


def test_a_signal_is_shown_with_its_arguments(tmp_path: Path) -> None:
    publication = published(tmp_path, 'node: "/vm/{name}/target", signal: Retargeted, value: "{kib} KiB"')
    (heard,) = publication.subscriptions
    assert heard == Subscription("org.example", "/org/example", OF_VM, "Retargeted", "sx")
    assert publication.arguments == ("name", "kib")
    assert publication.node_set("", {"name": "web", "kib": 7}).leaves == {"/vm/web/target": b"7 KiB"}
    assert (publication.read, publication.read_all) == (None, None)
    assert publication.source.endswith("x.yaml:13")


def test_properties_of_one_object_are_shown_and_can_be_read(tmp_path: Path) -> None:
    shown = 'memory: Memory, a/b: "{PowerState}!", own: NameLabel, paused: {present: Paused}'
    publication = published(tmp_path, f'node: /vm, properties: {{{shown}}}, permissions: "n0,r5"')
    (heard,) = publication.subscriptions
    assert heard.properties == {"Memory": "t", "PowerState": "s", "NameLabel": "s", "Paused": "b"}
    values: dict[str, Value] = {"Memory": 7, "PowerState": "on", "NameLabel": "x", "Paused": True}
    picture = publication.node_set("", values)
    leaves = {"/vm/memory": b"7", "/vm/a/b": b"on!", "/vm/own": b"x", "/vm/paused": b""}
    assert (picture.leaves, picture.grants) == (leaves, (("n", 0), ("r", 5)))
    assert publication.node_set("", {**values, "Paused": False}).leaves == {**leaves, "/vm/paused": None}
    call = present(publication.read).encode_arguments(Call("publish"))
    assert (call.object_path, call.interface, call.member, call.body) == ("/org/example", PROPERTIES, "GetAll", [OF_VM])
    assert publication.read_all is None
    for more, text in (("", b"on"), (', value: "is {PowerState}"', b"is on")):
        one = published(tmp_path, f"node: /state, property: PowerState{more}")
        assert one.node_set("", {"PowerState": "on"}).leaves == {"/state": text}


def test_all_objects_are_shown_each_at_its_own_node(tmp_path: Path) -> None:
    entry = 'object_path: "/org/example/vm/{vm}", node: "/vm/{vm}", property: Memory, objects: /org/example'
    publication = published(tmp_path, entry)
    changes, added, removed = publication.subscriptions
    assert (changes.object_path, changes.below, changes.properties) == ("/org/example/vm", True, {"Memory": "t"})
    assert (added.object_path, added.member, added.below) == ("/org/example", "InterfacesAdded", True)
    assert removed.member == "InterfacesRemoved"
    one, every = present(publication.read), present(publication.read_all)
    assert one.encode_arguments(Call("publish", (), {"vm": "5"})).object_path == "/org/example/vm/_35"
    assert every.encode_arguments(Call("publish")).object_path == "/org/example"
    assert published(tmp_path, entry.replace(", objects: /org/example", "")).subscriptions[1].object_path == (
        "/org/example/vm"
    )


TRIGGERED = """\
methods:
  add: {member: Add, params: [name, memory], coerce: legacy}
  strict: {member: Add, params: [name, {name: memory, default: 1}], coerce: strict}
  tell: {member: Configure, params: [config, {name: pair, default: ["", 0]}]}
  plug: {member: Plug, params: [devices]}
  start: {member: Start, params: [paused, {name: force, default: false}], coerce: legacy}
  seen: {member: Start, params: [], args: {paused: true, force: true}, allowed_domains: [3]}
  forget: {member: Start, params: [{name: id, drop: true}], args: {paused: true, force: true}}
"""


def trigger(directory: Path, entry: str, top: str = TOP) -> WatchTrigger:
    """A file with this `on_change` entry, in line 13."""
    built = build_files(directory, x=f"{top}on_change:\n  - {{listener: store, {entry}}}\n{TRIGGERED}")
    assert built.problems == []
    (found,) = built.table.triggers
    return found


def test_parameters_are_texts_and_other_nodes(tmp_path: Path) -> None:
    found = trigger(
        tmp_path, 'node: "/d/{id}/x/found", method: add, params: {name: "{id}: {value}", memory: {node: os/memory}}'
    )
    assert found.parameters == {"name": Text("{id}: {value}"), "memory": RelatedNode("os/memory")}
    assert (found.route.method, found.domains) == ("add", DOM0_ALONE)
    assert found.node.root == "/d"
    assert found.source.endswith("x.yaml:13")
    tree = trigger(tmp_path, "node: /d/updated, method: tell, params: {config: {tree: .}}")
    assert tree.parameters == {"config": RelatedNode(".", tree=True)}


def test_a_trigger_has_allowed_domains_or_those_of_its_method(tmp_path: Path) -> None:
    start = 'node: "/d/{domid}", method: start, params: {paused: "{value}"}'
    for entry, domains in (
        (start, DOM0_ALONE),
        (f'{start}, allowed_domains: ["{{domid}}"]', Domains(named=frozenset({"domid"}))),
        (f"{start}, allowed_domains: [7]", Domains(frozenset({7}))),
        (f"{start}, allowed_domains: []", DOM0_ALONE),
        ("node: /d, method: seen", Domains(frozenset({3}))),
    ):
        assert trigger(tmp_path, entry).domains == domains


def test_a_file_with_a_trigger_needs_no_endpoint(tmp_path: Path) -> None:
    top = TOP.partition("expose:")[0]
    found = trigger(tmp_path, 'node: /a, method: start, params: {paused: "{value}"}', top)
    assert found.route.method == "start"


def test_a_fingerprint_changes_with_the_entry(tmp_path: Path) -> None:
    entry = 'node: /a, method: start, params: {paused: "{value}"}'
    first = trigger(tmp_path, entry).fingerprint
    assert trigger(tmp_path, entry).fingerprint == first
    assert trigger(tmp_path, entry.replace("/a", "/b")).fingerprint != first
