"""org.xen.xcp.xapi: the pool's front: objects for pool, hosts and VMs. xenopsd runs what it starts."""

from __future__ import annotations

import time
import uuid
from typing import Any

import sample
from dbus_next.service import ServiceInterface, method, signal
from sample import NULL_REF, ref
from service import NAMES, ROOT, Bus, Error, Record, Service1, element, field, run
from sessions import Session1

PATH = f"{ROOT}/xapi"
XENOPSD = f"{NAMES}.xenopsd"
MOST_VCPUS = 64
NO_MEMORY = f"{NAMES}.Error.CannotFreeThisMuchMemory"
OPERATIONS = {  # power state -> its allowed operations
    "Halted": ["start", "start_on", "destroy", "changing_static_range"],
    "Running": ["pause", "clean_shutdown", "hard_shutdown", "suspend"],
    "Paused": ["unpause", "hard_shutdown"],
    "Suspended": ["resume", "hard_shutdown"],
}


class Object(Record):
    """What pool, host and VM have in common: a reference, a UUID, a name, and OtherConfig."""

    kind = ""

    Ref = field("Ref", "s")
    Uuid = field("Uuid", "s")
    NameLabel = field("NameLabel", "s", writable=True)
    NameDescription = field("NameDescription", "s", writable=True)
    OtherConfig = field("OtherConfig", "a{ss}", writable=True)

    def __init__(self, interface: str, uuid: str, **values: Any) -> None:
        values = {"NameDescription": "", "OtherConfig": {}, **values}
        super().__init__(f"xapi.{interface}", Ref=ref(uuid), Uuid=uuid, **values)

    @method()
    def AddToOtherConfig(self, key: "s", value: "s"):
        config = self.values["OtherConfig"]
        if key in config:
            raise Error("MapDuplicateKey", "ssss", self.kind, "other_config", self.values["Ref"], key)
        self.put(OtherConfig={**config, key: value})

    @method()
    def RemoveFromOtherConfig(self, key: "s"):
        self.put(OtherConfig={k: v for k, v in self.values["OtherConfig"].items() if k != key})

    @property
    def path(self) -> str:
        """Its object path."""
        return f"{PATH}/{self.kind.lower()}/{element(self.values['Ref'])}"


class Pool1(Object):
    """The pool."""

    kind = "pool"

    Master = field("Master", "s")
    DefaultSR = field("DefaultSR", "s", writable=True)
    HaEnabled = field("HaEnabled", "b")

    def __init__(self) -> None:
        super().__init__(
            "Pool1",
            sample.POOL,
            NameLabel="sample pool",
            Master=ref(sample.HOST),
            DefaultSR=ref(sample.SR),
            HaEnabled=False,
        )


class Host1(Object):
    """The one host."""

    kind = "host"

    Hostname = field("Hostname", "s")
    Address = field("Address", "s")
    Enabled = field("Enabled", "b")
    MemoryOverhead = field("MemoryOverhead", "x")
    CpuInfo = field("CpuInfo", "a{ss}")
    SoftwareVersion = field("SoftwareVersion", "a{ss}")
    ResidentVMs = field("ResidentVMs", "as")

    def __init__(self, bus: Bus) -> None:
        super().__init__(
            "Host1",
            sample.HOST,
            NameLabel="xcp-1",
            NameDescription="The sample's only host.",
            Hostname="xcp-1.example",
            Address="192.0.2.10",
            Enabled=True,
            MemoryOverhead=sample.RESERVED_MEMORY,
            CpuInfo={"cpu_count": "8", "socket_count": "1", "vendor": "GenuineSample", "modelname": "Sample CPU"},
            SoftwareVersion={"product_brand": "XCP", "product_version": "8.3.0", "xen": "4.17.6"},
            ResidentVMs=[],
        )
        self.bus = bus

    @method()
    def Enable(self):
        self.put(Enabled=True)

    @method()
    def Disable(self):
        self.put(Enabled=False)

    @method()
    def GetServerTime(self) -> "x":
        return int(time.time())

    @method()
    async def ComputeFreeMemory(self) -> "x":
        memory = f"{NAMES}.squeezed.Memory1"
        kib: int = await self.bus.get(f"{NAMES}.squeezed", f"{ROOT}/squeezed", memory, "FreeKib")
        return kib * sample.KIB


class VM1(Object):
    """One VM. xenopsd executes the operations, and its signals report the state."""

    kind = "VM"

    PowerState = field("PowerState", "s")
    AllowedOperations = field("AllowedOperations", "as")
    IsATemplate = field("IsATemplate", "b")
    MemoryOverhead = field("MemoryOverhead", "x")
    MemoryStaticMin = field("MemoryStaticMin", "x")
    MemoryStaticMax = field("MemoryStaticMax", "x")
    MemoryDynamicMin = field("MemoryDynamicMin", "x")
    MemoryDynamicMax = field("MemoryDynamicMax", "x")
    VcpusMax = field("VcpusMax", "x")
    VcpusAtStartup = field("VcpusAtStartup", "x")
    ResidentOn = field("ResidentOn", "s")
    Affinity = field("Affinity", "s", writable=True)
    Domid = field("Domid", "x")
    Platform = field("Platform", "a{ss}")
    Tags = field("Tags", "as", writable=True)
    StartTime = field("StartTime", "x")

    def __init__(self, pool: Pool, uuid: str, name: str, description: str, size: int, least: int, vcpus: int) -> None:
        memory = {
            "MemoryStaticMin": least,
            "MemoryDynamicMin": least,
            "MemoryDynamicMax": size,
            "MemoryStaticMax": size,
        }
        state = {"PowerState": "Halted", "AllowedOperations": OPERATIONS["Halted"], "Domid": -1, "StartTime": 0}
        place = {"ResidentOn": NULL_REF, "Affinity": NULL_REF, "Tags": [], "Platform": {"acpi": "1", "apic": "true"}}
        config = {"IsATemplate": False, "MemoryOverhead": sample.MIB, "VcpusMax": vcpus, "VcpusAtStartup": vcpus}
        names = {"NameLabel": name, "NameDescription": description}
        super().__init__("VM1", uuid, **names, **memory, **state, **place, **config)
        self.pool = pool

    @method()
    async def Start(self, paused: "b", force: "b"):
        self._expect("Halted")
        if not self.pool.host.values["Enabled"]:
            raise Error("HostDisabled", "s", self.pool.host.values["Ref"])
        await self.pool.ask_xenopsd("VMs1.Add", "(ssxxxuua{ss})", self._configuration())
        await self._ask("Start", "b", paused)
        self.put(StartTime=int(time.time()))

    @method()
    async def Pause(self):
        self._expect("Running")
        await self._ask("Pause")

    @method()
    async def Unpause(self):
        self._expect("Paused")
        await self._ask("Unpause")

    @method()
    async def CleanShutdown(self):
        self._expect("Running")
        await self._ask("Shutdown", "d", 60.0)

    @method()
    async def HardShutdown(self):
        self._expect("Running", "Paused", "Suspended")
        await self._ask("Shutdown", "d", 0.0)

    @method()
    async def Suspend(self):
        self._expect("Running")
        await self._ask("Suspend")

    @method()
    async def Resume(self, paused: "b", force: "b"):
        self._expect("Suspended")
        await self._ask("Resume")
        if paused:
            await self._ask("Pause")

    @method()
    async def Destroy(self):
        self._expect("Halted")
        [known] = await self.pool.ask_xenopsd("VMs1.Exists", "s", self.values["Uuid"])
        if known:
            await self.pool.ask_xenopsd("VMs1.Remove", "s", self.values["Uuid"])
        self.pool.remove(self)

    @method()
    def SetMemoryLimits(self, static_min: "x", static_max: "x", dynamic_min: "x", dynamic_max: "x"):
        self._expect("Halted")
        if not 0 < static_min <= dynamic_min <= dynamic_max <= static_max:
            raise Error("InvalidValue", "ss", "memory_static_max", str(static_max))
        self.put(MemoryStaticMin=static_min, MemoryStaticMax=static_max)
        self.put(MemoryDynamicMin=dynamic_min, MemoryDynamicMax=dynamic_max)

    @method()
    def GetDataSources(self) -> "a(sssbbddd)":
        running = self.values["PowerState"] == "Running"
        used = float(self.values["MemoryDynamicMin"]) if running else 0.0
        greatest = float(self.values["MemoryStaticMax"])
        return [
            ["cpu_usage", "Share of its processors in use.", "ratio", True, True, 0.0, 1.0, 0.75 if running else 0.0],
            ["memory", "Memory it uses.", "B", True, True, 0.0, greatest, used],
        ]

    @signal()
    def PowerStateChanged(self, previous: str, current: str) -> "ss":
        return [previous, current]

    def become(self, state: str) -> None:
        """Set the power state that xenopsd reports."""
        previous = self.values["PowerState"]
        self.put(PowerState=state, AllowedOperations=OPERATIONS[state])
        if state != previous:
            self.PowerStateChanged(previous, state)

    def live_in(self, domid: int) -> None:
        """Set the domain that xenopsd reports; -1: none."""
        self.put(Domid=domid, ResidentOn=NULL_REF if domid < 0 else self.pool.host.values["Ref"])

    async def _ask(self, member: str, signature: str = "", *arguments: Any) -> list[Any]:
        path = f"{ROOT}/xenopsd/vm/{element(self.values['Uuid'])}"
        try:
            return await self.pool.bus.ask(XENOPSD, path, f"{XENOPSD}.VM1.{member}", signature, *arguments)
        except Error as error:
            if error.type != NO_MEMORY:
                raise
            raise Error("HostNotEnoughFreeMemory", "xx", *(kib * sample.KIB for kib in error.arguments)) from None

    def _expect(self, *states: str) -> None:
        if self.values["PowerState"] not in states:
            raise Error("BadPowerState", "ss", states[0], self.values["PowerState"])

    def _configuration(self) -> list[Any]:
        names = "Uuid", "NameLabel", "MemoryStaticMax", "MemoryDynamicMax", "MemoryDynamicMin"
        more = "VcpusMax", "VcpusAtStartup", "Platform"
        return [self.values[name] for name in (*names, *more)]


class Directory1(ServiceInterface):
    """Finds objects, and makes VMs."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(f"{NAMES}.xapi.Directory1")
        self.pool = pool

    @method()
    def List(self, kind: "s") -> "as":
        return [found.values["Ref"] for found in self._of(kind)]

    @method()
    def GetByUuid(self, kind: "s", uuid: "s") -> "s":
        for found in self._of(kind):
            if found.values["Uuid"] == uuid:
                return found.values["Ref"]
        raise Error("UuidInvalid", "ss", kind, uuid)

    @method()
    def GetByNameLabel(self, kind: "s", label: "s") -> "as":
        return [found.values["Ref"] for found in self._of(kind) if found.values["NameLabel"] == label]

    @method()
    def CreateVM(
        self,
        name_label: "s",
        name_description: "s",
        memory_static_max: "x",
        memory_dynamic_min: "x",
        vcpus: "x",
        other_config: "a{ss}",
    ) -> "s":
        least = memory_dynamic_min or memory_static_max
        if not 0 < least <= memory_static_max:
            raise Error("InvalidValue", "ss", "memory_static_max", str(memory_static_max))
        if not 1 <= vcpus <= MOST_VCPUS:
            raise Error("InvalidValue", "ss", "VCPUs_max", str(vcpus))
        new = VM1(self.pool, str(uuid.uuid4()), name_label, name_description, memory_static_max, least, vcpus)
        new.put(OtherConfig=other_config)
        self.pool.add(new)
        self.VMCreated(new.values["Ref"], new.path)
        return new.values["Ref"]

    @signal()
    def VMCreated(self, vm: str, object_path: str) -> "so":
        return [vm, object_path]

    @signal()
    def VMDestroyed(self, vm: str) -> "s":
        return vm

    def _of(self, kind: str) -> list[Object]:
        if kind not in ("VM", "host", "pool"):
            raise Error("InvalidValue", "ss", "class", kind)
        return [found for found in self.pool.objects.values() if found.kind == kind]


class Pool:
    """All objects, by reference."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.objects: dict[str, Object] = {}
        self.host = Host1(bus)
        self.directory = Directory1(self)
        self.session = Session1()

    def add(self, new: Object) -> None:
        """Export an object."""
        self.objects[new.values["Ref"]] = new
        self.bus.export(new.path, new)

    def remove(self, vm: VM1) -> None:
        """Forget a VM."""
        del self.objects[vm.values["Ref"]]
        self.bus.unexport(vm.path)
        self.directory.VMDestroyed(vm.values["Ref"])

    async def ask_xenopsd(self, member: str, signature: str, *arguments: Any) -> list[Any]:
        """Call xenopsd's one object."""
        return await self.bus.ask(XENOPSD, f"{ROOT}/xenopsd", f"{XENOPSD}.{member}", signature, *arguments)

    def vms(self) -> list[VM1]:
        """All VMs."""
        return [found for found in self.objects.values() if isinstance(found, VM1)]

    async def follow_xenopsd(self) -> None:
        """Load the state of the VMs and follow it. Signals come before replies, so that our answers are up to date."""
        watch = self.bus.watch
        await watch(XENOPSD, f"{XENOPSD}.Host1.DomainCreated", lambda _path, domid, vm: self._place(vm, domid))
        await watch(XENOPSD, f"{XENOPSD}.Host1.DomainDestroyed", lambda _path, _domid, vm: self._place(vm, -1))
        await watch(XENOPSD, f"{XENOPSD}.VM1.PowerStateChanged", self._power_changed)
        await self.bus.watch_end("xenopsd", self._all_halted)
        if await self.bus.is_running("xenopsd"):
            [vms] = await self.ask_xenopsd("VMs1.List", "")
            for vm, _name, state, domid, *_ in vms:
                self._place(vm, domid or -1)
                self._power_changed(element(vm), "", state)

    def _place(self, id: str, domid: int) -> None:
        for vm in self.vms():
            if vm.values["Uuid"] == id:
                vm.live_in(domid)
        self.host.put(ResidentVMs=[vm.values["Ref"] for vm in self.vms() if vm.values["Domid"] >= 0])

    def _power_changed(self, path: str, _previous: str, current: str) -> None:
        for vm in self.vms():
            if path.rpartition("/")[2] == element(vm.values["Uuid"]):
                vm.become(current)

    def _all_halted(self) -> None:
        """End all domains: in this sample they end with xenopsd."""
        for vm in self.vms():
            self._place(vm.values["Uuid"], -1)
            vm.become("Halted")

    def diagnose(self) -> list[str]:
        """Lines for people."""
        sessions = f"{len(self.session.sessions)} sessions open"
        return [sessions, *(f"{vm.values['NameLabel']} {vm.values['PowerState']}" for vm in self.vms())]


async def start(bus: Bus) -> None:
    """Export the pool, its host and the sample's VMs."""
    pool = Pool(bus)
    for interface in (Service1("xapi", ["sessions"], pool.diagnose), pool.session, pool.directory):
        bus.export(PATH, interface)
    for new in (Pool1(), pool.host, *(VM1(pool, *vm) for vm in sample.VMS)):
        pool.add(new)
    await pool.follow_xenopsd()


if __name__ == "__main__":
    run("xapi", start)
