"""Hosts: enabling, reboot, evacuation, management, plugins, what they show."""

from __future__ import annotations

from typing import Any

from xenapi.operations.misc import answer_plugin
from xenapi.operations.registry import Pool, failure, message, now
from xenapi.operations.vm_settings import source
from xenapi.schema import NULL_REF
from xenapi.store import Row

CERTIFICATE = "-----BEGIN CERTIFICATE-----\nc2FtcGxlIHRvb2xzdGFjaw==\n-----END CERTIFICATE-----\n"


# Hosts


def switch_to(name: str, field: str, value: bool) -> None:
    """Register a message that sets a field to a constant."""

    @message(name)
    def switch(_pool: Pool, row: Row) -> None:
        row.put(**{field: value})


switch_to("host.enable", "enabled", value=True)
switch_to("host.disable", "enabled", value=False)


def _guests(host: Row) -> list[Row]:
    return [vm for vm in host.many("resident_VMs") if not vm["is_control_domain"]]


@message("host.shutdown")
def shut_down(_pool: Pool, host: Row) -> None:
    """Stop a host that is disabled and runs no guests. Reboot and power_on bring it back."""
    if host["enabled"]:
        raise failure("HOST_NOT_DISABLED")
    for vm in _guests(host):
        raise failure("HOST_IN_USE", host.ref, "VM", vm.ref)
    host.one("metrics").put(live=False, last_updated=now())


@message("host.reboot")
def reboot(pool: Pool, host: Row) -> None:
    """Stop and start a host; it is enabled afterwards."""
    shut_down(pool, host)
    power_on(pool, host)
    host.put(enabled=True)


@message("host.power_on")
def power_on(_pool: Pool, host: Row) -> None:
    """Start a host."""
    host.one("metrics").put(live=True, last_updated=now())


@message("host.declare_dead")
def declare_dead(_pool: Pool, host: Row) -> None:
    """Say that a host does not live, so that its guests do not run."""
    for vm in _guests(host):
        vm.put(power_state="Halted", domid=-1, resident_on=NULL_REF)
    host.one("metrics").put(live=False, last_updated=now())


@message("host.evacuate")
def evacuate(pool: Pool, host: Row, _network: Row | None, _batch: int) -> None:
    """Move all guests to another host that is enabled."""
    others = [each for each in pool.store.all("host") if each["enabled"] and each is not host]
    guests = _guests(host)
    if guests and not others:
        raise failure("NO_HOSTS_AVAILABLE")
    for vm in guests:
        vm.put(resident_on=others[0].ref)


@message("host.assert_can_evacuate")
def assert_can_evacuate(pool: Pool, host: Row) -> None:
    """Raise an error when there is no host to move the guests to."""
    for vm, reason in get_vms_which_prevent_evacuation(pool, host).items():
        raise failure("CANNOT_EVACUATE_HOST", f"{vm.ref} {reason[0]}")


@message("host.get_vms_which_prevent_evacuation")
def get_vms_which_prevent_evacuation(pool: Pool, host: Row) -> dict[Row, list[str]]:
    """The guests that could not be moved, and why."""
    others = [each for each in pool.store.all("host") if each["enabled"] and each is not host]
    return {} if others else {vm: ["NO_HOSTS_AVAILABLE"] for vm in _guests(host)}


@message("host.get_uncooperative_resident_VMs", "host.retrieve_wlb_evacuate_recommendations")
def _none_of_them(_pool: Pool, _host: Row) -> dict[Row, list[str]]:
    """Every guest cooperates, and no workload balancer recommends anything."""
    return {}


@message("host.destroy", "pool.eject")
def destroy(pool: Pool, host: Row) -> None:
    """Remove a host and what only it has from the pool; the master stays."""
    if host is pool.master:
        raise failure("HOST_CANNOT_DESTROY_SELF", host.ref)
    if _guests(host):
        raise failure("HOST_HAS_RESIDENT_VMS", host.ref)
    for sr in [pbd.one("SR") for pbd in host.many("PBDs")]:
        if not sr["shared"]:
            pool.store.destroy(sr)
    pool.store.destroy(host)


@message("host.get_servertime", "host.get_server_localtime")
def get_servertime(_pool: Pool, _host: Row) -> int:
    """The time of its clock."""
    return now()


@message("host.compute_free_memory")
async def compute_free_memory(pool: Pool, host: Row) -> int:
    """Bytes that it can give to VMs."""
    return await pool.free_memory(host)


@message("host.get_data_sources")
def get_data_sources(_pool: Pool, host: Row) -> list[dict[str, Any]]:
    """Two of its counters, and what they show."""
    total = float(host.one("metrics")["memory_total"])
    used = float(sum(vm["memory_dynamic_max"] for vm in host.many("resident_VMs")))
    return [
        source("cpu_avg", "Share of its processors in use.", "ratio", 1.0, 0.25),
        source("memory_used", "Memory of its domains.", "B", total, used),
    ]


@message("host.query_data_source")
def query_data_source(pool: Pool, host: Row, data_source: str) -> float:
    """What one of them shows."""
    for each in get_data_sources(pool, host):
        if each["name_label"] == data_source:
            return float(each["value"])
    raise failure("INVALID_VALUE", "data_source", data_source)


@message("host.get_management_interface")
def get_management_interface(_pool: Pool, host: Row) -> Row:
    """The interface with its address."""
    return next(pif for pif in host.many("PIFs") if pif["management"])


@message("host.management_reconfigure")
def management_reconfigure(_pool: Pool, pif: Row) -> None:
    """Use this interface for management."""
    if pif["ip_configuration_mode"] == "None":
        raise failure("PIF_HAS_NO_NETWORK_CONFIGURATION", pif.ref)
    host = pif.one("host")
    for each in host.many("PIFs"):
        each.put(management=each is pif)
    host.put(address=pif["IP"] or host["address"])


@message("pool.management_reconfigure")
def pool_management_reconfigure(pool: Pool, network: Row) -> None:
    """Use the interface on this network of every host for management."""
    for pif in network.many("PIFs"):
        management_reconfigure(pool, pif)


@message("host.migrate_receive")
def migrate_receive(pool: Pool, host: Row, _network: Row, _options: dict[str, str]) -> dict[str, str]:
    """What VM.migrate_send needs to reach this host."""
    return {
        "host": host.ref,
        "master": f"http://{pool.master['address']}/",
        "xenops": f"http://{host['address']}/xenopsd",
    }


@message("host.call_plugin")
def call_plugin(_pool: Pool, _host: Row, plugin: str, fn: str, args: dict[str, str]) -> str:
    """Run a plugin; the hosts of the sample have one, `echo`."""
    return answer_plugin(plugin, fn, args)


@message("host.call_extension")
def call_extension(_pool: Pool, _host: Row, call: str) -> str:
    """No host of the sample has extensions."""
    raise failure("MESSAGE_METHOD_UNKNOWN", call)


@message("host.has_extension", "pool.has_extension")
def has_extension(_pool: Pool, _row: Row, _name: str) -> bool:
    """No host of the sample has extensions."""
    return False


@message("host.list_methods")
def list_methods(pool: Pool) -> list[str]:
    """Every message that is a D-Bus method."""
    return [each.name for cls in pool.store.classes.values() for each in (*cls.methods.values(), *cls.statics.values())]


@message("host.dmesg", "host.dmesg_clear", "host.get_log")
def dmesg(_pool: Pool, host: Row) -> str:
    """The hypervisor's console: one line."""
    return f"(XEN) {host['hostname']}: sample toolstack\n"


@message("host.get_system_status_capabilities")
def get_system_status_capabilities(_pool: Pool, _host: Row) -> str:
    """What a report of its status can contain, as XML: nothing."""
    return '<?xml version="1.0" ?><system-status-capabilities/>'


@message("host.get_server_certificate")
def get_server_certificate(_pool: Pool, _host: Row) -> str:
    """Its certificate, as PEM."""
    return CERTIFICATE


@message("host.set_power_on_mode")
def set_power_on_mode(_pool: Pool, host: Row, mode: str, config: dict[str, str]) -> None:
    """Set how it is switched on."""
    host.put(power_on_mode=mode, power_on_config=config)


@message("host.set_hostname_live")
def set_hostname_live(_pool: Pool, host: Row, hostname: str) -> None:
    """Give it another name."""
    host.put(hostname=hostname)


@message("host.apply_edition", "pool.apply_edition")
def apply_edition(pool: Pool, row: Row, edition: str, *_force: bool) -> None:
    """Set the edition of a host, or of all."""
    for host in [row] if row.cls.name == "host" else pool.store.all("host"):
        if edition not in host["editions"]:
            raise failure("INVALID_EDITION", edition)
        host.put(edition=edition)


@message("host.get_sched_gran")
def get_sched_gran(_pool: Pool, host: Row) -> str:
    """How its scheduler groups processors."""
    return str(host["other_config"].get("sched-gran", "cpu"))


@message("host.set_sched_gran")
def set_sched_gran(_pool: Pool, host: Row, value: str) -> None:
    """Set how its scheduler groups processors."""
    host.put(other_config={**host["other_config"], "sched-gran": value})


@message("host.enable_local_storage_caching")
def enable_local_storage_caching(_pool: Pool, host: Row, sr: Row) -> None:
    """Use a repository as its cache."""
    host.put(local_cache_sr=sr.ref)
    sr.put(local_cache_enabled=True)


@message("host.disable_local_storage_caching")
def disable_local_storage_caching(_pool: Pool, host: Row) -> None:
    """Use no cache."""
    sr = host.one("local_cache_sr")
    host.put(local_cache_sr=NULL_REF)
    if sr is not None:
        sr.put(local_cache_enabled=False)


@message("host.enable_external_auth")
def enable_external_auth(_pool: Pool, host: Row, config: dict[str, str], service: str, kind: str) -> None:
    """Record the directory of its users."""
    host.put(external_auth_type=kind, external_auth_service_name=service, external_auth_configuration=config)


@message("host.disable_external_auth")
def disable_external_auth(_pool: Pool, host: Row, _config: dict[str, str]) -> None:
    """Forget the directory of its users."""
    host.put(external_auth_type="", external_auth_service_name="", external_auth_configuration={})


@message("pool.enable_external_auth")
def pool_enable_external_auth(pool: Pool, _row: Row, config: dict[str, str], service: str, kind: str) -> None:
    """Record the directory of its users on every host."""
    for host in pool.store.all("host"):
        enable_external_auth(pool, host, config, service, kind)


@message("pool.disable_external_auth")
def pool_disable_external_auth(pool: Pool, _row: Row, config: dict[str, str]) -> None:
    """Forget the directory of its users on every host."""
    for host in pool.store.all("host"):
        disable_external_auth(pool, host, config)
