"""What every backend does, whatever it talks to: the fake and the real one are held against the same words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias

import pytest

from adapters.backends import BACKENDS, dbus, memory
from gateway.core import ports
from gateway.core.marshal import MarshalError
from gateway.core.model import Call, Fault, FaultCode, Reply
from gateway.core.route import MethodCall
from tests.kit.backends import dbus_backend
from tests.kit.bus import private_bus
from tests.kit.services import INTERFACE, toy_service
from tests.kit.toy_routes import TOY, toy_call, toy_route

Run: TypeAlias = Callable[[], AbstractAsyncContextManager[ports.Backend]]

OOPS = "org.example.Oops"


def _oops(call: MethodCall) -> Fault:
    return Fault(FaultCode.REMOTE, OOPS, name=OOPS, data=[])


def _echo(call: MethodCall) -> Sequence[object]:
    return call.body


TABLE: dict[tuple[str, str], memory.Answer] = {
    (INTERFACE, "Echo"): _echo,
    (INTERFACE, "Note"): lambda call: (),
    (INTERFACE, "FailWithoutBody"): _oops,
}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with private_bus() as bus, toy_service(bus.address, TOY):
        yield bus.address


@asynccontextmanager
async def _memory(address: str) -> AsyncIterator[ports.Backend]:
    backend = memory.Backend(TABLE)
    await backend.start()
    yield backend
    await backend.stop()


@asynccontextmanager
async def _dbus(address: str) -> AsyncIterator[ports.Backend]:
    async with dbus_backend(dbus.Bus("one", address, ("org.example.*",), connections=1)) as backend:
        yield backend


RUNS = {"dbus": _dbus, "memory": _memory}


@pytest.fixture(params=sorted(BACKENDS))
def run(request: pytest.FixtureRequest, address: str) -> Run:
    return lambda: RUNS[request.param](address)


def test_every_backend_is_held_against_this_file() -> None:
    assert RUNS.keys() == BACKENDS.keys()


async def test_a_call_is_answered(run: Run) -> None:
    async with run() as backend:
        assert await backend.call(toy_route("Echo", "si", "si"), toy_call("text", -1)) == Reply(["text", -1])


async def test_a_method_without_a_result_replies_with_none(run: Run) -> None:
    async with run() as backend:
        assert await backend.call(toy_route("Note", "s"), toy_call("x")) == Reply(None)


async def test_a_oneway_call_replies_with_none_whatever_the_result(run: Run) -> None:
    async with run() as backend:
        assert await backend.call(toy_route("Echo", "s", "s"), toy_call("text", oneway=True)) == Reply(None)


async def test_calls_at_once_get_each_its_own_answer(run: Run) -> None:
    route = toy_route("Echo", "u", "u")
    async with run() as backend:
        outcomes = await asyncio.gather(*(backend.call(route, toy_call(number)) for number in range(50)))
    assert outcomes == [Reply(number) for number in range(50)]


async def test_an_error_is_a_fault_with_its_name(run: Run) -> None:
    async with run() as backend:
        got = await backend.call(toy_route("FailWithoutBody", "s"), toy_call(OOPS))
    assert got == Fault(FaultCode.REMOTE, OOPS, name=OOPS, data=[])


async def test_an_error_is_translated_by_the_route(run: Run) -> None:
    def translate(fault: Fault, call: Call) -> Fault:
        return Fault(FaultCode.APPLICATION, f"{call.method} said {fault.name}")

    async with run() as backend:
        got = await backend.call(toy_route("FailWithoutBody", "s", translate=translate), toy_call(OOPS))
    assert got == Fault(FaultCode.APPLICATION, f"toy said {OOPS}")


async def test_a_call_that_does_not_bind_is_refused(run: Run) -> None:
    def refuse(call: Call) -> MethodCall:
        raise MarshalError("u", -1).at("params", 0)

    async with run() as backend:
        got = await backend.call(toy_route("Echo", bind=refuse), toy_call())
    assert got == Fault(FaultCode.INVALID_PARAMS, "$.params[0]: expected u, got -1")


async def test_a_bug_in_a_route_is_an_exception_and_costs_no_other_call(run: Run) -> None:
    def broken(call: Call) -> MethodCall:
        raise RuntimeError("a bug")

    async with run() as backend:
        with pytest.raises(RuntimeError, match="a bug"):
            await backend.call(toy_route("Echo", bind=broken), toy_call())
        assert await backend.call(toy_route("Echo", "s", "s"), toy_call("text")) == Reply("text")


async def test_a_backend_that_is_stopped_refuses(run: Run) -> None:
    async with run() as backend:
        pass
    got = await backend.call(toy_route("Echo", "s", "s"), toy_call("text"))
    assert isinstance(got, Fault)
    assert got.code is FaultCode.UNAVAILABLE
