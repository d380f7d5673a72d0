"""XenAPI's operations on the sample toolstack, through a real gateway: each has its effect; lists stay consistent."""

from __future__ import annotations

import ast
import http.client
import xmlrpc.client
from collections.abc import Iterator
from typing import Any

import pytest

from demo.environment import Environment
from tests.kit.programs import ROOT, TIMEOUT

pytestmark = pytest.mark.bus

GIB = 1024**3
NULL = "OpaqueRef:NULL"


class Failure(Exception):  # noqa: N818 - what XenAPI calls it
    """An ErrorDescription."""


class Api:
    """`api.VM.start(ref)`: a session of a client."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection
        self.session = self.ask("session.login_with_password", "root", "xenroot")

    def ask(self, method: str, *params: Any) -> Any:
        self._connection.request("POST", "/", xmlrpc.client.dumps(params, method).encode())
        [answer], _ = xmlrpc.client.loads(self._connection.getresponse().read())
        assert isinstance(answer, dict)
        if answer["Status"] == "Failure":
            raise Failure(*answer["ErrorDescription"])
        return answer["Value"]

    def __getattr__(self, cls: str) -> Class:
        return Class(self, cls)


class Class:
    def __init__(self, api: Api, name: str) -> None:
        self._api = api
        self._name = name

    def __getattr__(self, message: str) -> Any:
        return lambda *params: self._api.ask(f"{self._name}.{message}", self._api.session, *params)


@pytest.fixture
def api(running: Environment) -> Iterator[Api]:
    """The pool must be consistent after each test."""
    connection = http.client.HTTPConnection(running.url.removeprefix("http://"), timeout=TIMEOUT)
    api = Api(connection)
    yield api
    assert inconsistencies(api) == []
    connection.close()


def relations() -> list[tuple[str, str]]:
    """The table of docker/toolstack/xenapi/relations.py."""
    for node in ast.parse((ROOT / "docker/toolstack/xenapi/relations.py").read_text()).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "RELATIONS":
            assert node.value is not None
            return list(ast.literal_eval(node.value))
    raise AssertionError


def inconsistencies(api: Api) -> list[str]:
    """The relations whose two sides differ, and the references to objects that do not exist."""
    names = {side.split(".")[0] for relation in relations() for side in relation} - {"VMPP"}
    pool = {name: getattr(api, name).get_all_records() for name in names}
    found = []
    for side, other in relations():
        (cls, field), (far, back) = side.split("."), other.split(".")
        if "VMPP" in (cls, far):
            continue
        there = {(ref, each) for ref, record in pool[cls].items() for each in refs(record[field])}
        here = {(each, ref) for ref, record in pool[far].items() for each in refs(record[back])}
        found += [f"{side} <-> {other}: {pair}" for pair in there ^ here]
        found += [f"{side}: {each} does not exist" for _, each in there if each not in pool[far]]
    return found


def refs(value: str | list[str]) -> list[str]:
    return [each for each in (value if isinstance(value, list) else [value]) if each not in (NULL, "")]


def named(cls: Class, label: str) -> str:
    [ref] = cls.get_by_name_label(label)
    return str(ref)


def guest(api: Api, name: str) -> str:
    """A small VM with a disk on the default repository, a drive and an interface."""
    record = {"name_label": name, "memory_static_max": str(GIB), "VCPUs_max": "1"}
    vm = api.VM.create(record)
    sr = api.pool.get_default_SR(api.pool.get_all()[0])
    disk = api.VDI.create({"name_label": f"{name} disk", "SR": sr, "virtual_size": str(GIB)})
    api.VBD.create({"VM": vm, "VDI": disk, "userdevice": "autodetect", "mode": "RW", "type": "Disk", "bootable": True})
    api.VBD.create({"VM": vm, "VDI": NULL, "userdevice": "3", "mode": "RO", "type": "CD", "empty": True})
    api.VIF.create({"VM": vm, "network": named(api.network, "Pool-wide network"), "device": "0", "MAC": ""})
    return str(vm)


def disk_of(api: Api, vm: str) -> str:
    disks = [api.VBD.get_VDI(vbd) for vbd in api.VM.get_VBDs(vm)]
    [disk] = [each for each in disks if each != NULL]
    return str(disk)


def test_a_vm_lives_with_its_devices_metrics_and_host(api: Api) -> None:
    vm = guest(api, "lives")
    api.VM.start(vm, False, False)
    record = api.VM.get_record(vm)
    assert (record["power_state"], "pause" in record["allowed_operations"]) == ("Running", True)
    assert vm in api.host.get_resident_VMs(record["resident_on"])
    attached = {api.VBD.get_type(vbd): api.VBD.get_currently_attached(vbd) for vbd in record["VBDs"]}
    assert attached == {"Disk": True, "CD": False}
    assert api.VM_guest_metrics.get_networks(record["guest_metrics"])["0/ip"].startswith("192.0.2.")
    assert api.VM_metrics.get_memory_actual(record["metrics"]) == str(GIB)
    domid = record["domid"]
    api.VM.clean_reboot(vm)
    assert api.VM.get_domid(vm) != domid
    api.VM.pause(vm)
    api.VM.unpause(vm)
    api.VM.suspend(vm)
    kept = api.VM.get_suspend_VDI(vm)
    assert api.VDI.get_type(kept) == "suspend"
    api.VM.resume(vm, False, False)
    assert kept not in api.VDI.get_all()
    other = next(host for host in api.host.get_all() if host != api.VM.get_resident_on(vm))
    api.VM.pool_migrate(vm, other, {"live": "true"})
    assert api.VM.get_resident_on(vm) == other
    api.host.disable(other)
    with pytest.raises(Failure, match="HOST_DISABLED"):
        api.VM.assert_can_boot_here(vm, other)
    api.host.evacuate(other)
    assert api.VM.get_resident_on(vm) != other
    api.host.reboot(other)
    assert api.host.get_enabled(other) is True
    api.VM.hard_shutdown(vm)
    with pytest.raises(Failure, match=r"VM_BAD_POWER_STATE.*'running', 'halted'"):
        api.VM.pause(vm)
    assert api.VM.get_guest_metrics(vm) == NULL
    api.VM.start_on(vm, other, True, False)
    assert (api.VM.get_power_state(vm), api.VM.get_resident_on(vm)) == ("Paused", other)
    api.VM.hard_shutdown(vm)
    disk, vbds = disk_of(api, vm), api.VM.get_VBDs(vm)
    api.VM.destroy(vm)
    assert api.VDI.get_VBDs(disk) == []
    assert not set(vbds) & set(api.VBD.get_all())


def test_clones_copies_snapshots_and_reverts_have_disks_of_their_own(api: Api) -> None:
    vm = guest(api, "copied")
    shared = named(api.SR, "NFS storage")
    clone, copy = api.VM.clone(vm, "cloned"), api.VM.copy(vm, "moved", shared)
    disks = {disk_of(api, each) for each in (vm, clone, copy)}
    assert len(disks) == 3
    assert api.VDI.get_SR(disk_of(api, copy)) == shared
    macs = {api.VIF.get_MAC(api.VM.get_VIFs(each)[0]) for each in (vm, clone, copy)}
    assert len(macs) == 3
    snapshot = api.VM.snapshot(vm, "before")
    assert api.VM.get_snapshots(vm) == [snapshot]
    assert api.VM.get_is_a_snapshot(snapshot) is True
    assert api.VDI.get_snapshot_of(disk_of(api, snapshot)) == disk_of(api, vm)
    before = disk_of(api, vm)
    api.VM.set_VCPUs_max(vm, "4")
    api.VM.revert(snapshot)
    assert api.VM.get_VCPUs_max(vm) == "1"
    assert before not in api.VDI.get_all()
    assert disk_of(api, vm) != disk_of(api, snapshot)
    api.VM.start(vm, False, False)
    kept = api.VM.checkpoint(vm, "with memory")
    assert api.VM.get_power_state(kept) == "Suspended"
    receiver = api.host.migrate_receive(api.host.get_all()[1], named(api.network, "Storage network"), {})
    moved = {disk_of(api, vm): shared}
    assert api.VM.migrate_send(vm, receiver, True, moved, {}, {}) == vm
    assert api.VDI.get_SR(disk_of(api, vm)) == shared
    api.VM.hard_shutdown(vm)


def test_devices_are_plugged_unplugged_and_changed(api: Api) -> None:
    vm = guest(api, "devices")
    sr = api.pool.get_default_SR(api.pool.get_all()[0])
    disk = api.VDI.create({"name_label": "more", "SR": sr, "virtual_size": str(GIB)})
    vbd = api.VBD.create({"VM": vm, "VDI": disk, "userdevice": "autodetect", "mode": "RW", "type": "Disk"})
    with pytest.raises(Failure, match="VM_BAD_POWER_STATE"):
        api.VBD.plug(vbd)
    again = {"VM": vm, "VDI": disk, "userdevice": api.VBD.get_userdevice(vbd), "mode": "RW", "type": "Disk"}
    with pytest.raises(Failure, match="DEVICE_ALREADY_EXISTS"):
        api.VBD.create(again)
    api.VM.start(vm, False, False)
    with pytest.raises(Failure, match="VDI_IN_USE"):
        api.VDI.destroy(disk)
    api.VBD.unplug(vbd)
    api.VBD.plug(vbd)
    api.VBD.unplug(vbd)
    api.VBD.destroy(vbd)
    [drive] = [each for each in api.VM.get_VBDs(vm) if api.VBD.get_type(each) == "CD"]
    iso = named(api.VDI, "installer.iso")
    api.VBD.insert(drive, iso)
    assert (api.VBD.get_empty(drive), api.VDI.get_VBDs(iso)) == (False, [drive])
    api.VBD.eject(drive)
    assert api.VDI.get_VBDs(iso) == []
    network = named(api.network, "Storage network")
    vif = api.VIF.create({"VM": vm, "network": network, "device": "autodetect", "MAC": ""})
    assert api.VIF.get_MAC_autogenerated(vif) is True
    api.VIF.plug(vif)
    api.VIF.unplug(vif)
    api.VIF.move(vif, named(api.network, "Pool-wide network"))
    assert vif not in api.network.get_VIFs(network)
    api.VM.hard_shutdown(vm)


def test_tasks_messages_secrets_updates_and_plugins(api: Api) -> None:
    [pool] = api.pool.get_all()
    host, other = api.host.get_all()
    task = api.task.create("t", "")
    api.task.set_progress(task, 0.5)
    api.task.cancel(task)
    assert api.task.get_record(task)["error_info"] == ["TASK_CANCELLED", task]
    api.task.destroy(task)
    vm = named(api.VM, "web")
    message = api.message.create("NOTE", "3", "VM", api.VM.get_uuid(vm), "text")
    since = xmlrpc.client.DateTime("20260101T00:00:00")
    assert api.message.get("VM", api.VM.get_uuid(vm), since)[message]["body"] == "text"
    api.message.destroy(message)
    secret = api.secret.create({"value": "s", "other_config": {}})
    assert api.secret.get_value(secret) == "s"
    api.secret.destroy(secret)
    update = api.pool_update.introduce(named(api.VDI, "data"))
    assert api.pool_update.precheck(update, host) == "ok"
    api.pool_update.apply(update, host)
    assert update in api.host.get_updates(host)
    assert api.host.call_plugin(host, "echo", "main", {"a": "b"}) == '{"a": "b"}'
    with pytest.raises(Failure, match=r"XENAPI_MISSING_PLUGIN.*'none'"):
        api.host.call_plugin(host, "none", "main", {})
    api.pool.designate_new_master(other)
    assert api.pool.get_master(pool) == other
    api.pool.designate_new_master(host)
    api.pool.enable_ha([named(api.SR, "NFS storage")], {})
    api.pool.disable_ha()
