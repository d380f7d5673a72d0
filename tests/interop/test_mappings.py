"""The six mapping files through a real gateway to the sample toolstack: what old clients send, and what they get."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias
from uuid import UUID

import pytest

from demo.environment import Environment
from tests.kit.admin import ask
from tests.kit.cases import each_case
from tests.kit.clients import json_call, xml_call
from tests.kit.side_by_side import until

pytestmark = pytest.mark.bus

WEB, DB, ARCHIVE = (
    f"{digit * 8}-{letter * 4}-4{letter * 3}-8{letter * 3}-00000000000{digit}"
    for digit, letter in (("1", "a"), ("2", "b"), ("3", "c"))
)
SR, VDI = "6f2d1a34-77c8-4f0b-9d3e-1c9a5e4b2001", "0b9e4c1a-3f5d-4c52-8a76-d2e1f0a43001"
DBG = "a text for the log"
GIB = 1024**3

Ask: TypeAlias = Callable[..., Any]


def xml(running: Environment, path: str) -> Ask:
    """Call over XML-RPC; long integers go as text, as XenAPI's clients send them."""
    return partial(xml_call, running.url, path)


def rpc(running: Environment, path: str) -> Ask:
    """Call over JSON-RPC 2.0, with parameters by position or by name; returns the result or the error object."""
    return lambda method, *params, **named: json_call(running.url, path, method, named or params)


def works(answer: Any) -> Any:
    assert answer["Status"] == "Success", answer
    return answer["Value"]


def fails(answer: Any) -> list[Any]:
    assert answer["Status"] == "Failure", answer
    reasons: list[Any] = answer["ErrorDescription"]
    return reasons


@pytest.fixture
def session(running: Environment) -> str:
    opened = works(xml(running, "/")("session.login_with_password", "root", "xenroot", "2.0", "test"))
    return str(opened)


# xapi


def test_no_two_objects_of_any_class_share_a_reference_or_a_uuid(running: Environment, session: str) -> None:
    """Xen Orchestra keeps all of them in one table: of two that share an entry it loses one."""
    api = xml(running, "/")
    names = [name for name in api("system.listMethods") if name.endswith(".get_all_records")]
    assert {"VM.get_all_records", "VM_metrics.get_all_records", "host.get_all_records"} <= set(names)
    records = [item for name in names for item in works(api(name, session)).items()]
    references = [reference for reference, _ in records]
    uuids = [record["uuid"] for _, record in records]
    assert len(set(references)) == len(references) > 150
    assert len(set(uuids)) == len(uuids)
    fixed = {
        record["uuid"] for record in works(api("role.get_all_records", session)).values()
    }  # the same in every pool
    assert all(UUID(uuid).version == 4 for uuid in uuids if uuid not in fixed)
    assert all(f"OpaqueRef:{uuid}" in references for uuid in uuids)


def test_a_reference_of_one_class_is_none_of_another(running: Environment, session: str) -> None:
    api = xml(running, "/")
    vm = f"OpaqueRef:{WEB}"
    metrics = works(api("VM.get_metrics", session, vm))
    assert fails(api("VM_metrics.get_record", session, vm)) == ["HANDLE_INVALID", "VM_metrics", vm]
    assert fails(api("VM.get_record", session, metrics)) == ["HANDLE_INVALID", "VM", metrics]


# xenopsd


def test_xenopsd_takes_a_struct_of_named_parameters(running: Environment) -> None:
    xenops = xml(running, "/xenopsd")
    assert works(xenops("query", {"debug_info": DBG, "unit": None}))["name"] == "xenopsd"
    host = works(xenops("HOST.stat", {"debug_info": DBG}))
    assert host["cpu_info"]["vendor"] == "GenuineSample"
    assert host["hypervisor"].keys() == {"version", "capabilities"}
    assert works(xenops("VM.add", {"debug_info": DBG, "vm": full_vm("v1")})) == "v1"
    assert ended(xenops, "VM.start", {"id": "v1", "paused": False})[0] == "Completed"
    vm, state = works(xenops("VM.stat", {"debug_info": DBG, "id": "v1"}))
    assert (vm["ty"][0], vm["on_crash"]) == ("PV", ["Coredump", "Shutdown"])
    assert (state["power_state"], state["memory_actual"]) == ("Running", str(GIB))
    assert ended(xenops, "VM.shutdown", {"id": "v1", "delay": 30.0})[0] == "Completed"
    assert ended(xenops, "VM.pause", {"id": "v1"}) == ["Failed", ["Bad_power_state", ["Halted", "Running"]]]
    assert ended(xenops, "VM.pause", {"id": "v9"}) == ["Failed", ["Does_not_exist", ["VM", "v9"]]]
    assert "v1" in [vm["id"] for vm, _ in works(xenops("VM.list", {"debug_info": DBG, "unit": None}))]
    works(xenops("VM.remove", {"debug_info": DBG, "id": "v1"}))


def full_vm(key: str) -> dict[str, Any]:
    """A record of the type Vm.t, as a caller writes it over XML-RPC: integers are text, empty options are left out."""
    sizes = dict.fromkeys(("memory_static_max", "memory_dynamic_max", "memory_dynamic_min"), str(GIB))
    dicts: dict[str, Any] = {"xsdata": {}, "platformdata": {"nx": "true"}, "bios_strings": {}}
    boot = ["Direct", {"kernel": "/boot/guest", "cmdline": "", "ramdisk": "/boot/initrd"}]
    more = {"ty": ["PV", {"boot": boot, "framebuffer": False}], "scheduler_params": {"affinity": []}}
    ends = {"on_crash": ["Coredump", "Shutdown"], "on_shutdown": ["Shutdown"], "on_reboot": ["Start"]}
    flags = dict.fromkeys(("suppress_spurious_page_faults", "pci_msitranslate", "pci_power_mgmt"), False)
    plain = {"id": key, "name": "v", "ssidref": "0", "vcpus": "1", "vcpu_max": "2"}
    return {**plain, **sizes, **dicts, **more, **ends, **flags}


def ended(xenops: Ask, method: str, named: dict[str, Any]) -> Any:
    """Call an operation; the state in which its task ends, found as xapi does it: by UPDATES.get and Task.stat."""
    task = works(xenops(method, {"debug_info": DBG, **named}))
    known = 0
    while True:
        state = works(xenops("Task.stat", {"debug_info": DBG, "id": task}))["state"]
        if state[0] != "Pending":
            works(xenops("Task.destroy", {"debug_info": DBG, "id": task}))
            return state
        asked = {"debug_info": DBG, "last_id": known, "timeout": 30}
        _barriers, changes, known = works(xenops("UPDATES.get", asked))
        assert isinstance(changes, list)


def test_xenopsd_names_a_disk_by_a_pair(running: Environment) -> None:
    xenops = rpc(running, "/xenopsd/jsonrpc")
    qos = ["Ionice", ["RealTime", ["Other", 3]]]
    disk = {"id": [DB, "xvdb"], "backend": ["VDI", f"{SR}/{VDI}"], "mode": "readonly", "qos": qos, "unknown": 1}
    assert xenops("VBD.add", debug_info=DBG, vbd=disk) == [DB, "xvdb"]
    vbd, state = xenops("VBD.stat", debug_info=DBG, id=[DB, "xvdb"])
    assert (vbd["mode"], vbd["ty"], "position" in vbd) == ("ReadOnly", "Disk", False)
    assert state == {"active": False, "plugged": False, "qos_target": qos, "backend_present": ["VDI", f"{SR}/{VDI}"]}
    assert xenops("VBD.list", debug_info=DBG, id=DB) == [[vbd, state]]
    assert xenops("VBD.remove", debug_info=DBG, id=[DB, "xvdb"]) is None


# storage


def test_storage_attaches_and_detaches_a_disk(running: Environment) -> None:
    storage = xml(running, "/storage")
    disk = {"dbg": DBG, "sr": SR, "vdi": VDI}
    assert works(storage("SR.list", {"dbg": DBG})) == [SR]
    assert VDI in [info["vdi"] for info in works(storage("SR.scan", {"dbg": DBG, "sr": SR}))]
    ways = works(storage("VDI.attach2", {**disk, "dp": "vbd/1", "read_write": True}))["implementations"]
    assert ways[0][0] == "XenDisk"
    assert ways[0][1]["backend_type"] == "vbd3"
    works(storage("VDI.activate", {**disk, "dp": "vbd/1"}))
    stat = works(storage("DP.stat_vdi", {"dbg": DBG, "sr": SR, "vdi": VDI, "unit": None}))
    assert stat == {"superstate": ["Activated", "RW"], "dps": {"vbd/1": ["Activated", "RW"]}}
    assert fails(storage("VDI.destroy", disk)) == ["Backend_error", ["VDI_IN_USE", [SR, VDI]]]
    works(storage("VDI.deactivate", {**disk, "dp": "vbd/1"}))
    works(storage("VDI.detach", {**disk, "dp": "vbd/1"}))
    twice = storage("VDI.detach", {**disk, "dp": "vbd/1"})
    assert fails(twice) == ["Illegal_transition", ["Detached", "Detached"]]
    unknown = storage("VDI.stat", {**disk, "vdi": "../../nothing"})
    assert fails(unknown) == ["Vdi_does_not_exist", "../../nothing"]


def test_storage_makes_grows_and_destroys_a_disk(running: Environment) -> None:
    storage = rpc(running, "/storage/jsonrpc")
    wanted = {"vdi": "", "name_label": "d", "virtual_size": GIB, "ty": "user"}
    vdi = storage("VDI.create", dbg=DBG, sr=SR, vdi_info=wanted)["vdi"]
    assert storage("VDI.resize", dbg=DBG, sr=SR, vdi=vdi, new_size=2 * GIB) == 2 * GIB
    storage("VDI.set_name_label", dbg=DBG, sr=SR, vdi=vdi, new_name_label="e")
    assert storage("VDI.get_by_name", dbg=DBG, sr=SR, name="e")["virtual_size"] == 2 * GIB
    copy = storage("VDI.snapshot", dbg=DBG, sr=SR, vdi_info={"vdi": vdi, "name_label": "s"})
    assert (copy["snapshot_of"], copy["tags"]) == (vdi, [])
    assert copy["is_a_snapshot"] is True
    bitmap = storage("VDI.list_changed_blocks", dbg=DBG, sr=SR, vdi_from=copy["vdi"], vdi_tp=vdi)
    assert set(bitmap.rstrip("=")) == {"A"}  # base64 of zeros
    assert storage("VDI.destroy", dbg=DBG, sr=SR, vdi=vdi) is None
    assert storage("SR.stat", dbg=DBG, sr=SR)["health"] == "Healthy"
    config = {"server": "192.0.2.9", "port": 2049}
    made = storage("SR.create", DBG, "sr-2", "nfs", "", config, 1000, "nfs")
    assert made == {"server": "192.0.2.9", "port": "2049"}
    assert storage("SR.attach", DBG, "sr-2", config) is None
    assert storage("SR.attach", DBG, "sr-9", config)["message"]


# networkd


def test_networkd_takes_named_parameters_and_then_the_rest(running: Environment) -> None:
    network = xml(running, "/networkd")
    assert "eth0" in works(network("Network.Interface.get_all", DBG, None))
    works(network("Network.Interface.set_ipv4_conf", {"name": "eth0"}, DBG, "DHCP4"))
    record = works(network("Network.Interface.get_record", {"name": "eth0"}, DBG))
    assert (record["ipv4_conf"], record["ipv4_addr"]) == ("DHCP4", [])
    assert works(network("Network.Interface.get_ipv4_addr", {"name": "xenbr0"}, DBG)) in (
        [["192.0.2.10", 24]],
        [["192.0.2.10", "24"]],
    )
    vlan = {"name": "br9", "vlan": ["xenbr0", 9], "other_config": {}}
    works(network("Network.Bridge.create", vlan, DBG))
    port = {"bridge": "br9", "name": "bond1", "interfaces": ["eth0", "eth1"]}
    works(network("Network.Bridge.add_port", port, DBG))
    bonds = works(network("Network.Bridge.get_all_bonds", {"from_cache": True}, DBG))
    assert bonds["bond1"] == ["eth0", "eth1"]
    in_use = fails(network("Network.Bridge.destroy", {"name": "br9", "force": False}, DBG))
    assert in_use == ["Internal_error", 'br9 has ports: ["bond1"]']
    static = ["Static4", [["192.0.2.77", "24"]]]
    works(network("Network.Interface.set_ipv4_conf", {"name": "eth1"}, DBG, static))
    assert works(network("Network.Interface.get_ipv4_addr", {"name": "eth1"}, DBG)) == [["192.0.2.77", "24"]]
    assert works(network("Network.Interface.get_ipv4_gateway", {"name": "eth1"}, DBG)) == []
    assert works(network("Network.Interface.get_ipv4_gateway", {"name": "xenbr0"}, DBG)) == ["192.0.2.1"]
    works(network("Network.Bridge.destroy", {"name": "br9", "force": True}, DBG))
    gone = fails(network("Network.Bridge.get_interfaces", {"name": "br9"}, DBG))
    assert gone == ["Bridge_does_not_exist", "br9"]
    assert fails(network("Network.Bridge.add_port", port, DBG)) == ["Bridge_does_not_exist", "br9"]
    assert works(network("Network.get_statistics", DBG))["eth1"]["carrier"] is True


def test_networkd_takes_them_over_json_too(running: Environment) -> None:
    """As xapi sends them; the text for the log must never become the name of a bridge."""
    network = rpc(running, "/networkd/jsonrpc")
    wanted = {"name": "br7", "other_config": {"a": "b"}, "igmp_snooping": True, "mac": "02:00:00:00:00:07"}
    assert network("Network.Bridge.create", {**wanted, "vlan": ["xenbr0", 7]}, DBG) is None
    bridges = network("Network.Bridge.get_all", DBG, None)
    assert "br7" in bridges
    assert DBG not in bridges
    assert network("Network.Bridge.get_all_ports", {"from_cache": True}, DBG).keys() >= {"eth0"}
    assert network("Network.Bridge.get_interfaces", {"name": "br7"}, DBG) == []
    assert network("Network.Bridge.destroy", {"name": "br7", "force": True}, DBG) is None
    gone = network("Network.Bridge.get_interfaces", {"name": "br7"}, DBG)
    assert gone["message"] == "Bridge_does_not_exist"


@pytest.mark.parametrize("path", ["/networkd", "/networkd/jsonrpc"])
def test_a_struct_where_a_text_is_expected_makes_no_bridge(running: Environment, path: str) -> None:
    ask = xml(running, path) if path == "/networkd" else rpc(running, path)
    before = rpc(running, "/networkd/jsonrpc")("Network.Bridge.get_all", DBG, None)
    for params, place in (
        (({"mac": "02:00:00:00:00:08"}, {"name": "br8"}, "br8"), "$.params[1]: expected a single value"),
        (({"name": {"a": "b"}}, DBG), "$.params.name: expected s, got a struct"),
        (({"name": "br8", "dbg": {"name": "br8"}},), "$.params.dbg: expected a single value"),
    ):
        assert place in str(ask("Network.Bridge.create", *params))
    assert rpc(running, "/networkd/jsonrpc")("Network.Bridge.get_all", DBG, None) == before


# perfmon


def test_perfmon_gathers_a_rule_and_tells_alerts(running: Environment, session: str) -> None:
    perfmon = rpc(running, "/perfmon/jsonrpc")
    api = xml(running, "/")
    vm = f"OpaqueRef:{DB}"
    assert perfmon("perfmon.add_rule", vm, "cpu_usage", 0.5) is None
    assert perfmon("perfmon.get_rules", vm)[0]["inhibit"] == 3600
    rules = [{"variable": "cpu_usage", "level": 0.6, "sense": "high", "inhibit": 9, "adjustment": 0, "priority": 1}]
    assert perfmon("perfmon.set_rules", target=vm, rules=rules) is None
    works(api("VM.start", session, vm, False, False))
    assert perfmon("refresh") == 1
    [alert] = perfmon("perfmon.list_alerts")
    assert (alert["target"], alert["value"]) == (vm, 0.75)
    assert perfmon("perfmon.acknowledge", alert["id"]) is None
    error = perfmon("perfmon.acknowledge", alert["id"])
    assert (error["code"], error["message"]) == (404, f"there is no alert {alert['id']}")
    works(api("VM.hard_shutdown", session, vm))


# Mistakes of clients


MISTAKES: list[tuple[str, str, list[Any], str]] = [  # path, method, parameters, code
    ("/RPC2", "VM.get_power_state", ["SESSION", "OpaqueRef:gone"], "HANDLE_INVALID"),
    ("/RPC2", "VM.hard_shutdown", ["SESSION", "OpaqueRef:gone"], "HANDLE_INVALID"),
    ("/RPC2", "VM.get_by_uuid", ["SESSION", "gone"], "UUID_INVALID"),
    ("/RPC2", "VM.get_is_a_template", ["gone", f"OpaqueRef:{WEB}"], "SESSION_INVALID"),
    ("/RPC2", "session.login_with_password", ["root", "wrong"], "SESSION_AUTHENTICATION_FAILED"),
    ("/xenopsd", "VM.stat", [{"debug_info": DBG, "id": "gone"}], "Does_not_exist"),
    ("/storage", "VDI.stat", [{"dbg": DBG, "sr": SR, "vdi": "gone"}], "Vdi_does_not_exist"),
    ("/networkd", "Network.Interface.get_mtu", [{"name": "gone"}, DBG], "Interface_does_not_exist"),
    ("/networkd", "Network.Bridge.get_interfaces", [{"name": "gone"}, DBG], "Bridge_does_not_exist"),
    ("/memory", "delete_reservation", [DBG, "nobody", "gone"], "Unknown_reservation"),
]


@each_case(("path", "method", "params", "code"), MISTAKES)
async def test_a_mistake_of_a_client_moves_no_count(
    running: Environment, session: str, path: str, method: str, params: list[Any], code: str
) -> None:
    service = {"RPC2": "xapi", "memory": "squeezed"}.get(path[1:], path[1:])

    async def counts() -> tuple[int, int, int]:
        [row] = (await ask(running.admin, "GET", f"/v1/methods?pattern={service}/{method}"))[1]
        return row["dbus"]["calls"], row["dbus"]["errors"], row["dbus"]["client_errors"]

    async def counted() -> bool:
        return (await counts())[2] > mistakes

    calls, errors, mistakes = await counts()
    sent = [session if each == "SESSION" else each for each in params]
    assert fails(await asyncio.to_thread(xml(running, path), method, *sent))[0] == code
    await until(counted)
    assert await counts() == (calls, errors, mistakes + 1)
