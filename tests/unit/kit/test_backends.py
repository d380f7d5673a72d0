from __future__ import annotations

from collections.abc import Sequence

from gateway.core.dbus.target import MethodCall
from gateway.core.rpc.model import Call, Fault, FaultCode, Reply
from tests.kit.backends import MemoryBackend, toy_call, toy_route
from tests.kit.toy_service import INTERFACE


async def test_an_outcome_in_the_table_is_the_answer() -> None:
    backend = MemoryBackend({(INTERFACE, "Label"): Reply("from the table")})
    await backend.start()
    assert await backend.call(toy_route("Label"), toy_call()) == Reply("from the table")


async def test_a_function_in_the_table_sees_the_method_call_and_gives_the_body() -> None:
    seen: list[MethodCall] = []

    def echo(call: MethodCall) -> Sequence[object]:
        seen.append(call)
        return call.body

    backend = MemoryBackend({(INTERFACE, "Echo"): echo})
    await backend.start()
    assert await backend.call(toy_route("Echo", "s", "s"), toy_call("text")) == Reply("text")
    assert [call.member for call in seen] == ["Echo"]


async def test_a_fault_without_a_name_is_not_translated() -> None:
    def translate(fault: Fault, call: Call) -> Fault:
        return Fault(FaultCode.APPLICATION, "translated")

    busy = Fault(FaultCode.BUSY, "not now")
    backend = MemoryBackend({(INTERFACE, "Label"): busy})
    await backend.start()
    assert await backend.call(toy_route("Label", translate=translate), toy_call()) == busy


async def test_a_member_that_is_not_in_the_table_is_an_unknown_method() -> None:
    backend = MemoryBackend({})
    await backend.start()
    got = await backend.call(toy_route("Label"), toy_call())
    assert isinstance(got, Fault)
    assert (got.code, got.name) == (FaultCode.UNKNOWN_METHOD, "org.freedesktop.DBus.Error.UnknownMethod")
