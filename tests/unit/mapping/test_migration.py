"""Migration keys of a method; its comparison rules and redactions."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from adapters.codecs import CODECS
from adapters.dialects import DIALECTS
from gateway.core.comparison.compare import Verdict, compare
from gateway.core.comparison.redaction import Redaction
from gateway.core.comparison.rules import Exact, Ignore, Sampling, Unordered
from gateway.core.migration.modes import UNMOVED, Migration, Mode, Setting, Side
from gateway.core.routing import call_record
from gateway.core.routing.call_record import RecordedCall
from gateway.core.rpc.model import Call, Fault, FaultCode, Peer, Reply, Value
from gateway.mapping.compiler import build
from gateway.mapping.table import EndpointKey
from tests.kit.cases import each_case
from tests.kit.mappings import HEAD, Built, build_files, build_methods
from tests.kit.programs import ROOT

RPC = EndpointKey("rpc", "/rpc")


READ = "member: Stat, effect: read"


START = "member: Start, params: [paused, force]"


def with_upstream(directory: Path, methods: str, *lines: str, session: bool = False) -> Built:
    """A file with a legacy service behind it; `lines` are further keys of the file."""
    more = ["legacy: {upstream: old}", *lines]
    if session:
        more.append("session: {parameter: session, interface: org.example.Session1, member: Check}")
    return build_methods(directory, methods, HEAD.replace("methods:\n", "\n".join((*more, "methods:", ""))))


def migration(directory: Path, entry: str, *lines: str, session: bool = False) -> Migration:
    return with_upstream(directory, f"m: {{{entry}}}", *lines, session=session).route("m").migration


def test_without_migration_keys_dbus_serves_a_method(tmp_path: Path) -> None:
    assert build_methods(tmp_path, "m: {member: Stat}").route("m").migration == UNMOVED


@each_case(
    ("value", "setting"),
    [
        ("legacy", Setting(Mode.LEGACY)),
        ("dbus", Setting(Mode.DBUS)),
        ("'off'", Setting(Mode.OFF)),
        ("shadow", Setting(Mode.SHADOW)),
        ("{shadow: legacy}", Setting(Mode.SHADOW)),
        ("{shadow: dbus}", Setting(Mode.SHADOW, control=Side.DBUS)),
        ("{canary: 0%}", Setting(Mode.CANARY)),
        ("{canary: 100}", Setting(Mode.CANARY, 100_000)),
        ("{canary: 0.001%, key: peer}", Setting(Mode.CANARY, 1)),
        ("legacy, observe: true, noise: true", Setting(Mode.LEGACY, observe=True, noise=True)),
    ],
)
def test_modes(tmp_path: Path, value: str, setting: Setting) -> None:
    found = migration(tmp_path, f"{READ}, mode: {value}")
    assert found.setting == setting
    assert found.upstream == "old"


def test_a_method_may_have_its_own_legacy_service(tmp_path: Path) -> None:
    built = with_upstream(tmp_path, f"m: {{{READ}, legacy: {{upstream: other}}}}\nn: {{{READ}}}")
    assert [built.route(name).migration.upstream for name in "mn"] == ["other", "old"]


def test_defaults_apply_to_methods_without_the_key(tmp_path: Path) -> None:
    value = "mode: {canary: 5%}, key: peer, always: [a], never: [7], on_unavailable: legacy, effect: read"
    methods = "m: {member: Stat}\nn: {member: Stat, mode: dbus, always: [], on_unavailable: fault}"
    built = with_upstream(tmp_path, methods, f"defaults: {{{value}}}")
    m, n = built.route("m").migration, built.route("n").migration
    assert (m.setting, m.always, m.never, m.fallback) == (
        Setting(Mode.CANARY, 5000),
        frozenset("a"),
        frozenset("7"),
        True,
    )
    assert (n.setting, n.always, n.never, n.fallback) == (Setting(Mode.DBUS), frozenset(), frozenset("7"), False)


@each_case(
    ("entry", "may"),
    [
        ("member: Stat, effect: read", True),
        ("property: PowerState", True),
        ("member: Stat, effect: idempotent", False),
        ("member: Stat, effect: idempotent, shadow: true", True),
        ("member: Stat", False),
    ],
)
def test_which_methods_may_be_executed_twice(tmp_path: Path, entry: str, may: bool) -> None:
    found = migration(tmp_path, entry, "defaults: {observe: true}")
    assert (found.may_shadow, found.setting.observe) == (may, may)


# Keys


def taken(found: Migration, call: Call) -> str | None:
    assert found.key is not None
    return found.key.take(call)


@each_case("where", ["mode: {canary: 5%, key: paused}", "mode: {canary: 5%}, key: paused"])
def test_a_key_may_be_a_parameter(tmp_path: Path, where: str) -> None:
    found = migration(tmp_path, f"{START}, {where}")
    assert taken(found, Call("m", ("a", True))) == "a"
    assert taken(found, Call("m", (7, True))) == "7"
    assert taken(found, Call("m", (True,), {"paused": "named"})) == "named"
    for without in (Call("m", (True,)), Call("m"), Call("m", (["a"],))):
        assert taken(found, without) is None


def test_a_key_is_that_of_the_method_or_that_of_its_file_where_it_has_the_parameter(tmp_path: Path) -> None:
    found = migration(tmp_path, f"{START}, key: force", "defaults: {mode: {canary: 5%, key: peer}}")
    assert found.key is not None
    assert found.key.name == "force"
    built = with_upstream(tmp_path, f"m: {{{START}}}\nn: {{{READ}}}", "defaults: {key: force}")
    assert [built.route(name).migration.key is None for name in "mn"] == [False, True]


@each_case(
    ("key", "call", "expected"),
    [
        ("session", Call("m", ("OpaqueRef:a", True, False)), "OpaqueRef:a"),
        ("peer", Call("m", peer=Peer("tcp:192.0.2.1:4711")), "tcp:192.0.2.1"),
        ("peer", Call("m", peer=Peer("tcp:[::1]:4711")), "tcp:[::1]"),
        ("peer", Call("m", peer=Peer("unix:/run/x", uid=0, gid=0, pid=77)), "uid 0"),
        ("peer", Call("m", peer=Peer("control")), "control"),
        ("peer", Call("m"), None),
        ("domid", Call("m", peer=Peer(domid=3)), "3"),
        ("domid", Call("m"), None),
        ("user", Call("m", extensions={"user": "root"}), "root"),
        ("user", Call("m"), None),
    ],
)
def test_a_key_may_be_the_session_or_a_property_of_the_caller(
    tmp_path: Path, key: str, call: Call, expected: str | None
) -> None:
    entry = f"member: Start, params: [session, paused, force], mode: {{canary: 5%, key: {key}}}"
    assert taken(migration(tmp_path, entry, session=True), call) == expected


# What is not mapped


def bare(*lines: str) -> str:
    return HEAD.replace("methods:\n", "\n".join((*lines, "methods: {}", "")))


PASSED = ("legacy: {upstream: old}", "unmapped: passthrough")


def test_an_endpoint_passes_unmapped_methods_through(tmp_path: Path) -> None:
    for file, routes, passed in (
        (bare(*PASSED), [], "old"),
        (bare(*PASSED).replace("methods: {}", f"methods: {{m: {{{READ}}}}}"), ["m"], "old"),
        (bare(PASSED[0]).replace("methods: {}", f"methods: {{m: {{{READ}}}}}"), ["m"], None),
    ):
        built = build_files(tmp_path, a=file)
        assert built.problems == []
        endpoint = built.table.endpoints[RPC]
        assert (list(endpoint.routes), endpoint.passthrough_to) == (routes, passed)


@each_case(
    ("text", "problem"),
    [
        (bare(), "methods: the file maps no method: add one, or `unmapped: passthrough`"),
        (bare(PASSED[0], "unmapped: reject"), "methods: the file maps no method: add one, or `unmapped: passthrough`"),
        (bare(PASSED[1]), "'unmapped: passthrough' needs a legacy service: add `legacy: {upstream: NAME}`"),
        (
            bare(*PASSED).replace("codec: xmlrpc", "codec: jsonrpc"),
            "unmapped: endpoint rpc /rpc speaks jsonrpc/plain, but upstream 'old' accepts only xmlrpc/plain",
        ),
    ],
)
def test_passthrough_needs_a_service_that_understands(tmp_path: Path, text: str, problem: str) -> None:
    (found,) = build_files(tmp_path, a=text).problems
    assert found.endswith(problem)


@each_case(
    ("other", "wants"),
    [
        (("legacy: {upstream: other}", "unmapped: passthrough"), "passes unmapped methods to 'other'"),
        (("unmapped: reject",), "rejects unmapped methods"),
        ((), None),
    ],
)
def test_files_that_share_an_endpoint_agree_on_unmapped_methods(
    tmp_path: Path, other: tuple[str, ...], wants: str | None
) -> None:
    second = bare(*other).replace("methods: {}", f"methods: {{m: {{{READ}}}}}")
    built = build_files(tmp_path, a=bare(*PASSED), b=second)
    conflict = "unmapped: conflict at endpoint rpc /rpc: a.yaml:13 passes unmapped methods to 'old'"
    found = [problem.partition("12: ")[2] or problem.partition(": ")[2] for problem in built.problems]
    assert found == ([] if wants is None else [f"{conflict}, this file {wants}"])
    assert built.table.endpoints[RPC].passthrough_to == "old"


# Comparison and redaction


SESSION_KEY = "session: {parameter: session, interface: org.example.Session1, member: Check}"
LISTED = "{member: Start, params: [session, paused, force]%s}"


def built(directory: Path, file: str, methods: str) -> Built:
    """A file with these keys above its methods, which begin in line 14."""
    return build_methods(directory, methods, HEAD.replace("methods:\n", f"{dedent(file).strip()}\nmethods:\n"))


def test_rules_of_the_method_have_precedence_then_defaults_then_the_file(tmp_path: Path) -> None:
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


@each_case(
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
def test_kinds_of_comparison_rules(tmp_path: Path, rule: str, control: Value, candidate: Value) -> None:
    rules = build_methods(tmp_path, f"m: {{member: Stat, compare: [{rule}]}}").route("m").migration.compare
    assert compare(Reply(control), Reply(candidate), rules).verdict is Verdict.EQUAL


CODES = "errors: {org.example.Error.NotFound: {code: HANDLE_INVALID}, org.example.Error.Busy: {code: 42}}"


def test_client_errors_are_those_of_the_nearest_list(tmp_path: Path) -> None:
    methods = [
        "own: {member: Stat, client_errors: [LATE], errors: {org.example.Error.Late: {code: LATE}}}",
        "none: {member: Stat, client_errors: []}",
        "grouped: {member: Stat}",
        "m: {member: Stat}",
    ]
    lines = (
        CODES,
        "client_errors: [HANDLE_INVALID]",
        "groups: {g: {methods: [grouped], client_errors: [42, org.a.B]}}",
    )
    with_key = [line.replace("Stat", "Stat, key: peer") for line in methods]
    file = with_upstream(tmp_path, "\n".join(with_key), *lines)
    found = {name: sorted(file.route(name).migration.client_errors) for name in ("own", "none", "grouped", "m")}
    assert found == {"own": ["LATE"], "none": [], "grouped": ["42", "org.a.B"], "m": ["HANDLE_INVALID"]}


def test_the_session_is_always_redacted_also_as_the_result_of_a_login(tmp_path: Path) -> None:
    file = built(tmp_path, SESSION_KEY, f"m: {LISTED % ''}\nn: {{member: Stat}}")
    redactions = file.route("m").migration.redact
    for call in (Call("m", ("OpaqueRef:1", False, False)), Call("m", (False, False), {"session": "OpaqueRef:1"})):
        assert "OpaqueRef" not in repr(Redaction(redactions, call).call(call))
        assert "False" in repr(Redaction(redactions, call).call(call))
    assert file.route("n").migration.redact.patterns == ()
    route = build_methods(tmp_path, "m: {member: Add, params: [name, memory], session_user: name}").route("m")
    assert list(map(str, route.migration.redact.patterns)) == ["$.result"]


def test_a_login_has_no_form_that_returns_a_task(tmp_path: Path) -> None:
    methods = "m: {member: Add, params: [name, memory], session_user: name, async: task}\n"
    methods += "n: {member: Add, params: [name, memory]}"
    file = built(tmp_path, "defaults: {effect: write, async: task}", methods)
    assert [file.route(name).migration.tasks for name in "mn"] == ["reject", "task"]


def test_redactions_of_method_defaults_and_file_add_up(tmp_path: Path) -> None:
    file = f"{SESSION_KEY}\nredact: [$..password]\ndefaults: {{redact: [$.result.secret]}}"
    redactions = built(tmp_path, file, f"m: {LISTED % ', redact: [$.named.force]'}").route("m").migration.redact
    expected = ["$.named.session", "$.named.force", "$.result.secret", "$..password"]
    assert list(map(str, redactions.patterns)) == expected
    assert redactions.parameters == ("session", "paused", "force")


PLANTED = {
    "password": "planted-1", "cifspassword": "planted-2", "chappassword": "planted-3", "chapuser": "planted-4",
    "incoming_chappassword": "planted-5", "password_secret": "planted-6", "secret": "planted-7", "token": "planted-8",
    "api_key": "planted-9", "privateKey": "planted-10", "credentials": "planted-11",
}  # fmt: skip


@pytest.mark.parametrize("method", ["SR.create", "SR.attach"])
def test_no_password_of_a_storage_repository_is_in_a_recording_of_the_shipped_mapping(method: str) -> None:
    table, _ = build([ROOT / "mappings"], codecs=set(CODECS), dialects=set(DIALECTS), listeners=None)
    (storage,) = [each for each in table.routes() if (each.service, each.method) == ("storage", method)]
    config: Value = {**PLANTED, "server": "filer"}
    call = Call(
        method, ("dbg", "sr-1", "name", "about", config, 0) if method == "SR.create" else ("dbg", "sr-1", config)
    )
    for asked in (call, Call(method, (), {"sr": "sr-1", "device_config": config})):
        fault = Fault(FaultCode.APPLICATION, "mount: planted-1 refused", "SR_BACKEND_FAILURE", ["planted-3", "x"])
        line = call_record.line(RecordedCall("rpc", "/storage", "xmlrpc", storage, asked, fault, Side.LEGACY, 0.1), 1.0)
        assert b"planted" not in line
        assert b"filer" in line
