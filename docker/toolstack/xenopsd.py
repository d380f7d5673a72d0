"""org.xen.xcp.xenopsd: runs VMs as domains, one object each; asks squeezed for their memory."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import sample
import xenopsd_calls as calls
from dbus_next import Variant
from dbus_next.service import ServiceInterface, method, signal
from service import NAMES, ROOT, Bus, Error, Record, Service1, element, field, run
from tasks import Tasks, Updates

PATH = f"{ROOT}/xenopsd"
SESSION = "xenopsd"  # squeezed's session is the service's name
CPUS = 8
FIRST_SLOT, SLOT = 0x20, 0x08  # devfn of the first PCI device that is plugged in, and how far the next is away
PCI_DEVICE = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7](@|,|$)")
ENDS = {"poweroff": "Halted", "halt": "Halted", "crash": "Halted", "reboot": "Halted", "suspend": "Suspended"}


class Host1(ServiceInterface):
    """The host under the VMs."""

    def __init__(self, host: Host) -> None:
        super().__init__(f"{NAMES}.xenopsd.Host1")
        self.host = host

    @method()
    def Stat(self) -> "(uuusds)(ss)":
        return [[CPUS, 1, 2, "GenuineSample", 2400.0, "Sample CPU"], ["4.17.6", "xen-3.0-x86_64 hvm-3.0-x86_64"]]

    @method()
    def Describe(self) -> "a{sv}":
        return calls.host_record(CPUS)

    @method()
    def SendDebugKeys(self, debug_keys: "s"):
        pass

    @method()
    def SetWorkerPoolSize(self, pool_size: "x"):
        if pool_size < 1:
            raise Error("InvalidValue", "ss", "pool_size", str(pool_size))

    @method()
    def SetGuestAgentFeatures(self, features: "aa{sv}"):
        self.features = features

    @method()
    def CombineCpuPolicies(self, policy1: "s", policy2: "s") -> "s":
        return calls.combined(policy1, policy2)

    @method()
    def IsCompatible(self, vm_policy: "s", host_policy: "s") -> "b":
        return calls.combined(vm_policy, host_policy) == vm_policy

    @method()
    def SetNumaAffinityPolicy(self, numa_affinity_policy: "as"):
        self.numa_affinity_policy = numa_affinity_policy

    @method()
    def GetTotalMemory(self) -> "x":
        return sample.HOST_MEMORY // sample.MIB

    @method()
    def GetConsoleData(self) -> "s":
        return "(XEN) Xen version 4.17.6\n(XEN) *** Building a PV Dom0 ***\n"

    @method()
    def GuestAgentUpdated(self, domid: "u", told: "a{ss}"):
        vm = next((vm for vm in self.host.vms.values() if domid in vm.values["Domids"]), None)
        if vm is None:
            raise Error("NotFound", "ss", "domain", str(domid))
        vm.put(GuestAgent=told)
        self.host.updates.tell("VM", vm.values["Id"])

    @signal()
    def DomainCreated(self, domid: int, vm: str) -> "us":
        return [domid, vm]

    @signal()
    def DomainDestroyed(self, domid: int, vm: str) -> "us":
        return [domid, vm]


class Updates1(ServiceInterface):
    """One stream of changes."""

    def __init__(self, host: Host) -> None:
        super().__init__(f"{NAMES}.xenopsd.Updates1")
        self.host = host
        self.stream = Updates()
        self.barriers: dict[int, list[Variant]] = {}

    @method()
    def LastId(self) -> "t":
        return self.stream.last

    @method()
    async def Get(self, last_id: "ax", timeout: "ax") -> "(a(xav)avx)":  # noqa: ASYNC109 - an argument on D-Bus
        after = last_id[0] if last_id else 0
        changes = await self.stream.after(after, timeout[0] if timeout else None)
        return [[[number, known] for number, known in self.barriers.items()], changes, self.stream.last]

    @method()
    def InjectBarrier(self, vm_id: "s", id: "x"):
        self.barriers[id] = self.host.known_of(vm_id)
        self.tell("VM", vm_id)

    @method()
    def RemoveBarrier(self, id: "x"):
        self.barriers.pop(id, None)

    @method()
    def RefreshVm(self, id: "s"):
        self.host.find(id)
        for change in self.host.known_of(id):
            self.stream.tell(change)

    @signal()
    def Updated(self, id: int, kind: str, key: str) -> "tss":
        return [id, kind, key]

    def tell(self, kind: str, key: str, change: Variant | None = None) -> None:
        """Number a change and publish it; `change` is its name in the legacy interface."""
        self.stream.tell(change or Variant("(ss)", ["Vm", key]))
        self.Updated(self.stream.last, kind, key)


class Host:
    """What all VMs of this process share."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.domains = Host1(self)
        self.updates = Updates1(self)
        self.devices: list[calls.Devices] = []
        self.tasks = Tasks(self.updates.stream, calls.described)
        self.vms: dict[str, VM1] = {}
        self.last_domid = 0
        self.login = asyncio.Lock()
        self.logged_in = False

    def find(self, id: str) -> VM1:
        """The VM with this id; raises Error."""
        if id not in self.vms:
            raise Error("NotFound", "ss", "VM", id)
        return self.vms[id]

    def of_domain(self, domid: int) -> VM1:
        """The VM that runs as this domain; raises Error."""
        found = next((vm for vm in self.vms.values() if domid in vm.values["Domids"]), None)
        if found is None:
            raise Error("NotFound", "ss", "domain", str(domid))
        return found

    def add(self, vm: list[Any]) -> None:
        """Make a VM, halted."""
        self.vms[vm[0]] = VM1(self, vm)
        self.bus.export(f"{PATH}/vm/{element(vm[0])}", self.vms[vm[0]])

    def remove(self, key: str) -> None:
        """Forget a VM, and its devices with it."""
        del self.vms[key]
        for devices in self.devices:
            devices.forget(key)
        self.bus.unexport(f"{PATH}/vm/{element(key)}")

    def known_of(self, vm: str) -> list[Variant]:
        """A VM and its devices, by their names in the legacy interface."""
        found = [calls.pair(each.kind, [*key]) for each in self.devices for key in each.records if key[0] == vm]
        return [Variant("(ss)", ["Vm", vm]), *found]

    def rows(self) -> list[list[Any]]:
        """All VMs, as VMs1.List tells them."""
        values = [vm.values for vm in self.vms.values()]
        return [[v["Id"], v["Name"], v["PowerState"], *(v["Domids"] or [0]), v["Memory"], v["Vcpus"]] for v in values]

    async def memory(self, member: str, signature: str, *arguments: Any) -> list[Any]:
        """Call squeezed."""
        call = f"{NAMES}.squeezed.Memory1.{member}"
        return await self.bus.ask(f"{NAMES}.squeezed", f"{ROOT}/squeezed", call, signature, *arguments)

    async def reserve(self, least: int, greatest: int) -> tuple[str, int]:
        """Reserve memory (KiB) with squeezed, after a login, which drops the reservations of an earlier instance."""
        async with self.login:
            if not self.logged_in:
                await self.memory("Login", "s", SESSION)
            self.logged_in = True
        reservation, kib = await self.memory("ReserveMemoryRange", "sxx", SESSION, least, greatest)
        return reservation, kib

    def retarget(self, _path: str, domid: int, kib: int) -> None:
        """Apply the memory that squeezed has assigned to a domain."""
        for vm in self.vms.values():
            if domid in vm.values["Domids"]:
                vm.put(Memory=kib * sample.KIB)


class DeviceModel1(ServiceInterface):
    """Commands for the device model of a domain. There is none here, so that every command succeeds."""

    def __init__(self, host: Host) -> None:
        super().__init__(f"{NAMES}.xenopsd.DeviceModel1")
        self.host = host
        self.slots: dict[tuple[str, str], int] = {}  # VM and PCI device -> its slot

    @method()
    async def Save(self, domid: "u"):
        await self.host.of_domain(domid).turn("Running", "Paused")

    @method()
    async def Continue(self, domid: "u"):
        await self.host.of_domain(domid).turn("Paused", "Running")

    @method()
    def PciInsert(self, domid: "u", device: "s") -> "s":
        key = self._key(domid, device)
        if key in self.slots:
            raise Error("DeviceIsConnected", "s", device)
        taken = [slot for (vm, _), slot in self.slots.items() if vm == key[0]]
        self.slots[key] = max(taken, default=FIRST_SLOT - SLOT) + SLOT
        return hex(self.slots[key])

    @method()
    def PciRemove(self, domid: "u", device: "s"):
        key = self._key(domid, device)
        if key not in self.slots:
            raise Error("DeviceNotConnected", "s", device)
        del self.slots[key]

    def _key(self, domid: int, device: str) -> tuple[str, str]:
        if not PCI_DEVICE.match(device):
            raise Error("InvalidValue", "ss", "device", device)
        return self.host.of_domain(domid).values["Id"], device


class Control1(ServiceInterface):
    """Requests to a domain itself; the guests of this sample comply at once."""

    def __init__(self, host: Host) -> None:
        super().__init__(f"{NAMES}.xenopsd.Control1")
        self.host = host
        self.keys: list[tuple[int, str]] = []

    @method()
    async def Shutdown(self, domid: "u", action: "s"):
        vm = self.host.of_domain(domid)
        if action not in ENDS:
            raise Error("InvalidValue", "ss", "action", action)
        await vm.end(ENDS[action])
        if action == "reboot":
            await vm.start(paused=False)

    @method()
    def SysRq(self, domid: "u", key: "s"):
        if len(key) != 1:
            raise Error("InvalidValue", "ss", "key", key)
        self.host.of_domain(domid)
        self.keys.append((domid, key))


class VM1(Record):
    """One VM: its configuration in `static`, its state in the properties."""

    Id = field("Id", "s")
    Name = field("Name", "s")
    PowerState = field("PowerState", "s")
    Domids = field("Domids", "au")
    Memory = field("Memory", "t")
    Vcpus = field("Vcpus", "u")
    GuestAgent = field("GuestAgent", "a{ss}")
    LastStart = field("LastStart", "d")

    def __init__(self, host: Host, vm: list[Any]) -> None:
        state = {"PowerState": "Halted", "Domids": [], "Memory": 0, "GuestAgent": {}, "LastStart": 0.0}
        super().__init__("xenopsd.VM1", Id=vm[0], Name=vm[1], Vcpus=vm[6], **state)
        self.host = host
        self.record: dict[str, Variant] = {}  # the whole configuration, if it was given
        self.busy = asyncio.Lock()  # one change of the power state at a time
        self.configure(vm)

    def configure(self, vm: list[Any]) -> None:
        """Take over a new configuration; only a halted VM does."""
        _id, name, self.static_max, self.max, self.min, self.vcpu_max, vcpus, self.platform = vm
        if not 0 < self.min <= self.max <= self.static_max:
            raise Error("InvalidValue", "ss", "memory_dynamic_min", str(self.min))
        if not 1 <= vcpus <= self.vcpu_max:
            raise Error("InvalidValue", "ss", "vcpus", str(vcpus))
        self.put(Name=name, Vcpus=vcpus)

    @method()
    async def Start(self, paused: "b"):
        await self.start(paused=paused)

    @method()
    async def Pause(self):
        await self.turn("Running", "Paused")

    @method()
    async def Unpause(self):
        await self.turn("Paused", "Running")

    @method()
    async def Shutdown(self, delay: "d"):
        await self.shut_down()

    @method()
    async def Suspend(self):
        await self.suspend()

    @method()
    async def Resume(self):
        await self.resume()

    @method()
    def Stat(self) -> "sauxxud":
        now = self.values
        return [now["PowerState"], now["Domids"], now["Memory"], now["Memory"], now["Vcpus"], now["LastStart"]]

    @method()
    async def SetVcpus(self, vcpus: "u"):
        await self.set_vcpus(vcpus)

    @method()
    async def SetMemoryDynamicRange(self, min: "x", max: "x"):
        await self.set_range(min, max)

    async def shut_down(self) -> None:
        """End the domain."""
        async with self.busy:
            self.expect("Running", "Paused", "Suspended")
            self._end()
            self._become("Halted")

    async def destroy(self) -> None:
        """End the domain, if there is one."""
        if self.values["PowerState"] != "Halted":
            await self.shut_down()

    async def suspend(self) -> None:
        """End the domain, to build it again later."""
        async with self.busy:
            self.expect("Running")
            self._end()
            self._become("Suspended")

    async def resume(self) -> None:
        """Build the domain again."""
        async with self.busy:
            self.expect("Suspended")
            await self._build()
            self._become("Running")

    async def set_vcpus(self, vcpus: int) -> None:
        """Change the number of processors."""
        if not 1 <= vcpus <= self.vcpu_max:
            raise Error("InvalidValue", "ss", "vcpus", str(vcpus))
        self.put(Vcpus=vcpus)
        self.host.updates.tell("VM", self.values["Id"])

    async def set_range(self, least: int, greatest: int) -> None:
        """Change what it may be squeezed to."""
        if not 0 < least <= greatest <= self.static_max:
            raise Error("InvalidValue", "ss", "memory_dynamic_min", str(least))
        self.min, self.max = least, greatest
        self.host.updates.tell("VM", self.values["Id"])

    async def start(self, *, paused: bool) -> None:
        """Build a domain and let it run."""
        async with self.busy:
            self.expect("Halted")
            await self._build()
            self._become("Paused" if paused else "Running")

    async def turn(self, before: str, after: str) -> None:
        """Change the power state of the domain that is there."""
        async with self.busy:
            self.expect(before)
            self._become(after)

    async def end(self, state: str) -> None:
        """End the domain, as its guest does on request."""
        async with self.busy:
            self.expect("Running")
            self._end()
            self._become(state)

    @signal()
    def PowerStateChanged(self, previous: str, current: str) -> "ss":
        return [previous, current]

    def expect(self, *states: str) -> None:
        """Raise Error unless the VM is still there, and in one of these power states."""
        if self.host.find(self.values["Id"]) is not self:
            raise Error("NotFound", "ss", "VM", self.values["Id"])
        if self.values["PowerState"] not in states:
            raise Error("BadPowerState", "ss", states[0], self.values["PowerState"])

    async def _build(self) -> None:
        reservation, kib = await self.host.reserve(self.min // sample.KIB, self.max // sample.KIB)
        domid = self.host.last_domid = self.host.last_domid + 1
        await self.host.memory("TransferReservationToDomain", "ssi", SESSION, reservation, domid)
        self.put(Domids=[domid], Memory=kib * sample.KIB, LastStart=time.time())
        self.host.domains.DomainCreated(domid, self.values["Id"])

    def _end(self) -> None:
        for domid in self.values["Domids"]:
            self.host.domains.DomainDestroyed(domid, self.values["Id"])
        self.put(Domids=[], Memory=0, GuestAgent={})

    def _become(self, state: str) -> None:
        previous = self.values["PowerState"]
        self.put(PowerState=state)
        self.PowerStateChanged(previous, state)
        self.host.updates.tell("VM", self.values["Id"])


class VMs1(ServiceInterface):
    """The list of VMs."""

    def __init__(self, host: Host) -> None:
        super().__init__(f"{NAMES}.xenopsd.VMs1")
        self.host = host

    @method()
    async def Add(self, vm: "(ssxxxuua{ss})") -> "s":
        known = self.host.vms.get(vm[0])
        if known is None:
            self.host.add(vm)
        else:
            async with known.busy:
                known.expect("Halted")
                known.configure(vm)
        self.host.updates.tell("VM", vm[0])
        return vm[0]

    @method()
    async def AddRecord(self, vm: "a{sv}") -> "s":
        key = await self.add({**calls.DEFAULTS, **vm})
        self.host.vms[key].record = vm
        return key

    @method()
    def GetStateString(self, vm: "a{sv}") -> "s":
        return vm["id"].value

    @method()
    def StatRecord(self, id: "s") -> "(a{sv}a{sv})":
        vm = self.host.find(id)
        return [calls.vm_record(vm), calls.vm_state(vm)]

    @method()
    def ListRecords(self) -> "a(a{sv}a{sv})":
        return [[calls.vm_record(vm), calls.vm_state(vm)] for vm in self.host.vms.values()]

    @method()
    def ExportMetadata(self, id: "s") -> "s":
        return calls.exported(self.host.find(id))

    @method()
    async def ImportMetadata(self, metadata: "s") -> "s":
        return await self.add({**calls.DEFAULTS, **calls.imported(metadata)})

    @method()
    def BeginImportMetadata(self, metadata: "s") -> "s":
        async def work() -> Variant:
            return Variant("s", await self.add({**calls.DEFAULTS, **calls.imported(metadata)}))

        return self.host.tasks.begin(work())

    async def add(self, record: dict[str, Variant]) -> str:
        """Make a VM of a whole record, or configure a halted one."""
        names = "id name memory_static_max memory_dynamic_max memory_dynamic_min vcpu_max vcpus platformdata"
        vm = [record[name].value for name in names.split()]
        known = self.host.vms.get(vm[0])
        if known is None:
            self.host.add(vm)
        else:
            async with known.busy:
                known.expect("Halted")
                known.configure(vm)
        self.host.updates.tell("VM", vm[0])
        return vm[0]

    @method()
    async def Remove(self, id: "s"):
        vm = self.host.find(id)
        async with vm.busy:
            vm.expect("Halted")
            self.host.remove(id)
        self.host.updates.tell("VM", id)

    @method()
    def Exists(self, id: "s") -> "b":
        return id in self.host.vms

    @method()
    def List(self) -> "a(sssuxu)":
        return self.host.rows()


async def start(bus: Bus) -> None:
    """Export the host and the sample's VMs, all halted."""
    host = Host(bus)
    devices = [*calls.device_tables(host, host.tasks)]
    host.devices = [each for each, _ in devices]

    def diagnose() -> list[str]:
        return [" ".join(map(str, row)) for row in host.rows()] or ["no VMs"]

    interfaces = (
        Service1("xenopsd", ["suspend", "vbd"], diagnose),
        host.domains,
        host.updates,
        VMs1(host),
        calls.operations(host, host.tasks),
        calls.task_table(host.tasks),
        calls.debug_table(host),
        *(interface for _, interface in devices),
        DeviceModel1(host),
        Control1(host),
    )
    for interface in interfaces:
        bus.export(PATH, interface)
    await bus.watch(f"{NAMES}.squeezed", f"{NAMES}.squeezed.Memory1.TargetChanged", host.retarget)
    for key, name, _description, size, least, vcpus in sample.VMS:
        host.add([key, name, size, size, least, vcpus, vcpus, {}])


if __name__ == "__main__":
    run("xenopsd", start)
