"""Migration keys of a method; its comparison rules and redactions."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

from adapters.codecs import CODECS
from adapters.dialects import DIALECTS
from gateway.core.comparison.redaction import Redaction
from gateway.core.comparison.rules import Exact, Ignore, Sampling, Unordered
from gateway.core.migration.modes import UNMOVED, Migration, Mode, Setting, Side
from gateway.core.routing import call_record
from gateway.core.routing.call_record import RecordedCall
from gateway.core.rpc.model import Call, Fault, FaultCode, Peer, Value
from gateway.mapping.compiler import build
from gateway.mapping.table import EndpointKey
from tests.kit.cases import each_case, present
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
    assert (found.setting, found.upstream) == (setting, "old")
    assert migration(tmp_path, f"{READ}, legacy: {{upstream: other}}").upstream == "other"
    assert build_methods(tmp_path, "m: {member: Stat}").route("m").migration == UNMOVED


def test_defaults_apply_to_methods_without_the_key(tmp_path: Path) -> None:
    value = "mode: {canary: 5%}, key: peer, always: [a], never: [7], on_unavailable: legacy, effect: read"
    methods = "m: {member: Stat}\nn: {member: Stat, mode: dbus, always: [], on_unavailable: fault}"
    built = with_upstream(tmp_path, methods, f"defaults: {{{value}}}")
    five, dbus = Setting(Mode.CANARY, 5000), Setting(Mode.DBUS)
    found = [built.route(name).migration for name in "mn"]
    assert [(each.setting, each.always, each.never, each.fallback) for each in found] == [
        (five, frozenset("a"), frozenset("7"), True),
        (dbus, frozenset(), frozenset("7"), False),
    ]


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
    return present(found.key).take(call)


@each_case("where", ["mode: {canary: 5%, key: paused}", "mode: {canary: 5%}, key: paused"])
def test_a_key_may_be_a_parameter(tmp_path: Path, where: str) -> None:
    found = migration(tmp_path, f"{START}, {where}")
    calls = Call("m", ("a", True)), Call("m", (7, True)), Call("m", (True,), {"paused": "named"})
    assert [taken(found, call) for call in calls] == ["a", "7", "named"]
    without = Call("m", (True,)), Call("m"), Call("m", (["a"],))
    assert [taken(found, call) for call in without] == [None, None, None]


def test_a_key_is_that_of_the_method_or_that_of_its_file_where_it_has_the_parameter(tmp_path: Path) -> None:
    found = migration(tmp_path, f"{START}, key: force", "defaults: {mode: {canary: 5%, key: peer}}")
    assert present(found.key).name == "force"
    built = with_upstream(tmp_path, f"m: {{{START}}}\nn: {{{READ}}}", "defaults: {key: force}")
    assert [built.route(name).migration.key is None for name in "mn"] == [False, True]


@each_case(
    ("key", "call", "expected"),
    [
        ("session", Call("m", ("OpaqueRef:a", True, False)), "OpaqueRef:a"),
        ("peer", Call("m", peer=Peer("tcp:192.0.2.1:4711")), "tcp:192.0.2.1"),
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
    mapped = f"methods: {{m: {{{READ}}}}}"
    for file, routes, passed in (
        (bare(*PASSED), [], "old"),
        (bare(*PASSED).replace("methods: {}", mapped), ["m"], "old"),
        (bare(PASSED[0]).replace("methods: {}", mapped), ["m"], None),
    ):
        built = build_files(tmp_path, a=file)
        endpoint = built.table.endpoints[RPC]
        assert (built.problems, list(endpoint.routes), endpoint.passthrough_to) == ([], routes, passed)


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


def test_files_that_share_an_endpoint_agree_on_unmapped_methods(tmp_path: Path) -> None:
    conflict = "unmapped: conflict at endpoint rpc /rpc: a.yaml:13 passes unmapped methods to 'old', this file"
    for other, wants in (
        (("legacy: {upstream: other}", PASSED[1]), [f"{conflict} passes unmapped methods to 'other'"]),
        (("unmapped: reject",), [f"{conflict} rejects unmapped methods"]),
        ((), []),
    ):
        second = bare(*other).replace("methods: {}", f"methods: {{m: {{{READ}}}}}")
        built = build_files(tmp_path, a=bare(*PASSED), b=second)
        assert [problem[problem.index("unmapped:") :] for problem in built.problems] == wants
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
    found = [rule.how for rule in route("m").migration.compare.rules]
    assert found == [Exact(), Unordered(("uuid",)), Ignore(), Unordered()]
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


def test_every_form_of_a_comparison_rule_may_be_written(tmp_path: Path) -> None:
    forms = "ignore: true; exact: true; order: any; by: uuid; by: [host, uuid]; tolerance: 5; tolerance: 0.5; "
    forms += "tolerance: 1%; tolerance: 5s; as: number; as: number, tolerance: 1"
    rules = ", ".join(f"{{path: $.n, {form}}}" for form in forms.split("; "))
    found = build_methods(tmp_path, f"m: {{member: Stat, compare: [{rules}]}}").route("m").migration.compare.rules
    assert len(found) == 11


CODES = "errors: {org.example.Error.NotFound: {code: HANDLE_INVALID}, org.example.Error.Busy: {code: 42}}"


def test_client_errors_are_those_of_the_nearest_list(tmp_path: Path) -> None:
    methods = """
        own: {member: Stat, key: peer, client_errors: [LATE], errors: {org.example.Error.Late: {code: LATE}}}
        none: {member: Stat, key: peer, client_errors: []}
        grouped: {member: Stat, key: peer}
        m: {member: Stat, key: peer}
    """
    groups = "groups: {g: {methods: [grouped], client_errors: [42, org.a.B]}}"
    file = with_upstream(tmp_path, methods, CODES, "client_errors: [HANDLE_INVALID]", groups)
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
    add = "member: Add, params: [name, memory]"
    methods = f"m: {{{add}, session_user: name, async: task}}\nn: {{{add}}}"
    file = built(tmp_path, "defaults: {effect: write, async: task}", methods)
    assert [file.route(name).migration.tasks for name in "mn"] == ["reject", "task"]


def test_redactions_of_method_defaults_and_file_add_up(tmp_path: Path) -> None:
    file = f"{SESSION_KEY}\nredact: [$..password]\ndefaults: {{redact: [$.result.secret]}}"
    redactions = built(tmp_path, file, f"m: {LISTED % ', redact: [$.named.force]'}").route("m").migration.redact
    expected = ["$.named.session", "$.named.force", "$.result.secret", "$..password"]
    assert list(map(str, redactions.patterns)) == expected
    assert redactions.parameters == ("session", "paused", "force")


SECRETS = """password cifspassword chappassword chapuser incoming_chappassword password_secret secret token api_key
privateKey credentials"""


def test_no_password_of_a_storage_repository_is_in_a_recording_of_the_shipped_mapping() -> None:
    table, _ = build([ROOT / "mappings"], codecs=set(CODECS), dialects=set(DIALECTS), listeners=None)
    config: Value = {"server": "filer", **{name: f"planted-{number}" for number, name in enumerate(SECRETS.split())}}
    create, attach = ("dbg", "sr-1", "name", "about", config, 0), ("dbg", "sr-1", config)
    for method, params in (("SR.create", create), ("SR.attach", attach)):
        (storage,) = [each for each in table.routes() if (each.service, each.method) == ("storage", method)]
        for asked in (Call(method, params), Call(method, (), {"sr": "sr-1", "device_config": config})):
            fault = Fault(FaultCode.APPLICATION, "mount: planted-0 refused", "SR_BACKEND_FAILURE", ["planted-2", "x"])
            call = RecordedCall("rpc", "/storage", "xmlrpc", storage, asked, fault, Side.LEGACY, 0.1)
            line = call_record.line(call, 1.0)
            assert b"planted" not in line
            assert b"filer" in line
