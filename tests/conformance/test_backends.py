"""Every backend keeps the same laws."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias

import pytest
from msgspec import structs
from msgspec.structs import replace

from adapters import upstream
from adapters.codecs import CODECS
from adapters.dbus import backend as dbus
from adapters.dialects import DIALECTS
from adapters.http.client.request import parse_url
from adapters.http.client.upstream import HttpUpstreamConnection
from gateway.core import interfaces
from gateway.core.dbus.marshal import MarshalError
from gateway.core.dbus.target import MethodCall
from gateway.core.interfaces import Wanted, always
from gateway.core.migration.modes import Migration, Mode, Setting
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Reply
from tests.kit import backends
from tests.kit.backends import TOY, dbus_backend, toy_call, toy_route
from tests.kit.buses import private_bus
from tests.kit.cases import each_case, expect
from tests.kit.toy_service import INTERFACE, toy_service
from tests.kit.upstreams import legacy_server, ok

Run: TypeAlias = Callable[[], AbstractAsyncContextManager[interfaces.Backend]]

OOPS = "org.example.Oops"


def _oops(call: MethodCall) -> Fault:
    return Fault(FaultCode.REMOTE, OOPS, name=OOPS, data=[])


def _echo(call: MethodCall) -> Sequence[object]:
    return call.body


TABLE: dict[tuple[str, str], backends.Answer] = {
    (INTERFACE, "Echo"): _echo,
    (INTERFACE, "Note"): lambda call: (),
    (INTERFACE, "FailWithoutBody"): _oops,
}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with private_bus() as bus, toy_service(bus.address, TOY):
        yield bus.address


@asynccontextmanager
async def _memory(address: str) -> AsyncIterator[interfaces.Backend]:
    backend = backends.MemoryBackend(TABLE)
    await backend.start()
    yield backend
    await backend.stop()


@asynccontextmanager
async def _dbus(address: str) -> AsyncIterator[interfaces.Backend]:
    async with dbus_backend(dbus.BusSettings("one", address, ("org.example.*",), connections=1)) as backend:
        yield backend


class _Legacy(upstream.Backend):
    """Asks the legacy service for what the route to the bus calls."""

    async def call(self, route: Route, call: Call, wanted: Wanted = always) -> Outcome:
        there = replace(route, migration=Migration(Setting(Mode.LEGACY), "toy"))
        return await super().call(there, structs.replace(call, method=route.bus_target.member), wanted)


def _old_toy(request: bytes) -> bytes:
    call = json.loads(request.partition(b"\r\n\r\n")[2])
    params = call["params"]
    if call["method"] == "FailWithoutBody":
        error = {"code": -32000, "message": OOPS, "data": {"name": OOPS, "args": []}}
        return ok(json.dumps({"jsonrpc": "2.0", "error": error, "id": call["id"]}).encode())
    result = None if call["method"] == "Note" else params[0] if len(params) == 1 else params
    return ok(json.dumps({"jsonrpc": "2.0", "result": result, "id": call["id"]}).encode())


@asynccontextmanager
async def _legacy(address: str) -> AsyncIterator[interfaces.Backend]:
    async with legacy_server(_old_toy) as old:
        codec = CODECS["jsonrpc"]()
        line = HttpUpstreamConnection("toy", parse_url(old.url))
        backend = _Legacy({"toy": upstream.Upstream(1, line, codec, DIALECTS["plain"]("jsonrpc"), frozenset())})
        await backend.start()
        yield backend
        await backend.stop()


RUNS = {"dbus": _dbus, "legacy": _legacy, "memory": _memory}


@pytest.fixture(params=sorted(RUNS.keys() - {"legacy"}))
def binding(request: pytest.FixtureRequest, address: str) -> Run:
    """Those that make a D-Bus method call of a call."""
    return lambda: RUNS[request.param](address)


@pytest.fixture(params=sorted(RUNS))
def run(request: pytest.FixtureRequest, address: str) -> Run:
    return lambda: RUNS[request.param](address)


@each_case(
    ("member", "types", "call", "expected"),
    [
        ("Echo", ("si", "si"), toy_call("text", -1), Reply(["text", -1])),
        ("Note", ("s",), toy_call("x"), Reply(None)),  # a method without a result
        ("Echo", ("s", "s"), toy_call("text", oneway=True), Reply(None)),
        ("FailWithoutBody", ("s",), toy_call(OOPS), Fault(FaultCode.REMOTE, OOPS, name=OOPS, data=[])),
    ],
)
async def test_a_call_is_answered_or_its_error_is_a_fault_with_its_name(
    member: str, types: tuple[str, ...], call: Call, expected: Outcome, run: Run
) -> None:
    async with run() as backend:
        assert await backend.call(toy_route(member, *types), call) == expected


async def test_calls_at_once_get_each_its_own_answer(run: Run) -> None:
    route = toy_route("Echo", "u", "u")
    async with run() as backend:
        outcomes = await asyncio.gather(*(backend.call(route, toy_call(number)) for number in range(50)))
    assert outcomes == [Reply(number) for number in range(50)]


async def test_an_error_is_translated_by_the_route(binding: Run) -> None:
    def translate(fault: Fault, call: Call) -> Fault:
        return Fault(FaultCode.APPLICATION, f"{call.method} said {fault.name}")

    async with binding() as backend:
        got = await backend.call(toy_route("FailWithoutBody", "s", translate=translate), toy_call(OOPS))
    assert got == Fault(FaultCode.APPLICATION, f"toy said {OOPS}")


async def test_a_call_that_does_not_bind_is_refused(binding: Run) -> None:
    def refuse(call: Call) -> MethodCall:
        raise MarshalError("u", -1).at("params", 0)

    async with binding() as backend:
        got = await backend.call(toy_route("Echo", bind=refuse), toy_call())
    assert got == Fault(FaultCode.INVALID_PARAMS, "$.params[0]: expected u, got -1")


async def test_a_bug_in_a_route_is_an_exception_and_costs_no_other_call(binding: Run) -> None:
    def broken(call: Call) -> MethodCall:
        raise RuntimeError("a bug")

    async with binding() as backend:
        with pytest.raises(RuntimeError, match="a bug"):
            await backend.call(toy_route("Echo", bind=broken), toy_call())
        assert await backend.call(toy_route("Echo", "s", "s"), toy_call("text")) == Reply("text")


async def test_a_backend_that_is_stopped_refuses(run: Run) -> None:
    async with run() as backend:
        pass
    got = expect(Fault, await backend.call(toy_route("Echo", "s", "s"), toy_call("text")))
    assert got.code is FaultCode.UNAVAILABLE
