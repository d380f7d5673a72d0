"""The sweep: what services of the world answer without arguments, old clients get from a scaffolded mapping as it is.

For each service, `xcp-gateway scaffold bus` writes IDL and mapping, a gateway serves them, and each read of each object
is made three times: directly, over XML-RPC and over JSON-RPC. The objects are those that the test finds by itself.
A value that the service gives before and after is the same over both protocols.
"""

from __future__ import annotations

import base64
import json
import re
import urllib.request
import xmlrpc.client
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import Message, Variant

from gateway.check import check
from gateway.core.dbus.object_paths import PathTemplate
from gateway.core.dbus.target import PropertyTarget, Target
from gateway.mapping.table import Table
from tests.kit.command import succeed
from tests.kit.gateway import Folder, gateway_process
from tests.kit.outsiders import OUTSIDERS, Running, prepared

pytestmark = pytest.mark.bus

EACH = 3  # objects of an interface that are read
BATCH = 100  # calls in one message
SHARE = 0.97  # of the reads that the service answers
PROPERTIES, MANAGER = "org.freedesktop.DBus.Properties", "org.freedesktop.DBus.ObjectManager"
READ = re.compile("([Gg]et|[Ll]ist|[Ee]numerate|[Ii]s|[Hh]as|[Cc]an|[Qq]uery|[Dd]escribe)(?![a-z])")


@dataclass(frozen=True)
class Read:
    """A read without arguments: a property, all properties, or a method that reads by its name."""

    path: str
    interface: str
    kind: str
    member: str

    def direct(self, service: Running) -> Any:
        if self.kind == "property":
            return service.direct(self.path, f"{PROPERTIES}.Get", "ss", self.interface, self.member)
        if self.kind == "all_properties":
            return service.direct(self.path, f"{PROPERTIES}.GetAll", "s", self.interface)
        return service.direct(self.path, f"{self.interface}.{self.member}")


def reads_of(service: Running) -> Iterator[Read]:
    for name, interface in service.interfaces.items():
        if name.startswith("org.freedesktop.DBus.") and name != MANAGER:
            continue
        for path in service.paths[name][-EACH:]:
            readable = [each for each in interface.properties.values() if "read" in each.access]
            readable = [each for each in readable if not each.type.has_file_descriptor]
            yield from (Read(path, name, "property", each.name) for each in readable)
            if readable:
                yield Read(path, name, "all_properties", "")
            for method in interface.methods.values():
                descriptors = any(each.type.has_file_descriptor for each in method.outs)
                if READ.match(method.name) and not method.ins and method.outs and not descriptors:
                    yield Read(path, name, "member", method.name)


def methods_of(table: Table) -> dict[tuple[str, str, str], list[tuple[str, Target, PathTemplate]]]:
    """What each legacy method of a compiled mapping reads: interface, kind and member -> methods with their objects."""
    found: dict[tuple[str, str, str], list[tuple[str, Target, PathTemplate]]] = {}
    reach = {each.where.place.removeprefix("methods."): each.reach for each in table.contracts}
    for route in table.routes():
        target, template = route.bus_target, reach[route.method]
        assert template is not None
        if isinstance(target, PropertyTarget):
            key = target.owner, "property" if target.member == "Get" else "set_property", target.name
        elif target.member == "GetAll":
            contract = next(each for each in table.contracts if each.where.place == f"methods.{route.method}")
            key = contract.interface.name, "all_properties", ""
        else:
            key = target.interface, "member", target.member
        found.setdefault(key, []).append((route.method, target, template))
    return found


def call_for(read: Read, methods: Mapping[Any, list[tuple[str, Target, PathTemplate]]]) -> tuple[str, str] | None:
    """The legacy call that makes a read: its method, and the object path as its parameter or nothing."""
    for method, target, template in methods.get((read.interface, read.kind, read.member), ()):
        if target.object_path == read.path:
            return method, ""
        if "{" in target.object_path and template.reaches(read.path):
            return method, read.path
    return None


@pytest.mark.parametrize("name", OUTSIDERS)
def test_what_a_service_answers_old_clients_get_from_a_scaffolded_mapping(name: str, tmp_path: Path) -> None:
    with prepared(name) as service:
        folder = Folder(tmp_path)
        for each in folder.mappings.iterdir():
            each.unlink()
        folder.buses({"system": (service.address, "org.*")})
        where = ("--config", folder.config, "--output", folder.mappings, "--service", "swept")
        succeed("scaffold", "bus", service.bus_name, *where, "--follow")
        service.look()
        checked = check([folder.mappings], None, live=False)
        assert checked.problems == []
        methods = methods_of(checked.table)
        before = {read: answer for read in reads_of(service) if not isinstance(answer := read.direct(service), Message)}
        answered = [*before]
        assert answered, f"{name} answers nothing"
        calls = {read: call_for(read, methods) for read in answered}
        found = [call for call in calls.values() if call is not None]
        with gateway_process(folder.config) as process:
            over = (over_xmlrpc(f"{process.url}/swept", found), over_jsonrpc(f"{process.url}/swept/jsonrpc", found))
            steady = {read for read, answer in before.items() if read.direct(service) == answer}
        refused = {f"{read}: nothing reaches it" for read, call in calls.items() if call is None}
        altered: set[str] = set()
        for results in over:
            listed = [*zip((read for read, call in calls.items() if call), results, strict=True)]
            refused |= {f"{read}: {result}" for read, result in listed if isinstance(result, ValueError)}
            altered |= {
                f"{read}: {before[read]!r} became {result!r}"
                for read, result in listed
                if read in steady and not isinstance(result, ValueError) and plain(before[read]) != plain(result)
            }
        assert altered == set()
        served = 1 - len(refused) / len(answered)
        assert served >= SHARE, sorted(refused)


def over_xmlrpc(url: str, calls: Sequence[tuple[str, str]]) -> list[Any]:
    """The value of each call of a method with an object path, or "" for none; its fault as an Exception."""
    done: list[Any] = []
    with xmlrpc.client.ServerProxy(url, allow_none=True) as proxy:
        for start in range(0, len(calls), BATCH):
            part = calls[start : start + BATCH]
            multicall = [{"methodName": name, "params": [path] if path else []} for name, path in part]
            answers: Any = proxy.system.multicall(multicall)
            done += [ValueError(one) if isinstance(one, dict) else one[0] for one in answers]
    return done


def over_jsonrpc(url: str, calls: Sequence[tuple[str, str]]) -> list[Any]:
    """The same over JSON-RPC."""
    found: dict[int, Any] = {}
    numbered = [
        {"jsonrpc": "2.0", "id": number, "method": name, "params": [path] if path else []}
        for number, (name, path) in enumerate(calls)
    ]
    for start in range(0, len(calls), BATCH):
        body = json.dumps(numbered[start : start + BATCH]).encode()
        found |= {one["id"]: one for one in json.loads(urllib.request.urlopen(url, body).read())}
    answers = [found[number] for number in range(len(calls))]
    return [ValueError(one["error"]) if "error" in one else one["result"] for one in answers]


def plain(value: Any) -> Any:
    """A value without what only one protocol has: variants, and the forms of bytes and structs."""
    if isinstance(value, Variant):
        return plain(value.value)
    if isinstance(value, xmlrpc.client.Binary):
        value = value.data
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value
