"""Groups of VMs: appliances, which start and stop together, and schedules of snapshots."""

from __future__ import annotations

from xenapi.operations.registry import Pool, message, now
from xenapi.operations.vms import hard_shutdown, snapshot, start
from xenapi.store import Row


@message("VMSS.snapshot_now")
def snapshot_now(pool: Pool, schedule: Row) -> str:
    """Take a snapshot of each VM of a schedule."""
    for vm in schedule.many("VMs"):
        snapshot(pool, vm, f"{schedule['name_label']} {vm['name_label']}", [])
    schedule.put(last_run_time=now())
    return "true"


@message("VM_appliance.start")
async def start_appliance(pool: Pool, appliance: Row, paused: bool) -> None:
    """Start its VMs in their order."""
    for vm in sorted(appliance.many("VMs"), key=lambda row: row["order"]):
        if vm["power_state"] == "Halted":
            await start(pool, vm, paused, False)


@message("VM_appliance.shutdown", "VM_appliance.clean_shutdown", "VM_appliance.hard_shutdown")
async def stop_appliance(pool: Pool, appliance: Row) -> None:
    """End its VMs."""
    for vm in appliance.many("VMs"):
        if vm["power_state"] != "Halted":
            await hard_shutdown(pool, vm)


@message("VM.assert_can_be_recovered", "VM_appliance.assert_can_be_recovered")
def assert_can_be_recovered(_pool: Pool, _row: Row, _session: str) -> None:
    """Everything is on repositories that the pool has."""


@message("VM.get_SRs_required_for_recovery", "VM_appliance.get_SRs_required_for_recovery")
def get_srs_required_for_recovery(_pool: Pool, row: Row, _session: str) -> list[Row]:
    """The repositories with its disks."""
    vms = row.many("VMs") if row.cls.name == "VM_appliance" else [row]
    disks = [vbd.one("VDI") for vm in vms for vbd in vm.many("VBDs")]
    return list({disk["SR"]: disk.one("SR") for disk in disks if disk is not None}.values())
