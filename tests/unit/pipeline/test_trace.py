"""One call step by step: what each step shows, and that the call is really made."""

from __future__ import annotations

import dbus_fast as library
import pytest

from adapters.codecs import CODECS
from adapters.dialects import DIALECTS
from gateway.core.dbus.marshal import Variant
from gateway.core.dbus.target import MethodCall
from gateway.core.migration.modes import Migration
from gateway.core.routing.route import CallFinished, CallListener, Route
from gateway.core.rpc.model import Call, Fault, FaultCode, MessageLimits, Outcome, Peer, Reply, Value
from gateway.mapping.table import EndpointKey, EndpointTable
from gateway.pipeline.dispatcher import Dispatcher
from gateway.pipeline.endpoint import RpcEndpoint
from gateway.pipeline.trace import explain, show_method_call
from tests.kit.mappings import route
from tests.kit.traffic import ScriptedBus
from tests.kit.upstreams import Scripted


async def bus(route: Route, call: Call) -> Outcome:
    """Bind and shape as the real one does, with an echo in place of the bus."""
    body = route.encode_arguments(call).body
    if body[0] == "fail":
        return route.map_error(Fault(FaultCode.REMOTE, "gone", "org.xen.xcp.Error.Gone", ["vm7"]), call)
    return Reply(route.decode_result(body))


def exchange(*listeners: CallListener) -> RpcEndpoint:
    routes = {
        "echo": route("echo", session_check=route("session check", source="toy.yaml:2")),
        "VM.echo": route("VM.echo", migration=Migration(upstream="old")),
    }
    dialect = DIALECTS["xenapi"]("xmlrpc")
    table = EndpointTable(EndpointKey("rpc", "/RPC2"), "xmlrpc", "xenapi", routes, spelling=dialect.spelling)
    dispatcher = Dispatcher(ScriptedBus(bus), *listeners, upstreams=Scripted({}))
    return RpcEndpoint(table, CODECS["xmlrpc"](MessageLimits()), dialect, dispatcher)


async def steps_of(method: str, *params: Value, told: CallListener = lambda _: None) -> tuple[Outcome, dict[str, str]]:
    outcome, steps = await explain(exchange(told), method, params, Peer("control"))
    calls = {"echo": 1 if "fail" in params else 2, "VM_echo": 1}  # with those of session checks
    assert [step.name for step in steps].count("method call") == calls.get(method, 0)
    return outcome, {step.name: step.value for step in steps}


async def test_every_step_from_the_clients_bytes_to_the_bus_and_back_is_shown() -> None:
    told: list[CallFinished] = []
    outcome, steps = await steps_of("echo", "hello", told=told.append)
    assert outcome == Reply("hello")
    assert "<methodName>echo</methodName>" in steps["the client sends (xmlrpc)"]
    assert steps["decoded"] == "echo('hello')"
    assert steps["route"] == "toy.yaml:1 -> org.xen.xcp.toy /org/xen/xcp/toy org.xen.xcp.toy.Echo1.Echo"
    assert steps["method call"] == "org.xen.xcp.toy /org/xen/xcp/toy org.xen.xcp.toy.Echo1 Echo s 'hello'"
    assert steps["method return"] == "s 'hello'"
    assert steps["outcome"] == "reply 'hello'"
    assert "<name>Status</name>" in steps["the client gets"]
    [finished] = told  # counted as a call of the endpoint's own protocol
    extensions = finished.call.extensions
    assert (extensions["protocol"], extensions["agent"]) == ("xmlrpc", "xcp-gateway call")


async def test_a_form_that_returns_a_task_is_shown_and_not_run_on_the_other_side() -> None:
    assert (await steps_of("VM_echo", "hello"))[0] == Reply("hello")
    outcome, shown = await steps_of("Async.VM.echo", "hello")
    assert isinstance(outcome, Fault)
    assert shown["refused"].startswith("No async mode for this operation (rpc: Async.VM.echo): mode dbus")


async def test_an_error_is_shown_as_the_bus_gave_it_and_as_the_client_gets_it() -> None:
    outcome, steps = await steps_of("echo", "fail")
    assert isinstance(outcome, Fault)
    assert steps["error"] == "fault remote: gone [org.xen.xcp.Error.Gone] ['vm7']"
    assert "Failure" in steps["the client gets"]


async def test_a_method_without_a_route_says_so() -> None:
    outcome, steps = await steps_of("VM.nope")
    assert isinstance(outcome, Fault)
    assert steps["route"] == "none at rpc /RPC2"
    _, steps = await steps_of("system.listMethods")
    assert steps["route"] == "built in -> the gateway itself"


async def test_a_value_that_the_protocol_cannot_carry_is_refused_with_its_place() -> None:
    with pytest.raises(ValueError, match=r"\$\.params\[0\]"):
        await steps_of("echo", "\x01")


def test_a_method_call_is_written_in_the_order_of_busctl() -> None:
    bound = MethodCall("org.x.A", "/org/x", "org.x.A1", "Do", "su", ["a", 5])
    assert show_method_call(bound) == "org.x.A /org/x org.x.A1 Do su 'a' 5"
    held = {"name": Variant("s", "web"), "sizes": library.Variant("au", [1, 2]), "pair": ("a", Variant("b", True))}
    bound = MethodCall("org.x.A", "/org/x", "org.x.A1", "Do", "va{sv}", [Variant("v", Variant("s", "web")), held])
    assert show_method_call(bound) == (
        "org.x.A /org/x org.x.A1 Do va{sv} <v <s 'web'>> "
        "{'name': <s 'web'>, 'sizes': <au [1, 2]>, 'pair': ('a', <b True>)}"
    )
    assert show_method_call(MethodCall("org.x.A", "/", "org.x.A1", "Do", "", [])) == "org.x.A / org.x.A1 Do"
