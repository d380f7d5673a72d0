"""What points to what: each relation has two fields, and the store keeps the second one equal to the first.

`RELATIONS` names both sides of each relation; a side is a reference or a set of references. `SUMS` are fields that
follow from others. `OWNED` says what an object takes with it when it is destroyed. `OPERATIONS` says which operations
an object allows in which state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

RELATIONS: Sequence[tuple[str, str]] = (
    ("VBD.VM", "VM.VBDs"),
    ("VBD.VDI", "VDI.VBDs"),
    ("VIF.VM", "VM.VIFs"),
    ("VIF.network", "network.VIFs"),
    ("VM.resident_on", "host.resident_VMs"),
    ("VM.snapshot_of", "VM.snapshots"),
    ("VM.parent", "VM.children"),
    ("VM.protection_policy", "VMPP.VMs"),
    ("VM.snapshot_schedule", "VMSS.VMs"),
    ("VM.appliance", "VM_appliance.VMs"),
    ("console.VM", "VM.consoles"),
    ("crashdump.VM", "VM.crash_dumps"),
    ("crashdump.VDI", "VDI.crash_dumps"),
    ("VTPM.VM", "VM.VTPMs"),
    ("VUSB.VM", "VM.VUSBs"),
    ("VUSB.USB_group", "USB_group.VUSBs"),
    ("VGPU.VM", "VM.VGPUs"),
    ("VGPU.GPU_group", "GPU_group.VGPUs"),
    ("VGPU.type", "VGPU_type.VGPUs"),
    ("VGPU.resident_on", "PGPU.resident_VGPUs"),
    ("PGPU.GPU_group", "GPU_group.PGPUs"),
    ("PGPU.host", "host.PGPUs"),
    ("PGPU.supported_VGPU_types", "VGPU_type.supported_on_PGPUs"),
    ("PGPU.enabled_VGPU_types", "VGPU_type.enabled_on_PGPUs"),
    ("GPU_group.supported_VGPU_types", "VGPU_type.supported_on_GPU_groups"),
    ("GPU_group.enabled_VGPU_types", "VGPU_type.enabled_on_GPU_groups"),
    ("VDI.SR", "SR.VDIs"),
    ("VDI.snapshot_of", "VDI.snapshots"),
    ("VDI.metadata_of_pool", "pool.metadata_VDIs"),
    ("PBD.SR", "SR.PBDs"),
    ("PBD.host", "host.PBDs"),
    ("SR.introduced_by", "DR_task.introduced_SRs"),
    ("PIF.host", "host.PIFs"),
    ("PIF.network", "network.PIFs"),
    ("PIF.bond_slave_of", "Bond.slaves"),
    ("Bond.master", "PIF.bond_master_of"),
    ("VLAN.untagged_PIF", "PIF.VLAN_master_of"),
    ("VLAN.tagged_PIF", "PIF.VLAN_slave_of"),
    ("tunnel.access_PIF", "PIF.tunnel_access_PIF_of"),
    ("tunnel.transport_PIF", "PIF.tunnel_transport_PIF_of"),
    ("network_sriov.physical_PIF", "PIF.sriov_physical_PIF_of"),
    ("network_sriov.logical_PIF", "PIF.sriov_logical_PIF_of"),
    ("PCI.host", "host.PCIs"),
    ("PUSB.host", "host.PUSBs"),
    ("PUSB.USB_group", "USB_group.PUSBs"),
    ("Feature.host", "host.features"),
    ("Certificate.host", "host.certificates"),
    ("host_cpu.host", "host.host_CPUs"),
    ("host_crashdump.host", "host.crashdumps"),
    ("host_patch.host", "host.patches"),
    ("host_patch.pool_patch", "pool_patch.host_patches"),
    ("pool_update.hosts", "host.updates"),
    ("task.subtask_of", "task.subtasks"),
    ("PVS_server.site", "PVS_site.servers"),
    ("PVS_proxy.site", "PVS_site.proxies"),
    ("PVS_cache_storage.site", "PVS_site.cache_storage"),
    ("Cluster_host.cluster", "Cluster.cluster_hosts"),
)

# A field that is the sum of a field of related objects: its class and name, the relation, the field that is added up.
SUMS: Sequence[tuple[str, str, str, str]] = (
    ("SR", "virtual_allocation", "VDIs", "virtual_size"),
    ("SR", "physical_utilisation", "VDIs", "physical_utilisation"),
)

# field -> the object in it goes with its owner
OWNED: Mapping[str, Sequence[str]] = {
    "VM": ("VBDs", "VIFs", "consoles", "VTPMs", "VUSBs", "VGPUs", "metrics", "guest_metrics"),
    "SR": ("PBDs", "VDIs"),
    "VDI": ("VBDs",),
    "host": (
        "PBDs",
        "PIFs",
        "PCIs",
        "PGPUs",
        "PUSBs",
        "host_CPUs",
        "metrics",
        "control_domain",
        "patches",
        "certificates",
    ),
    "network": ("VIFs",),
    "PIF": ("metrics",),
    "pool_patch": ("host_patches",),
    "Cluster": ("cluster_hosts",),
}

_ANY_VM = ("snapshot", "clone", "copy", "assert_operation_valid", "data_source_op", "update_allowed_operations")
_HALTED = (
    "start",
    "start_on",
    "destroy",
    "provision",
    "make_into_template",
    "create_template",
    "export",
    "create_vtpm",
)
_HALTED += ("metadata_export", "changing_static_range", "changing_memory_limits", "changing_VCPUs", "changing_NVRAM")
_LIVE = ("hard_shutdown", "hard_reboot", "pool_migrate", "migrate_send", "changing_dynamic_range", "call_plugin")
_VDI = ("clone", "copy", "snapshot", "resize", "destroy", "forget", "update", "generate_config", "enable_cbt")
_SR = (
    "scan",
    "destroy",
    "forget",
    "plug",
    "unplug",
    "update",
    "vdi_create",
    "vdi_introduce",
    "vdi_destroy",
    "vdi_resize",
)
_SR += ("vdi_clone", "vdi_snapshot", "pbd_create", "pbd_destroy")
_ENABLED = ("provision", "evacuate", "vm_start", "vm_resume", "vm_migrate")
_DISABLED = ("evacuate", "shutdown", "reboot", "power_on", "enable", "apply_updates")

# class -> (its field with the state, state -> allowed operations); the field "" has one state
OPERATIONS: Mapping[str, tuple[str, Mapping[object, Sequence[str]]]] = {
    "VM": (
        "power_state",
        {
            "Halted": (*_HALTED, *_ANY_VM),
            "Running": (
                "pause",
                "clean_shutdown",
                "clean_reboot",
                "shutdown",
                "suspend",
                "checkpoint",
                *_LIVE,
                *_ANY_VM,
            ),
            "Paused": ("unpause", *_LIVE, *_ANY_VM),
            "Suspended": ("resume", "resume_on", "hard_shutdown", "shutdown", "csvm", "export", *_ANY_VM),
        },
    ),
    "VBD": ("currently_attached", {True: ("attach", "unplug", "unplug_force"), False: ("attach", "plug")}),
    "VIF": ("currently_attached", {True: ("attach", "unplug"), False: ("attach", "plug")}),
    "VUSB": ("currently_attached", {True: ("attach", "unplug"), False: ("attach", "plug")}),
    "VDI": ("managed", {True: _VDI, False: ("forget",)}),
    "SR": ("clustered", {True: _SR, False: _SR}),
    "host": ("enabled", {True: _ENABLED, False: _DISABLED}),
    "pool": (
        "ha_enabled",
        {True: ("ha_disable",), False: ("ha_enable", "designate_new_master", "eject", "cluster_create")},
    ),
    "task": (
        "status",
        {"pending": ("cancel", "destroy"), "cancelling": ("destroy",)}
        | dict.fromkeys(("success", "failure", "cancelled"), ("destroy",)),
    ),
    "VM_appliance": ("name_label", {}),
    "Cluster": ("pool_auto_join", dict.fromkeys((True, False), ("add", "remove", "enable", "disable", "destroy"))),
    "Cluster_host": ("enabled", {True: ("disable",), False: ("enable", "destroy")}),
}
TEMPLATE = ("changing_NVRAM", "changing_VCPUs", "changing_memory_limits", "changing_static_range", "clone", "copy")
TEMPLATE += ("create_template", "destroy", "export", "metadata_export", "provision", "update_allowed_operations")
SNAPSHOT = (
    "clone",
    "copy",
    "create_template",
    "destroy",
    "export",
    "metadata_export",
    "revert",
    "update_allowed_operations",
)
