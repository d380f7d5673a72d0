"""The old xenopsd: named parameters in one struct, the first a text for the log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from legacy_calls import Errors, Method, Service, boolean, named, picked
from service import Bus

SERVICE = {
    "name": "Name",
    "vendor": "Vendor",
    "version": "Version",
    "features": "Features",
    "instance_id": "InstanceId",
}
CPU = ("cpu_count", "socket_count", "threads_per_core", "vendor", "speed", "modelname")
HYPERVISOR = ("version", "capabilities")
LISTED = ("id", "name", "power_state", "domid", "memory_actual", "vcpus")
STAT = ("power_state", "domids", "memory_actual", "memory_target", "vcpu_target", "last_start_time")
ADDED = (
    "id",
    "name",
    "memory_static_max",
    "memory_dynamic_max",
    "memory_dynamic_min",
    "vcpu_max",
    "vcpus",
    "platformdata",
)
VBDS = ("device", "backend", "writable", "plugged")

ERRORS: Errors = {
    "NotFound": lambda args: ["Does_not_exist", args],
    "BadPowerState": lambda args: ["Bad_power_state", args[::-1]],
    "CannotFreeThisMuchMemory": lambda args: ["Cannot_free_this_much_memory", args],
    "DeviceIsConnected": lambda args: ["Device_is_connected", args[0]],
    "DeviceNotConnected": lambda args: ["Device_not_connected", args[0]],
    "InvalidValue": lambda args: ["Maximum_vcpus", args[1]],
}


def methods(bus: Bus) -> Mapping[str, Method]:
    """Every method by its name."""
    xenopsd = Service(bus, "xenopsd")
    root = xenopsd.path()

    def vm(id: str) -> str:
        return xenopsd.path("vm", id)

    async def query(debug_info: str, unit: None = None) -> Any:
        return picked(SERVICE, await xenopsd.all(root, "Service1"))

    async def diagnostics(debug_info: str, unit: None = None) -> Any:
        return await xenopsd.one(root, "Service1.GetDiagnostics")

    async def host_stat(debug_info: str) -> Any:
        cpu, hypervisor = await xenopsd.ask(root, "Host1.Stat")
        return {"cpu_info": named(CPU, cpu), "hypervisor": named(HYPERVISOR, hypervisor)}

    async def total_memory(debug_info: str) -> Any:
        return await xenopsd.one(root, "Host1.GetTotalMemory")

    async def console_data(debug_info: str) -> Any:
        return await xenopsd.one(root, "Host1.GetConsoleData")

    async def add(debug_info: str, vm: dict[str, Any]) -> Any:
        text = ("id", "name", "platformdata")
        return await xenopsd.one(
            root, "VMs1.Add", "(ssxxxuua{ss})", [vm[name] if name in text else int(vm[name]) for name in ADDED]
        )

    async def remove(debug_info: str, id: str) -> None:
        await xenopsd.ask(root, "VMs1.Remove", "s", id)

    async def exists(debug_info: str, id: str) -> Any:
        return await xenopsd.one(root, "VMs1.Exists", "s", id)

    async def list_(debug_info: str, unit: None = None) -> Any:
        return [named(LISTED, each) for each in await xenopsd.one(root, "VMs1.List")]

    async def start(debug_info: str, id: str, paused: Any = False, force: Any = False) -> None:
        await xenopsd.ask(vm(id), "VM1.Start", "b", boolean(paused))

    async def shutdown(debug_info: str, id: str, delay: Any = 0.0) -> None:
        await xenopsd.ask(vm(id), "VM1.Shutdown", "d", float(delay))

    def doing(member: str) -> Method:
        async def do(debug_info: str, id: str) -> None:
            await xenopsd.ask(vm(id), f"VM1.{member}")

        return do

    def getting(name: str) -> Method:
        async def get(debug_info: str, id: str) -> Any:
            return await xenopsd.get(vm(id), "VM1", name)

        return get

    async def stat(debug_info: str, id: str) -> Any:
        return named(STAT, await xenopsd.ask(vm(id), "VM1.Stat"))

    async def set_vcpus(debug_info: str, id: str, n: Any) -> None:
        await xenopsd.ask(vm(id), "VM1.SetVcpus", "u", int(n))

    async def set_memory(debug_info: str, id: str, minimum: Any, maximum: Any) -> None:
        await xenopsd.ask(vm(id), "VM1.SetMemoryDynamicRange", "xx", int(minimum), int(maximum))

    async def vbds(debug_info: str, vm: str) -> Any:
        return [named(VBDS, each) for each in await xenopsd.one(root, "VBDs1.List", "s", vm)]

    async def last_id(debug_info: str) -> Any:
        return await xenopsd.one(root, "Updates1.LastId")

    return {
        "query": query,
        "Query.query": query,
        "get_diagnostics": diagnostics,
        "Query.diagnostics": diagnostics,
        "HOST.stat": host_stat,
        "HOST.get_total_memory_mib": total_memory,
        "HOST.get_console_data": console_data,
        "VM.add": add,
        "VM.remove": remove,
        "VM.exists": exists,
        "VM.list": list_,
        "VM.start": start,
        "VM.pause": doing("Pause"),
        "VM.unpause": doing("Unpause"),
        "VM.shutdown": shutdown,
        "VM.suspend": doing("Suspend"),
        "VM.resume": doing("Resume"),
        "VM.stat": stat,
        "VM.get_power_state": getting("PowerState"),
        "VM.get_domids": getting("Domids"),
        "VM.set_vcpus": set_vcpus,
        "VM.set_memory_dynamic_range": set_memory,
        "VBD.list": vbds,
        "UPDATES.last_id": last_id,
    }
