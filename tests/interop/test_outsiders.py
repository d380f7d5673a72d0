"""Services that no one here wrote, reached by old clients: list, read every property, act, follow a returned object.

The mapping of each test is made from what the service tells about itself: each property and method of each interface,
with the object path as a parameter. Where a package is missing, its tests are skipped and say so (scripts/outsiders).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import xmlrpc.client
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import Message

from gateway.core.dbus.introspection_xml import Interface
from tests.kit.gateway import Folder, Process, gateway_process
from tests.kit.outsiders import OUTSIDERS, Running, outsider, over_jsonrpc, over_xmlrpc, prepared, url
from tests.kit.programs import ROOT

pytestmark = pytest.mark.bus

OBJECT = {"name": "object__", "object": "/"}
EACH = 3  # objects of an interface whose properties are read

Call = Callable[..., Any]


def mapping_of(service: Running, folder: Path) -> dict[str, Any]:
    """A mapping file of all properties and methods of a service, with its IDL beside it. JSON is YAML too."""
    methods: dict[str, Any] = {}
    for number, (name, interface) in enumerate(service.interfaces.items()):
        (folder / f"{number}.xml").write_text(service.idl(name))
        where = {"interface": name, "idl": f"{number}.xml", "params": [OBJECT]}
        for known in interface.properties.values():
            if "read" in known.access and not known.type.has_file_descriptor:
                methods[f"{name}.{known.name}"] = {**where, "property": known.name}
        methods.update(_members(interface, where))
    return {
        "mapping": 1,
        "service": service.name,
        "dbus": {"bus_name": service.bus_name},
        "expose": [
            {"listener": "rpc", "path": "/RPC2", "codec": "xmlrpc"},
            {"listener": "rpc", "path": "/jsonrpc", "codec": "jsonrpc"},
        ],
        "methods": methods,
    }


def _members(interface: Interface, where: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for method in interface.methods.values():
        if not any(argument.type.has_file_descriptor for argument in (*method.ins, *method.outs)):
            params = [OBJECT, *(argument.name for argument in method.ins)]
            yield f"{interface.name}.{method.name}()", {**where, "member": method.name, "params": params}


@contextmanager
def gateway_to(service: Running, path: Path, mapping: str = "") -> Iterator[Process]:
    """A gateway with the mapping of a service, or with this one."""
    folder = Folder(path)
    folder.buses({"system": (service.address, "org.*")})
    folder.mapping(mapping or json.dumps(mapping_of(service, folder.mappings)))
    with gateway_process(folder.config) as process:
        yield process


def caller(process: Process) -> Call:
    """Call one method over XML-RPC, and fail on a fault."""

    def call(method: str, *params: object) -> Any:
        with xmlrpc.client.ServerProxy(url(process, "/RPC2"), allow_none=True) as proxy:
            return getattr(proxy, method)(*params)

    return call


@pytest.mark.parametrize("name", OUTSIDERS)
def test_every_property_of_every_interface_can_be_read(name: str, tmp_path: Path) -> None:
    """What the gateway does not answer, the service itself does not answer either."""
    with prepared(name) as service, gateway_to(service, tmp_path) as process:
        reads = [
            (interface, known.name, path)
            for interface, described in service.interfaces.items()
            for known in described.properties.values()
            if "read" in known.access
            for path in [path for path in service.paths[interface] if path != "/"][-EACH:]
        ]
        assert reads or name == "avahi", f"{name} has no property"
        calls = [(f"{interface}.{known}", path) for interface, known, path in reads]
        for answers in (over_xmlrpc(process, calls), over_jsonrpc(process, calls)):
            refused = []
            for (interface, known, path), answer in zip(reads, answers, strict=True):
                if isinstance(answer, ValueError):
                    get = "org.freedesktop.DBus.Properties.Get"
                    itself = service.direct(path, get, "ss", interface, known)
                    if not (isinstance(itself, Message) and itself.error_name):
                        refused.append(f"{path} {interface}.{known}: {answer}, and the service has {itself}")
            assert refused == []


# Acts, and returned objects


def _libvirt(call: Call, service: Running) -> None:
    (domain,) = call("org.libvirt.Connect.ListDomains()", "/org/libvirt/Test", 0)
    assert call("org.libvirt.Domain.Name", domain) == "test"
    call("org.libvirt.Domain.Suspend()", domain)
    assert call("org.libvirt.Domain.GetState()", domain, 0)[0] == 3  # paused
    call("org.libvirt.Domain.Resume()", domain)
    assert call("org.libvirt.Domain.GetState()", domain, 0)[0] == 1  # running
    pool = call("org.libvirt.Connect.StoragePoolLookupByName()", "/org/libvirt/Test", "default-pool")
    assert call("org.libvirt.StoragePool.Name", pool) == "default-pool"
    with pytest.raises(xmlrpc.client.Fault, match=r"no object|not found"):
        call("org.libvirt.Domain.Name", domain[:-1] + "0")


def _bluez(call: Call, service: Running) -> None:
    device = "/org/bluez/hci0/dev_11_22_33_44_55_66"
    assert call("org.bluez.Device1.Address", device) == "11:22:33:44:55:66"
    assert call("org.bluez.Adapter1.Name", call("org.bluez.Device1.Adapter", device)) == "my-computer"
    call("org.bluez.Device1.Connect()", device)


def _networkmanager(call: Call, service: Running) -> None:
    manager = "/org/freedesktop/NetworkManager"
    devices = call("org.freedesktop.NetworkManager.GetDevices()", manager)
    assert {call("org.freedesktop.NetworkManager.Device.Interface", each) for each in devices} == {"eth0", "wlan0"}


def _upower(call: Call, service: Running) -> None:
    devices = call("org.freedesktop.UPower.EnumerateDevices()", "/org/freedesktop/UPower")
    names = {call("org.freedesktop.UPower.Device.Model", each) for each in devices}
    assert names == ({"Mock AC", "Mock"} if service.name == "upower" else set())
    display = call("org.freedesktop.UPower.GetDisplayDevice()", "/org/freedesktop/UPower")
    assert isinstance(call("org.freedesktop.UPower.Device.Percentage", display), float)


def _modemmanager(call: Call, service: Running) -> None:
    modem = next(path for path in service.made if "/Modems/" in path)
    assert call("org.freedesktop.ModemManager1.Modem.State", modem) is not None
    manager = "/org/freedesktop/ModemManager1"
    objects = call("org.freedesktop.DBus.ObjectManager.GetManagedObjects()", manager)
    assert modem in objects


def _logind(call: Call, service: Running) -> None:
    manager = "/org/freedesktop/login1"
    ((session, _, user, seat, path),) = call("org.freedesktop.login1.Manager.ListSessions()", manager)
    assert (session, user, seat) == ("c1", "joe", "seat0")
    assert call("org.freedesktop.login1.Session.Name", path) == "joe"
    call("org.freedesktop.login1.Session.Activate()", path)


def _hostnamed(call: Call, service: Running) -> None:
    described = json.loads(call("org.freedesktop.hostname1.Describe()", "/org/freedesktop/hostname1"))
    assert described["Hostname"] == call("org.freedesktop.hostname1.Hostname", "/org/freedesktop/hostname1")


def _timedated(call: Call, service: Running) -> None:
    zones = call("org.freedesktop.timedate1.ListTimezones()", "/org/freedesktop/timedate1")
    assert "UTC" in zones


def _accounts(call: Call, service: Running) -> None:
    user = call("org.freedesktop.Accounts.FindUserById()", "/org/freedesktop/Accounts", 0)
    assert user == "/org/freedesktop/Accounts/User0"
    assert call("org.freedesktop.Accounts.User.UserName", user) == "root"


def _udisks(call: Call, service: Running) -> None:
    manager = "/org/freedesktop/UDisks2/Manager"
    assert isinstance(call("org.freedesktop.UDisks2.Manager.GetBlockDevices()", manager, {}), list)
    with pytest.raises(xmlrpc.client.Fault, match=r"UDisks2|nothing"):
        call("org.freedesktop.UDisks2.Manager.CanFormat()", manager, "nothing")


def _firewalld(call: Call, service: Running) -> None:
    root = "/org/fedoraproject/FirewallD1"
    zones = call("org.fedoraproject.FirewallD1.zone.getZones()", root)
    assert "public" in zones
    call("org.fedoraproject.FirewallD1.zone.addPort()", root, "public", "8080", "tcp", 0)
    assert call("org.fedoraproject.FirewallD1.zone.getPorts()", root, "public") == [["8080", "tcp"]]
    zone = call("org.fedoraproject.FirewallD1.config.getZoneByName()", f"{root}/config", "public")
    assert call("org.fedoraproject.FirewallD1.config.zone.name", zone) == "public"


def _colord(call: Call, service: Running) -> None:
    manager = "/org/freedesktop/ColorManager"
    assert call("org.freedesktop.ColorManager.Device.DeviceId", service.made[0]) == "first"
    device = call("org.freedesktop.ColorManager.CreateDevice()", manager, "mine", "temp", {"Kind": "printer"})
    assert call("org.freedesktop.ColorManager.Device.DeviceId", device) == "mine"
    assert device in call("org.freedesktop.ColorManager.GetDevices()", manager)


ACTS: Mapping[str, Callable[[Call, Running], None]] = {
    "libvirt": _libvirt,
    "bluez5": _bluez,
    "networkmanager": _networkmanager,
    "upower": _upower,
    "upowerd": _upower,
    "modemmanager": _modemmanager,
    "logind": _logind,
    "hostnamed": _hostnamed,
    "timedated": _timedated,
    "accounts": _accounts,
    "udisks": _udisks,
    "firewalld": _firewalld,
    "colord": _colord,
}


@pytest.mark.parametrize("name", ACTS)
def test_an_old_client_acts_and_follows_what_is_returned(name: str, tmp_path: Path) -> None:
    with prepared(name) as service, gateway_to(service, tmp_path) as process:
        ACTS[name](caller(process), service)


def test_every_outsider_acts_somewhere() -> None:
    assert OUTSIDERS.keys() - ACTS.keys() == {"avahi"}  # below: its objects belong to a connection


def test_a_scaffolded_mapping_takes_the_names_of_devices(tmp_path: Path) -> None:
    with prepared("bluez5") as service:
        folder = Folder(tmp_path)
        for each in folder.mappings.iterdir():
            each.unlink()
        folder.buses({"system": (service.address, "org.*")})
        line = [sys.executable, "-m", "gateway", "scaffold", "bus", "org.bluez", "--by-name"]
        where = ["--config", str(folder.config), "--output", str(folder.mappings)]
        subprocess.run([*line, *where], check=True, capture_output=True)
        with (
            gateway_process(folder.config) as process,
            xmlrpc.client.ServerProxy(url(process, "/bluez")) as proxy,
        ):
            api: Any = proxy
            assert api.device.alias("11:22:33:44:55:66") == "phone"
            api.device.connect("11-22-33-44-55-66")
            assert api.device.address("11-22-33-44-55-66") == "11:22:33:44:55:66"
            with pytest.raises(xmlrpc.client.Fault, match="object path"):
                api.device.alias("../hci0")


def test_a_service_that_has_ended_is_started_for_the_next_call(tmp_path: Path) -> None:
    """hostnamed ends by itself after half a minute without a call."""
    path, known = "/org/freedesktop/hostname1", "org.freedesktop.hostname1.Hostname"
    with prepared("hostnamed") as service, gateway_to(service, tmp_path) as process:
        before = caller(process)(known, path)
        broker = Running("dbus", "org.freedesktop.DBus", service.address)
        owner = "org.freedesktop.DBus.GetConnectionUnixProcessID"
        number = broker.direct("/org/freedesktop/DBus", owner, "s", service.bus_name)
        os.kill(number, signal.SIGTERM)
        while broker.direct("/org/freedesktop/DBus", "org.freedesktop.DBus.NameHasOwner", "s", service.bus_name):
            pass
        assert caller(process)(known, path) == before
        assert broker.direct("/org/freedesktop/DBus", owner, "s", service.bus_name) != number


# Objects that belong to a connection

GROUP_IDL = """<node><interface name="org.freedesktop.Avahi.Server">
<method name="EntryGroupNew"><arg name="path" type="o" direction="out"/></method></interface>
<interface name="org.freedesktop.Avahi.EntryGroup">
<method name="IsEmpty"><arg name="empty" type="b" direction="out"/></method><method name="Reset"/></interface></node>
"""
GROUPS = """mapping: 1
service: avahi
dbus: {bus_name: org.freedesktop.Avahi, object_path: /, interface: org.freedesktop.Avahi.Server, idl: group.xml}
connection: {of: client}
expose:
  - {listener: rpc, path: /RPC2, codec: xmlrpc}
defaults: {effect: write}
methods:
  new: {member: EntryGroupNew}
  empty:
    {member: IsEmpty, interface: org.freedesktop.Avahi.EntryGroup, params: [{name: group, object: /}]}
"""


def test_an_entry_group_belongs_to_the_client_that_made_it(tmp_path: Path) -> None:
    """Avahi answers its maker only, and removes it with the bus connection of its maker."""
    with outsider("avahi") as service:
        (tmp_path / "mappings").mkdir()
        (tmp_path / "mappings/group.xml").write_text(GROUP_IDL)
        with gateway_to(service, tmp_path, GROUPS) as process:
            address = url(process, "/RPC2")
            with xmlrpc.client.ServerProxy(address) as other:
                with xmlrpc.client.ServerProxy(address) as maker:
                    group = maker.new()
                    assert maker.empty(group) is True
                    with pytest.raises(xmlrpc.client.Fault):
                        other.empty(group)
                    mine = other.new()
                    assert mine != group
                assert other.empty(mine) is True
                with pytest.raises(xmlrpc.client.Fault):
                    other.empty(group)


# The shipped examples

EXAMPLES = ROOT / "mappings/examples"


@contextmanager
def example(name: str, service: Running, path: Path) -> Iterator[xmlrpc.client.ServerProxy]:
    """A client of a gateway with this example alone."""
    (path / "mappings").mkdir()
    shutil.copytree(EXAMPLES / "idl", path / "mappings/idl")
    with (
        gateway_to(service, path, (EXAMPLES / f"{name}.yaml").read_text()) as process,
        xmlrpc.client.ServerProxy(url(process, f"/{name}"), allow_none=True) as proxy,
    ):
        yield proxy


def test_the_example_for_libvirt(tmp_path: Path) -> None:
    with outsider("libvirt") as service, example("libvirt", service, tmp_path) as proxy:
        api: Any = proxy
        (domain,) = api.domain.list()
        record = api.domain.record(domain)
        assert (record["Name"], record["Active"]) == ("test", True)
        assert api.domain.name(record["UUID"]) == "test"
        api.domain.suspend(record["UUID"])
        assert api.domain.state(domain) == {"state": 3, "reason": 1}
        api.domain.resume(record["UUID"])
        assert api.domain.state(domain.rpartition("/")[2])["state"] == 1
        assert api.pool.record(api.pool.by_name("default-pool"))["Name"] == "default-pool"
        none = "11111111-aaaa-4aaa-8aaa-000000000001"
        for refused in (api.domain.name, api.domain.suspend):
            with pytest.raises(xmlrpc.client.Fault, match="HANDLE_INVALID"):
                refused(none)
        with pytest.raises(xmlrpc.client.Fault, match="expected an object path below /org/libvirt/Test/domain"):
            api.domain.record("/org/libvirt/QEMU/domain/x")


def test_the_example_for_networkmanager_takes_the_plain_structs_of_an_old_client(tmp_path: Path) -> None:
    with prepared("networkmanager") as service, example("networkmanager", service, tmp_path) as proxy:
        api: Any = proxy
        devices = api.device.list()
        records = [api.device.record(device) for device in devices]
        assert {record["interface"] for record in records} == {"eth0", "wlan0"}
        assert ["hw_address" in record for record in records].count(True) == 1  # only one has a radio
        settings = {
            "connection": {"id": "office", "uuid": "11111111-aaaa-4aaa-8aaa-000000000001", "type": "802-3-ethernet"},
            "802-3-ethernet": {"mtu": 1400},
            "ipv4": {"method": "manual", "address-data": [{"address": "192.0.2.7", "prefix": 24}], "dns-search": ["x"]},
        }
        made = api.connection.add(settings)
        assert made in api.connection.list()
        kept = api.connection.settings(made)
        assert {name: kept[name] for name in settings} == settings
        get = "org.freedesktop.NetworkManager.Settings.Connection.GetSettings"
        sent = service.direct(made, get)
        assert (sent["802-3-ethernet"]["mtu"].signature, sent["ipv4"]["address-data"].signature) == ("u", "aa{sv}")
        api.connection.delete(made)
        assert made not in api.connection.list()
        with pytest.raises(xmlrpc.client.Fault, match="expected an object path below"):
            api.device.record(made)


def test_the_example_for_bluez(tmp_path: Path) -> None:
    with prepared("bluez5") as service, example("bluez", service, tmp_path) as proxy:
        api: Any = proxy
        assert list(api.device.records()) == ["11:22:33:44:55:66"]
        assert api.device.alias(0, "11:22:33:44:55:66") == "phone"
        api.device.set_trusted("0", "11-22-33-44-55-66", True)
        assert api.device.trusted(0, "11:22:33:44:55:66") is True
        adapter = api.device.adapter(0, "11:22:33:44:55:66")
        assert api.adapter.record(adapter)["Name"] == "my-computer"
        api.device.connect(0, "11:22:33:44:55:66")
        with pytest.raises(xmlrpc.client.Fault, match="NO_DEVICE"):
            api.device.alias(0, "aa:bb:cc:dd:ee:ff")
