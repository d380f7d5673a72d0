"""XenAPI's operations on the sample toolstack, through a real gateway: each has its effect; lists stay consistent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import XenAPI

from demo.environment import Environment
from tests.kit.programs import ROOT
from tests.kit.toolstack import load

pytestmark = pytest.mark.bus

GIB = 1024**3
NULL = "OpaqueRef:NULL"
RELATIONS: Sequence[tuple[str, str]] = load(ROOT / "docker/toolstack/xenapi/relations.py").RELATIONS


@pytest.fixture
def api(running: Environment) -> Iterator[Any]:
    """PyPI's client; the pool must be consistent after each test."""
    with XenAPI.Session(running.url) as session:
        session.xenapi.login_with_password("root", "xenroot", "1.0", "operations")
        yield session.xenapi
        assert inconsistencies(session.xenapi) == []
        session.xenapi.logout()


def inconsistencies(api: Any) -> list[str]:
    """The relations whose two sides differ, and the references to objects that do not exist."""
    names = {side.split(".")[0] for relation in RELATIONS for side in relation} - {"VMPP"}
    pool = {name: getattr(api, name).get_all_records() for name in names}
    found = []
    for side, other in RELATIONS:
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


def named(cls: Any, label: str) -> str:
    [ref] = cls.get_by_name_label(label)
    return str(ref)


def guest(api: Any, name: str) -> str:
    """A small VM with a disk on the default repository, a drive and an interface."""
    record = {"name_label": name, "memory_static_max": str(GIB), "VCPUs_max": "1"}
    vm = api.VM.create(record)
    sr = api.pool.get_default_SR(api.pool.get_all()[0])
    disk = api.VDI.create({"name_label": f"{name} disk", "SR": sr, "virtual_size": str(GIB)})
    api.VBD.create({"VM": vm, "VDI": disk, "userdevice": "autodetect", "mode": "RW", "type": "Disk", "bootable": True})
    api.VBD.create({"VM": vm, "VDI": NULL, "userdevice": "3", "mode": "RO", "type": "CD", "empty": True})
    api.VIF.create({"VM": vm, "network": named(api.network, "Pool-wide network"), "device": "0", "MAC": ""})
    return str(vm)


def disk_of(api: Any, vm: str) -> str:
    disks = [api.VBD.get_VDI(vbd) for vbd in api.VM.get_VBDs(vm)]
    [disk] = [each for each in disks if each != NULL]
    return str(disk)


def test_a_vm_lives_with_its_devices_metrics_and_host(api: Any) -> None:
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
    with pytest.raises(XenAPI.Failure, match="HOST_DISABLED"):
        api.VM.assert_can_boot_here(vm, other)
    api.host.evacuate(other)
    assert api.VM.get_resident_on(vm) != other
    api.host.reboot(other)
    assert api.host.get_enabled(other) is True
    api.VM.hard_shutdown(vm)
    with pytest.raises(XenAPI.Failure, match=r"VM_BAD_POWER_STATE.*'running', 'halted'"):
        api.VM.pause(vm)
    assert api.VM.get_guest_metrics(vm) == NULL
    api.VM.start_on(vm, other, True, False)
    assert (api.VM.get_power_state(vm), api.VM.get_resident_on(vm)) == ("Paused", other)
    api.VM.hard_shutdown(vm)
    disk, vbds = disk_of(api, vm), api.VM.get_VBDs(vm)
    api.VM.destroy(vm)
    assert api.VDI.get_VBDs(disk) == []
    assert not set(vbds) & set(api.VBD.get_all())


def test_clones_copies_snapshots_and_reverts_have_disks_of_their_own(api: Any) -> None:
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
