"""org.xen.xcp.networkd: bridges, their ports, and interfaces; it configures only its own memory."""

from __future__ import annotations

import hashlib
import ipaddress
from typing import Any

from dbus_next import Variant
from dbus_next.service import method, signal
from service import ROOT, Bus, Error, Record, Service1, element, field, run

PATH = f"{ROOT}/networkd"
LONGEST_NAME = 15  # Linux's IFNAMSIZ without its NUL
BOND_MODES = ("balance-slb", "active-backup", "lacp")
MODES = ("None4", "DHCP4", "Static4")
PORT_KINDS = ("Basic_port", "PVS_proxy")


def tag(value: Variant) -> tuple[str, Any]:
    """The tag of a variant of the legacy interface, and its payload."""
    return (value.value, None) if value.signature == "s" else (value.value[0], value.value[1])


def check_mtu(name: str, value: int) -> None:
    """Refuse an MTU that IPv4 or Linux does not allow."""
    if not 68 <= value <= 65535:
        raise Error("InvalidValue", "ss", name, str(value))


class Interface1(Record):
    """One network interface."""

    Name = field("Name", "s")
    Mac = field("Mac", "s")
    Mtu = field("Mtu", "u", check_mtu, writable=True)
    IsUp = field("IsUp", "b")
    IsConnected = field("IsConnected", "b")
    IsPhysical = field("IsPhysical", "b")
    Mode = field("Mode", "s")
    Addresses = field("Addresses", "a(sy)")
    Gateway = field("Gateway", "s")
    Dns = field("Dns", "(asas)")
    Persistent = field("Persistent", "b", writable=True)

    def __init__(self, network: Network1, name: str, mac: str, *, physical: bool) -> None:
        link = {"Mtu": 1500, "IsUp": True, "IsConnected": True, "IsPhysical": physical, "Persistent": physical}
        ipv4 = {"Mode": "None4", "Addresses": [], "Gateway": "", "Dns": [[], []]}
        super().__init__("networkd.Interface1", Name=name, Mac=mac, **link, **ipv4)
        self.network = network
        self.addresses6: list[list[Any]] = []
        self.gateway6: list[str] = []

    @method()
    def BringUp(self):
        self.put(IsUp=True)

    @method()
    def BringDown(self):
        self.put(IsUp=False, Mode="None4", Addresses=[], Gateway="")

    @method()
    def SetIpv4(self, mode: "s", addresses: "a(sy)", gateway: "s"):
        if mode not in MODES:
            raise Error("InvalidValue", "ss", "mode", mode)
        if (mode == "Static4") != bool(addresses):
            raise Error("InvalidValue", "ss", "addresses", str(len(addresses)))
        for address, prefix in addresses:
            self._check_address(address, prefix)
        self.put(Mode=mode, Addresses=addresses, Gateway=gateway)

    @method()
    def GetPciBusPath(self) -> "s":
        name = self.values["Name"]
        return f"0000:00:1{name[-1]}.0" if self.values["IsPhysical"] else ""

    @method()
    def SetConfiguration4(self, conf: "v"):
        mode, addresses = tag(conf)
        self.SetIpv4(mode, addresses or [], self.values["Gateway"] if addresses else "")

    @method()
    def GetGateway4(self) -> "as":
        return [self.values["Gateway"]] if self.values["Gateway"] else []

    @method()
    def GetAddresses6(self) -> "a(sx)":
        return self.addresses6

    @method()
    def GetGateway6(self) -> "as":
        return self.gateway6

    @method()
    def GetCapabilities(self) -> "as":
        return ["sriov"] if self.values["IsPhysical"] else []

    @method()
    def HasVlan(self, vlan: "x") -> "b":
        return self.network.has_vlan(self.values["Name"], vlan)

    @method()
    def EnableSriov(self) -> "v":
        if not self.values["IsPhysical"]:
            return Variant("(ss)", ["Error", f"{self.values['Name']} is not a network card"])
        return Variant("(ss)", ["Ok", "Sysfs_successful"])

    @method()
    def DisableSriov(self) -> "v":
        return Variant("s", "Ok")

    def configure(self, config: dict[str, Any]) -> None:
        """Take over an entry of ConfigureInterfaces."""
        self.SetConfiguration4(config["ipv4_conf"])
        _mode, self.addresses6 = tag(config["ipv6_conf"])
        self.addresses6 = self.addresses6 or []
        self.gateway6 = [config["ipv6_gateway"].value] if "ipv6_gateway" in config else []
        changes = {"Mtu": config["mtu"].value, "Persistent": config["persistent_i"].value}
        if "ipv4_gateway" in config:
            changes["Gateway"] = config["ipv4_gateway"].value
        if "dns" in config:
            changes["Dns"] = config["dns"].value
        check_mtu("mtu", changes["Mtu"])
        self.put(**changes)

    @method()
    def SetDns(self, nameservers: "as", domains: "as"):
        self.put(Dns=[nameservers, domains])

    @staticmethod
    def _check_address(address: str, prefix: int) -> None:
        try:
            ipaddress.IPv4Interface(f"{address}/{prefix}")
        except ValueError:
            raise Error("InvalidValue", "ss", "addresses", f"{address}/{prefix}") from None


class Bridge1(Record):
    """One bridge."""

    Name = field("Name", "s")
    Mac = field("Mac", "s")
    Vlan = field("Vlan", "(sq)")
    Persistent = field("Persistent", "b", writable=True)
    OtherConfig = field("OtherConfig", "a{ss}")

    def __init__(self, network: Network1, name: str, mac: str, vlan: list[Any], other_config: dict[str, str]) -> None:
        more = {"Vlan": vlan, "Persistent": False, "OtherConfig": other_config}
        super().__init__("networkd.Bridge1", Name=name, Mac=mac or made_up_mac(name), **more)
        self.network = network
        self.ports: dict[str, list[str]] = {}

    @method()
    def Destroy(self, force: "b"):
        if self.ports and not force:
            raise Error("BridgeInUse", "sas", self.values["Name"], sorted(self.ports))
        self.network.remove(self)

    @method()
    def GetPorts(self) -> "a{sas}":
        return self.ports

    @method()
    def GetBonds(self) -> "a{sas}":
        return {port: interfaces for port, interfaces in self.ports.items() if len(interfaces) > 1}

    @method()
    def GetInterfaces(self) -> "as":
        return sorted({name for interfaces in self.ports.values() for name in interfaces})

    @method()
    def GetPhysicalInterfaces(self) -> "as":
        names = sorted({name for interfaces in self.ports.values() for name in interfaces})
        return [name for name in names if self.network.find("interface", name).values["IsPhysical"]]

    @method()
    def AddPort(self, port: "s", interfaces: "as", bond_mac: "s", bond_properties: "a{ss}", kind: "s"):
        self.add_port(port, interfaces, bond_properties, kind)

    def add_port(self, port: str, interfaces: list[str], bond_properties: dict[str, str], kind: str) -> None:
        """Add a port, which has several interfaces if it is a bond."""
        if kind not in PORT_KINDS:
            raise Error("InvalidValue", "ss", "kind", kind)
        if port in self.ports:
            raise Error("AlreadyExists", "ss", "port", port)
        mode = bond_properties.get("mode", BOND_MODES[0])
        if mode not in BOND_MODES or not interfaces:
            raise Error("InvalidValue", "ss", "mode" if interfaces else "interfaces", mode if interfaces else "")
        for name in interfaces:
            self.network.find("interface", name)
        self.ports[port] = interfaces

    @method()
    def RemovePort(self, port: "s"):
        if self.ports.pop(port, None) is None:
            raise Error("NotFound", "ss", "port", port)


class Network1(Record):
    """The lists, and what concerns the whole host."""

    GatewayInterface = field("GatewayInterface", "s", writable=True)
    DnsInterface = field("DnsInterface", "s", writable=True)

    def __init__(self, bus: Bus) -> None:
        super().__init__("networkd.Network1", GatewayInterface="", DnsInterface="")
        self.bus = bus
        self.objects: dict[tuple[str, str], Bridge1 | Interface1] = {}  # kind and name -> object
        self.sites: dict[str, dict[str, Any]] = {}  # of the PVS proxy

    @method()
    def ListBridges(self) -> "as":
        return self._names("bridge")

    @method()
    def ListInterfaces(self) -> "as":
        return self._names("interface")

    @method()
    def FindBridge(self, name: "s") -> "o":
        self.find("bridge", name)
        return path("bridge", name)

    @method()
    def CreateBridge(self, name: "s", mac: "s", vlan: "(sq)", igmp_snooping: "b", other_config: "a{ss}") -> "o":
        if not 0 < len(name) <= LONGEST_NAME:
            raise Error("InvalidValue", "ss", "name", name)
        if ("bridge", name) not in self.objects:
            self.add_bridge(Bridge1(self, name, mac, vlan, other_config))
        elif self.objects["bridge", name].values["Vlan"] != vlan:
            raise Error("AlreadyExists", "ss", "bridge", name)
        return path("bridge", name)

    @method()
    def GetStatistics(self) -> "a{s(ttttb)}":
        up = {name: object_.values["IsUp"] for (kind, name), object_ in self.objects.items() if kind == "interface"}
        return {name: [1_000_000, 500_000, 0, 0, True] if is_up else [0, 0, 0, 0, False] for name, is_up in up.items()}

    @method()
    def ResetState(self):
        self.ClearState()

    @method()
    def SyncState(self):
        for object_ in self.objects.values():
            object_.put(Persistent=True)

    @method()
    def GetInterfacePositions(self) -> "a{sx}":
        cards = [name for (kind, name), each in self.objects.items() if kind == "interface" and is_card(each)]
        return {name: position for position, name in enumerate(cards)}

    @method()
    def InterfaceExists(self, name: "s") -> "b":
        return ("interface", name) in self.objects

    @method()
    def ConfigureInterfaces(self, conservative: "b", config: "a{sa{sv}}"):
        found = [(self.find("interface", name), each) for name, each in config.items()]
        for interface, each in found:
            interface.configure(each)

    @method()
    def GetKind(self) -> "s":
        return "Openvswitch"

    @method()
    def GetPorts(self, from_cache: "b") -> "a{sas}":
        return self.ports()

    @method()
    def GetBonds(self, from_cache: "b") -> "a{sas}":
        return {port: interfaces for port, interfaces in self.ports().items() if len(interfaces) > 1}

    @method()
    def ConfigureBridges(self, conservative: "b", config: "a{sa{sv}}"):
        for name, each in config.items():
            wanted = {key: value.value for key, value in each.items()}
            arguments = (wanted.get("bridge_mac", ""), wanted.get("vlan", ["", 0]), True, wanted["other_config"])
            self.CreateBridge(name, *arguments)
            bridge = self.objects["bridge", name]
            bridge.put(Persistent=wanted["persistent_b"])
            for port, of_port in wanted["ports"].items():
                if port not in bridge.ports:
                    has = {key: value.value for key, value in of_port.items()}
                    bridge.add_port(port, has["interfaces"], has["bond_properties"], has["kind"])

    @method()
    def ConfigurePvsSite(self, pvs: "a{sv}"):
        self.sites[pvs["site_uuid"].value] = pvs

    @method()
    def RemovePvsSite(self, site: "s"):
        self.sites.pop(site, None)

    @method()
    def ConfigureVf(self, pci_address: "a{sv}", vf_info: "a{sv}") -> "v":
        if "rate" in vf_info:
            return Variant("(sv)", ["Error", Variant("s", "Config_vf_rate_not_supported")])
        return Variant("s", "Ok")

    def ports(self) -> dict[str, list[str]]:
        """The ports of all bridges."""
        bridges = [each for (kind, _), each in self.objects.items() if kind == "bridge"]
        return {port: interfaces for bridge in bridges for port, interfaces in bridge.ports.items()}

    def has_vlan(self, interface: str, vlan: int) -> bool:
        """Whether a bridge carries this VLAN of an interface."""
        bridges = {name: each for (kind, name), each in self.objects.items() if kind == "bridge"}
        parents = {name for name, each in bridges.items() if any(interface in ports for ports in each.ports.values())}
        return any(each.values["Vlan"] == [parent, vlan] for each in bridges.values() for parent in parents)

    @method()
    def ClearState(self):
        for object_ in self.objects.values():
            object_.put(Persistent=False)

    @signal()
    def BridgeAdded(self, name: str, bridge: str) -> "so":
        return [name, bridge]

    @signal()
    def BridgeRemoved(self, name: str) -> "s":
        return name

    def find(self, kind: str, name: str) -> Bridge1 | Interface1:
        """The object of this name; raises Error."""
        if (kind, name) not in self.objects:
            raise Error("NotFound", "ss", kind, name)
        return self.objects[kind, name]

    def add_interface(self, interface: Interface1) -> None:
        """Export an interface."""
        name = interface.values["Name"]
        self.objects["interface", name] = interface
        self.bus.export(path("interface", name), interface)

    def add_bridge(self, bridge: Bridge1) -> None:
        """Export a bridge, and the interface of its name that the host has on it."""
        name = bridge.values["Name"]
        self.objects["bridge", name] = bridge
        self.bus.export(path("bridge", name), bridge)
        self.add_interface(Interface1(self, name, bridge.values["Mac"], physical=False))
        self.BridgeAdded(name, path("bridge", name))

    def remove(self, bridge: Bridge1) -> None:
        """Forget a bridge and its interface."""
        name = bridge.values["Name"]
        for kind in ("bridge", "interface"):
            del self.objects[kind, name]
            self.bus.unexport(path(kind, name))
        self.BridgeRemoved(name)

    def diagnose(self) -> list[str]:
        """Lines for people."""
        return [f"{kind} {name}" for kind, name in self.objects]

    def _names(self, wanted: str) -> list[str]:
        return [name for kind, name in self.objects if kind == wanted]


def is_card(interface: Record) -> bool:
    """Whether an interface is a network card."""
    return bool(interface.values["IsPhysical"])


def path(kind: str, name: str) -> str:
    """The object of a bridge or an interface."""
    return f"{PATH}/{kind}/{element(name)}"


def made_up_mac(name: str) -> str:
    """A locally administered MAC address that is always the same for a name."""
    digest = hashlib.sha256(name.encode()).digest()
    return ":".join(f"{byte:02x}" for byte in (0x02, *digest[:5]))


async def start(bus: Bus) -> None:
    """Export two cards and two bridges, the first with an address and a card."""
    network = Network1(bus)
    bus.export(PATH, Service1("networkd", ["bonds", "vlans"], network.diagnose))
    bus.export(PATH, network)
    for number in range(2):
        network.add_interface(Interface1(network, f"eth{number}", f"52:54:00:00:00:1{number}", physical=True))
    for number in range(2):
        bridge = Bridge1(network, f"xenbr{number}", "", ["", 0], {})
        network.add_bridge(bridge)
        bridge.ports[f"eth{number}"] = [f"eth{number}"]
    management = network.find("interface", "xenbr0")
    management.put(Mode="Static4", Addresses=[["192.0.2.10", 24]], Gateway="192.0.2.1")
    management.put(Dns=[["192.0.2.53"], ["example"]])
    network.put(GatewayInterface="xenbr0", DnsInterface="xenbr0")


if __name__ == "__main__":
    run("networkd", start)
