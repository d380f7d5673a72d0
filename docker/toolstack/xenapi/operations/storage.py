"""Storage repositories, their disks, and the connections of hosts to them."""

from __future__ import annotations

import uuid
from typing import Any

import sample

from xenapi.operations.registry import Pool, failure, message, now
from xenapi.store import Row

COPIED = ("name_label", "name_description", "virtual_size", "type", "sharable", "read_only", "other_config", "tags")
COPIED += ("xenstore_data", "sm_config", "on_boot", "allow_caching", "physical_utilisation")
LARGEST = 2 * 1024**4  # bytes


# Disks


def make_disk(pool: Pool, sr: Row, name: str, size: int, **more: Any) -> Row:
    """Make a disk in a repository that has room for it."""
    if not 0 <= size <= LARGEST:
        raise (
            failure("VDI_TOO_LARGE", str(size), str(LARGEST))
            if size > 0
            else failure("INVALID_VALUE", "virtual_size", str(size))
        )
    if not any(pbd["currently_attached"] for pbd in sr.many("PBDs")):
        raise failure("SR_HAS_NO_PBDS", sr.ref)
    if sr["virtual_allocation"] + size > sr["physical_size"]:
        raise failure("SR_FULL", str(size), str(sr["physical_size"] - sr["virtual_allocation"]))
    unique = more.pop("uuid", "") or str(uuid.uuid4())
    own = {"name_label": name, "virtual_size": size, "SR": sr.ref, "location": more.pop("location", "") or unique}
    disk = {"type": "user", "managed": True, "physical_utilisation": size, **more, **own}
    return pool.store.create("VDI", **disk, uuid=unique)


def copy_disk(pool: Pool, disk: Row, sr: Row | None, *, snapshot: bool = False, **changes: Any) -> Row:
    """Make a disk like this one."""
    own = {name: disk[name] for name in COPIED}
    if snapshot:
        own |= {"is_a_snapshot": True, "snapshot_of": disk.ref, "snapshot_time": now()}
    name, size = own.pop("name_label"), own.pop("virtual_size")
    return make_disk(pool, sr or disk.one("SR"), name, size, **{**own, **changes})


def _unused(disk: Row) -> None:
    if any(vbd["currently_attached"] for vbd in disk.many("VBDs")):
        raise failure("VDI_IN_USE", disk.ref, "destroy")


@message("VDI.create")
def create(pool: Pool, values: dict[str, Any]) -> Row:
    """Make an empty disk."""
    sr = pool.store.find("SR", values["SR"])
    return make_disk(pool, sr, values.pop("name_label"), values.pop("virtual_size"), **values)


@message("VDI.introduce")
def introduce(pool: Pool, wanted: str, name: str, text: str, sr: Row, *rest: Any) -> Row:
    """Record a disk that a repository has."""
    names = ("type", "sharable", "read_only", "other_config", "location", "xenstore_data", "sm_config", "managed")
    own = dict(zip(names, rest[:8], strict=True))
    return make_disk(pool, sr, name, rest[8], uuid=wanted, name_description=text, **own)


@message("VDI.destroy", "VDI.forget")
def destroy(pool: Pool, disk: Row) -> None:
    """Remove a disk that no VM uses, and its VBDs."""
    _unused(disk)
    pool.store.destroy(disk)


@message("VDI.data_destroy")
def data_destroy(_pool: Pool, disk: Row) -> None:
    """Delete the data of a snapshot, and keep the list of its changed blocks."""
    if not disk["is_a_snapshot"] or not disk["cbt_enabled"]:
        raise failure("VDI_NO_CBT_METADATA", disk.ref)
    disk.put(type="cbt_metadata", physical_utilisation=0)


@message("VDI.clone")
def clone(pool: Pool, disk: Row, _driver_params: dict[str, str]) -> Row:
    """Make a copy in the same repository."""
    return copy_disk(pool, disk, None, is_a_snapshot=False)


@message("VDI.snapshot")
def snapshot(pool: Pool, disk: Row, _driver_params: dict[str, str]) -> Row:
    """Keep it as it is now."""
    return copy_disk(pool, disk, None, snapshot=True, cbt_enabled=disk["cbt_enabled"])


@message("VDI.copy")
def copy(pool: Pool, disk: Row, sr: Row | None, _base: Row | None, into: Row | None) -> Row:
    """Make a full copy in this repository, or copy into a disk that is there."""
    if into is None:
        return copy_disk(pool, disk, sr, is_a_snapshot=False)
    if into["virtual_size"] < disk["virtual_size"]:
        raise failure("VDI_TOO_SMALL", into.ref, str(disk["virtual_size"]))
    return into


@message("VDI.pool_migrate")
def pool_migrate(_pool: Pool, disk: Row, sr: Row, _options: dict[str, str]) -> Row:
    """Move it to another repository."""
    disk.put(SR=sr.ref)
    return disk


@message("VDI.resize")
def resize(_pool: Pool, disk: Row, size: int) -> None:
    """Make it larger."""
    if size < disk["virtual_size"]:
        raise failure("VDI_SIZE_SHRINK_NOT_ALLOWED" if size > 0 else "INVALID_VALUE", disk.ref, str(size))
    sr = disk.one("SR")
    room = sr["physical_size"] - sr["virtual_allocation"]
    if size - disk["virtual_size"] > room:
        raise failure("SR_FULL", str(size - disk["virtual_size"]), str(room))
    disk.put(virtual_size=size)


def _switch(name: str, field: str, value: bool) -> None:
    @message(name)
    def switch(_pool: Pool, row: Row) -> None:
        row.put(**{field: value})


_switch("VDI.enable_cbt", "cbt_enabled", value=True)
_switch("VDI.disable_cbt", "cbt_enabled", value=False)


@message("VDI.list_changed_blocks")
def list_changed_blocks(_pool: Pool, disk: Row, _to: Row) -> str:
    """A bitmap, in base64, of the blocks that differ: none does."""
    if not disk["cbt_enabled"]:
        raise failure("VDI_NO_CBT_METADATA", disk.ref)
    return ""


@message("VDI.get_nbd_info")
def get_nbd_info(_pool: Pool, _disk: Row) -> list[Any]:
    """No network of the sample offers NBD, so no server does."""
    return []


# Repositories


@message("SR.create")
def create_sr(
    pool: Pool,
    host: Row,
    device_config: dict[str, str],
    physical_size: int,
    name_label: str,
    name_description: str,
    type: str,
    content_type: str,
    shared: bool,
    sm_config: dict[str, str],
) -> Row:
    """Make a repository, connected to its host, or to all when it is shared."""
    if type not in get_supported_types(pool):
        raise failure("SR_UNKNOWN_DRIVER", type)
    own = {"name_label": name_label, "name_description": name_description, "type": type, "content_type": content_type}
    size = physical_size or sample.REPOSITORY_SIZE
    sr = pool.store.create("SR", physical_size=size, shared=shared, sm_config=sm_config, **own)
    for each in pool.store.all("host") if shared else [host]:
        pool.store.create("PBD", host=each.ref, SR=sr.ref, device_config=device_config, currently_attached=True)
    return sr


@message("SR.introduce")
def introduce_sr(
    pool: Pool, wanted: str, name: str, text: str, type: str, content_type: str, shared: bool, sm_config: dict[str, str]
) -> Row:
    """Record a repository that exists; PBDs connect it."""
    if any(sr["uuid"] == wanted for sr in pool.store.all("SR")):
        raise failure("DB_UNIQUENESS_CONSTRAINT_VIOLATION", "SR", "uuid", wanted)
    own = {"name_label": name, "name_description": text, "type": type, "content_type": content_type, "shared": shared}
    return pool.store.create("SR", uuid=wanted, sm_config=sm_config, physical_size=sample.REPOSITORY_SIZE, **own)


@message("SR.make")
def make_sr(
    pool: Pool,
    host: Row,
    device_config: dict[str, str],
    size: int,
    name: str,
    text: str,
    type: str,
    content: str,
    sm_config: dict[str, str],
) -> str:
    """Make a repository and return its UUID."""
    return str(
        create_sr(pool, host, device_config, size, name, text, type, content, shared=False, sm_config=sm_config)["uuid"]
    )


@message("SR.forget")
def forget_sr(pool: Pool, sr: Row) -> None:
    """Remove the record of a repository that no host is connected to, and of its disks."""
    if any(pbd["currently_attached"] for pbd in sr.many("PBDs")):
        raise failure("SR_HAS_PBD", sr.ref)
    pool.store.destroy(sr)


@message("SR.destroy")
def destroy_sr(pool: Pool, sr: Row) -> None:
    """Delete a repository: its disks must be gone."""
    if any(not disk["is_a_snapshot"] for disk in sr.many("VDIs")):
        raise failure("SR_NOT_EMPTY", sr.ref)
    forget_sr(pool, sr)


@message("SR.scan")
def scan(_pool: Pool, sr: Row) -> None:
    """Look for disks that others made: there are none."""
    if not any(pbd["currently_attached"] for pbd in sr.many("PBDs")):
        raise failure("SR_HAS_NO_PBDS", sr.ref)


@message("SR.get_supported_types")
def get_supported_types(pool: Pool) -> list[str]:
    """The types of repositories for which the pool has a driver."""
    return [each["type"] for each in pool.store.all("SM")]


@message("SR.probe")
def probe(_pool: Pool, _host: Row, _device_config: dict[str, str], _type: str, _sm_config: dict[str, str]) -> str:
    """What a device has, as XML: nothing."""
    return '<?xml version="1.0" ?><SRlist/>'


@message("SR.probe_ext")
def probe_ext(
    _pool: Pool, _host: Row, device_config: dict[str, str], _type: str, _sm: dict[str, str]
) -> list[dict[str, Any]]:
    """What a device has: room for a new repository."""
    return [{"configuration": device_config, "complete": True, "extra_info": {}}]


@message("SR.get_data_sources")
def get_data_sources(_pool: Pool, sr: Row) -> list[dict[str, Any]]:
    """One counter of a repository."""
    shown = {"name_label": "physical_utilisation", "name_description": "Bytes in use.", "units": "B", "standard": True}
    return [
        {
            **shown,
            "enabled": True,
            "min": 0.0,
            "max": float(sr["physical_size"]),
            "value": float(sr["physical_utilisation"]),
        }
    ]


@message("SR.query_data_source")
def query_data_source(_pool: Pool, sr: Row, data_source: str) -> float:
    """What it shows."""
    if data_source != "physical_utilisation":
        raise failure("INVALID_VALUE", "data_source", data_source)
    return float(sr["physical_utilisation"])


@message("SR.enable_database_replication")
def enable_database_replication(pool: Pool, sr: Row) -> None:
    """Keep a copy of the database on a repository."""
    make_disk(
        pool, sr, "Metadata for DR", sample.GIB, type="metadata", metadata_of_pool=pool.row.ref, metadata_latest=True
    )


@message("SR.disable_database_replication")
def disable_database_replication(pool: Pool, sr: Row) -> None:
    """Keep no copy of the database on a repository."""
    for disk in sr.many("VDIs"):
        if disk["type"] == "metadata":
            destroy(pool, disk)


# Connections


@message("PBD.plug")
def plug(_pool: Pool, pbd: Row) -> None:
    """Connect a host to a repository."""
    pbd.put(currently_attached=True)


@message("PBD.unplug")
def unplug(_pool: Pool, pbd: Row) -> None:
    """Disconnect a host whose VMs use no disk of the repository."""
    for disk in pbd.one("SR").many("VDIs"):
        for vbd in disk.many("VBDs"):
            if vbd["currently_attached"] and vbd.one("VM")["resident_on"] == pbd["host"]:
                raise failure("VDI_IN_USE", disk.ref, "PBD.unplug")
    pbd.put(currently_attached=False)


@message("PBD.create")
def create_pbd(pool: Pool, values: dict[str, Any]) -> Row:
    """Record how a host reaches a repository; one way for each pair."""
    for pbd in pool.store.find("SR", values["SR"]).many("PBDs"):
        if pbd["host"] == values["host"]:
            raise failure("PBD_EXISTS", values["SR"], values["host"], pbd.ref)
    return pool.store.create("PBD", **values)


@message("PBD.destroy")
def destroy_pbd(pool: Pool, pbd: Row) -> None:
    """Remove the record of a connection that is not used."""
    if pbd["currently_attached"]:
        raise failure("OPERATION_NOT_ALLOWED", "PBD is plugged in.")
    pool.store.destroy(pbd)
