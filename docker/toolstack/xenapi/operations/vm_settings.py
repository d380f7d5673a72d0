"""VMs: their power state and xenopsd, memory, processors, and what they show."""

from __future__ import annotations

from typing import Any

import sample
from service import ROOT, Error, element

from xenapi.operations.misc import answer_plugin
from xenapi.operations.registry import XENOPSD, Pool, failure, message
from xenapi.store import Row

NO_MEMORY = "org.xen.xcp.Error.CannotFreeThisMuchMemory"
UNKNOWN_OBJECT = "org.freedesktop.DBus.Error.UnknownObject"
MOST_VCPUS = 64
LIVE = ("Running", "Paused")


def expect(vm: Row, *states: str) -> None:
    """Raise an error unless the VM is in one of these power states."""
    if vm["is_a_template"] and states[0] != "Halted":
        raise failure("VM_IS_TEMPLATE", vm.ref)
    if vm["power_state"] not in states:
        raise failure("VM_BAD_POWER_STATE", vm.ref, states[0], vm["power_state"])


async def ask(pool: Pool, vm: Row, member: str, signature: str = "", *arguments: Any) -> list[Any]:
    """Call xenopsd's object of this VM."""
    try:
        where = f"{ROOT}/xenopsd/vm/{element(vm['uuid'])}"
        return await pool.bus.ask(XENOPSD, where, f"{XENOPSD}.VM1.{member}", signature, *arguments)
    except Error as error:
        if error.type == NO_MEMORY:
            raise failure("HOST_NOT_ENOUGH_FREE_MEMORY", *(kib * sample.KIB for kib in error.arguments)) from None
        if error.type == UNKNOWN_OBJECT:  # xenopsd forgets the VMs that it does not run
            raise failure("VM_BAD_POWER_STATE", vm.ref, "Running", "Halted") from None
        if error.type.endswith(".BadPowerState"):
            raise failure("VM_BAD_POWER_STATE", vm.ref, *error.arguments) from None
        raise


# Memory and processors

MEMORY = ("memory_static_min", "memory_static_max", "memory_dynamic_min", "memory_dynamic_max")


def check_memory(static_min: int, static_max: int, dynamic_min: int, dynamic_max: int) -> None:
    """Raise an error when the limits are not in their order."""
    if not static_max > 0:
        raise failure("INVALID_VALUE", "memory_static_max", str(static_max))
    if not 0 <= static_min <= dynamic_min <= dynamic_max <= static_max:
        raise failure("MEMORY_CONSTRAINT_VIOLATION", "static_min <= dynamic_min <= dynamic_max <= static_max")


def check_vcpus(most: int, now_on: int) -> None:
    """Raise an error when there are more processors than there may be."""
    if not 1 <= now_on <= most <= MOST_VCPUS:
        raise failure("INVALID_VALUE", "VCPUs_max", str(most))


def _limit(vm: Row, **changes: int) -> None:
    check_memory(*({name: vm[name] for name in MEMORY} | changes).values())
    vm.put(**changes)


@message("VM.set_memory_limits")
def set_memory_limits(
    _pool: Pool, vm: Row, static_min: int, static_max: int, dynamic_min: int, dynamic_max: int
) -> None:
    """Set all four limits of a halted VM."""
    expect(vm, "Halted")
    if not 0 < static_min <= dynamic_min <= dynamic_max <= static_max:
        raise failure("MEMORY_CONSTRAINT_VIOLATION", "static_min <= dynamic_min <= dynamic_max <= static_max")
    vm.put(**dict(zip(MEMORY, (static_min, static_max, dynamic_min, dynamic_max), strict=True)))


@message("VM.set_memory_static_range")
def set_memory_static_range(_pool: Pool, vm: Row, least: int, most: int) -> None:
    """Set the limits of a halted VM."""
    expect(vm, "Halted")
    _limit(vm, memory_static_min=least, memory_static_max=most)


@message("VM.set_memory_dynamic_range")
def set_memory_dynamic_range(_pool: Pool, vm: Row, least: int, most: int) -> None:
    """Set between what its memory may be squeezed."""
    _limit(vm, memory_dynamic_min=least, memory_dynamic_max=most)


@message("VM.set_memory")
def set_memory(_pool: Pool, vm: Row, value: int) -> None:
    """Give a halted VM this much memory, neither more nor less."""
    expect(vm, "Halted")
    vm.put(**dict.fromkeys(MEMORY[1:], value), memory_static_min=min(value, vm["memory_static_min"]))


def _limiter(name: str) -> None:
    @message(f"VM.set_{name}")
    def limit(_pool: Pool, vm: Row, value: int) -> None:
        if "static" in name:
            expect(vm, "Halted")
        _limit(vm, **{name: value})


for _name in MEMORY:
    _limiter(_name)


@message("VM.set_memory_target_live")
def set_memory_target_live(_pool: Pool, vm: Row, target: int) -> None:
    """Squeeze it to this size."""
    _limit(vm, memory_dynamic_min=target, memory_dynamic_max=target)


@message("VM.maximise_memory")
def maximise_memory(_pool: Pool, vm: Row, total: int, _approximate: bool) -> int:
    """The greatest size that fits into `total` bytes with what the VM costs besides."""
    return max(0, total - vm["memory_overhead"])


@message("VM.compute_memory_overhead", "host.compute_memory_overhead")
def compute_memory_overhead(_pool: Pool, row: Row) -> int:
    """What it costs besides its size."""
    return int(row["memory_overhead"])


def _counter(name: str) -> None:
    @message(f"VM.set_{name}")
    def count(_pool: Pool, vm: Row, value: int) -> None:
        expect(vm, "Halted")
        both = {"VCPUs_max": vm["VCPUs_max"], "VCPUs_at_startup": vm["VCPUs_at_startup"], name: value}
        check_vcpus(both["VCPUs_max"], both["VCPUs_at_startup"])
        vm.put(**{name: value})


for _name in ("VCPUs_max", "VCPUs_at_startup"):
    _counter(_name)


@message("VM.set_VCPUs_number_live")
async def set_vcpus_number_live(pool: Pool, vm: Row, nvcpu: int) -> None:
    """Give a running VM this many processors."""
    expect(vm, "Running")
    await ask(pool, vm, "SetVcpus", "u", nvcpu)
    vm.one("metrics").put(VCPUs_number=nvcpu)


# Observation


def source(name: str, text: str, units: str, most: float, value: float) -> dict[str, Any]:
    """A data source by value."""
    shown = {"name_label": name, "name_description": text, "units": units, "max": most, "value": value}
    return {**shown, "enabled": True, "standard": True, "min": 0.0}


@message("VM.get_data_sources")
def get_data_sources(_pool: Pool, vm: Row) -> list[dict[str, Any]]:
    """Two of its counters, and what they show."""
    running = vm["power_state"] == "Running"
    used = float(vm["memory_dynamic_min"]) if running else 0.0
    share = 0.75 if running else 0.0
    return [
        source("cpu_usage", "Share of its processors in use.", "ratio", 1.0, share),
        source("memory", "Memory it uses.", "B", float(vm["memory_static_max"]), used),
    ]


@message("VM.query_data_source")
def query_data_source(pool: Pool, vm: Row, data_source: str) -> float:
    """What one of them shows."""
    for each in get_data_sources(pool, vm):
        if each["name_label"] == data_source:
            return float(each["value"])
    raise failure("INVALID_VALUE", "data_source", data_source)


@message("VM.get_cooperative")
def get_cooperative(_pool: Pool, _vm: Row) -> bool:
    """Every guest of the sample is."""
    return True


@message("VM.query_services")
def query_services(_pool: Pool, _vm: Row) -> dict[str, str]:
    """No guest of the sample offers any."""
    return {}


@message("VM.call_plugin")
def call_plugin(_pool: Pool, vm: Row, plugin: str, fn: str, args: dict[str, str]) -> str:
    """The guest of a running VM has one plugin: it returns its arguments."""
    expect(vm, "Running")
    return answer_plugin(plugin, fn, args)


@message("VM.set_HVM_boot_policy")
def set_hvm_boot_policy(_pool: Pool, vm: Row, value: str) -> None:
    """Set how an HVM guest boots; empty: the guest is PV."""
    vm.put(HVM_boot_policy=value, domain_type="hvm" if value else "pv")


@message("VM.copy_bios_strings")
def copy_bios_strings(_pool: Pool, vm: Row, host: Row) -> None:
    """Give it the BIOS strings of a host."""
    vm.put(bios_strings=dict(host["bios_strings"]))


@message("VM.set_shadow_multiplier_live")
def set_shadow_multiplier_live(_pool: Pool, vm: Row, multiplier: float) -> None:
    """Give a running VM more memory for its page tables."""
    expect(vm, *LIVE)
    vm.put(HVM_shadow_multiplier=multiplier)


@message("VM.add_to_VCPUs_params_live")
def add_to_vcpus_params_live(_pool: Pool, vm: Row, key: str, value: str) -> None:
    """Change how a running VM is scheduled."""
    expect(vm, *LIVE)
    vm.put(VCPUs_params={**vm["VCPUs_params"], key: value})


@message("VM.get_boot_record")
def get_boot_record(_pool: Pool, vm: Row) -> Row:
    """The configuration with which it runs: the present one."""
    return vm
