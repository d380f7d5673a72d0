"""Calls of objects, interfaces and methods that a service does not have; records of several interfaces; no replies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from adapters.dbus.backend import Backend, BusSettings
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Reply, Value
from tests.kit.buses import private_bus
from tests.kit.mappings import HEAD, IDL, Built, build_methods

pytestmark = pytest.mark.bus

WAIT = 60.0  # seconds until a test gives up
HERE = "/org/example/here"
METHODS = """\
stat: {member: Stat, params: [{name: vm, object: /org/example}]}
tags: {property: Tags, params: [{name: vm, object: /org/example}]}
check: {member: Check, interface: org.example.Session1, params: [session, {name: vm, object: /org/example}]}
record:
  {all_properties: true, with_interfaces: [org.example.Session1], params: [{name: vm, object: /org/example}]}
silent: {member: Nothing, interface: org.example.Session1, params: [{name: vm, object: /org/example}]}
mapped:
  member: Stat
  params: [{name: vm, object: /org/example}]
  errors: {org.freedesktop.DBus.Error.UnknownObject: {code: HANDLE_INVALID, args: ["{vm}"]}}
"""
GET_ALL = {"org.example.VM1": {"Memory": Variant("t", 5)}, "org.example.Session1": {"Users": Variant("u", 1)}}


class Service:
    """Answers for the object HERE, and for all others that it does not know the method, as many libraries do."""

    def __init__(self, bus: MessageBus) -> None:
        self._bus = bus
        self.interfaces = {"org.example.VM1"}
        self.seen: list[str] = []
        bus.add_message_handler(self._handle)

    def _handle(self, message: Message) -> bool:
        if message.message_type is not MessageType.METHOD_CALL or message.destination != "org.example":
            return False
        self.seen.append(f"{message.path} {message.member}")
        if not message.flags & 1:  # NO_REPLY_EXPECTED
            self._bus.send(self._answer(message))
        return True

    def _answer(self, message: Message) -> Message:
        if message.path == HERE:
            if message.member == "Introspect":
                inside = IDL if "org.example.VM1" in self.interfaces else "<node/>"
                return Message.new_method_return(message, "s", [inside])
            if message.member == "Stat":
                return Message.new_method_return(message, "st", ["on", 5])
            if message.member == "GetAll" and message.body[0] in self.interfaces:
                return Message.new_method_return(message, "a{sv}", [GET_ALL[message.body[0]]])
            if message.member in ("Get", "GetAll"):
                return Message.new_error(message, "org.freedesktop.DBus.Error.InvalidArgs", "no such interface")
        return Message.new_error(message, "org.freedesktop.DBus.Error.UnknownMethod", "no such method")


@asynccontextmanager
async def _running(tmp_path: Path) -> AsyncIterator[tuple[Backend, Service, Built]]:
    built = build_methods(tmp_path, METHODS, HEAD)
    assert built.problems == []
    with private_bus() as bus:
        connection = await MessageBus(bus_address=bus.address).connect()
        service = Service(connection)
        await connection.request_name("org.example")
        backend = Backend({"b": BusSettings("b", bus.address, ("org.example",))})
        await backend.start()
        await asyncio.wait_for(backend.connected(), WAIT)
        yield backend, service, built
        await backend.stop()
        connection.disconnect()
        await connection.wait_for_disconnect()  # type: ignore[no-untyped-call]  # theirs


async def _ask(backend: Backend, built: Built, method: str, *params: Value) -> Outcome:
    return await asyncio.wait_for(backend.call(built.route(method), Call(method, params)), WAIT)


async def test_a_missing_object_is_not_found_and_a_missing_method_of_an_object_stays_one(tmp_path: Path) -> None:
    async with _running(tmp_path) as (backend, service, built):
        assert await _ask(backend, built, "stat", HERE) == Reply({"state": "on", "memory_bytes": 5})
        missing = await _ask(backend, built, "stat", "gone")
        assert isinstance(missing, Fault)
        assert (missing.code, missing.name) == (FaultCode.NOT_FOUND, "org.freedesktop.DBus.Error.UnknownObject")
        assert missing.message == (
            "org.example has no object /org/example/gone with the interface org.example.VM1 (no such method)"
        )
        mapped = await _ask(backend, built, "mapped", "gone")
        assert isinstance(mapped, Fault)
        assert (mapped.code, mapped.name, mapped.data) == (FaultCode.APPLICATION, "HANDLE_INVALID", ["gone"])
        service.seen.clear()
        unknown = await _ask(backend, built, "check", "s", HERE)
        assert isinstance(unknown, Fault)
        assert (unknown.code, unknown.message) == (FaultCode.UNKNOWN_METHOD, "no such method")
        assert service.seen == [f"{HERE} Check", f"{HERE} Introspect"]
        lacking = await _ask(backend, built, "tags", HERE)  # a property of an interface that the object lacks
        assert isinstance(lacking, Fault)
        assert (lacking.code, lacking.message) == (FaultCode.NOT_FOUND, "no such interface")


async def test_a_record_lacks_the_properties_of_an_interface_that_the_object_lacks(tmp_path: Path) -> None:
    async with _running(tmp_path) as (backend, service, built):
        assert await _ask(backend, built, "record", HERE) == Reply({"Memory": 5})
        service.interfaces.add("org.example.Session1")
        assert await _ask(backend, built, "record", HERE) == Reply({"Memory": 5, "Users": 1})
        service.interfaces.remove("org.example.VM1")
        without = await _ask(backend, built, "record", HERE)
        assert isinstance(without, Fault), "the first interface is not optional"
        assert without.code is FaultCode.NOT_FOUND


async def test_a_call_that_the_service_never_answers_is_done_once_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "example.xml").write_text(IDL)
    silent = "<annotation name='org.freedesktop.DBus.Method.NoReply' value='true'/>"
    async with _running(tmp_path) as (backend, service, _):
        text = IDL.replace('<method name="Nothing"/>', f'<method name="Nothing">{silent}</method>')
        (tmp_path / "silent.xml").write_text(text)
        built = build_methods(tmp_path, METHODS, HEAD.replace("example.xml", "silent.xml"))
        assert await _ask(backend, built, "silent", HERE) == Reply(None)
        assert await _ask(backend, built, "stat", HERE) == Reply({"state": "on", "memory_bytes": 5})
        assert service.seen == [f"{HERE} Nothing", f"{HERE} Stat"]
