"""Services that no one here wrote, reached by old clients through the shipped examples, and objects of a connection.

Where a package is missing, its tests are skipped and say so (scripts/outsiders). test_sweep.py reads all of them.
"""

from __future__ import annotations

import shutil
import xmlrpc.client
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kit.gateway import Folder, Process, gateway_process
from tests.kit.outsiders import Running, outsider, prepared
from tests.kit.programs import ROOT

pytestmark = pytest.mark.bus


@contextmanager
def gateway_to(service: Running, path: Path, mapping: str, idl: str = "") -> Iterator[Process]:
    folder = Folder(path)
    (folder.mappings / "service.xml").write_text(idl)
    folder.buses({"system": (service.address, "org.*")})
    folder.mapping(mapping)
    with gateway_process(folder.config) as process:
        yield process


# Objects that belong to a connection

GROUP_IDL = """<node><interface name="org.freedesktop.Avahi.Server">
<method name="EntryGroupNew"><arg name="path" type="o" direction="out"/></method></interface>
<interface name="org.freedesktop.Avahi.EntryGroup">
<method name="IsEmpty"><arg name="empty" type="b" direction="out"/></method><method name="Reset"/></interface></node>
"""
GROUPS = """mapping: 1
service: avahi
dbus: {bus_name: org.freedesktop.Avahi, object_path: /, interface: org.freedesktop.Avahi.Server, idl: service.xml}
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
    with outsider("avahi") as service, gateway_to(service, tmp_path, GROUPS, GROUP_IDL) as process:
        address = f"{process.url}/RPC2"
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
        xmlrpc.client.ServerProxy(f"{process.url}/{name}", allow_none=True) as proxy,
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
