"""`expose` entries for a xenstore: what they say, and what is wrong with them, with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.core.xenstore.exposure import Domains, Exposure, StateWords
from gateway.core.xenstore.paths import template
from gateway.mapping.compiler import build
from gateway.mapping.table import Table
from tests.kit.mappings import HEAD, IDL

METHODS = """\
  start: {member: Start, params: [{name: domid, drop: true}, paused, force], aliases: [begin]}
  stat: {member: Stat, params: [{name: domid, drop: true}], allowed_domains: [3]}
"""


def built(directory: Path, expose: str, methods: str = METHODS) -> tuple[Table, list[str]]:
    """A file with this one `expose` entry, in line 11."""
    (directory / "example.xml").write_text(IDL)
    head = HEAD.replace("{listener: rpc, path: /rpc, codec: xmlrpc}", "{" + expose + "}")
    (directory / "x.yaml").write_text(head + methods)
    table, problems = build(
        [directory],
        codecs={"xmlrpc", "xenstore"},
        dialects={"plain", "xenapi"},
        listeners={"rpc", "store"},
        stores={"store"},
    )
    return table, [str(problem).replace(f"{directory}/", "") for problem in problems]


def exposure(directory: Path, said: str) -> Exposure:
    table, problems = built(directory, f"listener: store, codec: xenstore, {said}")
    assert problems == []
    (endpoint,) = table.endpoints.values()
    assert endpoint.exposure is not None
    return endpoint.exposure


DOMAIN = "path: '/local/domain/{domid}/x'"


def test_a_tree_has_defaults(tmp_path: Path) -> None:
    got = exposure(tmp_path, "style: tree, path: /svc")
    assert got == Exposure("tree", template("/svc"), Domains(), 3600.0)


def test_collecting_may_be_switched_off(tmp_path: Path) -> None:
    assert exposure(tmp_path, "style: tree, path: /svc, response_ttl: never").response_ttl is None
    assert exposure(tmp_path, "style: tree, path: /svc, response_ttl: 5m").response_ttl == 300.0


def test_domains_are_numbers_a_parameter_of_the_path_or_any(tmp_path: Path) -> None:
    got = exposure(tmp_path, f"style: tree, {DOMAIN}, allowed_domains: [5, '{{domid}}']")
    assert got.domains == Domains(frozenset({5}), frozenset({"domid"}))
    for written in ("any", "[any]", "[5, any]"):
        assert exposure(tmp_path, f"style: tree, path: /svc, allowed_domains: {written}").domains.everyone
    _, problems = built(tmp_path, f"{STORE}, style: tree, path: /svc, allowed_domains: all")
    assert len(problems) == 1
    assert "expose[0].allowed_domains" in problems[0]


def test_a_method_may_have_domains_of_its_own(tmp_path: Path) -> None:
    table, _ = built(tmp_path, "listener: store, codec: xenstore, style: tree, path: /svc")
    (endpoint,) = table.endpoints.values()
    assert endpoint.routes["stat"].domains == Domains(frozenset({3}))
    assert endpoint.routes["start"].domains is None


def test_a_mailbox_has_its_answers_by_method_and_alias(tmp_path: Path) -> None:
    got = exposure(tmp_path, f"style: mailbox, {DOMAIN}, answers: {{start: on, stat: {{done: ok, failed: bad}}}}")
    words = StateWords(done="on")
    assert got.answers == (("start", words), ("begin", words), ("stat", StateWords(done="ok", failed="bad")))


def test_a_directory_has_its_states(tmp_path: Path) -> None:
    states = "{commit: READY, in_progress: IN PROGRESS, done: SUCCESS, failed: FAILURE, truncated: CUT, limit: 1024}"
    got = exposure(tmp_path, f"style: directory, {DOMAIN}, method: start, states: {states}")
    assert got.states == StateWords("state", "READY", "IN PROGRESS", "SUCCESS", "FAILURE", "CUT", 1024)
    assert got.method == "start"


def test_a_deletion_reads_nodes_beside_the_word(tmp_path: Path) -> None:
    got = exposure(tmp_path, f"style: deletion, {DOMAIN}, parameters: [paused], states: {{node: status}}")
    assert (got.parameters, got.states) == (("paused",), StateWords("status"))


def test_an_entry_may_reach_only_some_of_the_methods(tmp_path: Path) -> None:
    table, problems = built(tmp_path, f"{STORE}, style: mailbox, {DOMAIN}, methods: [start], answers: {{start: on}}")
    assert problems == []
    (endpoint,) = table.endpoints.values()
    assert set(endpoint.routes) == {"start", "begin"}
    _, problems = built(tmp_path, "listener: rpc, codec: xmlrpc, path: /x, methods: [strat]")
    assert problems == ["x.yaml:11:53: expose[0].methods[0]: 'strat' is no method of this file (did you mean 'stat'?)"]


STORE = "listener: store, codec: xenstore"


@pytest.mark.parametrize(
    ("said", "place", "message"),
    [
        (f"{STORE}, path: /svc", "11:5: expose[0]", "the codec xenstore needs a style: one of tree, chunked"),
        (f"{STORE}, path: /svc, style: tre", "11:59: expose[0].style", "got \"tre\" (did you mean 'tree'?)"),
        (
            "listener: rpc, codec: xmlrpc, path: /x, style: tree",
            "11:46: expose[0].style",
            "'style' goes with the codec xenstore only",
        ),
        (
            "listener: rpc, codec: xmlrpc, path: /x, allowed_domains: [5]",
            "11:46: expose[0].allowed_domains",
            "'allowed_domains' goes with the codec xenstore only",
        ),
        (
            "listener: rpc, codec: xenstore, path: /x, style: tree",
            "11:16: expose[0].listener",
            "'rpc' is not a xenstore, which goes with the codec xenstore alone",
        ),
        (
            "listener: store, codec: xmlrpc, path: /x",
            "11:16: expose[0].listener",
            "'store' is a xenstore, which goes with the codec xenstore alone",
        ),
        (
            f"{STORE}, path: /svc, style: tree, dialect: xenapi",
            "11:74: expose[0].dialect",
            "the codec xenstore goes with the dialect plain only",
        ),
        (f"{STORE}, path: /a.b, style: tree", "11:46: expose[0].path", "expected a path such as"),
        (f"{STORE}, path: '/{{domid}}/a', style: tree", "11:46: expose[0].path", "a path begins with a name"),
        (f"{STORE}, path: '/a/{{_x}}', style: tree", "11:46: expose[0].path", "none of its parameters with _"),
        (
            f"{STORE}, path: '/a/{{vm}}', style: tree",
            "11:46: expose[0].path",
            "{vm} is no parameter of start, stat; `drop` it if it is not used",
        ),
        (
            f"{STORE}, path: /a, style: tree, allowed_domains: ['{{domid}}']",
            "11:73: expose[0].allowed_domains[0]",
            "{domid} does not stand in the path /a",
        ),
        (
            f"{STORE}, path: /a, style: tree, allowed_domains: [some]",
            "11:73: expose[0].allowed_domains[0]",
            "expected: A domain's number",
        ),
        (f"{STORE}, path: /a, style: tree, allowed_domains: [-1]", "11:73: expose[0].allowed_domains[0]", "-1"),
        (
            f"{STORE}, path: /a, style: tree, method: start",
            "11:63: expose[0].method",
            "'method' does not go with the style tree (it has: response_ttl)",
        ),
        (
            f"{STORE}, path: /a, style: word, method: strat",
            "11:71: expose[0].method",
            "'strat' is no method of this file (did you mean 'stat'?)",
        ),
        (f"{STORE}, path: /a, style: mailbox", "11:57: expose[0].style", "the style mailbox needs 'answers'"),
        (
            f"{STORE}, path: /a, style: mailbox, answers: {{start: on}}",
            "11:75: expose[0].answers",
            "nobody says what the state is when 'stat' is done",
        ),
        (f"{STORE}, path: /a, style: directory", "11:57: expose[0].style", "the style directory needs 'states'"),
        (
            f"{STORE}, path: /a, style: directory, states: {{done: x}}",
            "11:76: expose[0].states",
            "'commit' is missing",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, said: str, place: str, message: str) -> None:
    _, problems = built(tmp_path, said)
    assert any(problem.startswith(f"x.yaml:{place}") and message in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("said", "method", "why"),
    [
        ("style: chunked, path: /x", "{member: Stat}", "one text, and this returns a{sv}"),
        ("style: chunked, path: /x", "{member: Disks}", "one text, and this returns a(st)"),
        ("style: mailbox, path: /x, answers: {m: done}", "{member: Disks}", "one text, and this returns a(st)"),
        ("style: deletion, path: /x", "{member: Add, params: [name, memory]}", "members, and this returns s"),
        ("style: directory, path: /x, states: {commit: a, done: b}", "{property: PowerState}", "members, and this"),
        ("style: chunked, path: /x", "{member: Stat, result: state}", ""),
        ("style: mailbox, path: /x, answers: {m: done}", "{member: Stat, result: {parameter: state}}", ""),
        ("style: deletion, path: /x", "{member: Stat}", ""),
        ("style: deletion, path: /x", "{member: Start, params: [paused, force]}", ""),
        ("style: word, path: /x", "{member: Disks}", ""),
        ("style: tree, path: /x", "{property: PowerState, aliases: [n]}", ""),
    ],
)
def test_a_result_for_which_a_style_has_no_room_is_a_problem_of_its_method(
    tmp_path: Path, said: str, method: str, why: str
) -> None:
    _, problems = built(tmp_path, f"listener: store, codec: xenstore, {said}", f"  m: {method}\n")
    assert len(problems) == bool(why)
    assert all(problem.startswith("x.yaml:13:3: methods.m: ") and why in problem for problem in problems)


def test_a_methods_domains_name_parameters_of_the_path(tmp_path: Path) -> None:
    methods = METHODS.replace("[3]", "['{server}']")
    _, problems = built(tmp_path, f"{STORE}, style: tree, {DOMAIN}", methods)
    assert problems == [
        "x.yaml:14:71: methods.stat.allowed_domains[0]: {server} does not stand in the path /local/domain/{domid}/x"
    ]


def test_files_that_share_a_path_expose_it_in_one_way(tmp_path: Path) -> None:
    built(tmp_path, f"{STORE}, style: tree, path: /svc")
    other = (tmp_path / "x.yaml").read_text().replace("style: tree", "style: chunked").split("methods:")[0]
    (tmp_path / "y.yaml").write_text(other + "methods:\n  other: {member: Stat}\n")
    _, problems = build([tmp_path], codecs={"xenstore"}, dialects={"plain"}, listeners=None)
    assert [problem.message for problem in problems] == [
        f"store /svc is exposed in another way already ({tmp_path}/x.yaml:11)"
    ]
