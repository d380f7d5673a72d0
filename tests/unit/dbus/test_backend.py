"""From calls to method calls, from bodies and errors to replies and faults."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from itertools import product

import pytest
from dbus_fast import Message, MessageType, Variant
from msgspec.structs import replace

from adapters.dbus import backend as dbus
from adapters.dbus.backend import LARGE_ARGUMENTS, Backend, BusSettings
from adapters.dbus.connection import BUS_NAME
from adapters.dbus.errors import fault, is_transport_failure
from adapters.dbus.messages import to_library
from gateway.core.admin.status import BreakerState, BusStatus, Presence, ServiceStatus
from gateway.core.dbus import marshal
from gateway.core.dbus.marshal import MarshalError
from gateway.core.dbus.target import MethodCall
from gateway.core.interfaces import NOT_SENT
from gateway.core.rpc.model import LARGE, Call, Fault, FaultCode, Reply, Value
from tests.kit.backends import TOY, dbus_backend, toy_call, toy_route
from tests.kit.buses import private_bus
from tests.kit.cases import each_case, expect
from tests.kit.programs import TIMEOUT
from tests.kit.toy_service import OBJECT_PATH, toy_service


async def test_a_large_reply_is_shaped_in_a_thread() -> None:
    threads: list[threading.Thread] = []

    def shape(body: Sequence[object]) -> Value:
        threads.append(threading.current_thread())
        return len(expect(list, body[0]))

    for size in (LARGE + 1, 1):
        message = Message(message_type=MessageType.METHOD_RETURN, reply_serial=1, signature="ay", body=[[0] * size])
        assert await Backend({}).read_reply(
            replace(toy_route("Echo", "", "ay"), decode_result=shape), message
        ) == Reply(size)
    assert [thread is threading.main_thread() for thread in threads] == [False, True]


async def test_a_large_call_is_encoded_or_checked_in_a_thread() -> None:
    threads: list[threading.Thread] = []

    def bind(call: Call) -> MethodCall:
        threads.append(threading.current_thread())
        return MethodCall("org.xen.none", "/", "org.xen.None1", "Take", "as", [values])

    backend, route = Backend({}), toy_route("Echo", bind=bind)
    for size in (LARGE_ARGUMENTS + 1, 1):
        values: list[Value] = ["x"] * size
        for call in (Call("Echo", (values,)), Call("Echo", named={"values": values})):
            assert expect(Fault, await backend.call(route, call)).code is FaultCode.UNAVAILABLE
            assert await backend.check(route, call) is None
    assert [thread is threading.main_thread() for thread in threads] == [False] * 4 + [True] * 4

    def refuse(call: Call) -> MethodCall:
        raise MarshalError("fewer", None).at("params", 0)

    for size in (LARGE_ARGUMENTS + 1, 1):
        refused = await backend.check(toy_route("Echo", bind=refuse), Call("Echo", (["x"] * size,)))
        assert refused == Fault(FaultCode.INVALID_PARAMS, "$.params[0]: expected fewer, got null")


async def test_a_large_call_that_is_given_up_while_it_is_encoded_was_not_sent() -> None:
    begun, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def bind(call: Call) -> MethodCall:
        loop.call_soon_threadsafe(begun.set)
        assert go_on.wait(60)
        return MethodCall("org.xen.none", "/", "org.xen.None1", "Take", "as", call.params)

    call = Call("Echo", (["x"] * (LARGE_ARGUMENTS + 1),))
    asked = loop.create_task(Backend({}).call(toy_route("Echo", bind=bind), call))
    await asyncio.wait_for(begun.wait(), 60)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError) as cancelled:
        await asked
    go_on.set()
    assert NOT_SENT in cancelled.value.args


# Errors


_ERROR = "org.freedesktop.DBus.Error."
UNKNOWN = "it is unknown whether the call was executed"


def error(name: str, signature: str = "", body: list[object] | None = None, sender: str = BUS_NAME) -> Message:
    message = Message(
        message_type=MessageType.ERROR, error_name=name, reply_serial=1, signature=signature, body=body or []
    )
    message.sender = sender
    return message


SPAWN = (
    "ExecFailed ForkFailed ChildExited ChildSignaled Failed FailedToSetup ConfigInvalid ServiceNotValid ServiceNotFound"
    " PermissionsInvalid FileInvalid NoMemory"
)


@each_case(
    ("names", "of_broker", "of_service", "fails"),
    [
        ("ServiceUnknown NameHasNoOwner", FaultCode.UNAVAILABLE, FaultCode.REMOTE, True),
        (" ".join(f"Spawn.{each}" for each in SPAWN.split()), FaultCode.UNAVAILABLE, FaultCode.REMOTE, True),
        ("Timeout TimedOut", FaultCode.TIMEOUT, FaultCode.TIMEOUT, True),  # activation
        ("LimitsExceeded", FaultCode.BUSY, FaultCode.REMOTE, False),
        ("AccessDenied AuthFailed", FaultCode.ACCESS_DENIED, FaultCode.ACCESS_DENIED, False),  # a policy
        ("InteractiveAuthorizationRequired", FaultCode.ACCESS_DENIED, FaultCode.ACCESS_DENIED, False),
        ("PropertyReadOnly", FaultCode.ACCESS_DENIED, FaultCode.ACCESS_DENIED, False),
        ("UnknownMethod", FaultCode.UNKNOWN_METHOD, FaultCode.UNKNOWN_METHOD, False),
        ("UnknownObject UnknownInterface", FaultCode.NOT_FOUND, FaultCode.NOT_FOUND, False),
        ("UnknownProperty FileNotFound", FaultCode.NOT_FOUND, FaultCode.NOT_FOUND, False),
        ("InvalidArgs InvalidSignature", FaultCode.INVALID_PARAMS, FaultCode.INVALID_PARAMS, False),
        ("Failed NoMemory IOError NotSupported", FaultCode.REMOTE, FaultCode.REMOTE, False),
    ],
)
def test_only_the_broker_tells_that_a_call_was_not_delivered_or_a_service_cannot_be_reached(
    names: str, of_broker: FaultCode, of_service: FaultCode, fails: bool
) -> None:
    """A service that passes on what it was told of another may have executed the call: legacy must not do so again."""
    for name, (sender, code) in product(names.split(), ((BUS_NAME, of_broker), (":1.7", of_service))):
        message = error(_ERROR + name, "s", ["why"], sender)
        assert fault(message) == Fault(code, "why", _ERROR + name, ["why"])
        assert is_transport_failure(message) is (fails and sender == BUS_NAME)


@each_case(
    ("name", "signature", "body", "expected"),
    [
        ("org.xen.Oops", "sua{sv}", ["text", 5, {"a": Variant("u", 1)}], ("remote", "text", ["text", 5, {"a": 1}])),
        ("org.xen.Oops", "", [], ("remote", "org.xen.Oops", [])),
        ("org.xen.Oops", "u", [7], ("remote", "org.xen.Oops", [7])),
        ("org.xen.Oops", "h", [0], ("remote", "org.xen.Oops", [])),
        (_ERROR + "NoReply", "s", ["gone"], ("no_reply", f"gone; {UNKNOWN}", ["gone"])),
        (_ERROR + "Disconnected", "s", ["gone"], ("no_reply", f"gone; {UNKNOWN}", ["gone"])),
    ],
)
def test_an_error_keeps_its_text_and_arguments(
    name: str, signature: str, body: list[object], expected: tuple[str, str, list[Value]]
) -> None:
    code, text, data = expected
    assert fault(error(name, signature, body)) == Fault(FaultCode(code), text, name, data)
    assert is_transport_failure(error(name)) is (code == "no_reply")
    assert not is_transport_failure(error(name, sender=":1.7"))  # it lives, and has lost somebody else


# Variants


@each_case(
    ("signature", "ours", "theirs"),
    [
        ("v", marshal.Variant("u", 1), Variant("u", 1)),
        ("a{sv}", {"a": marshal.Variant("s", "x")}, {"a": Variant("s", "x")}),
        ("av", [marshal.Variant("b", True)], [Variant("b", True)]),
        ("(sv)", ("a", marshal.Variant("x", 1)), ["a", Variant("x", 1)]),
        ("a(sv)", [("a", marshal.Variant("x", 1))], [["a", Variant("x", 1)]]),
        ("a{sa{sv}}", {"a": {"b": marshal.Variant("i", 1)}}, {"a": {"b": Variant("i", 1)}}),
        ("v", marshal.Variant("av", [marshal.Variant("i", 1)]), Variant("av", [Variant("i", 1)])),
    ],
)
def test_a_variant_anywhere_becomes_the_librarys(signature: str, ours: object, theirs: object) -> None:
    assert to_library(signature)([ours]) == [theirs]
    plain = {"a": [1, 2]}
    assert to_library("a{sau}")((plain,))[0] is plain


# On a bus


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with private_bus() as bus, toy_service(bus.address, TOY):
        yield bus.address


@each_case(
    ("bus_name", "why"),
    [
        ("org.xen.xcp.xapi", "bus 'exact' is not connected"),
        ("org.xen.xcp.storage", "bus 'long' is not connected"),
        ("org.xen.other", "bus 'short' is not connected"),
        ("com.example", "no bus is configured for com.example"),
    ],
)
async def test_the_more_specific_pattern_wins(bus_name: str, why: str) -> None:
    """Nothing is connected, and the fault tells which bus was chosen."""
    services = {"short": ("org.xen.*",), "long": ("org.xen.xcp.*",), "exact": ("org.xen.xcp.xapi",)}
    backend = Backend({name: BusSettings(name, "unix:path=/nowhere", patterns) for name, patterns in services.items()})
    got = await backend.call(toy_route("Label", bus_name=bus_name), toy_call())
    assert got == Fault(FaultCode.UNAVAILABLE, f"{why}; the call was not sent")


async def test_status_tells_since_when_a_bus_is_connected_and_what_it_still_owes(address: str) -> None:
    around = dbus.Dependencies(clock=lambda: 1234.5)
    settings = BusSettings("one", address, ("*",), connections=1)
    async with dbus_backend(settings, around=around) as backend, asyncio.timeout(TIMEOUT):
        connected = BusStatus("one", address, connected=True, since=1234.5, connections=1, in_flight=0, late_replies=0)
        assert backend.status() == (connected,)
        given_up = asyncio.ensure_future(backend.call(toy_route("Hold", "", "s"), toy_call()))
        await backend.call(toy_route("Held", "", "u"), toy_call())
        given_up.cancel()
        await asyncio.wait({given_up})
        assert backend.status() == (replace(connected, unanswered=1),)
        await backend.call(toy_route("Release", "", "u"), toy_call())
        assert backend.status() == (replace(connected, late_replies=1),)


async def test_services_are_told_of_by_their_bus_names(address: str) -> None:
    absent, homeless = "org.example.Absent", "com.example"
    bus = BusSettings("one", address, ("org.example.*",), connections=1, breaker_failures=1, breaker_pause=3.0)
    async with dbus_backend(bus, around=dbus.Dependencies(monotonic=lambda: 0.0)) as backend:
        await backend.call(toy_route("Label", bus_name=absent), toy_call())
        there, gone, nowhere = await backend.services([TOY, absent, homeless], TIMEOUT)
    assert there == ServiceStatus(TOY, "one", Presence.OWNED, there.owner)
    assert there.owner.startswith(":1.")
    assert gone == ServiceStatus(absent, "one", Presence.ABSENT, "", BreakerState.OPEN, 3.0)
    assert nowhere == ServiceStatus(homeless, "", Presence.UNKNOWN)


async def test_an_object_is_introspected_once_or_says_why_not(address: str) -> None:
    async with dbus_backend(BusSettings("one", address, ("org.example.*",), connections=1)) as backend:
        xml = await backend.introspect(TOY, OBJECT_PATH)
        assert isinstance(xml, str)
        assert "<node" in xml
        assert await backend.introspect(TOY, OBJECT_PATH) is xml
        for name, error in (("org.example.Nobody", _ERROR + "ServiceUnknown"), ("com.example", "")):
            away = expect(Fault, await backend.introspect(name, OBJECT_PATH))
            assert (away.code, away.name) == (FaultCode.UNAVAILABLE, error)
