"""The methods that every endpoint answers by itself."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.check import compiled
from gateway.core.dbus.signature import parse_one
from gateway.core.dbus.target import Parameter
from gateway.core.routing.route import LocalTarget, Route
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Reply, Value
from gateway.core.rpc.spelling import MethodSpelling
from gateway.mapping.changes.surface import Surface, surface
from gateway.mapping.table import EndpointKey, EndpointTable, Table
from gateway.pipeline import introspection
from gateway.pipeline.introspection import MOST_ERRORS, describe, introspection_routes, json_schema, openrpc
from tests.kit.cases import each_case, expect
from tests.kit.gateway import TOY_MAPPING, Folder, gateway_process
from tests.kit.mappings import route
from tests.kit.programs import TIMEOUT

START = route(
    "VM.start",
    parameters=(
        Parameter("session", None, documentation="who asks"),
        Parameter("vm", parse_one("s")),
        Parameter("memory", parse_one("x"), required=False),
    ),
    result=parse_one("(sb)"),
    documentation="Start a VM.",
)
SHUTDOWN = route("VM.shutdown", parameters=(Parameter("vm", parse_one("s")),), result=None)


BUILT_IN = ("getCapabilities", "listMethods", "methodHelp", "methodSignature")


async def answer(routes: Mapping[str, Route], call: Call) -> Outcome:
    target = expect(LocalTarget, routes[call.method].target)
    return await target.answer(call)


async def nothing() -> Value:
    return {}


def builtins(codec: str = "xmlrpc") -> Mapping[str, Route]:
    table = EndpointTable(
        EndpointKey("rpc", "/RPC2"), codec, "plain", {"VM.start": START, "VM.shutdown": SHUTDOWN, "VM_start": START}
    )
    return introspection_routes(table, codec, discover=nothing)


async def value(method: str, *params: Value, codec: str = "xmlrpc") -> Value:
    outcome = expect(Reply, await answer(builtins(codec), Call(method, params)))
    return outcome.value


async def test_list_methods_names_mapped_methods_old_spellings_and_its_own() -> None:
    assert await value("system.listMethods") == [
        "VM.shutdown", "VM.start", "VM_start",
        *(f"system.{each}" for each in BUILT_IN), "system.multicall",
    ]  # fmt: skip
    names = expect(list, await value("system.listMethods", codec="jsonrpc"))
    assert names[3:] == [f"system.{each}" for each in BUILT_IN] + ["rpc.discover"]


async def test_a_method_is_described_under_each_spelling_of_its_name_but_not_as_a_task() -> None:
    table = EndpointTable(
        EndpointKey("rpc", "/"),
        "xmlrpc",
        "xenapi",
        {"VM.shutdown": SHUTDOWN},
        spelling=MethodSpelling("_", ("Async.",)),
    )
    ours = introspection_routes(table, "xmlrpc")
    assert await answer(ours, Call("system.methodSignature", ("VM_shutdown",))) == Reply([["nil", "string"]])
    assert isinstance(await answer(ours, Call("system.methodSignature", ("Async.VM.shutdown",))), Fault)


def test_where_unmapped_methods_pass_through_the_legacy_service_describes_itself() -> None:
    for codec, own in (("xmlrpc", ["system.multicall"]), ("jsonrpc", ["rpc.discover"])):
        table = EndpointTable(EndpointKey("rpc", "/"), codec, "plain", {"VM.start": START}, passthrough_to="old")
        assert [*introspection_routes(table, codec, discover=nothing)] == own


@each_case(
    ("about", "method", "says"),
    [
        ("Signature", "VM.start", [["array", "struct", "string"], ["array", "struct", "string", "i8"]]),
        ("Signature", "VM.shutdown", [["nil", "string"]]),
        ("Signature", "system.methodHelp", [["string", "string"]]),
        (
            "Help",
            "VM.start",
            "Start a VM.\n  session: who asks\n  vm\n  memory (optional)\n" + f"D-Bus: {START.target}",
        ),
        ("Help", "system.multicall", "Make several calls in one message.\n  calls\nAnswered by the gateway itself."),
    ],
)
async def test_a_method_is_described(about: str, method: str, says: Value) -> None:
    """A signature is given for each number of parameters that may be sent."""
    assert await value(f"system.method{about}", method) == says
    assert await answer(builtins(), Call(f"system.method{about}", (), {"name": method})) == Reply(says)


@each_case("name", ["VM.nope", 5, None])
async def test_asking_about_a_method_that_does_not_exist_is_a_fault(name: Value) -> None:
    outcome = expect(Fault, await answer(builtins(), Call("system.methodHelp", (name,))))
    assert outcome.code is FaultCode.INVALID_PARAMS
    assert outcome.message == "$.params[0]: expected the name of a method that system.listMethods lists"


async def test_a_wrong_number_of_parameters_is_a_fault_that_counts_them_but_for_a_session() -> None:
    assert await answer(builtins(), Call("system.methodHelp")) == Fault(
        FaultCode.PARAMETER_COUNT,
        "system.methodHelp: expected 1 parameters, got 0",
        data={"expected": 1, "received": 0},
    )
    assert isinstance(await answer(builtins(), Call("system.listMethods", ("OpaqueRef:1",))), Reply)


async def test_a_multicall_inside_a_multicall_is_refused() -> None:
    outcome = await answer(builtins(), Call("system.multicall"))
    text = "system.multicall cannot be called inside another system.multicall"
    assert outcome == Fault(FaultCode.INVALID_REQUEST, text)


@each_case(
    ("signature", "schema"),
    [
        ("y", {"type": "integer", "minimum": 0, "maximum": 255}),
        ("d", {"type": "number"}),
        ("o", {"type": "string"}),
        ("v", {}),
        ("ay", {"type": "string", "contentEncoding": "base64"}),
        ("as", {"type": "array", "items": {"type": "string"}}),
        ("a{sb}", {"type": "object", "additionalProperties": {"type": "boolean"}}),
    ],
)
def test_each_type_has_the_schema_of_its_json_form(signature: str, schema: object) -> None:
    assert json_schema(parse_one(signature)) == schema


# The OpenRPC document: parameters and results from routes; fields, errors and servers from files and addresses


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


def shop(mapping: str = MAPPING) -> tuple[Table, EndpointTable]:
    path = Path("/nowhere/shop.yaml")
    table, problems = compiled(path, mapping.encode(), {path.with_name("shop.xml"): IDL.encode()})
    assert problems == []
    return table, table.endpoints[EndpointKey("rpc", "/json")]


def document(mapping: str = MAPPING) -> Any:
    table, endpoint = shop(mapping)
    return openrpc(endpoint, describe(surface(table)), ())


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


async def test_methods_are_described_once_for_all_who_ask_also_if_the_first_of_them_leaves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table, endpoint = shop()
    may_go_on, described = threading.Event(), []

    def describe_slowly(asked: Table) -> Surface:
        described.append(asked)
        assert may_go_on.wait(TIMEOUT)
        return surface(asked)

    monkeypatch.setattr(introspection, "surface", describe_slowly)
    describer = introspection.Describer(table)
    first, *others = [asyncio.ensure_future(describer.document(endpoint, tuple)) for _ in range(3)]
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    others.append(asyncio.ensure_future(describer.document(endpoint, tuple)))
    await asyncio.sleep(0)
    may_go_on.set()
    assert await asyncio.wait_for(asyncio.gather(*others), TIMEOUT) == [document()] * 3
    assert (first.cancelled(), described) == (True, [table])


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
