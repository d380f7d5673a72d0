"""The OpenRPC document: parameters and results from routes; fields, errors and servers from files and addresses."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from gateway.check import compiled
from gateway.mapping.changes.surface import surface
from gateway.mapping.table import EndpointKey
from gateway.pipeline.introspection import MOST_ERRORS, describe, openrpc
from tests.kit.cases import expect
from tests.kit.gateway import TOY_MAPPING, Folder, gateway_process

IDL = """<node><interface name="org.example.Shop1">
<method name="Find"><arg name="title" type="s" direction="in"/>
  <arg name="book" type="s" direction="out"/><arg name="price" type="t" direction="out"/></method>
<method name="List"><arg name="books" type="a(sx)" direction="out"/></method>
<method name="All"><arg name="books" type="a{sa{sv}}" direction="out"/></method>
<property name="Owner" type="s" access="read"/><property name="Size" type="u" access="read"/>
</interface></node>"""
MAPPING = """\
mapping: 1
service: shop
dbus: {bus_name: org.example.Shop, object_path: /shop, interface: org.example.Shop1, idl: shop.xml}
expose: [{listener: rpc, path: /json, codec: jsonrpc}]
errors: {org.example.Error.NoBook: {code: NO_BOOK, args: ["{0}"], message: no such book}}
methods:
  find: {member: Find, params: [title], errors: {org.example.Error.Busy: {code: 17}}}
  list: {member: List, result: {struct: [title, made]}}
  all: {member: All, result: {fields: {name: Name, born: {from: Born, format: datetime}}}}
  record: {all_properties: true}
  records: {managed_objects: true, result: {fields: {size: Size}}}
"""


def document(mapping: str = MAPPING, servers: tuple[str, ...] = ()) -> Any:
    path = Path("/nowhere/shop.yaml")
    table, problems = compiled(path, mapping.encode(), {path.with_name("shop.xml"): IDL.encode()})
    assert problems == []
    return openrpc(table.endpoints[EndpointKey("rpc", "/json")], describe(surface(table)), servers)


def schema(name: str) -> Any:
    return next(each["result"]["schema"] for each in document()["methods"] if each["name"] == name)


def test_results_have_the_fields_of_the_idl_and_the_mapping() -> None:
    number = {"type": "integer", "minimum": 0, "maximum": 2**32 - 1}
    assert schema("record") == {"type": "object", "properties": {"Owner": {"type": "string"}, "Size": number}}
    assert schema("records") == {
        "type": "object",
        "additionalProperties": {"type": "object", "properties": {"size": number}},
    }
    assert [*schema("find")["properties"]] == ["book", "price"]
    assert schema("list")["items"]["properties"].keys() == {"title", "made"}
    assert schema("all")["additionalProperties"]["properties"] == {"name": {}, "born": {"type": "string"}}


def test_errors_are_components() -> None:
    found = document()
    assert found["components"]["errors"] == {
        "17__org.example.Error.Busy": {"code": 17, "message": "17"},
        "NO_BOOK__org.example.Error.NoBook": {"code": 1, "message": "NO_BOOK: no such book", "data": ["{0}"]},
    }
    errors = {each["name"]: [*(e["$ref"].rpartition("/")[2] for e in each["errors"])] for each in found["methods"]}
    assert errors["record"] == ["NO_BOOK__org.example.Error.NoBook"]
    assert errors["find"] == ["NO_BOOK__org.example.Error.NoBook", "17__org.example.Error.Busy"]


def test_of_many_errors_a_method_lists_its_own() -> None:
    many = ", ".join(f"org.example.Error.E{number}: {{code: {number}}}" for number in range(MOST_ERRORS))
    found = document(MAPPING.replace("errors: {org", f"errors: {{{many}, org", 1))
    errors = {each["name"]: len(each.get("errors", ())) for each in found["methods"]}
    assert errors == {"find": 1, "list": 0, "all": 0, "record": 0, "records": 0}


def test_servers_are_the_urls_of_the_endpoint() -> None:
    assert document(servers=("http://localhost:80/json",))["servers"] == [
        {"name": "rpc", "url": "http://localhost:80/json"}
    ]
    assert "servers" not in document()


@pytest.mark.bus
def test_a_running_gateway_tells_real_ports_and_its_socket(tmp_path: Path, empty_bus: str) -> None:
    folder = Folder(tmp_path)
    folder.mapping(TOY_MAPPING.replace("methods:", "errors: {org.example.Error.Full: {code: FULL}}\nmethods:"))
    folder.buses({"example": (empty_bus, "org.example.*")})
    with gateway_process(folder.config) as process:
        address = process.wait_for("ready")["listening"][0].removeprefix("tcp:")
        body = b'{"jsonrpc": "2.0", "id": 1, "method": "rpc.discover"}'
        with urllib.request.urlopen(f"http://{address}/jsonrpc", body) as answer:
            found = expect(dict, json.load(answer)["result"])
    socket = str(tmp_path / "rpc").replace("/", "%2F")
    assert [each["url"] for each in found["servers"]] == [
        f"http://{address}/jsonrpc",
        f"http+unix://{socket}/jsonrpc",
    ]
    assert [*found["components"]["errors"]] == ["FULL__org.example.Error.Full"]
