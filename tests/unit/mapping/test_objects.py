"""Object paths in mapping files: parameters that are object paths, rules of escaping, records of several interfaces."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from gateway.core.dbus.marshal import MarshalError, Variant
from gateway.core.dbus.patterns import MAX_TEXT, pattern
from gateway.core.rpc.model import Call, Fault, FaultCode, Value
from tests.kit.cases import each_case, expect
from tests.kit.mappings import HEAD, Built, build_methods

DEVICES = "/org/example/Devices"
DEVICE = f"{{name: device, object: {DEVICES}}}"


def test_an_object_is_named_by_its_path_or_by_the_part_below_the_subtree(tmp_path: Path) -> None:
    """Both have one key: a canary serves an object by one side, however the client names it."""
    built = build_methods(tmp_path, f"m: {{property: Tags, params: [{DEVICE}], key: device}}")
    key = built.route("m").migration.key
    assert key is not None
    for value in (f"{DEVICES}/3", "3", 3):
        assert built.bind("m", value).object_path == key.take(Call("m", (value,))) == f"{DEVICES}/3"
    assert built.bind("m", f"{DEVICES}/usb/3").object_path == f"{DEVICES}/usb/3"


OUTSIDE = (
    "/org/example/Settings/3 /org/example/Devices /org/example/Devices/ /org/example/DevicesX/3 / ../Settings/3 3/ é"
)
TRICKS = "/org/example/Devices/../Settings /org/example/Devices//3"


@each_case("value", [*OUTSIDE.split(), *TRICKS.split(), "", "3\n", -3, 3.0, True, None, [DEVICES]])
def test_no_value_reaches_another_subtree(tmp_path: Path, value: object) -> None:
    built = build_methods(tmp_path, f"m: {{property: Tags, params: [{DEVICE}]}}")
    with pytest.raises(MarshalError, match=rf"^\$\.params\[0\]: expected an object path below {DEVICES}, got "):
        built.bind("m", value)  # type: ignore[arg-type]  # hostile on purpose


def test_several_subtrees_take_whole_paths_only(tmp_path: Path) -> None:
    built = build_methods(tmp_path, "m: {property: Tags, params: [{name: x, object: [/a/b, /a/c]}]}")
    assert built.bind("m", "/a/c/1").object_path == "/a/c/1"
    for value in ("1", "/a/d/1"):
        with pytest.raises(MarshalError, match="expected an object path below /a/b or /a/c"):
            built.bind("m", value)


def test_an_object_path_may_be_the_beginning_of_the_path_or_an_argument(tmp_path: Path) -> None:
    (tmp_path / "o.xml").write_text(
        "<node><interface name='org.example.O'><method name='Use'><arg name='what' type='o' direction='in'/>"
        "<arg name='more' type='ao' direction='in'/></method></interface></node>"
    )
    o = "interface: org.example.O, idl: o.xml, member: Use"
    device = DEVICE.replace("name: device", "name: what")
    more = "{name: more, object: [/x, /y]}"
    entry = f"m: {{{o}, object_path: '{{d}}/sub', params: [{DEVICE.replace('device', 'd')}, {device}, {more}]}}"
    built = build_methods(tmp_path, entry)
    call = built.bind("m", "1", "2", ["/x/1", "/y/1"])
    assert (call.object_path, call.body) == (f"{DEVICES}/1/sub", [f"{DEVICES}/2", ["/x/1", "/y/1"]])
    with pytest.raises(MarshalError, match=r"^\$\.params\[2\]\[1\]: expected an object path below /x or /y"):
        built.bind("m", "1", "2", ["/x/1", "/z/1"])


def test_a_file_without_an_object_path_needs_none_where_a_parameter_is_it(tmp_path: Path) -> None:
    head = HEAD.replace("  object_path: /org/example\n", "  # none\n")
    built = build_methods(tmp_path, f"m: {{property: Tags, params: [{DEVICE}]}}", head)
    assert built.bind("m", 1).object_path == f"{DEVICES}/1"
    missing = "x.yaml:13:3: methods.m: 'object_path' is missing: add it here or to `dbus`"
    assert build_methods(tmp_path, "m: {property: Tags}", head).problems == [missing]


@each_case(
    ("escape", "value", "path"),
    [
        ("systemd", "11:22", "/org/example/dev_11_3a22"),
        ("systemd", "../x", "/org/example/dev__2e_2e_2fx"),
        ("systemd", 1000, "/org/example/dev_1000"),
        ("systemd", "", "/org/example/dev__"),
        ("none", "a_1", "/org/example/dev_a_1"),
        ("none", 1000, "/org/example/dev_1000"),
        ("dashes", "AA:BB-cc", "/org/example/dev_AA_BB_cc"),
    ],
)
def test_a_rule_of_escaping_applies_inside_an_element(tmp_path: Path, escape: str, value: str | int, path: str) -> None:
    entry = "m: {property: Tags, object_path: '/org/example/dev_{a}', params: [{name: a, escape: %s}]}"
    assert build_methods(tmp_path, entry % escape).bind("m", value).object_path == path
    entry = "m: {property: Tags, object_path: '/org/example/dev_{a}', escape: %s, params: [a]}"
    assert build_methods(tmp_path, entry % escape).bind("m", value).object_path == path


@each_case(
    ("escape", "value", "more"),
    [("none", "a-b", ""), ("none", "", ""), ("none", "a/b", ""), ("dashes", "a.b", ", - and :"), ("dashes", "", "")],
)
def test_a_rule_refuses_what_it_has_no_form_for(tmp_path: Path, escape: str, value: str, more: str) -> None:
    entry = "m: {property: Tags, object_path: '/org/example/{a}', params: [{name: a, escape: %s}]}"
    with pytest.raises(MarshalError, match=rf"^\$\.params\[0\]: expected text of A-Z, a-z, 0-9, _{more}.* got"):
        build_methods(tmp_path, entry % escape).bind("m", value)


# Records of several interfaces, and interfaces without IDL

WIRED = """<node><interface name='org.example.Wired'><property name='Speed' type='u' access='read'/>
<property name='Tags' type='as' access='read'/></interface></node>"""


def test_a_record_has_the_properties_of_further_interfaces(tmp_path: Path) -> None:
    (tmp_path / "wired.xml").write_text(WIRED)
    further = "with_interfaces: [{interface: org.example.Wired, idl: wired.xml}, org.example.Session1]"
    entry = f"m: {{all_properties: true, {further}}}\nn: {{managed_objects: {{key: path}}, {further}}}"
    built = build_methods(tmp_path, entry)
    assert built.route("m").further == ("org.example.Wired", "org.example.Session1")
    own, wired = {"Memory": Variant("t", 1), "Tags": Variant("as", ["a"])}, {"Speed": Variant("u", 5)}
    record = {"Memory": 1, "org.example.VM1.Tags": ["a"], "Speed": 5}
    assert built.route("m").decode_result([own, wired, {}]) == record
    objects = {
        "/a": {"org.example.VM1": own, "org.example.Wired": wired},
        "/b": {"org.example.VM1": own, "org.example.Wired": {"Tags": Variant("as", [])}},
        "/c": {"org.example.Wired": wired},
    }
    other = {"Memory": 1, "org.example.VM1.Tags": ["a"], "org.example.Wired.Tags": []}
    assert built.route("n").decode_result([objects]) == {"/a": record, "/b": other}


def test_a_record_picks_from_all_its_interfaces(tmp_path: Path) -> None:
    (tmp_path / "wired.xml").write_text(WIRED)
    further = "with_interfaces: [{interface: org.example.Wired, idl: wired.xml}]"
    result = "result: {speed: Speed, tags: org.example.Wired.Tags, memory: {from: Memory, format: text}}"
    built = build_methods(tmp_path, f"m: {{all_properties: true, {further}, {result}}}")
    bodies = [{"Memory": Variant("t", 1)}, {"Speed": Variant("u", 5), "Tags": Variant("as", ["b"])}]
    assert built.route("m").decode_result(bodies) == {"speed": 5, "tags": ["b"], "memory": "1"}
    (problem,) = build_methods(tmp_path, f"m: {{all_properties: true, {further}, result: {{t: Tags}}}}").problems
    assert "unknown property 'Tags' of org.example.VM1" in problem


def test_a_standard_interface_needs_no_idl(tmp_path: Path) -> None:
    for interface, member, signatures in (
        ("Peer", "Ping", ("", "")),
        ("Introspectable", "Introspect", ("", "s")),
        ("Properties", "GetAll", ("s", "a{sv}")),
        ("ObjectManager", "GetManagedObjects", ("", "a{oa{sa{sv}}}")),
    ):
        name = f"org.freedesktop.DBus.{interface}"
        head = HEAD.replace("org.example.VM1", name).replace("  idl: example.xml\n", "\n")
        params = ", params: [interface_name]" if interface == "Properties" else ""
        target = build_methods(tmp_path, f"m: {{member: {member}{params}}}", head).route("m").bus_target
        assert (target.signature, target.reply_signature) == signatures


def test_elements_as_keys_are_unescaped_by_the_rule_systemd_only(tmp_path: Path) -> None:
    objects: dict[str, object] = {f"/a/{element}": {"org.example.VM1": {}} for element in ("dev_11_22", "a_2db")}
    for escape, keys in {"systemd": {"dev_11_22", "a-b"}, "dashes": {"dev_11_22", "a_2db"}}.items():
        route = build_methods(tmp_path, f"m: {{managed_objects: true, escape: {escape}}}").route("m")
        assert expect(dict, route.decode_result([objects])).keys() == keys


# Variants

SETTINGS_IDL = """<node><interface name='org.example.VM1'>
<method name='Add'><arg name='connection' type='a{sa{sv}}' direction='in'/><arg type='a{sv}' direction='out'/></method>
<method name='Use'><arg name='what' type='v' direction='in'/><arg name='all' type='av' direction='in'/></method>
<property name='Any' type='v' access='readwrite'/></interface></node>"""
KNOWN = '{"ipv4.address-data": "aa{sv}", "ipv4.address-data.prefix": u, "*.mtu": u, "802-11-wireless.ssid": ay}'


def _settings(tmp_path: Path, methods: str) -> Built:
    """Methods of an interface with variants."""
    (tmp_path / "settings.xml").write_text(SETTINGS_IDL)
    return build_methods(tmp_path, methods, HEAD.replace("example.xml", "settings.xml"))


def test_variants_of_known_keys_have_the_type_of_the_mapping(tmp_path: Path) -> None:
    entry = f"m: {{member: Add, params: [connection], variants: {KNOWN}}}"
    built = _settings(tmp_path, entry)
    addresses: list[Value] = [{"address": "10.0.0.1", "prefix": 24}]
    connection: Value = {
        "connection": {"id": "a", "permissions": ["x"]},
        "802-3-ethernet": {"mtu": 1500},
        "802-11-wireless": {"ssid": "aGk=", "mtu": 0},
        "ipv4": {"address-data": addresses, "dad-timeout": -1},
    }
    address = {"address": Variant("s", "10.0.0.1"), "prefix": Variant("u", 24)}
    assert built.bind("m", connection).body == [
        {
            "connection": {"id": Variant("s", "a"), "permissions": Variant("av", [Variant("s", "x")])},
            "802-3-ethernet": {"mtu": Variant("u", 1500)},
            "802-11-wireless": {"ssid": Variant("ay", b"hi"), "mtu": Variant("u", 0)},
            "ipv4": {"address-data": Variant("aa{sv}", [address]), "dad-timeout": Variant("x", -1)},
        }
    ]


ADDRESS_DATA = '$.params[0].ipv4["address-data"]'


@each_case(
    ("connection", "message"),
    [
        ({"a": {"mtu": -1}}, "$.params[0].a.mtu: expected u, got -1"),
        ({"ipv4": {"address-data": {}}}, f"{ADDRESS_DATA}: expected aa{{sv}}, got a struct of 0"),
        ({"ipv4": {"address-data": [{"prefix": "x"}]}}, f'{ADDRESS_DATA}[0].prefix: expected u, got "x"'),
        ({"ipv4": []}, "$.params[0].ipv4: expected a{sv}, got an array of 0"),
        ({"ipv4": {"x": None}}, "$.params[0].ipv4.x: expected v, got null"),
    ],
)
def test_a_value_of_another_type_is_rejected_with_its_place(tmp_path: Path, connection: Value, message: str) -> None:
    with pytest.raises(MarshalError) as caught:
        _settings(tmp_path, f"m: {{member: Add, params: [connection], variants: {KNOWN}}}").bind("m", connection)
    assert str(caught.value) == message


def test_a_variant_without_a_dictionary_has_the_name_of_its_argument(tmp_path: Path) -> None:
    entry = 'm: {member: Use, params: [what, all], variants: {what: u, "all[]": q}}\n'
    entry += "n: {set_property: Any, params: [{name: x, to: value}], variants: {value: y}}"
    built = _settings(tmp_path, entry)
    assert built.bind("m", 1, [2, 3]).body == [Variant("u", 1), [Variant("q", 2), Variant("q", 3)]]
    assert built.bind("n", 4).body == ["org.example.VM1", "Any", Variant("v", Variant("y", 4))]


def test_each_direction_may_have_its_rule(tmp_path: Path) -> None:
    entry = "m: {member: Add, params: [connection], variants: {in: %s, out: typed}}"
    built = _settings(tmp_path, entry % KNOWN)
    assert built.bind("m", {"a": {"mtu": 5}}).body == [{"a": {"mtu": Variant("u", 5)}}]
    typed: Value = {"b": {"signature": "u", "value": 5}}
    assert built.route("m").decode_result([{"b": Variant("u", 5)}]) == typed
    built = _settings(tmp_path, "m: {member: Add, params: [connection], variants: {in: typed}}")
    assert built.bind("m", {"a": typed}).body == [{"a": {"b": Variant("u", 5)}}]
    assert built.route("m").decode_result([{"b": Variant("v", Variant("u", 5))}]) == {"b": 5}


def test_a_variant_around_the_variant_of_a_property_is_unwrapped(tmp_path: Path) -> None:
    built = _settings(tmp_path, "m: {property: Any}\nn: {all_properties: true}")
    assert built.route("m").decode_result([Variant("u", 5)]) == 5
    assert built.route("m").decode_result([Variant("v", Variant("u", 5))]) == 5
    assert built.route("n").decode_result([{"Any": Variant("u", 5)}]) == {"Any": 5}
    built = build_methods(tmp_path, "m: {property: Tags}")
    assert built.route("m").decode_result([Variant("v", Variant("as", ["a"]))]) == ["a"]
    with pytest.raises(MarshalError, match="expected as from the service, got "):
        built.route("m").decode_result([Variant("v", Variant("u", 1))])


# Errors whose text has the code


def _faults(tmp_path: Path, errors: str, text: str) -> Fault:
    route = build_methods(tmp_path, f"m: {{member: Add, params: [name, memory], errors: {errors}}}").route("m")
    return route.map_error(Fault(FaultCode.REMOTE, text, name="org.example.Failed", data=[text]), Call("m", ("vm", 5)))


MATCHED = """{org.example.Failed: [
    {match: "(?P<code>[A-Z_]+): (?P<rest>.*)", code: "{code}", args: ["{rest}", "{name}"]},
    {match: "no (\\\\w+)", code: "NO_{0}"}, {code: OTHER}]}"""


@each_case(
    ("text", "code", "args"),
    [
        ("HOST_OFFLINE: host 7: off\nline", "HOST_OFFLINE", ["host 7: off\nline", "vm"]),
        ("it failed: HOST_OFFLINE: x", "OTHER", []),
        ("A: " + "x" * 2000, "OTHER", []),
    ],
)
def test_the_text_of_an_error_has_the_code(tmp_path: Path, text: str, code: str, args: list[Value]) -> None:
    found = _faults(tmp_path, MATCHED, text)
    assert (found.code, found.name) == (FaultCode.APPLICATION, code)
    assert found.data == [arg if arg != "vm" else "org.example.Failed" for arg in args]


def test_a_code_is_a_template(tmp_path: Path) -> None:
    assert _faults(tmp_path, '{org.example.Failed: {code: "E_{memory}"}}', "x").name == "E_5"
    nothing = _faults(tmp_path, '{org.example.Failed: {code: "{3}"}}', "x")
    assert (nothing.code, nothing.name) == (FaultCode.REMOTE, "org.example.Failed")


@each_case(
    "text", [".*a.*b.*", "[a-z]*[a-z]*!", "(?:a|a)(?:a|a)(?:a|a)(?:a|a)[a]*!", "a?a?a?a?a?a?a?a?a?a?aaaaaaaaaa!"]
)
def test_an_allowed_pattern_is_done_soon_whatever_the_text(text: str) -> None:
    found = pattern(text)
    began = time.process_time()
    assert found.match("a" * MAX_TEXT) is None
    assert time.process_time() - began < 5, "a pattern that is not bounded takes hours"
