"""Networks, and what hosts connect to them: interfaces (PIF), bonds, VLANs, tunnels."""

from __future__ import annotations

from typing import Any

import sample

from xenapi.operations.registry import Pool, failure, message
from xenapi.schema import NULL_REF
from xenapi.store import Row

TAGS = range(4095)


@message("network.create")
def create(pool: Pool, values: dict[str, Any]) -> Row:
    """Make a network with a bridge of its own."""
    taken = {network["bridge"] for network in pool.store.all("network")}
    bridge = values["bridge"] or next(name for name in map("xapi{}".format, range(len(taken) + 1)) if name not in taken)
    if bridge in taken:
        raise failure("BRIDGE_NAME_EXISTS", bridge)
    return pool.store.create("network", **{**values, "bridge": bridge, "MTU": values["MTU"] or 1500, "managed": True})


@message("network.destroy")
def destroy(pool: Pool, network: Row) -> None:
    """Remove a network that nothing is connected to."""
    if network["VIFs"]:
        raise failure("NETWORK_CONTAINS_VIF", *network["VIFs"])
    if network["PIFs"]:
        raise failure("NETWORK_CONTAINS_PIF", *network["PIFs"])
    pool.store.destroy(network)


def make_pif(pool: Pool, host: Row, network: Row, device: str, **more: Any) -> Row:
    """Make an interface of a host, with metrics."""
    metrics = pool.store.create("PIF_metrics", carrier=True, speed=10_000, duplex=True, **more.pop("metrics", {}))
    own = {"device": device, "host": host.ref, "network": network.ref, "metrics": metrics.ref, "managed": True}
    own |= {"MAC": sample.mac(), "MTU": network["MTU"], "VLAN": -1, "currently_attached": True}
    return pool.store.create("PIF", **{**own, **more})


# Interfaces of hosts


@message("PIF.plug")
def plug(_pool: Pool, pif: Row) -> None:
    """Bring it up."""
    if pif["bond_slave_of"] != NULL_REF:
        raise failure("CANNOT_PLUG_BOND_SLAVE", pif.ref)
    pif.put(currently_attached=True)


@message("PIF.unplug")
def unplug(_pool: Pool, pif: Row) -> None:
    """Bring it down."""
    if pif["disallow_unplug"] or pif["management"]:
        raise failure("PIF_DOES_NOT_ALLOW_UNPLUG", pif.ref)
    pif.put(currently_attached=False)


@message("PIF.reconfigure_ip")
def reconfigure_ip(_pool: Pool, pif: Row, mode: str, address: str, netmask: str, gateway: str, dns: str) -> None:
    """Set how it gets its address."""
    if mode == "Static" and not (address and netmask):
        raise failure("INVALID_IP_ADDRESS_SPECIFIED", "IP")
    shown = {"IP": address, "netmask": netmask, "gateway": gateway, "DNS": dns}
    pif.put(ip_configuration_mode=mode, **(shown if mode == "Static" else dict.fromkeys(shown, "")))


@message("PIF.reconfigure_ipv6")
def reconfigure_ipv6(_pool: Pool, pif: Row, mode: str, address: str, gateway: str, dns: str) -> None:
    """Set how it gets its IPv6 address."""
    static = mode == "Static"
    pif.put(
        ipv6_configuration_mode=mode, IPv6=[address] if static else [], ipv6_gateway=gateway if static else "", DNS=dns
    )


@message("PIF.set_property", "Bond.set_property")
def set_property(_pool: Pool, row: Row, name: str, value: str) -> None:
    """Set one of its properties."""
    row.put(properties={**row["properties"], name: value})


@message("PIF.forget", "PIF.db_forget", "PIF.destroy")
def forget(pool: Pool, pif: Row) -> None:
    """Remove the record of an interface that carries nothing."""
    if pif["management"]:
        raise failure("PIF_IS_MANAGEMENT_INTERFACE", pif.ref)
    if pif["bond_slave_of"] != NULL_REF:
        raise failure("PIF_BOND_NEEDS_MORE_MEMBERS")
    vlan = pif.one("VLAN_master_of")
    if vlan is not None:
        pool.store.destroy(vlan)
    pool.store.destroy(pif)


@message("PIF.introduce")
def introduce(pool: Pool, host: Row, mac: str, device: str, managed: bool) -> Row:
    """Record an interface, on a network of its own."""
    if any(pif["device"] == device and pif["VLAN"] < 0 for pif in host.many("PIFs")):
        raise failure("DEVICE_ALREADY_EXISTS", device)
    network = pool.store.create("network", name_label=f"network of {device}", bridge=f"xenbr-{device}", managed=True)
    return make_pif(pool, host, network, device, MAC=mac or sample.mac(), managed=managed, physical=True)


# VLANs


def _make_vlan(pool: Pool, tagged: Row, tag: int, network: Row) -> Row:
    if tag not in TAGS:
        raise failure("VLAN_TAG_INVALID", str(tag))
    host = tagged.one("host")
    for pif in host.many("PIFs"):
        if pif["device"] == tagged["device"] and pif["VLAN"] == tag:
            raise failure("PIF_VLAN_EXISTS", pif.ref)
        if pif["network"] == network.ref:
            raise failure("NETWORK_ALREADY_CONNECTED", host.ref, pif.ref)
    untagged = make_pif(pool, host, network, tagged["device"], VLAN=tag, MAC=tagged["MAC"], physical=False)
    return pool.store.create("VLAN", tagged_PIF=tagged.ref, untagged_PIF=untagged.ref, tag=tag)


@message("VLAN.create")
def create_vlan(pool: Pool, tagged: Row, tag: int, network: Row) -> Row:
    """Connect a network to a VLAN of an interface, by an interface for it."""
    return _make_vlan(pool, tagged, tag, network)


@message("VLAN.destroy")
def destroy_vlan(pool: Pool, vlan: Row) -> None:
    """Remove a VLAN and its interface."""
    untagged = vlan.one("untagged_PIF")
    pool.store.destroy(vlan)
    if untagged is not None:
        pool.store.destroy(untagged)


@message("pool.create_VLAN_from_PIF")
def create_vlan_from_pif(pool: Pool, pif: Row, network: Row, tag: int) -> list[Row]:
    """Make a VLAN on the same interface of every host."""
    return create_vlan_everywhere(pool, pif["device"], network, tag)


@message("pool.create_VLAN")
def create_vlan_everywhere(pool: Pool, device: str, network: Row, tag: int) -> list[Row]:
    """Make a VLAN on the interface of this name of every host."""
    alike = [pif for pif in pool.store.all("PIF") if pif["device"] == device and pif["VLAN"] < 0]
    return [_make_vlan(pool, pif, tag, network).one("untagged_PIF") for pif in alike]


@message("PIF.create_VLAN")
def create_vlan_on(pool: Pool, device: str, network: Row, host: Row, tag: int) -> Row:
    """Make a VLAN on an interface of one host."""
    for pif in host.many("PIFs"):
        if pif["device"] == device and pif["VLAN"] < 0:
            return _make_vlan(pool, pif, tag, network).one("untagged_PIF")
    raise failure("INVALID_VALUE", "device", device)


# Bonds, tunnels, SR-IOV


@message("Bond.create")
def create_bond(pool: Pool, network: Row, members: list[Row], mac: str, mode: str, properties: dict[str, str]) -> Row:
    """Join interfaces of a host into one."""
    if len(members) < 2:
        raise failure("PIF_BOND_NEEDS_MORE_MEMBERS")
    if len({pif["host"] for pif in members}) > 1:
        raise failure("PIF_BOND_CROSS_HOST")
    for pif in members:
        if pif["bond_slave_of"] != NULL_REF:
            raise failure("PIF_ALREADY_BONDED", pif.ref)
    host = members[0].one("host")
    number = sum(pif["device"].startswith("bond") for pif in host.many("PIFs"))
    master = make_pif(pool, host, network, f"bond{number}", MAC=mac or members[0]["MAC"])
    own = {
        "mode": mode or "balance-slb",
        "properties": properties,
        "links_up": len(members),
        "primary_slave": members[0].ref,
    }
    bond = pool.store.create("Bond", master=master.ref, slaves=[pif.ref for pif in members], **own)
    for pif in members:
        pif.put(currently_attached=False)
    return bond


@message("Bond.destroy")
def destroy_bond(pool: Pool, bond: Row) -> None:
    """Let the interfaces of a bond be on their own again."""
    master, members = bond.one("master"), bond.many("slaves")
    pool.store.destroy(bond)
    pool.store.destroy(master)
    for pif in members:
        pif.put(currently_attached=True)


@message("tunnel.create")
def create_tunnel(pool: Pool, transport: Row, network: Row, protocol: str) -> Row:
    """Connect a network to a tunnel over an interface."""
    number = len(pool.store.all("tunnel"))
    access = make_pif(pool, transport.one("host"), network, f"tunnel{number}", MAC=transport["MAC"])
    own = {"protocol": protocol or "gre", "status": {"active": "true"}}
    return pool.store.create("tunnel", access_PIF=access.ref, transport_PIF=transport.ref, **own)


@message("tunnel.destroy", "network_sriov.destroy")
def destroy_with_pif(pool: Pool, row: Row) -> None:
    """Remove it and its interface."""
    access = row.one("access_PIF" if row.cls.name == "tunnel" else "logical_PIF")
    pool.store.destroy(row)
    if access is not None:
        pool.store.destroy(access)


@message("network_sriov.create")
def create_sriov(pool: Pool, pif: Row, network: Row) -> Row:
    """Let VMs have virtual functions of an interface."""
    if "sriov" not in pif["capabilities"]:
        raise failure("NETWORK_SRIOV_INSUFFICIENT_CAPACITY", network.ref)
    logical = make_pif(pool, pif.one("host"), network, pif["device"], MAC=pif["MAC"])
    return pool.store.create("network_sriov", physical_PIF=pif.ref, logical_PIF=logical.ref, configuration_mode="sysfs")


@message("network_sriov.get_remaining_capacity")
def get_remaining_capacity(_pool: Pool, _sriov: Row) -> int:
    """How many virtual functions it can still give away."""
    return 8
