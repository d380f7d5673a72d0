"""The methods that every endpoint answers by itself."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.core.dbus.signature import parse_one
from gateway.core.dbus.target import Parameter
from gateway.core.routing.route import LocalTarget, Route
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Reply, Value
from gateway.core.rpc.spelling import MethodSpelling
from gateway.mapping.table import EndpointKey, EndpointTable
from gateway.pipeline.introspection import introspection_routes, json_schema
from tests.kit.cases import each_case, expect
from tests.kit.mappings import route

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


def builtins(codec: str = "xmlrpc") -> Mapping[str, Route]:
    table = EndpointTable(
        EndpointKey("rpc", "/RPC2"), codec, "plain", {"VM.start": START, "VM.shutdown": SHUTDOWN, "VM_start": START}
    )
    return introspection_routes(table, codec)


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
        assert [*introspection_routes(table, codec)] == own


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
