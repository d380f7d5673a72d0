"""`scaffold xenapi`: the shipped IDL and mapping are its output with additions; bad datamodels are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from gateway.core.dbus import introspection_xml
from gateway.scaffold import SourceError, xenapi
from tests.kit.cases import each_case
from tests.kit.command import command
from tests.kit.programs import ROOT

NAMES = xenapi.Names("org.xen.xcp.xapi", "/org/xen/xcp/xapi", "idl/org.xen.xcp.xapi.classes.xml")


def test_the_shipped_idl_is_the_output_and_the_shipped_mapping_is_that_with_additions() -> None:
    made = xenapi.make(xenapi.read((ROOT / "docker/toolstack/xenapi_classes.json").read_bytes()), NAMES)
    assert (ROOT / "mappings" / NAMES.idl).read_text() == made.idl
    shipped = YAML(typ="safe", pure=True).load(ROOT / "mappings/xapi.yaml")["classes"]
    written = YAML(typ="safe", pure=True).load(made.mapping)["classes"]
    assert list(shipped) == list(written)
    assert missing(written, shipped) == []


def missing(written: Any, shipped: Any, place: str = "classes") -> list[str]:
    """The places where the shipped mapping lacks or changes what was written."""
    if isinstance(written, dict) and isinstance(shipped, dict):
        return [each for key, value in written.items() for each in missing(value, shipped.get(key), f"{place}.{key}")]
    return [] if written == shipped else [place]


CLASS = YAML(typ="safe", pure=True).load("""
name: VM
description: what xapi writes besides is ignored
fields:
  - {name: uuid, type: string, qualifier: RO/runtime, lifecycle: {state: published_s}}
  - {name: VCPUs_max, type: int, qualifier: RW}
  - {name: IPv6, type: string set, qualifier: RO/runtime}
  - {name: start_time, type: datetime, qualifier: RO/runtime}
  - {name: VBDs, type: VBD ref set, qualifier: RO/runtime}
  - {name: other_config, type: (string -> string) map, qualifier: RW}
messages:
  - {name: get_record, params: [], result: [VM record, ""], implicit: true}
  - {name: get_all, implicit: true}
  - {name: create, implicit: true}
  - {name: destroy, implicit: true}
  - {name: get_VCPUs_max, implicit: true}
  - {name: set_VCPUs_max, implicit: true}
  - {name: add_to_other_config, implicit: true}
  - name: start
    implicit: false
    params:
      - {type: session ref, name: session_id, doc: ""}
      - {type: VM ref, name: vm, doc: ""}
      - {type: bool, name: start_paused, doc: ""}
    result: [void]
    errors: [{name: VM_BAD_POWER_STATE, doc: ""}]
  - {name: import, params: [{name: url, type: string}], result: [(VM ref -> datetime) map, ""]}
  - {name: old, params: [], result: [void], lifecycle: {state: removed_s, transitions: []}}
  - {name: get_IPv6, implicit: true, lifecycle: {state: removed_s, transitions: []}}
enums: []
""")


def test_a_class_becomes_two_interfaces() -> None:
    [cls] = xenapi.read(json.dumps([CLASS]).encode())
    idl = introspection_xml.parse(xenapi.make([cls], NAMES).idl).interfaces
    vm, manager = idl["org.xen.xcp.xapi.VM1"], idl["org.xen.xcp.xapi.VMManager1"]
    assert {name: (str(each.type), each.access) for name, each in vm.properties.items()} == {
        "Uuid": ("s", "read"),
        "VCPUsMax": ("x", "readwrite"),
        "IPv6": ("as", "read"),
        "StartTime": ("x", "read"),
        "VBDs": ("as", "read"),
        "OtherConfig": ("a{ss}", "read"),
    }
    assert shape(vm) == {"Destroy": ("", ""), "AddToOtherConfig": ("ss", ""), "Start": ("b", "")}
    assert shape(manager) == {"Create": ("a{sv}", "s"), "Import": ("s", "a{sx}"), "GetAll": ("", "as")}
    assert vm.properties["StartTime"].legacy_type == "datetime"
    assert manager.methods["Create"].ins[0].legacy_type == "VM record"
    made = YAML(typ="safe", pure=True).load(xenapi.make([cls], NAMES).mapping)
    assert made["classes"]["VM"]["fields"] == {"IPv6": "IPv6"}, "what the naming rule does not give back"
    assert made["removed"] == ["VM.old", "VM.get_IPv6"]


def shape(interface: introspection_xml.Interface) -> dict[str, tuple[str, str]]:
    signature = introspection_xml.signature
    return {name: (signature(each.ins), signature(each.outs)) for name, each in interface.methods.items()}


FIELD = '[{"name": "VM", "messages": [], "fields": [{"name": "a"%s}]}]'
MESSAGE = '[{"name": "VM", "fields": [], "messages": [{"name": "a", "params": [], "result": ["(a) map"]}]}]'


@each_case(
    ("content", "problem"),
    [
        ("nothing", "expected the JSON of a datamodel, a list of classes: Expecting value: line 1 column 1 (char 0)"),
        ("{}", "expected a list of classes, got dict"),
        ("[7]", "class 0: expected 'name' as a str, got int"),
        ('[{"name": "VM"}]', "class VM: expected 'messages' as a list, got NoneType"),
        (FIELD % "", "class VM, field a: expected 'type' as a text, got NoneType"),
        (FIELD % ', "type": "VM rev"', "class VM, field a: unknown type 'VM rev'"),
        (MESSAGE, "class VM, message a: unknown type '(a) map'"),
        (
            FIELD % ', "type": "(VM record -> string) map"',
            "a type of the datamodel is none of D-Bus: signature 'a{a{sv}s}' has",
        ),
    ],
)
def test_a_bad_datamodel_is_refused_with_its_place(content: str, problem: str) -> None:
    with pytest.raises(SourceError) as caught:
        xenapi.make(xenapi.read(content.encode()), NAMES)
    assert str(caught.value).startswith(problem)


def test_the_command_writes_files_that_check_accepts_and_replaces_none(tmp_path: Path) -> None:
    model, there = tmp_path / "xenapi.json", tmp_path / "made"
    model.write_text(json.dumps([CLASS]))
    assert command("scaffold", "xenapi", model, "--output", there).exit_code == 0
    assert {str(path.relative_to(there)) for path in there.rglob("*.*")} == {NAMES.idl, "xapi.yaml"}
    assert command("check", there).exit_code == 0
    again = command("scaffold", "xenapi", model, "--output", there)
    assert (again.exit_code, "exists" in again.output) == (1, True)
    assert command("scaffold", "xenapi", model, "--output", there, "--force").exit_code == 0
    bad = command("scaffold", "xenapi", model, "--bus-name", "7")
    assert (bad.exit_code, "--bus-name: expected a bus name" in bad.output) == (2, True)
