"""The tables of org.xen.xcp.storage: data paths, copies and mirrors, tasks and changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dbus_next import Variant
from dbus_next.service import ServiceInterface
from service import Error, table, variants
from tasks import Tasks, Updates

if TYPE_CHECKING:
    from storage import VDI1, SRs1


def tables(storage: SRs1) -> Iterator[ServiceInterface]:
    """The interfaces, each made of a table."""
    updates = Updates()
    tasks = Tasks(updates, lambda error: Variant("(ss)", ["Internal_error", str(error)]))
    yield table("storage.DataPaths1", DataPaths(storage).members())
    yield table("storage.Data1", Data(storage, tasks, updates).members())

    async def get_updates(since: str, seconds: list[int]) -> list[Any]:
        if since and not since.isdecimal():
            raise Error("InvalidValue", "ss", "from", since)
        changes = await updates.after(int(since or 0), seconds[0] if seconds else None)
        return [changes, str(updates.last)]

    members = {**tasks.members("task:s"), "GetUpdates": ("since:s timeout:ax", "(avs)", get_updates)}
    yield table("storage.Tasks1", members)


class DataPaths:
    """The data paths of all disks."""

    def __init__(self, storage: SRs1) -> None:
        self._storage = storage

    def members(self) -> dict[str, Any]:
        """The methods of DataPaths1."""
        return {
            "Create": ("id:s", "s", str),
            "Destroy": ("dp:s allow_leak:b", "", self.destroy),
            "DestroyOf": ("dp:s sr:s vdi:s vm:s allow_leak:b", "", self.destroy_of),
            "GetImplementations": ("sr:s vdi:s dp:s vm:s", "a{sv}", self.implementations),
            "GetDiagnostics": ("", "s", lambda: "\n".join(self._storage.diagnose()) + "\n"),
            "Stat": ("sr:s vdi:s", "a{sv}", self.stat),
        }

    def destroy(self, dp: str, _allow_leak: bool) -> None:
        for sr in self._storage.srs.values():
            for vdi in sr.vdis.values():
                _release(vdi, dp)

    def destroy_of(self, dp: str, sr: str, vdi: str, _vm: str, _allow_leak: bool) -> None:
        _release(self._storage.find(sr, vdi), dp)

    def implementations(self, sr: str, vdi: str, dp: str, _vm: str) -> dict[str, Variant]:
        found = self._storage.find(sr, vdi)
        if dp not in found.values["DataPaths"]:
            raise Error("IllegalTransition", "vv", found.state(dp), Variant("(ss)", ["Attached", "RO"]))
        ways = [Variant("(sa{sv})", way) for way in found.implementations()]
        return variants({"implementations": Variant("av", ways)})

    def stat(self, sr: str, vdi: str) -> dict[str, Variant]:
        found = self._storage.find(sr, vdi)
        states = {dp: found.state(dp) for dp in found.values["DataPaths"]}
        most = max(states.values(), key=lambda state: str(state.value), default=Variant("s", "Detached"))
        return variants({"superstate": Variant("v", most), "dps": Variant("a{sv}", states)})


def _release(vdi: VDI1, dp: str) -> None:
    paths = {name: state for name, state in vdi.values["DataPaths"].items() if name != dp}
    vdi.put(DataPaths=paths)
    vdi.writers.discard(dp)


class Data:
    """Copies and mirrors. Nothing is copied: a mirror is complete at once."""

    def __init__(self, storage: SRs1, tasks: Tasks, updates: Updates) -> None:
        self._storage = storage
        self._tasks = tasks
        self._updates = updates
        self._mirrors: dict[str, dict[str, Any]] = {}

    def members(self) -> dict[str, Any]:
        """The methods of Data1."""
        sending = "dp:s task_id:s src_sr:s vdi:s image_format:s mirror_vm:s id:s local_vdi:a{sv} copy_vm:s live_vm:s"
        receive_from = "sr:s vdi_info:a{sv} id:s image_format:s similar:as vm:s url:s verify_dest:b"
        socket = "dp:s sr:s vdi:s vm:s"
        return {
            "Copy": ("sr:s vdi:s vm:s url:s dest:s verify_dest:b", "s", self.copy),
            "Mirror": ("sr:s vdi:s image_format:s vm:s url:s", "v", self.mirror),
            "Stat": ("sr:s vdi:s vm:s operation:v", "a{sv}", self.stat),
            "ActivateImport": (socket, "s", lambda _dp, sr, vdi, _vm: f"/run/storage/import/{sr}/{vdi}"),
            "GetNbdServer": (socket, "s", lambda _dp, sr, vdi, _vm: f"/run/storage/nbd/{sr}/{vdi}"),
            "StartSending": (f"{sending} url:s recv_result:v dest_sr:s verify_dest:b", "", self.send),
            "StartReceiving": ("sr:s vdi_info:a{sv} id:s similar:as", "v", self.receive),
            "StartReceivingFor": ("sr:s vdi_info:a{sv} id:s similar:as vm:s", "v", self.receive),
            "StartReceivingFrom": (receive_from, "v", self.receive),
            "FinishReceiving": ("id:s", "", self.end),
            "FinishReceiving2": ("id:s", "", self.end),
            "FinishReceiving3": ("id:s sr:s url:s verify_dest:b", "", self.end),
            "CancelReceiving": ("id:s", "", self.end),
            "CancelReceiving2": ("id:s url:s verify_dest:b", "", self.end),
            "BeforeDeactivation": ("dp:s sr:s vdi:s", "", lambda _dp, sr, vdi: self._storage.find(sr, vdi) and None),
            "HasFailed": ("id:s sr:s", "b", lambda _id, _sr: False),
            "List": ("", "a{sa{sv}}", lambda: {key: variants(each) for key, each in self._mirrors.items()}),
            "StatMirror": ("id:s", "a{sv}", self.stat_mirror),
        }

    def copy(self, sr: str, vdi: str, _vm: str, _url: str, dest: str, *_: Any) -> str:
        async def work() -> Variant:
            source = self._storage.find(sr, vdi)
            if dest not in self._storage.srs:
                raise Error("NotFound", "ss", "SR", dest)
            names = (source.values["NameLabel"], source.values["NameDescription"])
            made = self._storage.srs[dest].make(*names, source.values["VirtualSize"])
            return Variant("(sa{sv})", ["Vdi_info", made.record()])

        return self._tasks.begin(work())

    def mirror(self, sr: str, vdi: str, *_: Any) -> Variant:
        key = f"{sr}/{vdi}"
        self._begin(key, self._storage.find(sr, vdi), "Sending")
        return Variant("(ss)", ["MirrorV1", key])

    def stat(self, sr: str, vdi: str, _vm: str, _operation: Variant) -> dict[str, Variant]:
        self._storage.find(sr, vdi)
        return variants({"failed": False, "complete": True, "progress": 1.0})

    def send(self, _dp: str, _task: str, sr: str, vdi: str, _format: str, _vm: str, key: str, *_: Any) -> None:
        self._begin(key, self._storage.find(sr, vdi), "Sending")

    def receive(self, sr: str, vdi_info: dict[str, Variant], key: str, *_: Any) -> Variant:
        if sr not in self._storage.srs:
            raise Error("NotFound", "ss", "SR", sr)
        info = {name: value.value for name, value in vdi_info.items()}
        mirror, dummy = (
            self._storage.srs[sr].make(info["name_label"], info["name_description"], info["virtual_size"] or 1)
            for _ in range(2)
        )
        self._begin(key, mirror, "Receiving")
        ids = {"copy_diffs_to": mirror.values["Uuid"], "dummy_vdi": dummy.values["Uuid"]}
        made = variants({"mirror_vdi": Variant("a{sv}", mirror.record()), "mirror_datapath": f"mirror/{key}", **ids})
        return Variant("(sa{sv})", ["Vhd_mirror", made])

    def end(self, key: str, *_: Any) -> None:
        self._mirrors.pop(key, None)
        self._updates.tell(Variant("(ss)", ["Mirror", key]))

    def stat_mirror(self, key: str) -> dict[str, Variant]:
        if key not in self._mirrors:
            raise Error("NotFound", "ss", "Mirror", key)
        return variants(self._mirrors[key])

    def _begin(self, key: str, vdi: VDI1, state: str) -> None:
        disks = {"source_vdi": vdi.values["Uuid"], "dest_vdi": vdi.values["Uuid"]}
        self._mirrors[key] = {**disks, "state": Variant("as", [state]), "failed": False}
        self._updates.tell(Variant("(ss)", ["Mirror", key]))
