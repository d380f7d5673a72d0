"""VMs: lifecycle in xenopsd, and copies, snapshots, migration and memory in the store."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import sample

from xenapi.operations.registry import Pool, failure, message, now
from xenapi.operations.storage import copy_disk, make_disk
from xenapi.operations.vm_settings import LIVE, MEMORY, ask, check_memory, check_vcpus, expect
from xenapi.schema import NULL_REF
from xenapi.store import Row

NOT_COPIED = ("uuid", "VBDs", "VIFs", "VUSBs", "VGPUs", "VTPMs", "consoles", "crash_dumps", "metrics", "guest_metrics")
NOT_COPIED += ("resident_on", "scheduled_to_be_resident_on", "domid", "snapshots", "snapshot_of", "children", "parent")
NOT_COPIED += ("current_operations", "allowed_operations", "power_state", "is_default_template", "reference_label")
NOT_COPIED += ("attached_PCIs", "is_control_domain", "suspend_VDI", "appliance", "snapshot_schedule", "blobs")
# What a revert takes from the snapshot.
REVERTED = ("name_description", "memory_static_max", "memory_static_min", "memory_dynamic_max", "memory_dynamic_min")
REVERTED += ("VCPUs_max", "VCPUs_at_startup", "VCPUs_params", "platform", "HVM_boot_params", "PV_args", "other_config")


# Lifecycle. xenopsd's signals change power_state, domid and resident_on (docker/toolstack/xapi.py).


def _chosen_host(pool: Pool, vm: Row) -> Row:
    hosts = [vm.one("affinity"), pool.master, *pool.store.all("host")]
    for host in hosts:
        if host is not None and host["enabled"]:
            return host
    raise failure("NO_HOSTS_AVAILABLE")


async def _start_there(pool: Pool, vm: Row, host: Row, paused: bool) -> None:
    if vm["is_a_template"]:
        raise failure("VM_IS_TEMPLATE", vm.ref)
    expect(vm, "Halted")
    if not host["enabled"]:
        raise failure("HOST_DISABLED", host.ref)
    names = ("uuid", "name_label", "memory_static_max", "memory_dynamic_max", "memory_dynamic_min")
    more = ("VCPUs_max", "VCPUs_at_startup", "platform")
    vm.put(scheduled_to_be_resident_on=host.ref)
    try:
        await pool.ask_xenopsd("VMs1.Add", "(ssxxxuua{ss})", [vm[name] for name in (*names, *more)])
        await ask(pool, vm, "Start", "b", paused)
    finally:
        if vm.ref in pool.store.rows:
            vm.put(scheduled_to_be_resident_on=NULL_REF)


@message("VM.start")
async def start(pool: Pool, vm: Row, start_paused: bool, _force: bool) -> None:
    """Start it on the host of its affinity, else on the master, else on any."""
    await _start_there(pool, vm, _chosen_host(pool, vm), start_paused)


@message("VM.start_on")
async def start_on(pool: Pool, vm: Row, host: Row, start_paused: bool, _force: bool) -> None:
    """Start it there."""
    await _start_there(pool, vm, host, start_paused)


@message("VM.pause")
async def pause(pool: Pool, vm: Row) -> None:
    """Stop its processors."""
    expect(vm, "Running")
    await ask(pool, vm, "Pause")


@message("VM.unpause")
async def unpause(pool: Pool, vm: Row) -> None:
    """Let it run again."""
    expect(vm, "Paused")
    await ask(pool, vm, "Unpause")


@message("VM.clean_shutdown")
async def clean_shutdown(pool: Pool, vm: Row) -> None:
    """Ask the guest to shut down."""
    expect(vm, "Running")
    await ask(pool, vm, "Shutdown", "d", 60.0)


@message("VM.hard_shutdown", "VM.shutdown")
async def hard_shutdown(pool: Pool, vm: Row) -> None:
    """End it. `shutdown` asks first, and every guest of the sample agrees."""
    expect(vm, "Running", "Paused", "Suspended")
    await ask(pool, vm, "Shutdown", "d", 0.0)


@message("VM.power_state_reset")
async def power_state_reset(pool: Pool, vm: Row) -> None:
    """Declare it halted."""
    if vm["power_state"] != "Halted":
        await ask(pool, vm, "Shutdown", "d", 0.0)


@message("VM.clean_reboot", "VM.hard_reboot")
async def reboot(pool: Pool, vm: Row) -> None:
    """End it and start it where it was."""
    expect(vm, "Running", "Paused")
    host = vm.one("resident_on") or pool.master
    await ask(pool, vm, "Shutdown", "d", 0.0)
    await _start_there(pool, vm, host, paused=False)


@message("VM.suspend")
async def suspend(pool: Pool, vm: Row) -> None:
    """Write its memory to a disk."""
    expect(vm, "Running")
    await ask(pool, vm, "Suspend")
    sr = vm.one("suspend_SR") or pool.row.one("default_SR")
    if sr is not None:
        disk = make_disk(pool, sr, "Suspend image", vm["memory_static_max"], type="suspend")
        vm.put(suspend_VDI=disk.ref)


async def _resume_there(pool: Pool, vm: Row, host: Row, paused: bool) -> None:
    expect(vm, "Suspended")
    if not host["enabled"]:
        raise failure("HOST_DISABLED", host.ref)
    vm.put(scheduled_to_be_resident_on=host.ref)
    try:
        await ask(pool, vm, "Resume")
    finally:
        vm.put(scheduled_to_be_resident_on=NULL_REF)
    disk = vm.one("suspend_VDI")
    if disk is not None:
        pool.store.destroy(disk)
    if paused:
        await ask(pool, vm, "Pause")


@message("VM.resume")
async def resume(pool: Pool, vm: Row, start_paused: bool, _force: bool) -> None:
    """Continue a suspended VM."""
    await _resume_there(pool, vm, _chosen_host(pool, vm), start_paused)


@message("VM.resume_on")
async def resume_on(pool: Pool, vm: Row, host: Row, start_paused: bool, _force: bool) -> None:
    """Continue it there."""
    await _resume_there(pool, vm, host, start_paused)


@message("VM.create")
def create(pool: Pool, values: dict[str, Any]) -> Row:
    """Make a VM from a record. Ranges of memory that are not given follow from the greatest size."""
    greatest = values["memory_static_max"]
    for name in ("memory_dynamic_max", "memory_static_min"):
        values[name] = values[name] or greatest
    values["memory_dynamic_min"] = values["memory_dynamic_min"] or values["memory_dynamic_max"]
    values["memory_static_min"] = min(values["memory_static_min"], values["memory_dynamic_min"])
    values["VCPUs_max"] = values["VCPUs_max"] or 1
    values["VCPUs_at_startup"] = values["VCPUs_at_startup"] or values["VCPUs_max"]
    values["power_state"] = "Halted"
    check_memory(*(values[name] for name in MEMORY))
    check_vcpus(values["VCPUs_max"], values["VCPUs_at_startup"])
    metrics = pool.store.create("VM_metrics", VCPUs_number=values["VCPUs_at_startup"], last_updated=now())
    return pool.store.create("VM", **values, metrics=metrics.ref, domid=-1)


@message("VM.destroy")
async def destroy(pool: Pool, vm: Row) -> None:
    """Remove it from xenopsd and from the pool; its disks stay."""
    if vm["power_state"] != "Halted" and not vm["is_a_snapshot"]:
        expect(vm, "Halted")
    if not vm["is_a_template"]:
        [known] = await pool.ask_xenopsd("VMs1.Exists", "s", vm["uuid"])
        if known:
            await pool.ask_xenopsd("VMs1.Remove", "s", vm["uuid"])
    if vm.ref in pool.store.rows:
        pool.store.destroy(vm)


# Copies


def duplicate(pool: Pool, vm: Row, name: str, sr: Row | None = None, *, keep_macs: bool = False, **changes: Any) -> Row:
    """Make a copy with disks and interfaces of its own; `sr`: where all disks are copied to."""
    values = {field: value for field, value in vm.values.items() if field not in NOT_COPIED}
    metrics = pool.store.create(
        "VM_metrics", VCPUs_number=vm["VCPUs_at_startup"], install_time=now(), last_updated=now()
    )
    own = {"name_label": name, "power_state": "Halted", "domid": -1, "metrics": metrics.ref, **changes}
    made = pool.store.create("VM", **{**values, **own})
    _copy_devices(pool, vm, made, sr, keep_macs=keep_macs, snapshot=bool(changes.get("is_a_snapshot")))
    return made


def _copy_devices(pool: Pool, vm: Row, made: Row, sr: Row | None, *, keep_macs: bool, snapshot: bool = False) -> None:
    for vbd in vm.many("VBDs"):
        disk = vbd.one("VDI")
        if disk is not None and vbd["type"] != "CD":
            disk = copy_disk(pool, disk, sr or disk.one("SR"), snapshot=snapshot)
        fields = ("userdevice", "device", "bootable", "mode", "type", "unpluggable", "other_config", "empty")
        own = {name: vbd[name] for name in (*fields, "qos_algorithm_type", "qos_algorithm_params")}
        pool.store.create("VBD", VM=made.ref, VDI=disk.ref if disk else NULL_REF, **own)
    for vif in vm.many("VIFs"):
        own = {name: vif[name] for name in ("device", "network", "MTU", "other_config", "locking_mode", "ipv4_allowed")}
        mac = vif["MAC"] if keep_macs else sample.mac()
        pool.store.create("VIF", VM=made.ref, MAC=mac, MAC_autogenerated=not keep_macs, **own)


def _copyable(vm: Row) -> None:
    if not vm["is_a_template"]:
        expect(vm, "Halted", "Suspended")


@message("VM.clone")
def clone(pool: Pool, vm: Row, new_name: str) -> Row:
    """Make a copy whose disks share what they have in common; of a template, another template."""
    _copyable(vm)
    return duplicate(pool, vm, new_name, is_a_snapshot=False)


@message("VM.copy")
def copy(pool: Pool, vm: Row, new_name: str, sr: Row | None) -> Row:
    """Make a copy with full disks."""
    _copyable(vm)
    return duplicate(pool, vm, new_name, sr, is_a_snapshot=False)


def _snapshot(pool: Pool, vm: Row, name: str, power_state: str) -> Row:
    taken = {"is_a_template": True, "is_a_snapshot": True, "snapshot_of": vm.ref, "snapshot_time": now()}
    info = {"power-state-at-snapshot": vm["power_state"], "disk-snapshot-type": "crash_consistent"}
    made = duplicate(pool, vm, name, keep_macs=True, **taken, snapshot_info=info, power_state=power_state)
    made.put(parent=vm["parent"])
    vm.put(parent=made.ref)
    return made


@message("VM.snapshot")
def snapshot(pool: Pool, vm: Row, new_name: str, _ignore_vdis: list[Row]) -> Row:
    """Keep its disks and configuration as they are now."""
    return _snapshot(pool, vm, new_name, "Halted")


@message("VM.checkpoint")
def checkpoint(pool: Pool, vm: Row, new_name: str) -> Row:
    """Keep its memory as well."""
    expect(vm, "Running", "Suspended")
    return _snapshot(pool, vm, new_name, "Suspended")


@message("VM.revert")
async def revert(pool: Pool, kept: Row) -> None:
    """Give a VM the disks and configuration of its snapshot."""
    vm = kept.one("snapshot_of")
    if not kept["is_a_snapshot"] or vm is None:
        raise failure("VM_REVERT_FAILED", kept.ref, NULL_REF)
    if vm["power_state"] != "Halted":
        await ask(pool, vm, "Shutdown", "d", 0.0)
    for device in (*vm.many("VBDs"), *vm.many("VIFs")):
        disk = device.one("VDI") if device.cls.name == "VBD" and device["type"] != "CD" else None
        pool.store.destroy(device)
        if disk is not None:
            pool.store.destroy(disk)
    vm.put(parent=kept.ref, **{name: kept[name] for name in REVERTED})
    _copy_devices(pool, kept, vm, None, keep_macs=True)


@message("VM.provision")
def provision(pool: Pool, vm: Row) -> None:
    """Turn a template into a VM, with the disks that its other_config describes."""
    expect(vm, "Halted")
    described = vm["other_config"].get("disks", "")
    try:
        disks = ElementTree.fromstring(described).findall("disk") if described else []  # noqa: S314 - a sample
    except ElementTree.ParseError:
        raise failure("PROVISION_FAILED_OUT_OF_SPACE") from None
    for disk in disks:
        sr = next((row for row in pool.store.all("SR") if row["uuid"] == disk.get("sr")), pool.row.one("default_SR"))
        if sr is None:
            raise failure("DEFAULT_SR_NOT_FOUND", NULL_REF)
        made = make_disk(pool, sr, f"{vm['name_label']} {disk.get('device', '0')}", int(disk.get("size", "0")))
        device = disk.get("device", "0")
        bootable = disk.get("bootable") == "true"
        own = {"userdevice": device, "device": f"xvd{chr(97 + int(device))}", "bootable": bootable, "type": "Disk"}
        pool.store.create("VBD", VM=vm.ref, VDI=made.ref, mode="RW", **own)
    config = {key: value for key, value in vm["other_config"].items() if key != "disks"}
    vm.put(is_a_template=False, other_config=config)


# Places


@message("VM.pool_migrate")
def pool_migrate(_pool: Pool, vm: Row, host: Row, _options: dict[str, str]) -> None:
    """Move it to another host of the pool."""
    expect(vm, *LIVE)
    if not host["enabled"]:
        raise failure("HOST_DISABLED", host.ref)
    vm.put(resident_on=host.ref)


def _destination(pool: Pool, dest: dict[str, str]) -> Row:
    """The host that an answer of host.migrate_receive names."""
    if "host" not in dest:
        raise failure("INVALID_VALUE", "dest", "")
    return pool.store.find("host", dest["host"])


@message("VM.assert_can_migrate")
def assert_can_migrate(
    pool: Pool, vm: Row, dest: dict[str, str], live: bool, _vdis: Any, _vifs: Any, _o: Any, _v: Any
) -> None:
    """Raise an error when it could not be moved there."""
    if live:
        expect(vm, *LIVE)
    host = _destination(pool, dest)
    if not host["enabled"]:
        raise failure("HOST_DISABLED", host.ref)


@message("VM.migrate_send")
def migrate_send(
    pool: Pool, vm: Row, dest: dict[str, str], _live: bool, vdis: dict[Row, Row], vifs: dict[Row, Row], _o: Any, _v: Any
) -> Row:
    """Move it to the host that `dest` (of host.migrate_receive) names, its disks and interfaces where the maps say."""
    host = _destination(pool, dest)
    for vif, network in vifs.items():
        vif.put(network=network.ref)
    for disk, sr in vdis.items():
        disk.put(SR=sr.ref)
    if vm["power_state"] in LIVE:
        pool_migrate(pool, vm, host, {})
    else:
        vm.put(affinity=host.ref)
    return vm


@message("VM.assert_can_boot_here")
async def assert_can_boot_here(pool: Pool, vm: Row, host: Row) -> None:
    """Raise an error when it could not start there now."""
    if not host["enabled"]:
        raise failure("HOST_DISABLED", host.ref)
    free = await pool.free_memory(host)
    if vm["power_state"] == "Halted" and vm["memory_dynamic_min"] > free:
        raise failure("HOST_NOT_ENOUGH_FREE_MEMORY", vm["memory_dynamic_min"], free)


@message("VM.get_possible_hosts")
def get_possible_hosts(pool: Pool, _vm: Row) -> list[Row]:
    """The hosts that could run it."""
    return [host for host in pool.store.all("host") if host["enabled"]]


@message("VM.assert_agile")
def assert_agile(_pool: Pool, vm: Row) -> None:
    """Raise an error when a disk of it is on one host only."""
    for vbd in vm.many("VBDs"):
        disk = vbd.one("VDI")
        sr = disk.one("SR") if disk else None
        if sr is not None and not sr["shared"]:
            raise failure("HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED", sr.ref)


@message("VM.assert_operation_valid")
def assert_operation_valid(_pool: Pool, vm: Row, op: str) -> None:
    """Raise an error when it does not allow an operation now."""
    if op not in vm["allowed_operations"]:
        raise failure("OPERATION_NOT_ALLOWED", f"{op} is not allowed in the power state {vm['power_state']}.")


@message("VM.get_allowed_VBD_devices")
def get_allowed_vbd_devices(_pool: Pool, vm: Row) -> list[str]:
    """The numbers of disks that are free."""
    taken = {vbd["userdevice"] for vbd in vm.many("VBDs")}
    return [str(number) for number in range(16) if str(number) not in taken]


@message("VM.get_allowed_VIF_devices")
def get_allowed_vif_devices(_pool: Pool, vm: Row) -> list[str]:
    """The numbers of interfaces that are free."""
    taken = {vif["device"] for vif in vm.many("VIFs")}
    return [str(number) for number in range(7) if str(number) not in taken]
