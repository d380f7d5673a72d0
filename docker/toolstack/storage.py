"""org.xen.xcp.storage: repositories and their virtual disks."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import sample
from dbus_next.service import ServiceInterface, method, signal
from service import NAMES, ROOT, Bus, Error, Record, Service1, element, field, plain, run, variants

PATH = f"{ROOT}/storage"
BLOCK = 64 * sample.KIB
EPOCH = "19700101T00:00:00Z"


class VDI1(Record):
    """One virtual disk. Nothing is stored: a writer counts as having written the first block."""

    Uuid = field("Uuid", "s")
    NameLabel = field("NameLabel", "s", writable=True)
    NameDescription = field("NameDescription", "s", writable=True)
    VirtualSize = field("VirtualSize", "t")
    PhysicalUtilisation = field("PhysicalUtilisation", "t")
    ReadOnly = field("ReadOnly", "b")
    DataPaths = field("DataPaths", "a{ss}")

    def __init__(self, sr: SR1, id: str, name: str, description: str, size: int, **more: Any) -> None:
        use = {"VirtualSize": size, "PhysicalUtilisation": size, "ReadOnly": more.get("is_snapshot", False)}
        names = {"NameLabel": name, "NameDescription": description}
        super().__init__("storage.VDI1", Uuid=id, DataPaths={}, **names, **use)
        self.sr = sr
        self.sharable: bool = more.get("sharable", False)
        self.sm_config: dict[str, str] = more.get("sm_config", {})
        self.snapshot_of: VDI1 | None = more.get("snapshot_of")
        self.snapshot_time: str = more.get("snapshot_time", EPOCH)
        self.writers: set[str] = set()
        self.written = False  # since the last snapshot

    @method()
    def Attach(self, dp: "s", read_write: "b") -> "a(sa{sv})":
        self.sr.need_attached()
        others = self.writers - {dp}
        if read_write and (self.values["ReadOnly"] or (others and not self.sharable)):
            raise Error("VdiInUse", "ss", self.sr.values["Uuid"], self.values["Uuid"])
        self._move(dp, "attached", allowed=("detached", "attached"))
        if read_write:
            self.writers.add(dp)
        path = f"/dev/sm/{self.sr.values['Uuid']}/{self.values['Uuid']}"
        disk = variants({"params": path, "extra": "", "backend_type": "vbd3"})
        return [["XenDisk", disk], ["BlockDevice", variants({"path": path})]]

    @method()
    def Activate(self, dp: "s"):
        self._move(dp, "activated", allowed=("attached", "activated"))
        self.written = self.written or dp in self.writers

    @method()
    def Deactivate(self, dp: "s"):
        self._move(dp, "attached", allowed=("activated",))

    @method()
    def Detach(self, dp: "s"):
        self._move(dp, "detached", allowed=("attached",))
        self.writers.discard(dp)

    @method()
    def Destroy(self):
        self.need_idle()
        self.sr.remove(self)

    @method()
    def Resize(self, size: "t") -> "t":
        self.need_idle()
        size = whole(size)
        if size < self.values["VirtualSize"]:
            raise Error("InvalidValue", "ss", "new_size", str(size))
        self.sr.need_space(size - self.values["VirtualSize"])
        self.put(VirtualSize=size, PhysicalUtilisation=size)
        self.sr.count()
        return size

    @method()
    def Snapshot(self, name_label: "s") -> "(sssssbsbttba{ss})":
        size = self.values["VirtualSize"]
        self.sr.need_space(size)
        now = datetime.now(UTC).strftime("%Y%m%dT%H:%M:%SZ")
        more = {"is_snapshot": True, "snapshot_of": self, "snapshot_time": now}
        copy = VDI1(self.sr, str(uuid.uuid4()), name_label, self.values["NameDescription"], size, **more)
        self.written = any(self.values["DataPaths"].get(dp) == "activated" for dp in self.writers)
        self.sr.add(copy)
        return copy.info()

    @method()
    def Stat(self) -> "(sssssbsbttba{ss})":
        return self.info()

    @method()
    def ListChangedBlocks(self, since: "s") -> "ay":
        snapshot = self.sr.vdis.get(since)
        if snapshot is None or snapshot.snapshot_of is not self:
            raise Error("NotFound", "ss", "VDI", since)
        blocks = -(-self.values["VirtualSize"] // BLOCK)
        bitmap = bytearray(-(-blocks // 8))
        if self.written:
            bitmap[0] = 0x80
        return bytes(bitmap)

    @signal()
    def DataPathChanged(self, dp: str, state: str) -> "ss":
        return [dp, state]

    def info(self) -> list[Any]:
        """Return the `info` of the IDL."""
        v = self.values
        names = [v["Uuid"], v["Uuid"], v["NameLabel"], v["NameDescription"], "user"]
        snapshot = [self.snapshot_of is not None, self.snapshot_time, v["ReadOnly"]]
        return [*names, *snapshot, v["VirtualSize"], v["PhysicalUtilisation"], self.sharable, self.sm_config]

    def need_idle(self) -> None:
        """Raise Error while a data path holds the disk."""
        if self.values["DataPaths"]:
            raise Error("VdiInUse", "ss", self.sr.values["Uuid"], self.values["Uuid"])

    def _move(self, dp: str, state: str, *, allowed: tuple[str, ...]) -> None:
        present = self.values["DataPaths"].get(dp, "detached")
        if present not in allowed:
            raise Error("IllegalTransition", "ss", present, state)
        paths = {**self.values["DataPaths"], dp: state}
        self.put(DataPaths={name: at for name, at in paths.items() if at != "detached"})
        if present != state:
            self.DataPathChanged(dp, state)


class SR1(Record):
    """One storage repository."""

    Uuid = field("Uuid", "s")
    NameLabel = field("NameLabel", "s", writable=True)
    NameDescription = field("NameDescription", "s", writable=True)
    Type = field("Type", "s")
    IsAttached = field("IsAttached", "b")
    TotalSpace = field("TotalSpace", "t")
    FreeSpace = field("FreeSpace", "t")

    def __init__(self, storage: SRs1, id: str, name: str, description: str, kind: str, size: int) -> None:
        names = {"NameLabel": name, "NameDescription": description, "Type": kind}
        super().__init__("storage.SR1", Uuid=id, IsAttached=False, TotalSpace=size, FreeSpace=size, **names)
        self.storage = storage
        self.vdis: dict[str, VDI1] = {}

    @method()
    def Attach(self, device_config: "a{sv}"):
        if not self.values["IsAttached"]:
            self.put(IsAttached=True)
            self.storage.Attached(self.values["Uuid"])

    @method()
    def Detach(self):
        self.need_attached()
        for vdi in self.vdis.values():
            vdi.need_idle()
        self.put(IsAttached=False)
        self.storage.Detached(self.values["Uuid"])

    @method()
    def Destroy(self):
        if self.values["IsAttached"]:
            raise Error("SrAttached", "s", self.values["Uuid"])
        for vdi in list(self.vdis.values()):
            self.remove(vdi)
        self.storage.remove(self)

    @method()
    def Stat(self) -> "ssttbs":
        self.need_attached()
        v = self.values
        return [v["NameLabel"], v["NameDescription"], v["TotalSpace"], v["FreeSpace"], False, "Healthy"]

    @method()
    def Scan(self) -> "a(sssssbsbttba{ss})":
        self.need_attached()
        return [vdi.info() for vdi in self.vdis.values()]

    @method()
    def CreateVDI(
        self, name_label: "s", name_description: "s", virtual_size: "t", sharable: "b", sm_config: "a{ss}"
    ) -> "(sssssbsbttba{ss})":
        self.need_attached()
        size = whole(virtual_size)
        if not size:
            raise Error("InvalidValue", "ss", "virtual_size", str(virtual_size))
        self.need_space(size)
        more = {"sharable": sharable, "sm_config": sm_config}
        vdi = VDI1(self, str(uuid.uuid4()), name_label, name_description, size, **more)
        self.add(vdi)
        return vdi.info()

    @method()
    def FindVDI(self, name_label: "s") -> "(sssssbsbttba{ss})":
        self.need_attached()
        for vdi in self.vdis.values():
            if vdi.values["NameLabel"] == name_label:
                return vdi.info()
        raise Error("NotFound", "ss", "VDI", name_label)

    def need_attached(self) -> None:
        """Raise Error unless the repository is attached."""
        if not self.values["IsAttached"]:
            raise Error("SrNotAttached", "s", self.values["Uuid"])

    def need_space(self, size: int) -> None:
        """Raise Error when there are fewer bytes free."""
        free = self.values["FreeSpace"]
        if size > free:
            raise Error("OutOfSpace", "stt", self.values["Uuid"], size, free)

    def add(self, vdi: VDI1) -> None:
        """Take in a disk."""
        self.vdis[vdi.values["Uuid"]] = vdi
        self.storage.bus.export(self._path(vdi), vdi)
        self.count()

    def remove(self, vdi: VDI1) -> None:
        """Forget a disk."""
        del self.vdis[vdi.values["Uuid"]]
        self.storage.bus.unexport(self._path(vdi))
        self.count()

    def count(self) -> None:
        """Tell how much is free."""
        used = sum(vdi.values["PhysicalUtilisation"] for vdi in self.vdis.values())
        self.put(FreeSpace=self.values["TotalSpace"] - used)

    def _path(self, vdi: VDI1) -> str:
        return f"{PATH}/sr/{element(self.values['Uuid'])}/vdi/{element(vdi.values['Uuid'])}"


class SRs1(ServiceInterface):
    """The list of repositories."""

    def __init__(self, bus: Bus) -> None:
        super().__init__(f"{NAMES}.storage.SRs1")
        self.bus = bus
        self.srs: dict[str, SR1] = {}

    @method()
    def List(self) -> "as":
        return [sr.values["Uuid"] for sr in self.srs.values() if sr.values["IsAttached"]]

    @method()
    def Create(
        self,
        sr: "s",
        name_label: "s",
        name_description: "s",
        kind: "s",
        device_config: "a{sv}",
        physical_size: "t",
    ) -> "a{ss}":
        if sr in self.srs:
            raise Error("InvalidValue", "ss", "sr", sr)
        self.add(SR1(self, sr, name_label, name_description, kind, physical_size))
        return plain(device_config)

    @signal()
    def Attached(self, sr: str) -> "s":
        return sr

    @signal()
    def Detached(self, sr: str) -> "s":
        return sr

    def add(self, sr: SR1) -> None:
        """Export a repository."""
        self.srs[sr.values["Uuid"]] = sr
        self.bus.export(f"{PATH}/sr/{element(sr.values['Uuid'])}", sr)

    def remove(self, sr: SR1) -> None:
        """Forget a repository."""
        del self.srs[sr.values["Uuid"]]
        self.bus.unexport(f"{PATH}/sr/{element(sr.values['Uuid'])}")

    def diagnose(self) -> list[str]:
        """Lines for people."""
        vdis = [vdi for sr in self.srs.values() for vdi in sr.vdis.values()]
        return [*self.srs, *(f"{vdi.values['NameLabel']} {vdi.values['DataPaths']}" for vdi in vdis)]


def whole(size: int) -> int:
    """Round up to whole MiB."""
    return -(-size // sample.MIB) * sample.MIB


async def start(bus: Bus) -> None:
    """Export the sample's repository, attached, with two disks."""
    storage = SRs1(bus)
    bus.export(PATH, Service1("storage", ["snapshot", "cbt"], storage.diagnose))
    bus.export(PATH, storage)
    sr = SR1(storage, sample.SR, "local storage", "The host's own disk.", "lvm", 100 * sample.GIB)
    storage.add(sr)
    sr.put(IsAttached=True)
    sr.add(VDI1(sr, sample.VDI_SYSTEM, "web system", "Boots web.", 8 * sample.GIB))
    sr.add(VDI1(sr, sample.VDI_DATA, "db data", "What db remembers.", 20 * sample.GIB))


if __name__ == "__main__":
    run("storage", start)
