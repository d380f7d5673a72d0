"""org.xen.xcp.storage: repositories and their virtual disks."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import sample
import storage_data
from dbus_next import Variant
from dbus_next.service import ServiceInterface, method, signal
from service import (
    NAMES,
    ROOT,
    VERSION,
    Bus,
    Error,
    Record,
    Service1,
    element,
    field,
    plain,
    run,
    unwrapped,
    variants,
)

PATH = f"{ROOT}/storage"
BLOCK = 64 * sample.KIB
EPOCH = "19700101T00:00:00Z"
INFO = [
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
]
TAGS = {"attached": "Attached", "activated": "Activated"}  # states of data paths in the legacy interface


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
        self.persistent: bool = more.get("persistent", True)
        self.content_id: str = more.get("content_id") or id
        self.tags: list[str] = []
        self.cbt = False
        self.writers: set[str] = set()
        self.written = False  # since the last snapshot

    @method()
    def Attach(self, dp: "s", read_write: "b") -> "a(sa{sv})":
        self.attach(dp, read_write=read_write)
        return self.implementations()

    def attach(self, dp: str, *, read_write: bool) -> None:
        """Attach it for a data path."""
        self.sr.need_attached()
        others = self.writers - {dp}
        if read_write and (self.values["ReadOnly"] or (others and not self.sharable)):
            raise Error("VdiInUse", "ss", self.sr.values["Uuid"], self.values["Uuid"])
        self._move(dp, "attached", allowed=("detached", "attached"))
        if read_write:
            self.writers.add(dp)

    @method()
    def AttachDevice(self, dp: "s", read_write: "b") -> "a{sv}":
        self.attach(dp, read_write=read_write)
        return variants({"params": self.device, "o_direct": True, "o_direct_reason": "", "xenstore_data": {}})

    @method()
    def ActivateFor(self, dp: "s", vm: "s"):
        self.Activate(dp)

    @method()
    def ActivateReadOnly(self, dp: "s", vm: "s"):
        self.writers.discard(dp)
        self.Activate(dp)

    @method()
    def SetPersistent(self, persistent: "b"):
        self.persistent = persistent

    @method()
    def BeginEpoch(self, vm: "s", persistent: "b"):
        self.persistent = persistent

    @method()
    def EndEpoch(self, vm: "s"):
        pass

    @method()
    def GetUrl(self) -> "s":
        return f"nbd://localhost{self.device}"

    @method()
    def GetSimilar(self) -> "aa{sv}":
        return [vdi.record() for vdi in self.sr.vdis.values() if vdi.snapshot_of is self]

    @method()
    def SetContentId(self, content_id: "s"):
        self.content_id = content_id

    @method()
    def AddToSmConfig(self, key: "s", value: "s"):
        self.sm_config = {**self.sm_config, key: value}

    @method()
    def RemoveFromSmConfig(self, key: "s"):
        self.sm_config = {name: value for name, value in self.sm_config.items() if name != key}

    @method()
    def AddTag(self, key: "s"):
        self.tags = [*self.tags, *([] if key in self.tags else [key])]

    @method()
    def RemoveTag(self, key: "s"):
        self.tags = [tag for tag in self.tags if tag != key]

    @method()
    def EnableCbt(self):
        self.cbt = True

    @method()
    def DisableCbt(self):
        self.cbt = False

    @method()
    def DestroyData(self):
        self.need_idle()
        self.put(PhysicalUtilisation=0)
        self.sr.count()

    @property
    def device(self) -> str:
        """The path of its device."""
        return f"/dev/sm/{self.sr.values['Uuid']}/{self.values['Uuid']}"

    def implementations(self) -> list[list[Any]]:
        """The ways in which it can be reached."""
        disk = variants({"params": self.device, "extra": {}, "backend_type": "vbd3"})
        return [["XenDisk", disk], ["BlockDevice", variants({"path": self.device})]]

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
    def Snapshot(self, name_label: "s") -> "(sssssbsbttba{ss}sbbasss)":
        return self.copy(name_label, is_snapshot=True).info()

    def copy(self, name_label: str, *, is_snapshot: bool) -> VDI1:
        """Copy it."""
        size = self.values["VirtualSize"]
        self.sr.need_space(size)
        now = datetime.now(UTC).strftime("%Y%m%dT%H:%M:%SZ")
        more = {"is_snapshot": True, "snapshot_of": self, "snapshot_time": now} if is_snapshot else {}
        copy = VDI1(self.sr, str(uuid.uuid4()), name_label, self.values["NameDescription"], size, **more)
        self.written = any(self.values["DataPaths"].get(dp) == "activated" for dp in self.writers)
        self.sr.add(copy)
        return copy

    @method()
    def Stat(self) -> "(sssssbsbttba{ss}sbbasss)":
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
        names = [v["Uuid"], self.content_id, v["NameLabel"], v["NameDescription"], "user"]
        snapshot = [self.snapshot_of is not None, self.snapshot_time, v["ReadOnly"]]
        sizes = [v["VirtualSize"], v["PhysicalUtilisation"], self.sharable, self.sm_config]
        origin = self.snapshot_of.values["Uuid"] if self.snapshot_of is not None else ""
        return [*names, *snapshot, *sizes, origin, self.cbt, self.persistent, self.tags, "", v["Uuid"]]

    def record(self) -> dict[str, Variant]:
        """The same with names."""
        named = dict(zip(INFO, self.info(), strict=True))
        return variants({**named, "tags": Variant("as", self.tags)})

    def state(self, dp: str) -> Variant:
        """Its state on a data path, as the legacy interface has it."""
        state = self.values["DataPaths"].get(dp)
        return transition(state, "RW" if dp in self.writers else "RO") if state else transition("detached")

    def need_idle(self) -> None:
        """Raise Error while a data path holds the disk."""
        if self.values["DataPaths"]:
            raise Error("VdiInUse", "ss", self.sr.values["Uuid"], self.values["Uuid"])

    def _move(self, dp: str, state: str, *, allowed: tuple[str, ...]) -> None:
        present = self.values["DataPaths"].get(dp, "detached")
        if present not in allowed:
            mode = "RW" if dp in self.writers else "RO"
            raise Error("IllegalTransition", "vv", transition(present, mode), transition(state, mode))
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
    def Scan(self) -> "a(sssssbsbttba{ss}sbbasss)":
        self.need_attached()
        return [vdi.info() for vdi in self.vdis.values()]

    @method()
    def CreateVDI(
        self, name_label: "s", name_description: "s", virtual_size: "t", sharable: "b", sm_config: "a{ss}"
    ) -> "(sssssbsbttba{ss}sbbasss)":
        return self.make(name_label, name_description, virtual_size, sharable=sharable, sm_config=sm_config).info()

    def make(self, name_label: str, name_description: str, virtual_size: int, **more: Any) -> VDI1:
        """Make a disk."""
        self.need_attached()
        size = whole(virtual_size)
        if not size:
            raise Error("InvalidValue", "ss", "virtual_size", str(virtual_size))
        self.need_space(size)
        vdi = VDI1(self, str(uuid.uuid4()), name_label, name_description, size, **more)
        self.add(vdi)
        return vdi

    @method()
    def CreateDisk(self, vdi_info: "a{sv}") -> "a{sv}":
        wanted = unwrapped(vdi_info)
        names = [wanted["name_label"], wanted["name_description"]]
        more = {name: wanted[name] for name in ("sharable", "sm_config", "persistent", "content_id")}
        return self.make(*names, wanted["virtual_size"], **more).record()

    @method()
    def SnapshotDisk(self, vdi_info: "a{sv}") -> "a{sv}":
        return self.find(vdi_info["vdi"].value).copy(vdi_info["name_label"].value, is_snapshot=True).record()

    @method()
    def CloneDisk(self, vdi_info: "a{sv}") -> "a{sv}":
        return self.find(vdi_info["vdi"].value).copy(vdi_info["name_label"].value, is_snapshot=False).record()

    @method()
    def Introduce(self, uuid: "s", sm_config: "a{ss}", location: "s") -> "a{sv}":
        self.need_attached()
        if uuid not in self.vdis:
            self.add(VDI1(self, uuid, location, "", sample.GIB, sm_config=sm_config))
        return self.vdis[uuid].record()

    @method()
    def Compose(self, vdi1: "s", vdi2: "s"):
        self.find(vdi1)
        self.find(vdi2).content_id = vdi1

    @method()
    def Revert(self, snapshot_info: "a{sv}"):
        snapshot = self.find(snapshot_info["vdi"].value)
        if snapshot.snapshot_of is None:
            raise Error("InvalidValue", "ss", "snapshot_info", snapshot.values["Uuid"])
        snapshot.snapshot_of.put(VirtualSize=snapshot.values["VirtualSize"])
        snapshot.snapshot_of.written = False

    @method()
    def Reset(self):
        for vdi in self.vdis.values():
            vdi.put(DataPaths={})
            vdi.writers.clear()

    @method()
    def ScanWithInfo(self) -> "(aa{sv}a{sv})":
        self.need_attached()
        return [[vdi.record() for vdi in self.vdis.values()], self.record()]

    @method()
    def SendSnapshotInfo(self, vdi: "s", url: "s", dest: "s", dest_vdi: "s", snapshot_pairs: "a{ss}", verify_dest: "b"):
        for name in (vdi, *snapshot_pairs):
            self.find(name)

    @method()
    def ReceiveSnapshotInfo(self, vdi: "s", src_vdi: "a{sv}", snapshot_pairs: "a{sa{sv}}"):
        origin = self.find(vdi)
        for name, info in snapshot_pairs.items():
            snapshot = self.find(name)
            snapshot.snapshot_of, snapshot.snapshot_time = origin, info["snapshot_time"].value

    def find(self, vdi: str) -> VDI1:
        """The disk of this UUID; raises Error."""
        if vdi not in self.vdis:
            raise Error("NotFound", "ss", "VDI", vdi)
        return self.vdis[vdi]

    def record(self) -> dict[str, Variant]:
        """What is known of it."""
        v = self.values
        sizes = {"total_space": v["TotalSpace"], "free_space": v["FreeSpace"], "clustered": False}
        names = {"name_label": v["NameLabel"], "name_description": v["NameDescription"]}
        return variants({"sr_uuid": v["Uuid"], **names, **sizes, "health": "Healthy"})

    @method()
    def FindVDI(self, name_label: "s") -> "(sssssbsbttba{ss}sbbasss)":
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

    @method()
    def Query(self) -> "a{sv}":
        lists = {"features": ["VDI_SNAPSHOT", "VDI_CLONE", "VDI_RESIZE", "VDI_CONFIG_CBT"]}
        lists |= {"required_cluster_stack": [], "supported_image_formats": ["raw"]}
        texts = {"driver": "sample", "name": "storage", "description": "Repositories in memory."}
        texts |= {"vendor": "xcp-gateway sample toolstack", "copyright": "", "version": VERSION}
        texts |= {"required_api_version": "2.0", "configuration": {}, "smapi_version": "SMAPIv2"}
        return variants({**texts, **{name: Variant("as", each) for name, each in lists.items()}})

    @method()
    def Probe(self, queue: "s", device_config: "a{ss}", sm_config: "a{ss}") -> "v":
        found = [
            variants(
                {
                    "configuration": device_config,
                    "complete": True,
                    "sr": Variant("a{sv}", sr.record()),
                    "extra_info": {},
                }
            )
            for sr in self.srs.values()
        ]
        return Variant("(saa{sv})", ["Probe", found])

    @method()
    def FindByName(self, name: "s") -> "(sa{sv})":
        for sr in self.srs.values():
            for vdi in sr.vdis.values():
                if vdi.values["NameLabel"] == name:
                    return [sr.values["Uuid"], vdi.record()]
        raise Error("NotFound", "ss", "VDI", name)

    @method()
    def GetBackendVm(self, vm: "s", sr: "s", vdi: "s") -> "s":
        self.find(sr, vdi)
        return "0"

    def find(self, sr: str, vdi: str) -> VDI1:
        """A disk of a repository; raises Error."""
        if sr not in self.srs:
            raise Error("NotFound", "ss", "SR", sr)
        return self.srs[sr].find(vdi)

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


def transition(state: str, mode: str = "") -> Variant:
    """A state of a data path, as the legacy interface has it."""
    return Variant("(ss)", [TAGS[state], mode]) if state in TAGS else Variant("s", "Detached")


def whole(size: int) -> int:
    """Round up to whole MiB."""
    return -(-size // sample.MIB) * sample.MIB


async def start(bus: Bus) -> None:
    """Export the sample's repository, attached, with two disks."""
    storage = SRs1(bus)
    bus.export(PATH, Service1("storage", ["snapshot", "cbt"], storage.diagnose))
    bus.export(PATH, storage)
    for interface in storage_data.tables(storage):
        bus.export(PATH, interface)
    sr = SR1(storage, sample.SR, "local storage", "The host's own disk.", "lvm", 100 * sample.GIB)
    storage.add(sr)
    sr.put(IsAttached=True)
    sr.add(VDI1(sr, sample.VDI_SYSTEM, "web system", "Boots web.", 8 * sample.GIB))
    sr.add(VDI1(sr, sample.VDI_DATA, "db data", "What db remembers.", 20 * sample.GIB))


if __name__ == "__main__":
    run("storage", start)
