"""Methods that follow from a class: names, targets, records, lookups, settings, problems."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from gateway.core.dbus.arguments import ParameterCountError
from gateway.core.dbus.formats import of_class
from gateway.core.dbus.marshal import MarshalError, Variant
from gateway.core.migration.modes import Mode
from gateway.core.routing import selection
from gateway.core.routing.route import Effect
from gateway.core.rpc.model import Call, Fault, FaultCode, Reply, Value
from gateway.mapping.classes.fields import legacy_name, member_name
from gateway.mapping.table import describe_routes
from tests.kit.cases import each_case, expect
from tests.kit.mappings import Built, build_files

IDL = """\
<node>
  <interface name="org.example.Session1">
    <method name="Check"><arg name="session" type="s" direction="in"/></method>
    <method name="MakeVM"><arg name="kind" type="s" direction="in"/><arg name="name" type="s" direction="in"/></method>
  </interface>
  <interface name="org.example.VM1">
    <property name="Ref" type="s" access="read"/>
    <property name="Uuid" type="s" access="read"/>
    <property name="NameLabel" type="s" access="readwrite"/>
    <property name="VCPUsMax" type="x" access="read"/>
    <property name="SnapshotTime" type="x" access="readwrite">
      <annotation name="org.xen.xcp.Type" value="datetime"/>
    </property>
    <property name="Domid" type="x" access="read"/>
    <property name="Tags" type="as" access="readwrite"/>
    <property name="OtherConfig" type="a{ss}" access="readwrite"/>
    <property name="Secret" type="s" access="write"/>
    <property name="StartTime" type="x" access="read"/>
    <method name="Start">
      <annotation name="org.gtk.GDBus.DocString" value="Start it."/>
      <arg name="paused" type="b" direction="in"/>
      <arg name="force" type="b" direction="in"/>
    </method>
    <method name="AddToOtherConfig">
      <arg name="key" type="s" direction="in"/><arg name="value" type="s" direction="in"/>
    </method>
    <method name="RemoveFromOtherConfig"><arg name="key" type="s" direction="in"/></method>
    <method name="AddTags"><arg name="value" type="s" direction="in"/></method>
    <method name="RemoveTags"><arg name="value" type="s" direction="in"/></method>
    <method name="SetMemory"><arg name="value" type="x" direction="in"/></method>
    <method name="GetBootRecord">
      <arg name="record" type="a{sv}" direction="out"><annotation name="org.xen.xcp.Type" value="VM record"/></arg>
    </method>
    <method name="At">
      <arg name="when" type="x" direction="in"><annotation name="org.xen.xcp.Type" value="datetime"/></arg>
      <arg name="since" type="x" direction="out"><annotation name="org.xen.xcp.Type" value="datetime"/></arg>
    </method>
  </interface>
  <interface name="org.example.VMManager1">
    <method name="GetByUuid">
      <arg name="uuid" type="s" direction="in"/><arg name="ref" type="s" direction="out"/>
    </method>
    <method name="Create">
      <arg name="args" type="a{sv}" direction="in"><annotation name="org.xen.xcp.Type" value="VM record"/></arg>
      <arg name="ref" type="s" direction="out"/>
    </method>
  </interface>
</node>
"""

HEAD = """\
mapping: 1
service: xapi
legacy: {upstream: old}
dbus: {bus_name: org.example, idl: classes.xml}
session: {parameter: session, object_path: /org/example, interface: org.example.Session1, member: Check}
expose: [{listener: rpc, path: /, codec: xmlrpc, dialect: xenapi}]
defaults: {coerce: legacy, effect: read}
errors:
  org.freedesktop.DBus.Error.UnknownObject: {code: HANDLE_INVALID, args: ["{class}", "{self}"]}
  org.example.BadState: {code: BAD, args: ["{self}", {from: "{0}", case: lower}, {from: "{1}", values: {Up: running}}]}
methods: {}
"""

STANZA = """\
classes:
  VM:
    object_path: /org/example/vm/{vm}
    interface: org.example.VM1
    manager: {object_path: /org/example/VM, interface: org.example.VMManager1}
    key: Ref
    ignore: [StartTime]
    fields:
      domain_id: {from: Domid, default: -1}
      metrics: {from: Ref, format: {class: VM_metrics}}
      bios_strings: {type: "a{ss}", default: {}}
      last_seen: {type: datetime, default: "1970-01-01T00:01:00Z"}
"""
METRICS = """\
  VM_metrics:
    same_object_as: VM
    fields: {uuid: Uuid, start_time: {from: StartTime, format: datetime}}
"""

MINUTE = datetime(1970, 1, 1, 0, 1, tzinfo=UTC)
REF = "OpaqueRef:11111111-aaaa-4aaa-8aaa-000000000001"
UUID = "11111111-aaaa-4aaa-8aaa-000000000001"
PROPERTIES: dict[str, Any] = {
    "Ref": Variant("s", REF),
    "Uuid": Variant("s", UUID),
    "NameLabel": Variant("s", "web"),
    "VCPUsMax": Variant("x", 4),
    "SnapshotTime": Variant("x", 60),
    "Tags": Variant("as", ["a"]),
    "OtherConfig": Variant("a{ss}", {}),
    "StartTime": Variant("x", 60),
}
RECORD: dict[str, Value] = {
    "uuid": UUID,
    "name_label": "web",
    "VCPUs_max": 4,
    "snapshot_time": MINUTE,
    "tags": ["a"],
    "other_config": {},
    "metrics": of_class("VM_metrics")(REF),
    "domain_id": -1,
    "bios_strings": {},
    "last_seen": MINUTE,
}
OBJECTS: list[Any] = [
    {"/org/example/vm/_1": {"org.example.VM1": PROPERTIES}, "/org/example/sr/b": {"org.example.SR1": {}}}
]


def build(directory: Path, more: str = "", *, stanza: str = STANZA, head: str = HEAD, metrics: str = METRICS) -> Built:
    """Build the classes; `more` are further lines of the stanza of VM."""
    (directory / "classes.xml").write_text(IDL)
    lines = "".join(f"    {line}\n" for line in dedent(more).strip("\n").splitlines())
    return build_files(directory, x=head + stanza + lines + metrics)


@pytest.fixture
def built(tmp_path: Path) -> Built:
    return build(tmp_path)


NAMES = """name_label NameLabel, is_a_template IsATemplate, VCPUs_max VCPUsMax, default_SR DefaultSR, VBDs VBDs, SR SR,
current_VDIs CurrentVDIs, last_boot_CPU_flags LastBootCPUFlags, ipv6_gateway Ipv6Gateway, uuid Uuid,
add_to_VCPUs_params_live AddToVCPUsParamsLive, HVM_boot_policy HVMBootPolicy"""


@each_case(("name", "member"), [pair.split() for pair in NAMES.split(",")])
def test_a_name_follows_from_the_member_and_back(name: str, member: str) -> None:
    assert (member_name(name), legacy_name(member)) == (member, name)


def test_the_methods_of_a_class(built: Built) -> None:
    assert built.problems == []
    records = "get_record get_all get_all_records get_all_records_where get_by_uuid get_by_name_label"
    methods = "start add_to_other_config remove_from_other_config add_tags remove_tags set_memory get_boot_record at"
    writable = ["set_name_label", "set_snapshot_time", "set_tags", "set_other_config"]
    expected = [*records.split(), *methods.split(), "create", *(f"get_{name}" for name in RECORD), *writable]
    found = {route.method for route in built.table.routes() if route.method.startswith("VM.")}
    assert found == {f"VM.{name}" for name in expected}


def test_a_field_may_stay_in_the_records_when_its_getter_is_removed(tmp_path: Path) -> None:
    built = build(tmp_path, head=HEAD + "removed: [VM.get_domain_id, VM.set_tags]\n")
    found = {route.method for route in built.table.routes()}
    assert not found & {"VM.get_domain_id", "VM.set_tags"}
    assert {"VM.get_tags", "VM.set_name_label"} <= found
    assert built.route("VM.get_record").decode_result([PROPERTIES]) == RECORD
    [endpoint] = built.table.endpoints.values()
    assert endpoint.is_removed("VM_get_domain_id")


def test_a_name_that_the_rule_does_not_give_is_in_the_stanza(tmp_path: Path) -> None:
    (tmp_path / "other.xml").write_text(IDL.replace('name="Domid"', 'name="IPv6"'))
    stanza = STANZA.replace("domain_id: {from: Domid, default: -1}", "IPv6: {}")
    built = build(tmp_path, stanza=stanza, head=HEAD.replace("classes.xml", "other.xml"))
    assert built.bind("VM.get_IPv6", "s", REF).body == ["org.example.VM1", "IPv6"]


# Calls

VM1, MANAGER = "org.example.VM1", "org.example.VMManager1"
PROPERTY = "org.freedesktop.DBus.Properties"


@each_case(
    ("method", "params", "path", "interface", "member", "body"),
    [
        ("get_name_label", ["a-b"], "/vm/a_2db", PROPERTY, "Get", [VM1, "NameLabel"]),
        ("set_tags", ["x", ["t"]], "/vm/x", PROPERTY, "Set", [VM1, "Tags", Variant("as", ["t"])]),
        ("set_snapshot_time", ["x", MINUTE], "/vm/x", PROPERTY, "Set", [VM1, "SnapshotTime", Variant("x", 60)]),
        ("start", ["x", True, False], "/vm/x", VM1, "Start", [True, False]),
        ("at", ["x", MINUTE], "/vm/x", VM1, "At", [60]),
        ("get_by_uuid", [UUID], "/VM", MANAGER, "GetByUuid", [UUID]),
        ("get_all_records", [], "/VM", "org.freedesktop.DBus.ObjectManager", "GetManagedObjects", []),
    ],
)
def test_calls_of_an_object_and_of_its_manager(
    built: Built, method: str, params: list[Value], path: str, interface: str, member: str, body: list[object]
) -> None:
    call = built.bind(f"VM.{method}", "s", *params)
    assert (call.object_path, call.interface, call.member) == (f"/org/example{path}", interface, member)
    assert call.body == body


def test_a_record_that_the_client_gives_has_the_types_of_the_properties(built: Built) -> None:
    given: dict[str, Value] = {"name_label": "n", "VCPUs_max": "2", "snapshot_time": MINUTE, "bios_strings": {}, "x": 1}
    expected = {"NameLabel": Variant("s", "n"), "VCPUsMax": Variant("x", 2), "SnapshotTime": Variant("x", 60)}
    assert built.bind("VM.create", "s", given).body == [expected]
    shown = built.route("VM.get_boot_record").decode_result([{"NameLabel": Variant("s", "n")}])
    assert shown == {"name_label": "n", "domain_id": -1, "bios_strings": {}, "last_seen": MINUTE}
    with pytest.raises(MarshalError, match=r"\$\.params\[1\]\.VCPUs_max: expected x, got \"many\""):
        built.bind("VM.create", "s", {"VCPUs_max": "many"})
    with pytest.raises(MarshalError, match=r"\$\.params\[1\]: expected a struct, got 5"):
        built.bind("VM.create", "s", 5)


# Results


@each_case(
    ("method", "body", "result"),
    [
        ("get_record", [PROPERTIES], RECORD),
        ("get_all_records", OBJECTS, {REF: RECORD}),
        ("get_all", OBJECTS, [REF]),
        ("get_bios_strings", [Variant("s", UUID)], {}),  # the service lacks the field: is there the object?
        ("get_last_seen", [Variant("s", UUID)], MINUTE),
        ("get_domain_id", [PROPERTIES], -1),
        ("get_domain_id", [{**PROPERTIES, "Domid": Variant("x", 7)}], 7),
        ("at", [60], MINUTE),
    ],
)
def test_results_have_every_field(built: Built, method: str, body: list[Any], result: Value) -> None:
    assert built.route(f"VM.{method}").decode_result(body) == result
    assert built.bind("VM.get_bios_strings", "s", "x").body == ["org.example.VM1", "Uuid"]


def _select(built: Built, method: str, *params: Value) -> Reply | Fault:
    route = built.route(method)
    assert route.select is not None
    chosen = route.select(Call(method, ("s", *params)))
    return chosen if isinstance(chosen, Fault) else chosen(route.decode_result([OBJECTS[0]]))


QUERY = 'field "name__label" = "web" and field "VCPUs_max" = "4"'
METRICS_OF = of_class("VM_metrics")


@each_case(
    ("method", "asked", "found"),
    [
        ("VM.get_all_records_where", QUERY, {REF: RECORD}),
        ("VM.get_all_records_where", f"not ({QUERY})", {}),
        ("VM.get_all_records_where", 'field "bios_strings" = "()"', {REF: RECORD}),
        ("VM.get_by_name_label", "web", [REF]),
        ("VM.get_by_name_label", "other", []),
        ("VM_metrics.get_by_uuid", METRICS_OF(UUID), METRICS_OF(REF)),
    ],
)
def test_records_are_selected_by_the_gateway(built: Built, method: str, asked: str, found: Value) -> None:
    assert _select(built, method, asked) == Reply(found)
    for refused, name, data in (
        (_select(built, "VM.get_all_records_where", "field 1"), "INVALID_VALUE", ["field 1", "unexpected '1'"]),
        (_select(built, "VM_metrics.get_by_uuid", UUID), "UUID_INVALID", ["VM_metrics", UUID]),
    ):
        assert isinstance(refused, Fault)
        assert (refused.code, refused.name, refused.data) == (FaultCode.APPLICATION, name, data)


def test_one_object_that_is_two_classes(built: Built) -> None:
    assert built.route("VM.get_metrics").decode_result([Variant("s", REF)]) == METRICS_OF(REF)
    record = built.bind("VM_metrics.get_record", "s", METRICS_OF(REF))
    assert record.object_path == built.bind("VM.get_record", "s", REF).object_path
    assert built.route("VM_metrics.get_all_records").decode_result(OBJECTS) == {
        METRICS_OF(REF): {"uuid": METRICS_OF(UUID), "start_time": MINUTE}
    }
    assert built.route("VM_metrics.get_uuid").decode_result([Variant("s", UUID)]) == METRICS_OF(UUID)
    assert "VM_metrics.start" not in {route.method for route in built.table.routes()}


# Settings


def test_effects_and_forms_follow_from_the_name(built: Built) -> None:
    effects = {route.method.removeprefix("VM."): route.effect for route in built.table.routes()}
    reads = "get_record get_all get_all_records_where get_by_uuid get_by_name_label get_tags get_boot_record"
    idempotent = "set_tags set_memory remove_from_other_config add_tags remove_tags"
    for names, effect in (
        (reads, Effect.READ),
        (idempotent, Effect.IDEMPOTENT),
        ("start add_to_other_config create at", Effect.WRITE),
    ):
        assert {effects[name] for name in names.split()} == {effect}
    forms = {str(row["method"]): row["spellings"] for row in describe_routes(built.table)}
    assert forms["VM.start"] == ("VM_start", "Async.VM.start", "InternalAsync.VM.start")
    for name in ["get_tags", "set_tags", "get_record", "add_to_other_config", "add_tags", "get_by_uuid"]:
        assert forms[f"VM.{name}"] == (f"VM_{name}",)
    routes = built.table.routes()
    for name in ("VM_start", "Async.VM.start", "xapi/Async.VM.start"):
        assert [*selection.select(routes, name)] == [*selection.routes_named(routes, name)] == [built.route("VM.start")]
        assert selection.canonical(routes, name) == "xapi/VM.start"


def test_what_the_stanza_says_of_a_message(tmp_path: Path) -> None:
    built = build(
        tmp_path,
        """
        defaults: {timeout: 5s, mode: legacy, key: vm}
        messages:
          start: {timeout: 10m, optional: {paused: false, force: false}, effect: idempotent}
          get_tags: {mode: {canary: 5%}}
          at: {async: reject, mode: dbus}
          suspend: {member: Start, params: [session, vm], args: {paused: true, force: false}}
          make: {object_path: /org/example, interface: org.example.Session1, member: MakeVM, args: {kind: VM}}
        """,
    )
    start = built.route("VM.start")
    assert (start.timeout, start.effect, start.migration.setting.mode) == (600.0, Effect.IDEMPOTENT, Mode.LEGACY)
    for more in ((), (False, False, "surplus")):  # xapi counts the parameters only where each is required
        assert built.bind("VM.start", "s", "x", *more).body == [False, False]
    tags = built.route("VM.get_tags")
    assert (tags.timeout, tags.migration.setting.mode) == (5.0, Mode.CANARY)
    assert tags.migration.key is not None
    assert tags.migration.key.take(Call("VM.get_tags", ("s", "x"))) == "x"
    assert not built.route("VM.at").has_task_form
    assert built.route("VM_metrics.get_uuid").migration.setting.mode is Mode.DBUS  # the defaults are those of VM
    assert built.bind("VM.suspend", "s", "x").body == [True, False]
    make = built.bind("VM.make", "s", "n")
    assert (make.object_path, make.interface, make.body) == ("/org/example", "org.example.Session1", ["VM", "n"])


def test_a_method_of_the_file_has_precedence(tmp_path: Path) -> None:
    own = "{object_path: /org/example/own, interface: org.example.VM1, member: SetMemory, params: [value]}"
    built = build(tmp_path, head=HEAD.replace("methods: {}\n", f"methods:\n  VM.start: {own}\n"))
    assert built.bind("VM.start", 5).object_path == "/org/example/own"


def test_groups_and_rollouts_hold_for_derived_methods(tmp_path: Path) -> None:
    def grouped(methods: str, more: str = "") -> Built:
        groups = f"groups: {{life: {{methods: [{methods}], key: vm}}}}\nmethods: {{}}\n"
        return build(tmp_path, more, head=HEAD.replace("methods: {}\n", groups))

    assert grouped("'VM.*'", "messages: {create: {key: session}, start: {group: life}}").problems != []  # has no `vm`
    built = grouped("VM.start, 'VM.set_*'")
    members = "start set_memory set_tags set_name_label set_other_config set_snapshot_time"
    assert {route.method for route in built.table.routes() if route.migration.group == "life"} == {
        f"VM.{name}" for name in members.split()
    }
    assert built.route("VM.start").rollout == built.route("VM.set_tags").rollout


def test_templates_of_errors_have_the_class_and_the_reference(built: Built, tmp_path: Path) -> None:
    gone = Fault(FaultCode.NOT_FOUND, "", name="org.freedesktop.DBus.Error.UnknownObject", data=[""])
    for method in ("VM.get_tags", "VM.start", "VM_metrics.get_record"):
        fault = built.route(method).map_error(gone, Call(method, ("s", "OpaqueRef:NULL")))
        assert (fault.name, fault.data) == ("HANDLE_INVALID", [method.partition(".")[0], "OpaqueRef:NULL"])
    call = Call("VM.start", ("s", "r"))
    for state, shown in (("Up", "running"), ("Odd", "Odd")):
        bad = Fault(FaultCode.APPLICATION, "", name="org.example.BadState", data=["Halted", state])
        assert built.route("VM.start").map_error(bad, call).data == ["r", "halted", shown]
    other = build(tmp_path, 'errors: {org.example.BadState: {code: OF_CLASS, args: ["{vm}"]}}')
    assert other.route("VM.start").map_error(bad, call).name == "OF_CLASS"  # before those of the file
    assert other.route("VM_metrics.get_uuid").map_error(bad, call).name == "BAD"


def test_two_methods_that_are_one_message_are_a_problem(tmp_path: Path) -> None:
    (tmp_path / "other.xml").write_text(
        IDL.replace('<method name="Create">', '<method name="Start"/><method name="Create">')
    )
    head = HEAD.replace("classes.xml", "other.xml")
    problem = "x.yaml:13:3: classes.VM: message 'start' is member Start and member Start: list one of them in `ignore`"
    assert problem in build(tmp_path, head=head).problems
    assert build(tmp_path, "messages: {begin: {member: Start}}", head=head).problems == []


def test_a_file_without_sessions_has_none_in_its_methods(tmp_path: Path) -> None:
    head = "".join(line for line in HEAD.splitlines(keepends=True) if not line.startswith("session:"))
    built = build(tmp_path, head=head)
    assert built.bind("VM.start", REF, True, False).body == [True, False]
    assert built.bind("VM.get_by_uuid", UUID).body == [UUID]
    assert built.route("VM.start").session_check is None


def test_a_method_without_keys_of_its_own_counts_checks_and_describes_like_any_other(built: Built) -> None:
    route = built.route("VM.start")
    assert route.session_check is not None
    assert route.session_check.encode_arguments(Call("VM.start", ("s", "x", True, False))).body == ["s"]
    with pytest.raises(ParameterCountError) as few:
        route.session_check.encode_arguments(Call("VM.start", ("s", "x")))
    with pytest.raises(ParameterCountError) as many:
        built.bind("VM.get_tags", "s", "x", "y")
    assert [(each.value.expected, each.value.received) for each in (few, many)] == [(3, 1), (1, 2)]
    described = [(each.name, str(each.type), each.required) for each in route.parameters]
    assert described == [("session", "s", True), ("vm", "s", True), ("paused", "b", True), ("force", "b", True)]
    assert (route.documentation, route.result) == ("Start it.", None)
    assert str(built.route("VM.get_tags").result) == "as"
    assert route.migration.redact.parameters == ("session", "vm", "paused", "force")


def test_the_table_lists_what_has_no_dbus_side(tmp_path: Path) -> None:
    built = build(tmp_path, "unmapped: [import_convert, send_sysrq]")
    assert built.table.notes == (
        f"{tmp_path}/x.yaml:13: class VM: 2 fields with a default only: bios_strings, last_seen",
        f"{tmp_path}/x.yaml:13: class VM: 2 messages without a D-Bus side: import_convert, send_sysrq",
    )


def test_a_class_has_one_contract_for_each_interface(built: Built) -> None:
    contracts = {(each.where.place, each.interface.name, each.object_path): each for each in built.table.contracts}
    assert {place for place, *_ in contracts} == {"session", "classes.VM", "classes.VM_metrics"}
    assert {"Start", "Tags", "NameLabel"} <= {*contracts["classes.VM", VM1, "/org/example/vm/{vm}"].members}
    assert len(built.table.contracts) == len(contracts)


def test_a_fingerprint_changes_with_what_a_method_depends_on(tmp_path: Path) -> None:
    def changed(stanza: str, more: str = "") -> set[str]:
        after = build(tmp_path, more, stanza=stanza)
        return {each.method for each in before if each.fingerprint != after.route(each.method).fingerprint}

    before = build(tmp_path).table.routes()
    assert changed(STANZA, "messages: {start: {timeout: 1m}}") == {"VM.start"}
    other_default = changed(STANZA.replace("default: -1", "default: 0"))
    assert "VM.get_record" in other_default
    assert "VM_metrics.get_uuid" not in other_default


def test_a_class_has_its_objects_and_records_for_events_without_another_line(built: Built) -> None:
    found = {each.name: each for each in built.table.classes}
    vm, metrics = found["VM"], found["VM_metrics"]
    place = ("xapi", "org.example", "/org/example/VM", VM1)
    assert (vm.service, vm.bus_name, vm.manager, vm.interface) == place
    paths = ("vm/a", "vm/a/b", "vm/", "sr/a")
    assert [vm.has(f"/org/example/{path}") for path in paths] == [True, False, False, False]
    properties = {"Ref": Variant("s", REF), "NameLabel": Variant("s", "web"), "Domid": Variant("x", 5)}
    assert [vm.reference("/org/example/vm/a", each) for each in (properties, {})] == [REF, "/org/example/vm/a"]
    record = expect(dict, vm.record(properties))
    assert (record["name_label"], record["domain_id"], record["bios_strings"]) == ("web", 5, {})
    assert metrics.reference("/org/example/vm/a", properties) == METRICS_OF(REF) != REF
    assert tuple(route.method for route in vm.routes) == ("VM.get_record", "VM.get_all_records")
