"""The tables of org.xen.xcp.xenopsd: devices of VMs, operations that return a task, records of VMs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

import sample
from dbus_next import Variant
from dbus_next.service import ServiceInterface
from service import Error, table, unwrapped, variants
from tasks import Tasks

if TYPE_CHECKING:
    from xenopsd import VM1, Host

NO_PCI = Variant("a{sv}", variants({"domain": 0, "bus": 0, "dev": 0, "fn": 0}))
CPU_POLICY = "1fc9cbf5-f6f83203-2991cbf5-00000023"

# Errors of D-Bus -> the variant of the legacy interface: its tag, and the payload of the error's arguments.
ERRORS: dict[str, Callable[[list[Any]], Variant]] = {
    "NotFound": lambda args: Variant("(s(ss))", ["Does_not_exist", args]),
    "BadPowerState": lambda args: Variant("(s(ss))", ["Bad_power_state", args[::-1]]),
    "CannotFreeThisMuchMemory": lambda args: Variant("(s(xx))", ["Cannot_free_this_much_memory", args]),
    "DeviceIsConnected": lambda _args: Variant("s", "Device_is_connected"),
    "DeviceNotConnected": lambda _args: Variant("s", "Device_not_connected"),
}


def described(error: Error) -> Variant:
    """An error as a variant of the legacy interface."""
    make = ERRORS.get(error.type.rpartition(".")[2])
    return make(error.arguments) if make else Variant("(ss)", ["Internal_error", f"{error.type}: {error}"])


def pair(kind: str, id: list[str]) -> Variant:
    """The name of a device in the stream of changes."""
    return Variant("(s(ss))", [kind, id])


class Devices:
    """The devices of one kind. A device is plugged into a domain, and is unplugged when the domain ends."""

    def __init__(self, host: Host, tasks: Tasks, kind: str, more: dict[str, Any]) -> None:
        self._host = host
        self._tasks = tasks
        self.kind = kind  # "Vbd"
        self._more = more  # members of a state, beside `plugged`
        self.records: dict[tuple[str, str], dict[str, Variant]] = {}
        self._domids: dict[tuple[str, str], int] = {}

    def add(self, record: dict[str, Variant]) -> list[str]:
        vm, device = record["id"].value
        self._host.find(vm)
        if (vm, device) in self.records:
            raise Error("InvalidValue", "ss", "id", device)
        self.records[vm, device] = record
        self._tell([vm, device])
        return [vm, device]

    def remove(self, id: list[str]) -> None:
        self._find(id)
        if self._plugged(id):
            raise Error("DeviceIsConnected", "s", id[1])
        del self.records[tuple(id)]
        self._tell(id)

    def stat(self, id: list[str]) -> list[Any]:
        record = self._find(id)
        more = {name: value(self, id) if callable(value) else value for name, value in self._more.items()}
        return [record, variants({"plugged": self._plugged(id), **more})]

    def list(self, vm: str) -> list[Any]:
        self._host.find(vm)
        return [self.stat([*key]) for key in self.records if key[0] == vm]

    def plug(self, id: list[str]) -> str:
        async def work() -> None:
            self._find(id)
            vm = self._host.find(id[0])
            vm.expect("Running", "Paused")
            if self._plugged(id):
                raise Error("DeviceIsConnected", "s", id[1])
            [self._domids[id[0], id[1]]] = vm.values["Domids"]
            self._tell(id)

        return self._tasks.begin(work())

    def unplug(self, id: list[str], *_force: bool) -> str:
        async def work() -> None:
            self._find(id)
            if not self._plugged(id):
                raise Error("DeviceNotConnected", "s", id[1])
            del self._domids[id[0], id[1]]
            self._tell(id)

        return self._tasks.begin(work())

    def setter(self, member: str, signature: str) -> Callable[..., str]:
        """A function that changes a member of a record."""

        def change(id: list[str], value: Any) -> str:
            async def work() -> None:
                record = self._find(id)
                if isinstance(value, list) and signature.startswith("("):  # an option: no or one item
                    record.pop(member, None)
                    if value:
                        record[member] = Variant(signature, value[0])
                else:
                    record[member] = value if isinstance(value, Variant) else Variant(signature, value)
                self._tell(id)

            return self._tasks.begin(work())

        return change

    def eject(self, id: list[str]) -> str:
        async def work() -> None:
            self._find(id).pop("backend", None)
            self._tell(id)

        return self._tasks.begin(work())

    def active(self, id: list[str]) -> bool:
        """Whether the VM of a device runs."""
        return bool(self._host.find(id[0]).values["Domids"])

    def forget(self, vm: str) -> None:
        """A VM is gone, with its devices."""
        self.records = {key: record for key, record in self.records.items() if key[0] != vm}

    def members(self, name: str) -> dict[str, Any]:
        """The methods that all kinds have."""
        return {
            "Add": (f"{name}:a{{sv}}", "(ss)", self.add),
            "Remove": ("id:(ss)", "", self.remove),
            "Stat": ("id:(ss)", "(a{sv}a{sv})", self.stat),
            "List": ("id:s", "a(a{sv}a{sv})", self.list),
        }

    def _find(self, id: list[str]) -> dict[str, Variant]:
        if tuple(id) not in self.records:
            raise Error("NotFound", "ss", self.kind.upper(), "/".join(id))
        return self.records[id[0], id[1]]

    def _plugged(self, id: list[str]) -> bool:
        vm = self._host.vms.get(id[0])
        return vm is not None and self._domids.get((id[0], id[1])) in vm.values["Domids"]

    def _tell(self, id: list[str]) -> None:
        self._host.updates.tell(self.kind.upper(), ".".join(id), pair(self.kind, id))


def _of_record(member: str) -> Callable[[Devices, list[str]], Variant | None]:
    return lambda devices, key: devices.records[key[0], key[1]].get(member)


def _is_active(devices: Devices, id: list[str]) -> bool:
    return devices.active(id)


def device_tables(host: Host, tasks: Tasks) -> Iterator[tuple[Devices, ServiceInterface]]:
    """The kinds of devices, each with its interface."""
    vif_state = {"kthread_pid": 0, "media_present": True, "pvs_rules_active": False}
    disk = Devices(
        host,
        tasks,
        "Vbd",
        {"active": _is_active, "qos_target": _of_record("qos"), "backend_present": _of_record("backend")},
    )
    vif = Devices(host, tasks, "Vif", {"active": _is_active, **vif_state})
    pci, vusb = Devices(host, tasks, "Pci", {}), Devices(host, tasks, "Vusb", {})
    vgpu = Devices(host, tasks, "Vgpu", {"active": _is_active})
    unplug = ("id:(ss) force:b", "s")
    more: list[tuple[Devices, str, dict[str, Any]]] = [
        (
            disk,
            "VBDs1",
            {
                "Plug": ("id:(ss)", "s", disk.plug),
                "Unplug": (*unplug, disk.unplug),
                "Eject": ("id:(ss)", "s", disk.eject),
                "Insert": ("id:(ss) disk:v", "s", disk.setter("backend", "v")),
            },
        ),
        (
            vif,
            "VIFs1",
            {
                "Plug": ("id:(ss)", "s", vif.plug),
                "Unplug": (*unplug, vif.unplug),
                "Move": ("id:(ss) network:v", "s", vif.setter("backend", "v")),
                "SetCarrier": ("id:(ss) carrier:b", "s", vif.setter("carrier", "b")),
                "SetLockingMode": ("id:(ss) locking_mode:v", "s", vif.setter("locking_mode", "v")),
                "SetIpv4Configuration": ("id:(ss) ipv4_configuration:v", "s", vif.setter("ipv4_configuration", "v")),
                "SetIpv6Configuration": ("id:(ss) ipv6_configuration:v", "s", vif.setter("ipv6_configuration", "v")),
                "SetPvsProxy": ("id:(ss) proxy:a(saa{sv}s)", "s", vif.setter("pvs_proxy", "(saa{sv}s)")),
                "SetTrunks": ("id:(ss) trunks:ax", "s", vif.setter("trunks", "ax")),
            },
        ),
        (pci, "PCIs1", {"Dequarantine": ("pci_addr:a{sv}", "", lambda _address: None)}),
        (vusb, "VUSBs1", {"Plug": ("id:(ss)", "s", vusb.plug), "Unplug": ("id:(ss)", "s", vusb.unplug)}),
        (vgpu, "VGPUs1", {}),
    ]
    for devices, name, members in more:
        yield devices, table(f"xenopsd.{name}", {**devices.members(devices.kind.lower()), **members})


def operations(host: Host, tasks: Tasks) -> ServiceInterface:
    """Operations1: each operation runs on after its task was returned."""

    def on_vm(work: Callable[..., Awaitable[None]]) -> Callable[..., str]:
        async def run(id: str, *values: Any) -> None:
            await work(host.find(id), *values)

        return lambda vm, *values: tasks.begin(run(vm, *values))

    async def nothing(_vm: VM1, *_values: Any) -> None:
        """The sample has nothing that it could change."""

    async def reboot(vm: VM1, _delay: list[float]) -> None:
        await vm.shut_down()
        await vm.start(paused=False)

    async def migrate(vm: VM1, *_values: Any) -> None:
        vm.expect("Running", "Paused")

    async def build(vm: VM1, *_values: Any) -> None:
        await vm.start(paused=True)

    async def sleep(_vm: VM1, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def start(vm: VM1, paused: bool) -> None:
        await vm.start(paused=paused)

    async def set_record(vm: VM1, member: str, value: Variant) -> None:
        vm.record[member] = value
        host.updates.tell("VM", vm.values["Id"])

    moving = "vdi_map:a{ss} vif_map:a{sv} pci_map:a{sa{sv}} xenops_url:s compress:b verify_dest:b"
    works: dict[str, tuple[str, Callable[..., Awaitable[None]]]] = {
        "Migrate": (f" {moving} localhost_migration:b", migrate),
        "Create": ("", nothing),
        "Build": (" force:b", build),
        "CreateDeviceModel": (" save_state:b", nothing),
        "Destroy": ("", lambda vm: vm.destroy()),
        "Pause": ("", lambda vm: vm.turn("Running", "Paused")),
        "Unpause": ("", lambda vm: vm.turn("Paused", "Running")),
        "RequestRdp": (" enabled:b", nothing),
        "RunScript": (" script:s", nothing),
        "SetXsdata": (" xsdata:a{ss}", lambda vm, data: set_record(vm, "xsdata", Variant("a{ss}", data))),
        "SetVcpus": (" vcpus:x", lambda vm, count: vm.set_vcpus(count)),
        "SetShadowMultiplier": (" multiplier:d", nothing),
        "SetMemoryDynamicRange": (" minimum:x maximum:x", lambda vm, least, most: vm.set_range(least, most)),
        "Delay": (" delay:d", sleep),
        "Start": (" paused:b", start),
        "Shutdown": (" delay:ad", lambda vm, _delay: vm.shut_down()),
        "Reboot": (" delay:ad", reboot),
        "Suspend": (" suspend_vdi:v", lambda vm, _disk: vm.suspend()),
        "Resume": (" suspend_vdi:v", lambda vm, _disk: vm.resume()),
        "FastResume": ("", lambda vm: vm.resume()),
        "S3Suspend": ("", nothing),
        "S3Resume": ("", nothing),
    }
    return table(
        "xenopsd.Operations1", {name: (f"id:s{more}", "s", on_vm(work)) for name, (more, work) in works.items()}
    )


def task_table(tasks: Tasks) -> ServiceInterface:
    """Tasks1."""
    return table("xenopsd.Tasks1", {**tasks.members("id:s"), "DestroyOnFinish": ("id:s", "", tasks.destroy_on_finish)})


def debug_table(host: Host) -> ServiceInterface:
    """Debug1."""

    def trigger(cmd: str, _args: list[str]) -> None:
        raise Error("InvalidValue", "ss", "cmd", cmd)

    return table(
        "xenopsd.Debug1", {"Trigger": ("cmd:s args:as", "", trigger), "Shutdown": ("", "", host.bus.disconnect)}
    )


# Records of VMs


def vm_record(vm: VM1) -> dict[str, Variant]:
    """The configuration of a VM: what it was made with, and what has changed since."""
    v = vm.values
    sizes = {"memory_static_max": vm.static_max, "memory_dynamic_max": vm.max, "memory_dynamic_min": vm.min}
    counts = {"vcpu_max": vm.vcpu_max, "vcpus": v["Vcpus"]}
    return {**DEFAULTS, **vm.record, **variants({"id": v["Id"], "name": v["Name"], **sizes, **counts})}


def vm_state(vm: VM1) -> dict[str, Variant]:
    """The state of a VM."""
    v = vm.values
    memory = {"memory_target": v["Memory"], "memory_actual": v["Memory"], "memory_limit": vm.static_max}
    consoles = [variants({"protocol": "Rfb", "port": 5900 + domid, "path": ""}) for domid in v["Domids"]]
    lists = {"domids": Variant("ax", v["Domids"]), "consoles": Variant("aa{sv}", consoles)}
    guest = {"guest_agent": v["GuestAgent"], "xsdata_state": {}, "pv_drivers_detected": bool(v["GuestAgent"])}
    numa = {"numa_optimised": False, "numa_nodes": 0, "numa_node_memory": Variant("a(xx)", [])}
    flags = {"hvm": True, "nomigrate": False, "nested_virt": False, "uncooperative_balloon_driver": False}
    counts = {"vcpu_target": v["Vcpus"], "shadow_multiplier_target": 1.0, "rtc_timeoffset": ""}
    last = {"last_start_time": v["LastStart"], "domain_type": "Domain_HVM", "featureset": CPU_POLICY}
    return variants({"power_state": v["PowerState"], **lists, **memory, **counts, **guest, **last, **flags, **numa})


def exported(vm: VM1) -> str:
    """The configuration of a VM as text."""
    return json.dumps(unwrapped(vm_record(vm)))


def imported(metadata: str) -> dict[str, Variant]:
    """The configuration that `exported` wrote; raises Error."""
    try:
        found = json.loads(metadata)
        numbers = ("memory_static_max", "memory_dynamic_max", "memory_dynamic_min", "vcpu_max", "vcpus")
        return variants({"id": str(found["id"]), "name": str(found["name"]), **{n: int(found[n]) for n in numbers}})
    except (ValueError, KeyError, TypeError):
        raise Error("InvalidValue", "ss", "metadata", metadata[:40]) from None


HVM = variants(
    {
        "hap": True, "shadow_multiplier": 1.0, "timeoffset": "", "video_mib": 4, "video": "Cirrus", "acpi": True,
        "pci_emulations": Variant("as", []), "pci_passthrough": False, "boot_order": "cd", "qemu_disk_cmdline": False,
        "qemu_stubdom": False, "firmware": "Bios",
    }
)  # fmt: skip
DEFAULTS = variants(
    {
        "ssidref": 0, "xsdata": {}, "platformdata": {}, "bios_strings": {}, "ty": Variant("(sa{sv})", ["HVM", HVM]),
        "suppress_spurious_page_faults": False,
        "scheduler_params": Variant("a{sv}", {"affinity": Variant("aax", [])}),
        "on_crash": Variant("as", ["Shutdown"]), "on_shutdown": Variant("as", ["Shutdown"]),
        "on_reboot": Variant("as", ["Start"]), "on_softreboot": Variant("as", ["Softreboot"]),
        "pci_msitranslate": True, "pci_power_mgmt": False, "has_vendor_device": False,
    }
)  # fmt: skip


def host_record(cpus: int) -> dict[str, Variant]:
    """The host under the VMs."""
    counts = {"cpu_count": cpus, "socket_count": 1, "threads_per_core": 2, "nr_nodes": 1}
    names = {"vendor": "GenuineSample", "speed": "2400.0", "modelname": "Sample CPU", "family": "6", "model": "158"}
    policies = ("features", "features_pv", "features_hvm", "features_pv_host", "features_hvm_host")
    flags = {"stepping": "1", "flags": "fpu vme", **dict.fromkeys(policies, CPU_POLICY)}
    hypervisor = {"version": "4.17.6", "capabilities": "xen-3.0-x86_64 hvm-3.0-x86_64"}
    return variants(
        {
            "cpu_info": Variant("a{sv}", variants({**counts, **names, **flags})),
            "hypervisor": Variant("a{sv}", variants(hypervisor)),
            "chipset_info": Variant("a{sv}", variants({"iommu": True, "hvm": True})),
        }
    )


def combined(policy: str, other: str) -> str:
    """The features that two policies have in common."""
    words = zip(policy.split("-"), other.split("-"), strict=False)
    try:
        return "-".join(f"{int(one, 16) & int(two, 16):08x}" for one, two in words)
    except ValueError:
        raise Error("InvalidValue", "ss", "policy", policy[: sample.KIB]) from None
