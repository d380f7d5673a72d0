"""org.xen.xcp.xenopsd: runs VMs as domains, one object each; asks squeezed for their memory."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import sample
from dbus_next import Variant
from dbus_next.service import ServiceInterface, method, signal
from service import NAMES, ROOT, Bus, Error, Record, Service1, element, field, run

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

    def __init__(self) -> None:
        super().__init__(f"{NAMES}.xenopsd.Updates1")
        self.last = 0

    @method()
    def LastId(self) -> "t":
        return self.last

    @signal()
    def Updated(self, id: int, kind: str, key: str) -> "tss":
        return [id, kind, key]

    def tell(self, kind: str, key: str) -> None:
        """Number a change and publish it."""
        self.last += 1
        self.Updated(self.last, kind, key)


class Host:
    """What all VMs of this process share."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.domains = Host1(self)
        self.updates = Updates1()
        self.vms: dict[str, VM1] = {}
        self.disks: dict[tuple[str, str], dict[str, Any]] = {}  # VM and device -> disk
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
        """Forget a VM, and its disks with it."""
        del self.vms[key]
        self.disks = {pair: disk for pair, disk in self.disks.items() if pair[0] != key}
        self.bus.unexport(f"{PATH}/vm/{element(key)}")

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
        async with self.busy:
            self.expect("Running", "Paused", "Suspended")
            self._end()
            self._become("Halted")

    @method()
    async def Suspend(self):
        async with self.busy:
            self.expect("Running")
            self._end()
            self._become("Suspended")

    @method()
    async def Resume(self):
        async with self.busy:
            self.expect("Suspended")
            await self._build()
            self._become("Running")

    @method()
    def Stat(self) -> "sauxxud":
        now = self.values
        return [now["PowerState"], now["Domids"], now["Memory"], now["Memory"], now["Vcpus"], now["LastStart"]]

    @method()
    def SetVcpus(self, vcpus: "u"):
        if not 1 <= vcpus <= self.vcpu_max:
            raise Error("InvalidValue", "ss", "vcpus", str(vcpus))
        self.put(Vcpus=vcpus)
        self.host.updates.tell("VM", self.values["Id"])

    @method()
    def SetMemoryDynamicRange(self, min: "x", max: "x"):
        if not 0 < min <= max <= self.static_max:
            raise Error("InvalidValue", "ss", "memory_dynamic_min", str(min))
        self.min, self.max = min, max
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


class VBDs1(ServiceInterface):
    """The disks of VMs, by the pair of VM and device."""

    def __init__(self, host: Host) -> None:
        super().__init__(f"{NAMES}.xenopsd.VBDs1")
        self.host = host

    @method()
    def Add(self, vbd: "((ss)sba{sv})") -> "(ss)":
        [vm, device], vdi, writable, qos = vbd
        self.host.find(vm)
        if (vm, device) in self.host.disks:
            raise Error("InvalidValue", "ss", "device", device)
        self.host.disks[vm, device] = {"vdi": vdi, "writable": writable, "qos": qos, "domid": None}
        self.host.updates.tell("VBD", f"{vm}.{device}")
        return [vm, device]

    @method()
    def Remove(self, id: "(ss)"):
        if self._plugged(self._find(id), id[0]):
            raise Error("DeviceIsConnected", "s", id[1])
        del self.host.disks[tuple(id)]
        self.host.updates.tell("VBD", ".".join(id))

    @method()
    def Plug(self, id: "(ss)"):
        disk = self._find(id)
        vm = self.host.find(id[0])
        vm.expect("Running", "Paused")
        if self._plugged(disk, id[0]):
            raise Error("DeviceIsConnected", "s", id[1])
        [disk["domid"]] = vm.values["Domids"]
        self.host.updates.tell("VBD", ".".join(id))

    @method()
    def Unplug(self, id: "(ss)", force: "b"):
        disk = self._find(id)
        if not self._plugged(disk, id[0]):
            raise Error("DeviceNotConnected", "s", id[1])
        disk["domid"] = None
        self.host.updates.tell("VBD", ".".join(id))

    @method()
    def Stat(self, id: "(ss)") -> "bbsa{sv}":
        disk = self._find(id)
        qos: dict[str, Variant] = disk["qos"]
        return [bool(self._domids(id[0])), self._plugged(disk, id[0]), disk["vdi"], qos]

    @method()
    def List(self, vm: "s") -> "a(ssbb)":
        self.host.find(vm)
        mine = [(device, disk) for (owner, device), disk in self.host.disks.items() if owner == vm]
        return [[device, disk["vdi"], disk["writable"], self._plugged(disk, vm)] for device, disk in mine]

    def _find(self, id: list[str]) -> dict[str, Any]:
        if tuple(id) not in self.host.disks:
            raise Error("NotFound", "ss", "VBD", ".".join(id))
        return self.host.disks[tuple(id)]

    def _domids(self, vm: str) -> list[int]:
        return self.host.vms[vm].values["Domids"] if vm in self.host.vms else []

    def _plugged(self, disk: dict[str, Any], vm: str) -> bool:
        return disk["domid"] in self._domids(vm)  # a disk is plugged into a domain, and goes with it


async def start(bus: Bus) -> None:
    """Export the host and the sample's VMs, all halted."""
    host = Host(bus)

    def diagnose() -> list[str]:
        return [" ".join(map(str, row)) for row in host.rows()] or ["no VMs"]

    interfaces = (
        Service1("xenopsd", ["suspend", "vbd"], diagnose),
        host.domains,
        host.updates,
        VMs1(host),
        VBDs1(host),
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
