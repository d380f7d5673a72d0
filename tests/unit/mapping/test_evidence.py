"""Rules and redactions of mapping files: what they come to, and what is wrong with them where."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from adapters.codecs import CODECS
from adapters.dialects import DIALECTS
from gateway.core.comparison.compare import Verdict, compare
from gateway.core.comparison.redaction import redacted_call
from gateway.core.comparison.rules import Exact, Ignore, Unordered
from gateway.core.comparison.sampling import Sampling
from gateway.core.migration.modes import Side
from gateway.core.routing import call_record
from gateway.core.routing.call_record import RecordedCall
from gateway.core.rpc.model import Call, Fault, FaultCode, Reply, Value
from gateway.mapping.compiler import build
from tests.kit.gateway import ROOT
from tests.kit.mapping import HEAD, Built, build_methods

SESSION = "session: {parameter: session, interface: org.example.Session1, member: Check}"
START = "{member: Start, params: [session, paused, force]%s}"


def built(directory: Path, file: str, methods: str) -> Built:
    """A file with these keys above its methods, which begin in line 14."""
    return build_methods(directory, methods, HEAD.replace("methods:\n", f"{dedent(file).strip()}\nmethods:\n"))


def test_a_methods_rules_come_first_then_the_defaults_then_the_files(tmp_path: Path) -> None:
    file = """
    compare: [{path: $.a, ignore: true}, {path: $.b, order: any}]
    defaults: {compare: [{path: $.a, by: uuid, because: The legacy service keeps no order.}]}
    """
    route = built(tmp_path, file, "m: {member: Stat, compare: [{path: $.a, exact: true}]}\nn: {member: Stat}").route
    assert [rule.how for rule in route("m").migration.compare.rules] == [
        Exact(),
        Unordered(("uuid",)),
        Ignore(),
        Unordered(),
    ]
    assert len(route("n").migration.compare.rules) == 3


def test_a_sampling_is_that_of_the_method_the_defaults_or_the_file_key_by_key(tmp_path: Path) -> None:
    file = """
    compare: {share: 50%, at_most: 200/s, rules: [{path: $.a, ignore: true}]}
    defaults: {compare: {share: 10%}}
    """
    route = built(tmp_path, file, "m: {member: Stat, compare: {at_most: 5/s}}\nn: {member: Stat, compare: []}").route
    assert route("m").migration.sampling == Sampling(0.1, 5.0)
    assert route("n").migration.sampling == Sampling(0.1, 200.0)
    assert [rule.how for rule in route("m").migration.compare.rules] == [Ignore()]


@pytest.mark.parametrize(
    ("compare", "problem"),
    [
        ("{share: 110%}", ".share: expected a share from 0% to 100%"),
        ("{at_most: 200}", ".at_most: expected text, got 200"),
        ("{at_most: 200 per second}", ".at_most: expected a number of calls a second such as 200/s"),
        ("{shrae: 10%}", ".shrae: unknown key 'shrae' (did you mean 'share'?)"),
        ("{rules: [{path: $.a}]}", ".rules[0]: expected exactly one of"),
        ("10%", ': expected a list, got "10%"'),
    ],
)
def test_a_sampling_that_cannot_be_used_is_refused_with_its_place(tmp_path: Path, compare: str, problem: str) -> None:
    (found,) = build_methods(tmp_path, f"m: {{member: Stat, compare: {compare}}}").problems
    assert f"methods.m.compare{problem}" in str(found)


@pytest.mark.parametrize(
    ("rule", "control", "candidate"),
    [
        ("{path: $.n, tolerance: 5}", {"n": 1}, {"n": 6}),
        ("{path: $.n, tolerance: 0.5}", {"n": 1}, {"n": 1.5}),
        ("{path: $.n, tolerance: 1%}", {"n": 100}, {"n": 99}),
        ("{path: $.n, tolerance: 5s}", {"n": "2026-01-31T12:00:00Z"}, {"n": "2026-01-31T12:00:05Z"}),
        ("{path: $.n, as: number}", {"n": "1"}, {"n": 1}),
        ("{path: $.n, as: number, tolerance: 1}", {"n": "1"}, {"n": 2}),
        ('{path: "$.vms[*]", by: [host, uuid]}', {"vms": [[]]}, {"vms": [[]]}),
    ],
)
def test_rules_are_written_so(tmp_path: Path, rule: str, control: Value, candidate: Value) -> None:
    rules = build_methods(tmp_path, f"m: {{member: Stat, compare: [{rule}]}}").route("m").migration.compare
    assert compare(Reply(control), Reply(candidate), rules).verdict is Verdict.EQUAL


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ("{path: a, ignore: true}", ".path: expected a path such as $.name or $.list[*].name, got 'a'"),
        ("{path: $.a, ignroe: true}", ".ignroe: unknown key 'ignroe' (did you mean 'ignore'?)"),
        ("{ignore: true}", ": 'path' is missing"),
        ("{path: $.a}", ": expected exactly one of ignore, exact, order, by, tolerance, as"),
        ("{path: $.a, ignore: false}", ".ignore: expected true, got false"),
        ("{path: $.a, order: all}", '.order: expected "any", got "all"'),
        ("{path: $.a, as: numbre}", ".as: expected number or boolean or text, got \"numbre\" (did you mean 'number'?)"),
        ("{path: $.a, tolerance: 5 parsecs}", ".tolerance: expected a number, a per cent or a time: 5, 0.5, 1%"),
        ("{path: $.a, by: []}", ".by: must not be empty"),
    ],
)
def test_a_rule_that_cannot_be_used_is_told_with_its_place(tmp_path: Path, rule: str, problem: str) -> None:
    (found,) = build_methods(tmp_path, f"m:\n  member: Stat\n  compare:\n    - {rule}").problems
    assert found.startswith("x.yaml:16:")
    assert f"methods.m.compare[0]{problem}" in found


def test_a_problem_of_the_file_is_told_once(tmp_path: Path) -> None:
    problems = built(
        tmp_path, "compare: [{path: a, ignore: true}]\nredact: [$.x]", "m: {member: Stat}\nn: {member: Stat}"
    )
    assert [problem.partition(" expected")[0] for problem in problems.problems] == [
        "x.yaml:12:18: compare[0].path:",
        "x.yaml:13:10: redact[0]:",
    ]


def test_the_session_is_always_secret(tmp_path: Path) -> None:
    redactions = built(tmp_path, SESSION, f"m: {START % ''}").route("m").migration.redact
    for call in (Call("m", ("OpaqueRef:1", False, False)), Call("m", (False, False), {"session": "OpaqueRef:1"})):
        assert "OpaqueRef" not in repr(redacted_call(redactions, call))
        assert "False" in repr(redacted_call(redactions, call))


def test_what_a_login_returns_is_the_session(tmp_path: Path) -> None:
    route = build_methods(tmp_path, "m: {member: Add, params: [name, memory], login: name}").route("m")
    assert list(map(str, route.migration.redact.patterns)) == ["$.result"]


def test_a_method_without_the_session_has_nothing_to_hide(tmp_path: Path) -> None:
    file = built(tmp_path, SESSION, f"m: {START % ''}\nn: {{member: Stat}}")
    assert file.route("n").migration.redact.patterns == ()


def test_masks_of_method_defaults_and_file_are_all_kept(tmp_path: Path) -> None:
    file = f"{SESSION}\nredact: [$..password]\ndefaults: {{redact: [$.result.secret]}}"
    redactions = built(tmp_path, file, f"m: {START % ', redact: [$.named.force]'}").route("m").migration.redact
    assert list(map(str, redactions.patterns)) == [
        "$.named.session",
        "$.named.force",
        "$.result.secret",
        "$..password",
    ]
    assert redactions.parameters == ("session", "paused", "force")


@pytest.mark.parametrize(
    ("redact", "problem"),
    [
        ("$.named.pasued", "'pasued' is no parameter (did you mean 'paused'?)"),
        ("$.named.x", "'x' is no parameter (there are: paused, force)"),
        ("$.params[2]", "there is no parameter 2: the method has 2 parameters, counted from 0"),
        ("$.password", "expected a path that begins with $.params, $.named, $.result, $.fault or $..name, got"),
        ("$.params[", "path '$.params[', character 9: expected [3], [*] or ['name'], got '['"),
    ],
)
def test_a_mask_that_would_hide_nothing_is_a_problem(tmp_path: Path, redact: str, problem: str) -> None:
    methods = f"m:\n  member: Start\n  params: [paused, force]\n  redact:\n    - '{redact}'"
    (found,) = build_methods(tmp_path, methods).problems
    assert found.startswith(f"x.yaml:17:9: methods.m.redact[0]: {problem}")


def test_a_mask_of_the_file_names_a_parameter_of_some_method(tmp_path: Path) -> None:
    methods = "m: {member: Start, params: [paused, force]}\nn: {member: Stat}"
    assert built(tmp_path, "redact: [$.named.force]", methods).problems == []
    assert built(tmp_path, "redact: [$.named.forced]", methods).problems == [
        "x.yaml:12:10: redact[0]: 'forced' is no parameter (did you mean 'force'?)"
    ]


PLANTED = {
    "password": "planted-1", "cifspassword": "planted-2", "chappassword": "planted-3", "chapuser": "planted-4",
    "incoming_chappassword": "planted-5", "password_secret": "planted-6", "secret": "planted-7", "token": "planted-8",
    "api_key": "planted-9", "privateKey": "planted-10", "credentials": "planted-11",
}  # fmt: skip


@pytest.mark.parametrize("method", ["SR.create", "SR.attach"])
def test_no_password_of_a_storage_repository_is_in_a_recording_of_the_shipped_mapping(method: str) -> None:
    table, _ = build([ROOT / "mappings"], codecs=set(CODECS), dialects=set(DIALECTS), listeners=None)
    (storage,) = [each for each in table.routes() if each.method == method]
    config: Value = {**PLANTED, "server": "filer"}
    call = Call(
        method, ("dbg", "sr-1", "name", "about", config, 0) if method == "SR.create" else ("dbg", "sr-1", config)
    )
    for asked in (call, Call(method, (), {"sr": "sr-1", "device_config": config})):
        fault = Fault(FaultCode.APPLICATION, "mount: planted-1 refused", "SR_BACKEND_FAILURE", ["planted-3", "x"])
        line = call_record.line(RecordedCall("rpc", "/storage", "xmlrpc", storage, asked, fault, Side.LEGACY, 0.1), 1.0)
        assert b"planted" not in line
        assert b"filer" in line
