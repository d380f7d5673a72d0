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

NULL = "OpaqueRef:NULL"
WEB, DB = "11111111-aaaa-4aaa-8aaa-000000000001", "22222222-bbbb-4bbb-8bbb-000000000002"
SR, VDI = "6f2d1a34-77c8-4f0b-9d3e-1c9a5e4b2001", "0b9e4c1a-3f5d-4c52-8a76-d2e1f0a43001"
DBG = "a text for the log"

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
    records = [item for name in names for item in works(api(name, session)).items()]
    references = {reference for reference, _ in records}
    uuids = {record["uuid"] for _, record in records}
    assert len(references) == len(uuids) == len(records) > 150
    roles = {record["uuid"] for record in works(api("role.get_all_records", session)).values()}  # same in every pool
    assert all(UUID(uuid).version == 4 for uuid in uuids - roles)
    assert references == {f"OpaqueRef:{uuid}" for uuid in uuids}


def test_a_reference_that_is_none_of_a_class_is_refused_with_it(running: Environment, session: str) -> None:
    api = xml(running, "/")
    vm = f"OpaqueRef:{WEB}"
    metrics = works(api("VM.get_metrics", session, vm))
    for name, references in (("VM_metrics", (vm, NULL)), ("VM", (metrics, NULL, "", "nonsense"))):
        for reference in references:
            for method in ("get_record", "get_uuid"):
                refused = fails(api(f"{name}.{method}", session, reference))
                assert refused == ["HANDLE_INVALID", name, reference]


# Each method of the others is called in test_xapi_idl.py; here are the values that have a form of their own.


def test_xenopsd_has_records_with_variants_and_operations_that_are_tasks(running: Environment) -> None:
    xenops = xml(running, "/xenopsd")
    assert ended(xenops, "VM.start", {"id": DB, "paused": False})[0] == "Completed"
    vm, state = works(xenops("VM.stat", {"debug_info": DBG, "id": DB}))
    assert (vm["ty"][0], vm["on_crash"][0]) == ("HVM", "Shutdown")
    assert (state["power_state"], state["memory_actual"]) == ("Running", str(4 * 1024**3))
    assert ended(xenops, "VM.shutdown", {"id": DB, "delay": 30.0})[0] == "Completed"
    assert ended(xenops, "VM.pause", {"id": DB}) == ["Failed", ["Bad_power_state", ["Halted", "Running"]]]


def ended(xenops: Ask, method: str, named: dict[str, Any]) -> Any:
    """Call an operation; the state in which its task ends, found as xapi does it: by UPDATES.get and Task.stat."""
    task = works(xenops(method, {"debug_info": DBG, **named}))
    known = 0
    while (state := works(xenops("Task.stat", {"debug_info": DBG, "id": task}))["state"])[0] == "Pending":
        asked = {"debug_info": DBG, "last_id": known, "timeout": 30}
        _barriers, _changes, known = works(xenops("UPDATES.get", asked))
    return state


def test_xenopsd_names_a_disk_by_a_pair(running: Environment) -> None:
    xenops = rpc(running, "/xenopsd/jsonrpc")
    qos = ["Ionice", ["RealTime", ["Other", 3]]]
    disk = {"id": [DB, "xvdb"], "backend": ["VDI", f"{SR}/{VDI}"], "mode": "readonly", "qos": qos, "unknown": 1}
    assert xenops("VBD.add", debug_info=DBG, vbd=disk) == [DB, "xvdb"]
    vbd, state = xenops("VBD.stat", debug_info=DBG, id=[DB, "xvdb"])
    assert (vbd["mode"], vbd["ty"], "position" in vbd) == ("ReadOnly", "Disk", False)
    assert state == {"active": False, "plugged": False, "qos_target": qos, "backend_present": ["VDI", f"{SR}/{VDI}"]}
    assert xenops("VBD.remove", debug_info=DBG, id=[DB, "xvdb"]) is None


def test_storage_has_errors_with_arguments_bitmaps_and_configurations_of_any_kind(running: Environment) -> None:
    storage = rpc(running, "/storage/jsonrpc")
    disk = {"dbg": DBG, "sr": SR, "vdi": VDI}
    storage("VDI.attach2", **disk, dp="vbd/1", read_write=True)
    busy = fails(xml(running, "/storage")("VDI.destroy", disk))
    assert busy == ["Backend_error", ["VDI_IN_USE", [SR, VDI]]]
    storage("VDI.detach", **disk, dp="vbd/1")
    copy = storage("VDI.snapshot", dbg=DBG, sr=SR, vdi_info={"vdi": VDI, "name_label": "s"})
    bitmap = storage("VDI.list_changed_blocks", dbg=DBG, sr=SR, vdi_from=copy["vdi"], vdi_tp=VDI)
    assert set(bitmap.rstrip("=")) == {"A"}  # base64 of zeros
    assert storage("VDI.destroy", dbg=DBG, sr=SR, vdi=copy["vdi"]) is None
    made = storage("SR.create", DBG, "sr-2", "nfs", "", {"server": "192.0.2.9", "port": 2049}, 1000, "nfs")
    assert made == {"server": "192.0.2.9", "port": "2049"}


@pytest.mark.parametrize(("path", "prefix"), [("/networkd", "24"), ("/networkd/jsonrpc", 24)])
def test_networkd_takes_named_parameters_and_then_the_rest(running: Environment, path: str, prefix: object) -> None:
    """The text for the log must never become the name of a bridge, nor a struct that is not understood."""
    answer = xml(running, path) if path == "/networkd" else rpc(running, path)

    def network(method: str, *params: Any) -> Any:
        found = answer(method, *params)
        return works(found) if path == "/networkd" else found

    assert network("Network.Bridge.create", {"name": "br9", "vlan": ["xenbr0", 9], "other_config": {}}, DBG) is None
    network("Network.Bridge.add_port", {"bridge": "br9", "name": "bond1", "interfaces": ["eth0", "eth1"]}, DBG)
    assert network("Network.Bridge.get_all_bonds", {"from_cache": True}, DBG)["bond1"] == ["eth0", "eth1"]
    network("Network.Interface.set_ipv4_conf", {"name": "eth1"}, DBG, ["Static4", [["192.0.2.77", prefix]]])
    assert network("Network.Interface.get_ipv4_addr", {"name": "eth1"}, DBG) == [["192.0.2.77", prefix]]
    network("Network.Interface.set_ipv4_conf", {"name": "eth1"}, DBG, "DHCP4")
    bridges = network("Network.Bridge.get_all", DBG, None)
    for params, place in (
        (({"mac": "02:00:00:00:00:08"}, {"name": "br8"}, "br8"), "$.params[1]: expected a single value"),
        (({"name": {"a": "b"}}, DBG), "$.params.name: expected s, got a struct"),
        (({"name": "br8", "dbg": {"name": "br8"}},), "$.params.dbg: expected a single value"),
    ):
        assert place in str(answer("Network.Bridge.create", *params))
    assert network("Network.Bridge.get_all", DBG, None) == bridges
    assert "br9" in bridges
    assert 'br9 has ports: ["bond1"]' in str(answer("Network.Bridge.destroy", {"name": "br9", "force": False}, DBG))
    network("Network.Bridge.destroy", {"name": "br9", "force": True}, DBG)
    assert "Bridge_does_not_exist" in str(answer("Network.Bridge.get_interfaces", {"name": "br9"}, DBG))


# perfmon


def test_perfmon_gathers_a_rule_and_tells_alerts(running: Environment, session: str) -> None:
    perfmon = rpc(running, "/perfmon/jsonrpc")
    api = xml(running, "/")
    vm = f"OpaqueRef:{DB}"
    assert perfmon("perfmon.add_rule", vm, "cpu_usage", 0.5) is None
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
