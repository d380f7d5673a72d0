"""The old storage service (SMAPIv2), its reading half: named parameters in one struct."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import Any

from dbus_next import Variant
from legacy_calls import Errors, Method, Service, named
from service import Bus

SR_INFO = ("name_label", "name_description", "total_space", "free_space", "clustered", "health")
VDI_INFO = (
    "vdi",
    "content_id",
    "name_label",
    "name_description",
    "ty",
    "is_a_snapshot",
    "snapshot_time",
    "read_only",
    "virtual_size",
    "physical_utilisation",
    "sharable",
    "sm_config",
    "snapshot_of",
    "cbt_enabled",
    "persistent",
    "tags",
    "metadata_of_pool",
    "uuid",
)

ERRORS: Errors = {
    "NotFound": lambda args: ["Does_not_exist", args],
    "SrNotAttached": lambda args: ["Sr_not_attached", args[0]],
    "SrAttached": lambda args: ["Sr_attached", args[0]],
    "VdiInUse": lambda args: ["Backend_error", ["VDI_IN_USE", args]],
    "IllegalTransition": lambda args: ["Illegal_transition", args],
    "InvalidValue": lambda args: ["Backend_error", ["SR_BACKEND_FAILURE_46", args]],
}


def methods(bus: Bus) -> Mapping[str, Method]:
    """Every method by its name."""
    storage = Service(bus, "storage")
    root = storage.path()

    def one_sr(sr: str) -> str:
        return storage.path("sr", sr)

    def one_vdi(sr: str, vdi: str) -> str:
        return storage.path("sr", sr, "vdi", vdi)

    async def query(dbg: str, unit: None = None) -> Any:
        return await storage.one(root, "SRs1.Query")

    async def diagnostics(dbg: str, unit: None = None) -> Any:
        return await storage.one(root, "Service1.GetDiagnostics")

    async def sr_list(dbg: str) -> Any:
        return await storage.one(root, "SRs1.List")

    async def sr_stat(dbg: str, sr: str) -> Any:
        return named(SR_INFO, await storage.ask(one_sr(sr), "SR1.Stat"))

    async def sr_scan(dbg: str, sr: str) -> Any:
        return [named(VDI_INFO, each) for each in await storage.one(one_sr(sr), "SR1.Scan")]

    async def get_by_name(dbg: str, sr: str, name: str) -> Any:
        return named(VDI_INFO, await storage.one(one_sr(sr), "SR1.FindVDI", "s", name))

    async def vdi_stat(dbg: str, sr: str, vdi: str) -> Any:
        return named(VDI_INFO, await storage.one(one_vdi(sr, vdi), "VDI1.Stat"))

    async def set_name_label(dbg: str, sr: str, vdi: str, new_name_label: str) -> None:
        await storage.put(one_vdi(sr, vdi), "VDI1", "NameLabel", Variant("s", new_name_label))

    async def set_name_description(dbg: str, sr: str, vdi: str, new_name_description: str) -> None:
        await storage.put(one_vdi(sr, vdi), "VDI1", "NameDescription", Variant("s", new_name_description))

    async def changed_blocks(dbg: str, sr: str, vdi_from: str, vdi_tp: str) -> Any:
        return b64encode(await storage.one(one_vdi(sr, vdi_tp), "VDI1.ListChangedBlocks", "s", vdi_from)).decode()

    return {
        "Query.query": query,
        "query": query,
        "Query.diagnostics": diagnostics,
        "get_diagnostics": diagnostics,
        "SR.list": sr_list,
        "SR.stat": sr_stat,
        "SR.scan": sr_scan,
        "VDI.get_by_name": get_by_name,
        "VDI.stat": vdi_stat,
        "VDI.set_name_label": set_name_label,
        "VDI.set_name_description": set_name_description,
        "VDI.list_changed_blocks": changed_blocks,
    }
