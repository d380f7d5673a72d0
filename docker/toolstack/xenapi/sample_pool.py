"""The pool of the sample at its start, the same every time: two hosts, storage of three kinds, guests, templates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sample
from sample import GIB, MIB, unique

from xenapi.schema import NULL_REF
from xenapi.store import Row, Store

DAY = 86400
MADE = 1_750_000_000  # Unix seconds: when the pool was made
SOFTWARE = {
    "product_brand": "XCP",
    "product_version": "8.3.0",
    "xapi": "1.20",
    "xen": "4.17.6",
    "platform_version": "3.4.0",
}
CPU = {"cpu_count": "8", "socket_count": "1", "vendor": "GenuineSample", "modelname": "Sample CPU", "speed": "3000"}
BIOS = {"bios-vendor": "Sample", "system-manufacturer": "Sample", "system-product-name": "Toolstack"}
PLATFORM = {"acpi": "1", "apic": "true", "pae": "true", "viridian": "false"}
DISKS = '<provision><disk device="0" size="10737418240" sr="" bootable="true" type="system"/></provision>'
HOSTS = ((sample.HOST, "xcp-1", "192.0.2.10"), (sample.HOST2, "xcp-2", "192.0.2.11"))
DRIVERS = ("lvm", "ext", "nfs", "iso")
FEATURES = (
    "VDI_CREATE",
    "VDI_DELETE",
    "VDI_RESIZE",
    "VDI_CLONE",
    "VDI_SNAPSHOT",
    "VDI_ATTACH",
    "VDI_DETACH",
    "SR_UPDATE",
)
# role -> its subroles; pool-admin is the role that a new subject has by default
ROLES: Mapping[str, tuple[str, ...]] = {
    "session.login": (),
    "vm.start": (),
    "vm.clean_shutdown": (),
    "host.disable": (),
    "read-only": ("session.login",),
    "vm-operator": ("session.login", "vm.start", "vm.clean_shutdown"),
    "vm-admin": ("vm-operator",),
    "pool-operator": ("vm-admin", "host.disable"),
    "pool-admin": ("pool-operator",),
}
POOL_ADMIN = "0165f154-ba3e-034e-6b27-5d271af109ba"


def fill(store: Store) -> None:
    """Make all objects."""
    maker = _Maker(store)
    for step in (maker.hosts, maker.storage, maker.pool, maker.networks, maker.templates, maker.guests):
        step()
    for step in (maker.people, maker.updates, maker.hardware, maker.groups, maker.messages):
        step()


class _Maker:
    """Makes one kind of objects after the other."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.named: dict[str, Row] = {}

    def make(self, cls: str, key: str, /, **values: Any) -> Row:
        """Make an object that others find by `key`."""
        values = {name: value.ref if isinstance(value, Row) else value for name, value in values.items()}
        values.setdefault("uuid", unique(f"{cls} {key}"))
        self.named[key] = self.store.create(cls, **values)
        return self.named[key]

    @property
    def all_hosts(self) -> list[Row]:
        return self.store.all("host")

    # Hosts

    def hosts(self) -> None:
        for uuid, name, address in HOSTS:
            metrics = self.make("host_metrics", f"metrics of {name}", memory_total=sample.HOST_MEMORY, live=True)
            host = self.make("host", name, uuid=uuid, metrics=metrics, **self._host(name, address))
            for number in range(2):
                self.make("host_cpu", f"cpu {number} of {name}", host=host, **self._cpu(number))
            self._control_domain(host)
            self.make("Certificate", f"certificate of {name}", host=host, type="host", not_after=MADE + 3650 * DAY)
            self.make("Feature", f"feature of {name}", host=host, name_label="guefi", enabled=True, version="1.0")
            self.make("host_crashdump", f"crash of {name}", host=host, timestamp=MADE, size=64 * MIB)

    def _host(self, name: str, address: str) -> dict[str, Any]:
        identity = {"name_label": name, "hostname": f"{name}.example", "address": address, "enabled": True}
        api = {"API_version_major": 2, "API_version_minor": 21, "API_version_vendor": "XenSource"}
        software = {"software_version": dict(SOFTWARE), "cpu_info": dict(CPU), "bios_strings": dict(BIOS)}
        edition = {"edition": "xcp-ng", "editions": ["xcp-ng"], "license_params": {"expiry": "20991231T00:00:00Z"}}
        more = {"name_description": "A host of the sample.", "capabilities": ["xen-3.0-x86_64", "hvm-3.0-x86_64"]}
        config = {"other_config": {"agent_start_time": f"{MADE}.", "boot_time": f"{MADE}."}, "sched_policy": "credit"}
        memory = {"memory_overhead": sample.RESERVED_MEMORY, "virtual_hardware_platform_versions": [0, 1, 2]}
        names = {
            "iscsi_iqn": f"iqn.2026-01.example:{name}",
            "cpu_configuration": {},
            "supported_bootloaders": ["pygrub"],
        }
        return {
            **identity,
            **api,
            **software,
            **edition,
            **more,
            **config,
            **memory,
            **names,
            "tls_verification_enabled": True,
        }

    def _cpu(self, number: int) -> dict[str, Any]:
        return {"number": number, "vendor": CPU["vendor"], "modelname": CPU["modelname"], "speed": 3000, "family": 6}

    def _control_domain(self, host: Row) -> None:
        size = sample.DOMAIN_ZERO_MEMORY
        memory = dict.fromkeys(
            ("memory_static_max", "memory_dynamic_max", "memory_dynamic_min", "memory_static_min"), size
        )
        state = {"power_state": "Running", "resident_on": host, "is_control_domain": True, "domid": 0, "affinity": host}
        label = f"Control domain on host: {host['name_label']}"
        metrics = self._vm_metrics(label, 2, memory_actual=size, start_time=MADE, state=["running"])
        names = {"name_label": label, "name_description": "The domain which manages physical devices."}
        vcpus = {"VCPUs_max": 2, "VCPUs_at_startup": 2, "domain_type": "pv", "metrics": metrics, "domarch": "x64"}
        domain = self.make("VM", label, **memory, **state, **names, **vcpus)
        host.put(control_domain=domain.ref)
        self.make("console", f"console of {label}", VM=domain, protocol="vt100", location=self._console(host, domain))

    def _vm_metrics(self, name: str, vcpus: int, **more: Any) -> Row:
        return self.make(
            "VM_metrics", f"metrics of {name}", VCPUs_number=vcpus, install_time=MADE, last_updated=MADE, **more
        )

    def _console(self, host: Row, vm: Row) -> str:
        return f"https://{host['address']}/console?uuid={vm['uuid']}"

    # Storage

    def storage(self) -> None:
        features = dict.fromkeys(FEATURES, 1)
        for kind in DRIVERS:
            own = {"name_label": kind, "vendor": "sample", "version": "1.0", "required_api_version": "1.1"}
            self.make("SM", f"driver {kind}", type=kind, features=features, capabilities=list(FEATURES), **own)
        local = {"name_label": "Local storage", "uuid": sample.SR, "content_type": "user"}
        self._sr("local", "ext", self.all_hosts[:1], {"device": "/dev/sda3"}, **local)
        self._sr("local-2", "lvm", self.all_hosts[1:], {"device": "/dev/sda3"}, name_label="Local storage")
        export = {"server": "192.0.2.20", "serverpath": "/export"}
        self._sr("shared", "nfs", self.all_hosts, export, name_label="NFS storage", shared=True, content_type="user")
        tools = {"name_label": "ISO library", "shared": True, "content_type": "iso", "is_tools_sr": True}
        self._sr("isos", "iso", self.all_hosts, {"location": "/opt/isos"}, **tools)
        disks = ((sample.VDI_SYSTEM, "system", 8 * GIB), (sample.VDI_DATA, "data", 32 * GIB))
        for uuid, name, size in disks:
            self.disk(name, "local", size, uuid=uuid)
        self.disk("guest-tools.iso", "isos", 64 * MIB, read_only=True, is_tools_iso=True)
        self.disk("installer.iso", "isos", 700 * MIB, read_only=True)

    def _sr(self, name: str, kind: str, hosts: list[Row], config: dict[str, str], **more: Any) -> None:
        sr = self.make("SR", name, type=kind, physical_size=sample.REPOSITORY_SIZE, name_description="", **more)
        for host in hosts:
            own = {"device_config": dict(config), "currently_attached": True}
            self.make("PBD", f"{name} of {host['name_label']}", host=host, SR=sr, **own)

    def disk(self, name: str, sr: str, size: int, **more: Any) -> Row:
        """Make a disk."""
        own = {
            "name_label": name,
            "virtual_size": size,
            "physical_utilisation": size // 4,
            "managed": True,
            "type": "user",
        }
        return self.make("VDI", name, SR=self.named[sr], location=name, **{**own, **more})

    def pool(self) -> None:
        srs = {
            "default_SR": self.named["local"],
            "suspend_image_SR": self.named["local"],
            "crash_dump_SR": self.named["local"],
        }
        names = {"name_label": "sample pool", "uuid": sample.POOL, "ha_cluster_stack": "xhad"}
        self.make(
            "pool", "pool", master=self.all_hosts[0], **srs, **names, cpu_info=dict(CPU), tls_verification_enabled=True
        )

    # Networks

    def networks(self) -> None:
        for label, bridge in (("Pool-wide network", "xenbr0"), ("Storage network", "xenbr1"), ("Bonded", "xapi0")):
            self.make("network", bridge, name_label=label, bridge=bridge, managed=True, MTU=1500)
        self.make("network", "xapi1", name_label="VLAN 42", bridge="xapi1", managed=True, MTU=1500)
        self.make("network", "xapi2", name_label="Tunnelled", bridge="xapi2", managed=True, MTU=1500)
        self.make("network", "xapi3", name_label="Virtual functions", bridge="xapi3", managed=True, MTU=1500)
        for at, host in enumerate(self.all_hosts):
            self._host_networks(host, at)
        self.make("SDN_controller", "controller", protocol="ssl", address="192.0.2.30", port=6640)

    def _host_networks(self, host: Row, at: int) -> None:
        static = {
            "ip_configuration_mode": "Static",
            "netmask": "255.255.255.0",
            "gateway": "192.0.2.1",
            "DNS": "192.0.2.53",
        }
        own = {**static, "IP": host["address"], "management": True, "disallow_unplug": True}
        name = host["name_label"]
        first = self._pif(host, "eth0", "xenbr0", physical=True, **own)
        storage = self._pif(host, "eth1", "xenbr1", physical=True, capabilities=["sriov"])
        members = [
            self._pif(host, device, "xapi0", physical=True, currently_attached=False) for device in ("eth2", "eth3")
        ]
        self.store.put(members[0], {"network": NULL_REF})
        self.store.put(members[1], {"network": NULL_REF})
        bonded = self._pif(host, "bond0", "xapi0")
        bond = {"slaves": [pif.ref for pif in members], "primary_slave": members[0], "links_up": 2}
        self.make("Bond", f"bond of {name}", master=bonded, **bond)
        tagged = self._pif(host, "eth0", "xapi1", VLAN=42)
        self.make("VLAN", f"vlan of {name}", tagged_PIF=first, untagged_PIF=tagged, tag=42)
        access = self._pif(host, f"tunnel{at}", "xapi2")
        self.make("tunnel", f"tunnel of {name}", access_PIF=access, transport_PIF=first, status={"active": "true"})
        logical = self._pif(host, "eth1", "xapi3", VLAN=-1)
        both = {"physical_PIF": storage, "logical_PIF": logical, "configuration_mode": "sysfs"}
        self.make("network_sriov", f"sriov of {name}", **both)

    def _pif(self, host: Row, device: str, network: str, **more: Any) -> Row:
        name = f"{device} of {host['name_label']} on {network}"
        metrics = self.make(
            "PIF_metrics", f"metrics of {name}", carrier=True, speed=10_000, duplex=True, last_updated=MADE
        )
        mac = "52:54:" + unique(name).replace("-", "")[:8]
        own = {"MAC": ":".join((mac[:5], *(mac[at : at + 2] for at in range(6, 14, 2)))), "MTU": 1500, "VLAN": -1}
        up = {"currently_attached": True, "managed": True, "properties": {"gro": "on"}}
        where = {"host": host, "network": self.named[network], "metrics": metrics}
        return self.make("PIF", name, device=device, **{**own, **up, **where, **more})

    # VMs

    def templates(self) -> None:
        for label, kind in (("Debian Bookworm 12", "hvm"), ("Other install media", "hvm")):
            config = {"default_template": "true", "disks": DISKS, "install-methods": "cdrom,http"}
            template = {
                "is_a_template": True,
                "is_default_template": True,
                "domain_type": kind,
                "HVM_boot_policy": "BIOS order",
            }
            self.vm(
                label, 2 * GIB, GIB, 1, other_config=config, reference_label=label.lower().replace(" ", "-"), **template
            )

    def vm(self, name: str, size: int, least: int, vcpus: int, **more: Any) -> Row:
        """Make a VM that is halted."""
        memory = {
            "memory_static_min": least,
            "memory_dynamic_min": least,
            "memory_dynamic_max": size,
            "memory_static_max": size,
        }
        boot = {
            "HVM_boot_policy": "BIOS order",
            "HVM_boot_params": {"order": "cdn"},
            "domain_type": "hvm",
            "domarch": "x64",
        }
        after = {
            "actions_after_shutdown": "destroy",
            "actions_after_reboot": "restart",
            "actions_after_crash": "restart",
        }
        config = {
            "platform": dict(PLATFORM),
            "memory_overhead": MIB,
            "VCPUs_max": vcpus,
            "VCPUs_at_startup": vcpus,
            "domid": -1,
        }
        metrics = self._vm_metrics(name, vcpus)
        own = {"name_label": name, "metrics": metrics, "hardware_platform_version": 2, "bios_strings": dict(BIOS)}
        return self.make("VM", name, **{**memory, **boot, **after, **config, **own, **more})

    def guests(self) -> None:
        for uuid, name, description, size, least, vcpus in sample.VMS:
            vm = self.vm(name, size, least, vcpus, uuid=uuid, name_description=description)
            system = self.disk(f"{name} system", "local" if name != "db" else "shared", 16 * GIB)
            self._vbd(vm, 0, system, bootable=True)
            if name == "db":
                self._vbd(vm, 1, self.disk("db data", "shared", 64 * GIB))
            drive = {"type": "CD", "mode": "RO", "empty": True, "unpluggable": True}
            self._vbd(vm, 3, None, **drive)
            mac = "52:54:00:12:34:" + f"{len(self.store.all('VIF')) + 1:02x}"
            network = {"network": self.named["xenbr0"], "MAC": mac, "MTU": 1500}
            self.make("VIF", f"interface of {name}", VM=vm, device="0", **network, locking_mode="network_default")
            location = self._console(self.all_hosts[0], vm)
            self.make("console", f"console of {name}", VM=vm, protocol="rfb", location=location)
        self.make("VTPM", "tpm of web", VM=self.named["web"])
        self.make(
            "crashdump", "crash of archive", VM=self.named["archive"], VDI=self.disk("crash of archive", "local", GIB)
        )

    def _vbd(self, vm: Row, number: int, disk: Row | None, **more: Any) -> None:
        device = {"userdevice": str(number), "device": f"xvd{chr(97 + number)}", "type": "Disk", "mode": "RW"}
        held = {"VDI": disk or NULL_REF, "empty": disk is None}
        self.make("VBD", f"{vm['name_label']} {number}", VM=vm, **{**device, **held, **more})

    # Others

    def people(self) -> None:
        for name, subroles in ROLES.items():
            own = {
                "name_label": name,
                "is_internal": "." in name,
                "subroles": [self.named[each].ref for each in subroles],
            }
            self.make("role", name, **own, **({"uuid": POOL_ADMIN} if name == "pool-admin" else {}))
        self.make("user", "root", short_name="root", fullname="The superuser")
        self.make("subject", "alice", subject_identifier="S-1-5-21-1", other_config={"subject-name": "alice"})
        self.make("secret", "secret", value="sample")
        own = {
            "name_label": "Backup",
            "name_description": "A task of the sample.",
            "status": "success",
            "progress": 1.0,
        }
        self.make(
            "task", "backup", **own, created=MADE, finished=MADE + 60, type="<none/>", resident_on=self.all_hosts[0]
        )
        blob = {"name_label": "notes", "mime_type": "text/plain", "last_updated": MADE}
        self.store.put(self.named["pool"], {"blobs": {"notes": self.make("blob", "notes", **blob).ref}})

    def updates(self) -> None:
        patch = self.make("pool_patch", "patch", name_label="XS83E001", version="1.0", size=MIB)
        for host in self.all_hosts[:1]:
            own = {"name_label": "XS83E001", "version": "1.0", "applied": True, "timestamp_applied": MADE, "size": MIB}
            self.make("host_patch", f"patch of {host['name_label']}", host=host, pool_patch=patch, **own)
        disk = self.disk("update", "shared", 256 * MIB)
        hosts = [host.ref for host in self.all_hosts]
        self.make("pool_update", "update 1", name_label="Update 1", version="1.0", vdi=disk, hosts=hosts)
        urls = {"binary_url": "https://mirror.example/binary", "source_url": "https://mirror.example/source"}
        repository = self.make("Repository", "repository", name_label="base", **urls)
        self.store.put(self.named["pool"], {"repositories": [repository.ref]})
        self.make("Observer", "observer", name_label="traces", components=["xapi"], endpoints=["bugtool"])

    def hardware(self) -> None:
        host = self.all_hosts[0]
        card = {"vendor_name": "Sample", "device_name": "GPU", "pci_id": "0000:01:00.0", "driver_name": "vfio"}
        pci = self.make("PCI", "gpu", host=host, class_name="VGA compatible controller", **card)
        sizes = {"framebuffer_size": GIB, "max_heads": 2, "max_resolution_x": 4096, "max_resolution_y": 2160}
        kind = self.make("VGPU_type", "type", vendor_name="Sample", model_name="S-1", **sizes)
        group = self.make("GPU_group", "gpus", name_label="Group of Sample GPUs", GPU_types=["sample/gpu"])
        types = {"supported_VGPU_types": [kind.ref], "enabled_VGPU_types": [kind.ref]}
        self.store.put(group, types)
        capacity = {"supported_VGPU_max_capacities": {kind.ref: 4}}
        self.make("PGPU", "gpu of host", PCI=pci, GPU_group=group, host=host, **types, **capacity)
        self.make("VGPU", "gpu of web", VM=self.named["web"], GPU_group=group, type=kind, device="0")
        usb = self.make("USB_group", "usb", name_label="Group of Sample keys")
        key = {"path": "1-1", "vendor_id": "1d6b", "vendor_desc": "Sample", "product_id": "0002", "product_desc": "Key"}
        self.make("PUSB", "key", USB_group=usb, host=host, **key, version="2.00", speed=480.0)
        self.make("VUSB", "key of web", VM=self.named["web"], USB_group=usb)

    def groups(self) -> None:
        site = self.make("PVS_site", "site", name_label="Streaming", PVS_uuid=unique("streaming"))
        self.make("PVS_server", "server", addresses=["192.0.2.40"], first_port=6910, last_port=6930, site=site)
        self.make("PVS_proxy", "proxy", site=site, VIF=self.named["interface of web"])
        cache = {"host": self.all_hosts[0], "SR": self.named["local"], "size": GIB}
        self.make("PVS_cache_storage", "cache", site=site, **cache)
        appliance = self.make("VM_appliance", "appliance", name_label="shop")
        self.store.put(self.named["web"], {"appliance": appliance.ref})
        schedule = {"name_label": "nightly", "enabled": True, "frequency": "daily", "retained_snapshots": 7}
        self.make("VMSS", "nightly", **schedule, schedule={"hour": "2", "min": "0"})
        self.make("DR_task", "recovery")
        cluster = self.make("Cluster", "cluster", cluster_token="", cluster_stack="corosync")
        for host in self.all_hosts:
            pif = self.named[f"eth1 of {host['name_label']} on xenbr1"]
            own = {"cluster": cluster, "host": host, "PIF": pif, "enabled": True, "joined": True}
            self.make("Cluster_host", f"member {host['name_label']}", **own)

    def messages(self) -> None:
        own = {"cls": "VM", "obj_uuid": self.named["web"]["uuid"], "timestamp": MADE + DAY}
        self.make("message", "started", name="VM_STARTED", priority=5, body="", **own)
        host = {"cls": "Host", "obj_uuid": sample.HOST, "timestamp": MADE + 2 * DAY}
        self.make("message", "clock", name="HOST_CLOCK_WENT_BACKWARDS", priority=3, body="1 s", **host)
