"""A service that writes invalid D-Bus: its callers get a fault, and no other call on the connection is harmed."""

from __future__ import annotations

import asyncio

import pytest

from adapters.dbus.backend import BusSettings
from gateway.core.dbus.marshal import Variant
from gateway.core.rpc.model import Fault, FaultCode, Reply
from tests.kit.backends import dbus_backend, toy_call, toy_route
from tests.kit.buses import BROKERS, broker
from tests.kit.cases import expect
from tests.kit.programs import TIMEOUT
from tests.kit.toy_service import toy_service

OTHER = "org.example.Other"

# Signature and value of the answer, the bytes that are changed in it, what they become.
DAMAGE: list[tuple[str, object, bytes, bytes]] = [
    ("s", "abcd", b"abcd", b"\xff\xfe\xff\xfe"),
    ("s", "abcd", b"abcd", b"a\0cd"),
    ("s", "abcd", b"\4\0\0\0abcd", b"\xff\0\0\0abcd"),
    ("s", "abcd", b"abcd\0", b"abcde"),
    ("o", "/abc", b"/abc", b"/ab/"),
    ("g", "a{sv}", b"a{sv}", b"a{vs}"),
    ("(yb)", (7, True), b"\7\0\0\0\1\0\0\0", b"\7\0\0\0\2\0\0\0"),
    ("(yb)", (7, True), b"\7\0\0\0\1\0\0\0", b"\7\7\7\7\1\0\0\0"),
    ("au", [9, 9], b"\x08\0\0\0\x09", b"\7\0\0\0\x09"),
    ("au", [9, 9], b"\x08\0\0\0\x09", b"\0\0\0\x08\x09"),
    ("v", Variant("y", 7), b"\1y\0\7", b"\1!\0\7"),
    ("v", Variant("y", 7), b"\1y\0\7", b"\1s\0\7"),
]


@pytest.mark.parametrize("name", BROKERS)
async def test_an_answer_that_is_no_d_bus_costs_its_own_call_and_no_other(name: str) -> None:
    with broker(name) as address, toy_service(address, OTHER):
        async with dbus_backend(BusSettings("one", address, ("org.example.*",), connections=1)) as backend:
            held = asyncio.ensure_future(backend.call(toy_route("Hold", "", "s", bus_name=OTHER), toy_call()))
            assert await backend.call(toy_route("Held", "", "u", bus_name=OTHER), toy_call()) == Reply(1)
            for number, (signature, value, good, bad) in enumerate(DAMAGE):
                damager = f"org.example.Damager{number}"  # or its breaker would open
                with toy_service(address, damager):
                    route = toy_route("Damaged", "vayay", signature, bus_name=damager)
                    call = toy_call(Variant(signature, value), good, bad)
                    outcome = await asyncio.wait_for(backend.call(route, call), TIMEOUT)
                assert (expect(Fault, outcome).code, held.done()) == (FaultCode.NO_REPLY, False), (signature, bad)
            assert await backend.call(toy_route("Release", "", "u", bus_name=OTHER), toy_call()) == Reply(1)
            assert await held == Reply("released")
