"""Methods that follow from a class: names, targets, records, lookups, settings, problems."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from gateway.core.dbus.arguments import ParameterCountError
from gateway.core.dbus.formats import of_class
from gateway.core.dbus.marshal import Variant
from gateway.core.migration.modes import Mode
from gateway.core.routing import selection
from gateway.core.routing.route import Effect
from gateway.core.rpc.model import Call, Fault, FaultCode, Reply, Value
from gateway.mapping.classes.fields import legacy_name, member_name
from gateway.mapping.table import describe_routes
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


# Names


@pytest.mark.parametrize(
    ("name", "member"),
    [
        ("name_label", "NameLabel"),
        ("is_a_template", "IsATemplate"),
        ("VCPUs_max", "VCPUsMax"),
        ("default_SR", "DefaultSR"),
        ("HVM_boot_policy", "HVMBootPolicy"),
        ("last_boot_CPU_flags", "LastBootCPUFlags"),
        ("VBDs", "VBDs"),
        ("current_VDIs", "CurrentVDIs"),
        ("ipv6_gateway", "Ipv6Gateway"),
        ("add_to_VCPUs_params_live", "AddToVCPUsParamsLive"),
        ("uuid", "Uuid"),
        ("SR", "SR"),
    ],
)
def test_a_name_follows_from_the_member_and_back(name: str, member: str) -> None:
    assert member_name(name) == member
    assert legacy_name(member) == name


def test_the_methods_of_a_class(built: Built) -> None:
    assert built.problems == []
    fields = [
        "uuid",
        "name_label",
        "VCPUs_max",
        "snapshot_time",
        "tags",
        "other_config",
        "domain_id",
        "metrics",
        "bios_strings",
        "last_seen",
    ]
    writable = ["name_label", "snapshot_time", "tags", "other_config"]
    records = ["get_record", "get_all", "get_all_records", "get_all_records_where", "get_by_uuid", "get_by_name_label"]
    methods = (
        "start add_to_other_config remove_from_other_config add_tags remove_tags set_memory get_boot_record at create"
    )
    expected = [*records, *methods.split(), *(f"get_{name}" for name in fields), *(f"set_{name}" for name in writable)]
    found = {route.method for route in built.table.routes() if route.method.startswith("VM.")}
    assert found == {f"VM.{name}" for name in expected}


def test_a_field_may_stay_in_the_records_when_its_getter_is_removed(tmp_path: Path) -> None:
    built = build(tmp_path, head=HEAD + "removed: [VM.get_domain_id, VM.set_tags]\n")
    assert built.problems == []
    found = {route.method for route in built.table.routes()}
    assert {"VM.get_tags", "VM.set_name_label"} <= found
    assert not {"VM.get_domain_id", "VM.set_tags"} & found
    assert built.route("VM.get_record").decode_result([PROPERTIES]) == RECORD
    [endpoint] = built.table.endpoints.values()
    assert endpoint.is_removed("VM_get_domain_id")


def test_a_name_that_the_rule_does_not_give_is_in_the_stanza(tmp_path: Path) -> None:
    idl = IDL.replace('name="Domid"', 'name="IPv6"')
    stanza = STANZA.replace("domain_id: {from: Domid, default: -1}", "IPv6: {}")
    (tmp_path / "other.xml").write_text(idl)
    built = build(tmp_path, stanza=stanza, head=HEAD.replace("classes.xml", "other.xml"))
    assert built.bind("VM.get_IPv6", "s", REF).body == ["org.example.VM1", "IPv6"]


# Calls


def test_calls_of_an_object(built: Built) -> None:
    get = built.bind("VM.get_name_label", "s", "a-b")
    assert (get.object_path, get.interface, get.member) == (
        "/org/example/vm/a_2db",
        "org.freedesktop.DBus.Properties",
        "Get",
    )
    assert get.body == ["org.example.VM1", "NameLabel"]
    assert built.bind("VM.set_tags", "s", "x", ["t"]).body == ["org.example.VM1", "Tags", Variant("as", ["t"])]
    assert built.bind("VM.set_snapshot_time", "s", "x", MINUTE).body[2] == Variant("x", 60)
    start = built.bind("VM.start", "s", "x", True, False)
    assert (start.object_path, start.interface, start.member, start.body) == (
        "/org/example/vm/x",
        "org.example.VM1",
        "Start",
        [True, False],
    )
    assert built.bind("VM.at", "s", "x", MINUTE).body == [60]
    assert built.route("VM.at").decode_result([60]) == MINUTE
    assert built.route("VM.start").documentation == "Start it."


def test_calls_of_the_manager(built: Built) -> None:
    by_uuid = built.bind("VM.get_by_uuid", "s", UUID)
    assert (by_uuid.object_path, by_uuid.interface, by_uuid.member, by_uuid.body) == (
        "/org/example/VM",
        "org.example.VMManager1",
        "GetByUuid",
        [UUID],
    )
    everything = built.bind("VM.get_all_records", "s")
    assert (everything.object_path, everything.member) == ("/org/example/VM", "GetManagedObjects")


def test_a_record_that_the_client_gives_has_the_types_of_the_properties(built: Built) -> None:
    given: dict[str, Value] = {
        "name_label": "n",
        "VCPUs_max": "2",
        "snapshot_time": MINUTE,
        "bios_strings": {},
        "odd": 1,
    }
    expected = {"NameLabel": Variant("s", "n"), "VCPUsMax": Variant("x", 2), "SnapshotTime": Variant("x", 60)}
    assert built.bind("VM.create", "s", given).body == [expected]
    shown = built.route("VM.get_boot_record").decode_result([{"NameLabel": Variant("s", "n")}])
    assert shown == {"name_label": "n", "domain_id": -1, "bios_strings": {}, "last_seen": MINUTE}


def test_a_record_with_a_wrong_type_names_the_field(built: Built) -> None:
    with pytest.raises(Exception, match=r"\$\.params\[1\]\.VCPUs_max: expected x, got \"many\""):
        built.bind("VM.create", "s", {"VCPUs_max": "many"})
    with pytest.raises(Exception, match=r"\$\.params\[1\]: expected a struct, got 5"):
        built.bind("VM.create", "s", 5)


# Results


def test_a_record_has_every_field(built: Built) -> None:
    assert built.route("VM.get_record").decode_result([PROPERTIES]) == RECORD
    assert built.route("VM.get_all_records").decode_result(OBJECTS) == {REF: RECORD}
    assert built.route("VM.get_all").decode_result(OBJECTS) == [REF]


def test_a_field_that_the_service_lacks_asks_whether_the_object_exists(built: Built) -> None:
    assert built.bind("VM.get_bios_strings", "s", "x").body == ["org.example.VM1", "Uuid"]
    assert built.route("VM.get_bios_strings").decode_result([Variant("s", UUID)]) == {}
    assert built.route("VM.get_last_seen").decode_result([Variant("s", UUID)]) == MINUTE
    assert built.route("VM.get_domain_id").decode_result([PROPERTIES]) == -1
    assert built.route("VM.get_domain_id").decode_result([{**PROPERTIES, "Domid": Variant("x", 7)}]) == 7


def _select(built: Built, method: str, *params: Value, among: Mapping[str, Any] = OBJECTS[0]) -> Reply | Fault:
    route = built.route(method)
    assert route.select is not None
    chosen = route.select(Call(method, ("s", *params)))
    return chosen if isinstance(chosen, Fault) else chosen(route.decode_result([among]))


def test_records_are_selected_by_a_query(built: Built) -> None:
    query = 'field "name__label" = "web" and field "VCPUs_max" = "4"'
    assert _select(built, "VM.get_all_records_where", query) == Reply({REF: RECORD})
    assert _select(built, "VM.get_all_records_where", f"not ({query})") == Reply({})
    assert _select(built, "VM.get_all_records_where", 'field "bios_strings" = "()"') == Reply({REF: RECORD})
    refused = _select(built, "VM.get_all_records_where", "field 1")
    assert isinstance(refused, Fault)
    assert (refused.code, refused.name, refused.data) == (
        FaultCode.APPLICATION,
        "INVALID_VALUE",
        ["field 1", "unexpected '1'"],
    )


def test_lookups_without_a_method_of_the_manager(built: Built) -> None:
    assert _select(built, "VM.get_by_name_label", "web") == Reply([REF])
    assert _select(built, "VM.get_by_name_label", "other") == Reply([])
    uuid = of_class("VM_metrics")(UUID)
    assert _select(built, "VM_metrics.get_by_uuid", uuid) == Reply(of_class("VM_metrics")(REF))
    refused = _select(built, "VM_metrics.get_by_uuid", UUID)
    assert isinstance(refused, Fault)
    assert (refused.name, refused.data) == ("UUID_INVALID", ["VM_metrics", UUID])


def test_one_object_that_is_two_classes(built: Built) -> None:
    metrics = of_class("VM_metrics")
    assert built.route("VM.get_metrics").decode_result([Variant("s", REF)]) == metrics(REF)
    record = built.bind("VM_metrics.get_record", "s", metrics(REF))
    assert record.object_path == built.bind("VM.get_record", "s", REF).object_path
    assert built.route("VM_metrics.get_all_records").decode_result(OBJECTS) == {
        metrics(REF): {"uuid": metrics(UUID), "start_time": MINUTE}
    }
    assert built.route("VM_metrics.get_uuid").decode_result([Variant("s", UUID)]) == metrics(UUID)
    assert "VM_metrics.start" not in {route.method for route in built.table.routes()}


# Settings


def test_effects_and_forms_follow_from_the_name(built: Built) -> None:
    effects = {route.method.removeprefix("VM."): route.effect for route in built.table.routes()}
    reads = "get_record get_all get_all_records_where get_by_uuid get_by_name_label get_tags get_boot_record"
    assert {effects[name] for name in reads.split()} == {Effect.READ}
    idempotent = "set_tags set_memory remove_from_other_config add_tags remove_tags"
    assert {effects[name] for name in idempotent.split()} == {Effect.IDEMPOTENT}
    assert {effects[name] for name in ["start", "add_to_other_config", "create", "at"]} == {Effect.WRITE}
    forms = {str(row["method"]): row["spellings"] for row in describe_routes(built.table)}
    assert forms["VM.start"] == ("VM_start", "Async.VM.start", "InternalAsync.VM.start")
    for name in ["get_tags", "set_tags", "get_record", "add_to_other_config", "add_tags", "get_by_uuid"]:
        assert forms[f"VM.{name}"] == (f"VM_{name}",)


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
    by_hand = """\
methods:
  VM.start: {object_path: /org/example/own, interface: org.example.VM1, member: SetMemory, params: [value]}
"""
    built = build(tmp_path, head=HEAD.replace("methods: {}\n", by_hand))
    assert built.bind("VM.start", 5).object_path == "/org/example/own"


def test_groups_and_rollouts_hold_for_derived_methods(tmp_path: Path) -> None:
    groups = "groups: {vm: {methods: ['VM.*'], key: vm}}\nmethods: {}\n"
    built = build(
        tmp_path, "messages: {create: {key: session}, start: {group: vm}}", head=HEAD.replace("methods: {}\n", groups)
    )
    assert [line for line in built.problems if "VM.get_all:" not in line] != []  # those of the manager have no `vm`
    built = build(
        tmp_path,
        head=HEAD.replace("methods: {}\n", "groups: {life: {methods: [VM.start, 'VM.set_*'], key: vm}}\nmethods: {}\n"),
    )
    assert {route.method for route in built.table.routes() if route.migration.group == "life"} == {
        f"VM.{name}"
        for name in ["start", "set_memory", "set_tags", "set_name_label", "set_other_config", "set_snapshot_time"]
    }
    assert built.route("VM.start").rollout == built.route("VM.set_tags").rollout


def test_any_form_of_a_name_selects_the_method(built: Built) -> None:
    routes = built.table.routes()
    start = [built.route("VM.start")]
    for name in ("VM.start", "VM_start", "Async.VM.start", "InternalAsync.VM.start", "xapi/Async.VM.start"):
        assert [*selection.select(routes, name)] == start
        assert [*selection.routes_named(routes, name)] == start
        assert selection.canonical(routes, name) == "xapi/VM.start"
    assert selection.select(routes, "Async.VM.get_tags") == ()  # a read of a field has no task


# Errors


def test_error_templates_have_the_class_and_the_reference(built: Built) -> None:
    gone = Fault(FaultCode.NOT_FOUND, "", name="org.freedesktop.DBus.Error.UnknownObject", data=[""])
    for method, data in (
        ("VM.get_tags", ["VM", "OpaqueRef:NULL"]),
        ("VM.start", ["VM", "OpaqueRef:NULL"]),
        ("VM_metrics.get_record", ["VM_metrics", "OpaqueRef:NULL"]),
    ):
        fault = built.route(method).map_error(gone, Call(method, ("s", "OpaqueRef:NULL")))
        assert (fault.name, fault.data) == ("HANDLE_INVALID", data)
    bad = Fault(FaultCode.APPLICATION, "", name="org.example.BadState", data=["Halted", "Up"])
    assert built.route("VM.start").map_error(bad, Call("VM.start", ("s", "r"))).data == ["r", "halted", "running"]
    odd = Fault(FaultCode.APPLICATION, "", name="org.example.BadState", data=["Halted", "Odd"])
    assert built.route("VM.start").map_error(odd, Call("VM.start", ("s", "r"))).data == ["r", "halted", "Odd"]


def test_errors_of_a_class_have_precedence_over_those_of_the_file(tmp_path: Path) -> None:
    built = build(tmp_path, 'errors: {org.example.BadState: {code: OF_CLASS, args: ["{vm}"]}}')
    bad = Fault(FaultCode.APPLICATION, "", name="org.example.BadState", data=["Halted", "Up"])
    assert built.route("VM.start").map_error(bad, Call("VM.start", ("s", "r"))).name == "OF_CLASS"
    assert built.route("VM_metrics.get_uuid").map_error(bad, Call("x", ("s", "r"))).name == "BAD"


# Checks


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (
            "messages: {strat: {timeout: 5s}}",
            (
                "24:16: classes.VM.messages.strat: message 'strat' has no D-Bus side: there is no method 'Strat' "
                "(did you mean 'Start'?); name another one with `member`, or list it in `unmapped`"
            ),
        ),
        (
            "messages: {start: {timeout: 0s}}",
            "24:33: classes.VM.messages.start.timeout: expected a time longer than 0s, got 0s",
        ),
        (
            "messages: {start: {mode: shadow}}",
            "24:30: classes.VM.messages.start.mode: mode shadow would execute each call twice, and the effect is write",
        ),
        (
            "messages: {start: {optional: {pause: false}}}",
            "24:35: classes.VM.messages.start.optional.pause: unknown argument 'pause' (did you mean 'paused'?)",
        ),
        ("unmapped: [start]", "24:16: classes.VM.unmapped[0]: message 'start' has a D-Bus side: member Start"),
        (
            "messages: {start: {member: Stat}}",
            "24:32: classes.VM.messages.start.member: unknown method 'Stat' of org.example.VM1 (did you mean 'Start'?)",
        ),
        ("defaults: {timeout: 0s}", "24:25: classes.VM.defaults.timeout: expected a time longer than 0s, got 0s"),
    ],
)
def test_a_problem_is_reported_at_the_stanza(tmp_path: Path, more: str, problem: str) -> None:
    assert build(tmp_path, more).problems == [f"x.yaml:{problem}"]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            "domain_id: {from: Domid, default: -1}",
            "domain_id: {from: Domd, default: -1}",
            (
                "20:18: classes.VM.fields.domain_id: field 'domain_id' has no D-Bus side: there is no readable "
                "property 'Domd' (did you mean 'Domid'?); give its `type` and `default` if the service lacks it"
            ),
        ),
        ("default: -1}", "default: none}", '20:41: classes.VM.fields.domain_id.default: expected x, got "none"'),
        ("default: {}}", "default: 5}", "22:46: classes.VM.fields.bios_strings.default: expected a{ss}, got 5"),
        (
            ", default: {}}",
            "}",
            "22:7: classes.VM.fields.bios_strings: 'default' is missing: the value of 'bios_strings' in every record",
        ),
        (
            '"1970-01-01T00:01:00Z"',
            "soon",
            '23:44: classes.VM.fields.last_seen.default: expected a dateTime or ISO 8601 text, got "soon"',
        ),
        (
            "{vm}",
            "x",
            (
                "14:18: classes.VM.object_path: expected an object path with one parameter, the reference of the "
                "object, got '/org/example/vm/x'"
            ),
        ),
        (
            "key: Ref",
            "key: Reff",
            "17:10: classes.VM.key: unknown property 'Reff' of org.example.VM1 (did you mean 'Ref'?)",
        ),
        (
            "interface: org.example.VM1",
            "interface: org.example.VM2",
            (
                "15:16: classes.VM.interface: unknown interface 'org.example.VM2' of classes.xml "
                "(did you mean 'org.example.VM1'?)"
            ),
        ),
    ],
)
def test_a_problem_of_a_stanza_is_reported_with_its_place(tmp_path: Path, old: str, new: str, problem: str) -> None:
    found = build(tmp_path, stanza=STANZA.replace(old, new, 1)).problems
    assert f"x.yaml:{problem}" in found


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


def test_simple_methods_are_the_same_as_those_compiled_at_once(built: Built) -> None:
    """Converters that are compiled at the first call give the same calls, errors and descriptions."""
    session = built.route("VM.start").session_check
    assert session is not None
    assert session.encode_arguments(Call("VM.start", ("s", "x", True, False))).body == ["s"]
    with pytest.raises(ParameterCountError) as few:
        session.encode_arguments(Call("VM.start", ("s", "x")))
    assert (few.value.expected, few.value.received) == (3, 1)
    with pytest.raises(ParameterCountError) as many:
        built.bind("VM.get_tags", "s", "x", "y")
    assert (many.value.expected, many.value.received) == (1, 2)
    described = [(each.name, str(each.type), each.required) for each in built.route("VM.start").parameters]
    assert described == [("session", "s", True), ("vm", "s", True), ("paused", "b", True), ("force", "b", True)]
    assert str(built.route("VM.get_tags").result) == "as"
    assert built.route("VM.start").result is None
    assert built.route("VM.start").migration.redact.parameters == ("session", "vm", "paused", "force")


def test_the_table_lists_what_has_no_dbus_side(tmp_path: Path) -> None:
    built = build(tmp_path, "unmapped: [import_convert, send_sysrq]")
    assert built.table.notes[0].endswith("x.yaml:13: class VM: 2 fields with a default only: bios_strings, last_seen")
    assert [gap.partition(": ")[2] for gap in built.table.notes] == [
        "class VM: 2 fields with a default only: bios_strings, last_seen",
        "class VM: 2 messages without a D-Bus side: import_convert, send_sysrq",
    ]


def test_a_class_has_one_contract_for_each_interface(built: Built) -> None:
    contracts = {(each.place, each.interface.name, each.object_path): each for each in built.table.contracts}
    assert {place for place, *_ in contracts} == {"session", "classes.VM", "classes.VM_metrics"}
    ours = contracts["classes.VM", "org.example.VM1", "/org/example/vm/{vm}"]
    assert {"Start", "Tags", "NameLabel"} <= set(ours.members)
    assert len(built.table.contracts) == len(contracts)


def test_a_fingerprint_changes_with_what_a_method_depends_on(tmp_path: Path) -> None:
    before = build(tmp_path)
    after = build(tmp_path, "messages: {start: {timeout: 1m}}")
    changed = {
        route.method for route in before.table.routes() if route.fingerprint != after.route(route.method).fingerprint
    }
    assert changed == {"VM.start"}
    other_default = build(tmp_path, stanza=STANZA.replace("default: -1", "default: 0"))
    assert other_default.route("VM.get_record").fingerprint != before.route("VM.get_record").fingerprint
    assert other_default.route("VM_metrics.get_uuid").fingerprint == before.route("VM_metrics.get_uuid").fingerprint


# What the event hub gets of a class


def test_a_class_has_its_objects_and_records_for_events_without_another_line(built: Built) -> None:
    found = {each.name: each for each in built.table.classes}
    vm, metrics = found["VM"], found["VM_metrics"]
    assert (vm.service, vm.bus_name, vm.manager, vm.interface) == (
        "xapi",
        "org.example",
        "/org/example/VM",
        "org.example.VM1",
    )
    assert vm.has("/org/example/vm/a")
    assert not vm.has("/org/example/vm/a/b")
    assert not vm.has("/org/example/vm/")
    assert not vm.has("/org/example/sr/a")
    properties = {"Ref": Variant("s", REF), "NameLabel": Variant("s", "web"), "Domid": Variant("x", 5)}
    assert vm.reference("/org/example/vm/a", properties) == REF
    assert vm.reference("/org/example/vm/a", {}) == "/org/example/vm/a"
    record = vm.record(properties)
    assert isinstance(record, dict)
    assert (record["name_label"], record["domain_id"], record["bios_strings"]) == ("web", 5, {})
    assert metrics.reference("/org/example/vm/a", properties) == of_class("VM_metrics")(REF) != REF
    assert tuple(route.method for route in vm.routes) == ("VM.get_record", "VM.get_all_records")
