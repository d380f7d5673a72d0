"""The old xenopsd: named parameters in one struct, the first a text for the log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dbus_next import Variant
from legacy_calls import Errors, Method, Service, boolean, picked
from service import Bus

SERVICE = {
    "name": "Name",
    "vendor": "Vendor",
    "version": "Version",
    "features": "Features",
    "instance_id": "InstanceId",
}
SIZES = ("memory_static_max", "memory_dynamic_max", "memory_dynamic_min", "vcpu_max", "vcpus")

ERRORS: Errors = {
    "NotFound": lambda args: ["Does_not_exist", args],
    "BadPowerState": lambda args: ["Bad_power_state", args[::-1]],
    "CannotFreeThisMuchMemory": lambda args: ["Cannot_free_this_much_memory", args],
    "DeviceIsConnected": lambda _args: "Device_is_connected",
    "DeviceNotConnected": lambda _args: "Device_not_connected",
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
        return await xenopsd.one(root, "Host1.Describe")

    async def total_memory(debug_info: str) -> Any:
        return await xenopsd.one(root, "Host1.GetTotalMemory")

    async def console_data(debug_info: str) -> Any:
        return await xenopsd.one(root, "Host1.GetConsoleData")

    async def add(debug_info: str, vm: dict[str, Any]) -> Any:
        sizes = {name: Variant("x", int(vm[name])) for name in SIZES}
        texts = {name: Variant("s", vm[name]) for name in ("id", "name")}
        platform = {"platformdata": Variant("a{ss}", vm.get("platformdata", {}))}
        return await xenopsd.one(root, "VMs1.AddRecord", "a{sv}", {**texts, **sizes, **platform})

    async def remove(debug_info: str, id: str) -> None:
        await xenopsd.ask(root, "VMs1.Remove", "s", id)

    async def exists(debug_info: str, id: str) -> Any:
        return await xenopsd.one(root, "VMs1.Exists", "s", id)

    async def list_(debug_info: str, unit: None = None) -> Any:
        return await xenopsd.one(root, "VMs1.ListRecords")

    async def start(debug_info: str, id: str, paused: Any = False) -> Any:
        return await xenopsd.one(root, "Operations1.Start", "sb", id, boolean(paused))

    async def shutdown(debug_info: str, id: str, delay: Any = None) -> Any:
        return await xenopsd.one(root, "Operations1.Shutdown", "sad", id, [] if delay is None else [float(delay)])

    def doing(member: str) -> Method:
        async def do(debug_info: str, id: str) -> Any:
            return await xenopsd.one(root, f"Operations1.{member}", "s", id)

        return do

    def moving(member: str) -> Method:
        async def move(debug_info: str, id: str, suspend_vdi: Any) -> Any:
            disk = Variant("(ss)", suspend_vdi)
            return await xenopsd.one(root, f"Operations1.{member}", "sv", id, disk)

        return move

    async def task_stat(debug_info: str, id: str) -> Any:
        return await xenopsd.one(root, "Tasks1.Stat", "s", id)

    async def task_destroy(debug_info: str, id: str) -> None:
        await xenopsd.ask(root, "Tasks1.Destroy", "s", id)

    def getting(name: str) -> Method:
        async def get(debug_info: str, id: str) -> Any:
            return await xenopsd.get(vm(id), "VM1", name)

        return get

    async def stat(debug_info: str, id: str) -> Any:
        return await xenopsd.one(root, "VMs1.StatRecord", "s", id)

    async def set_vcpus(debug_info: str, id: str, vcpus: Any) -> Any:
        return await xenopsd.one(root, "Operations1.SetVcpus", "sx", id, int(vcpus))

    async def set_memory(debug_info: str, id: str, minimum: Any, maximum: Any) -> Any:
        sizes = (int(minimum), int(maximum))
        return await xenopsd.one(root, "Operations1.SetMemoryDynamicRange", "sxx", id, *sizes)

    async def vbds(debug_info: str, id: str) -> Any:
        return await xenopsd.one(root, "VBDs1.List", "s", id)

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
        "VM.suspend": moving("Suspend"),
        "VM.resume": moving("Resume"),
        "Task.stat": task_stat,
        "Task.destroy": task_destroy,
        "VM.stat": stat,
        "VM.get_power_state": getting("PowerState"),
        "VM.get_domids": getting("Domids"),
        "VM.set_vcpus": set_vcpus,
        "VM.set_memory_dynamic_range": set_memory,
        "VBD.list": vbds,
        "UPDATES.last_id": last_id,
    }
