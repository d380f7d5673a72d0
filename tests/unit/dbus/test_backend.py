"""From calls to method calls, from bodies and errors to replies and faults."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence

import pytest
from dbus_fast import ErrorType, Message, MessageType, Variant
from msgspec.structs import replace

from adapters.dbus import backend as dbus
from adapters.dbus.backend import LARGE_ARGUMENTS, Backend, BusSettings, Presence, decode_result
from adapters.dbus.connection import BUS_NAME
from adapters.dbus.errors import ERROR_NAMES, fault, is_transport_failure
from adapters.dbus.messages import to_library
from gateway.core.admin.status import BreakerState
from gateway.core.dbus import marshal
from gateway.core.dbus.arguments import ParameterCountError
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


def test_a_body_that_cannot_be_shaped_is_unrepresentable() -> None:
    def refuse(body: Sequence[object]) -> Value:
        raise MarshalError("no file descriptor", 0).at("result")

    got = decode_result(replace(toy_route("Echo"), decode_result=refuse), [0])
    assert got == Fault(FaultCode.UNREPRESENTABLE, "$.result: expected no file descriptor, got 0")


# Errors


_ERROR = "org.freedesktop.DBus.Error."


def error(name: str, signature: str = "", body: list[object] | None = None, sender: str = BUS_NAME) -> Message:
    message = Message(
        message_type=MessageType.ERROR, error_name=name, reply_serial=1, signature=signature, body=body or []
    )
    message.sender = sender
    return message


def test_every_error_name_that_the_library_knows_has_a_fault_code() -> None:
    standard = {name.value for name in ErrorType if name.value.startswith(_ERROR)}
    assert standard <= ERROR_NAMES.keys()


@each_case(
    ("name", "code"),
    [
        ("ServiceUnknown", FaultCode.UNAVAILABLE),
        ("Spawn.ChildExited", FaultCode.UNAVAILABLE),
        ("LimitsExceeded", FaultCode.BUSY),
        ("AccessDenied", FaultCode.ACCESS_DENIED),
        ("InteractiveAuthorizationRequired", FaultCode.ACCESS_DENIED),
        ("UnknownMethod", FaultCode.UNKNOWN_METHOD),
        ("UnknownObject", FaultCode.NOT_FOUND),
        ("InvalidArgs", FaultCode.INVALID_PARAMS),
        ("Failed", FaultCode.REMOTE),
    ],
)
def test_a_standard_error_keeps_its_name_and_gets_its_code(name: str, code: FaultCode) -> None:
    assert fault(error(_ERROR + name, "s", ["why"])) == Fault(code, "why", _ERROR + name, ["why"])


@each_case("name", ["ServiceUnknown", "NameHasNoOwner", "LimitsExceeded", "Spawn.ChildExited"])
def test_a_service_that_passes_on_what_it_was_told_of_another_may_have_executed_the_call(name: str) -> None:
    """Else the legacy service would be asked to execute it again."""
    got = fault(error(_ERROR + name, "s", ["no xenopsd"], sender=":1.7"))
    assert got == Fault(FaultCode.REMOTE, "no xenopsd", _ERROR + name, ["no xenopsd"])


@each_case(
    ("signature", "body", "text", "data"),
    [
        ("sua{sv}", ["text", 5, {"a": Variant("u", 1)}], "text", ["text", 5, {"a": 1}]),
        ("", [], "org.xen.Oops", []),
        ("u", [7], "org.xen.Oops", [7]),
        ("h", [0], "org.xen.Oops", []),
    ],
)
def test_an_error_that_nobody_knows_is_remote_with_its_arguments(
    signature: str, body: list[object], text: str, data: list[Value]
) -> None:
    assert fault(error("org.xen.Oops", signature, body)) == Fault(FaultCode.REMOTE, text, "org.xen.Oops", data)


def test_no_reply_says_that_nobody_knows_what_was_done() -> None:
    got = fault(error(_ERROR + "NoReply", "s", ["it went away"]))
    assert got.code is FaultCode.NO_REPLY
    assert got.message == "it went away; it is unknown whether the call was executed"
    assert got.data == ["it went away"]


@each_case(
    ("name", "sender", "counts"),
    [
        (_ERROR + "ServiceUnknown", BUS_NAME, True),
        (_ERROR + "NoReply", BUS_NAME, True),
        (_ERROR + "TimedOut", BUS_NAME, True),  # activation
        (_ERROR + "Spawn.ChildExited", BUS_NAME, True),
        (_ERROR + "AccessDenied", BUS_NAME, False),  # a policy says nothing of who is behind it
        (_ERROR + "LimitsExceeded", BUS_NAME, False),
        (_ERROR + "NoReply", ":1.7", False),  # the service lives, and has lost somebody else
        (_ERROR + "UnknownMethod", ":1.7", False),
        ("org.xen.Oops", ":1.7", False),
    ],
)
def test_only_the_broker_tells_that_a_service_cannot_be_reached(name: str, sender: str, counts: bool) -> None:
    assert is_transport_failure(error(name, sender=sender)) is counts


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


@each_case("signature", ["v", "av", "a{sv}"])
def test_what_is_no_variant_of_ours_is_refused(signature: str) -> None:
    """The library dies of a None where it expects a variant."""
    value = {"v": None, "av": [None], "a{sv}": {"a": None}}[signature]
    with pytest.raises(TypeError, match="a variant is expected"):
        to_library(signature)([value])


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


async def test_a_call_with_a_wrong_number_of_parameters_is_not_sent() -> None:
    def bad_count(call: Call) -> MethodCall:
        raise ParameterCountError(2, 3)

    backend = Backend({"one": BusSettings("one", "unix:path=/nowhere", ("*",))})
    got = expect(Fault, await backend.call(toy_route("Label", bind=bad_count), toy_call()))
    assert (got.code, got.data) == (FaultCode.PARAMETER_COUNT, {"expected": 2, "received": 3})
    assert got.message == str(ParameterCountError(2, 3))


async def test_the_status_of_a_bus_that_is_not_there_says_why() -> None:
    refused = asyncio.Event()

    async def pause(_: float) -> None:
        refused.set()
        await asyncio.Event().wait()

    bus = BusSettings("one", "unix:path=/nowhere", ("*",), connections=1)
    backend = Backend({"one": bus}, dbus.Dependencies(sleep=pause))
    await backend.start()
    await asyncio.wait_for(refused.wait(), TIMEOUT)
    (status,) = backend.status()
    await backend.stop()
    assert not status.connected
    assert status.connections == 0
    assert status.last_error == "cannot connect to unix:path=/nowhere: No such file or directory"


async def test_the_log_tells_what_further_connections_to_a_bus_are_for(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="adapters.dbus.pool")
    settings = BusSettings("one", address, ("*",), connections=1)
    for each in (settings, settings.observing(), settings.waiting_calls()):
        async with dbus_backend(each):
            pass
    uses = ["", " for calls that are only compared", " for calls that wait"]
    assert caplog.messages == [f"bus 'one' is connected{use}" for use in uses]


async def test_status_tells_who_is_connected_since_when_and_what_a_bus_still_owes(address: str) -> None:
    around = dbus.Dependencies(clock=lambda: 1234.5)
    settings = BusSettings("one", address, ("*",), connections=1)
    async with dbus_backend(settings, around=around) as backend, asyncio.timeout(TIMEOUT):
        (status,) = backend.status()
        expected = dbus.BusStatus(
            "one", address, connected=True, since=1234.5, connections=1, in_flight=0, late_replies=0
        )
        assert status == expected
        given_up = asyncio.ensure_future(backend.call(toy_route("Hold", "", "s"), toy_call()))
        await backend.call(toy_route("Held", "", "u"), toy_call())
        given_up.cancel()
        await asyncio.wait({given_up})
        (owing,) = backend.status()
        await backend.call(toy_route("Release", "", "u"), toy_call())
        (after,) = backend.status()
    assert (owing.in_flight, owing.unanswered, owing.late_replies) == (0, 1, 0)
    assert (after.in_flight, after.unanswered, after.late_replies) == (0, 0, 1)


async def test_services_are_told_of_by_their_bus_names(address: str) -> None:
    absent, homeless = "org.example.Absent", "com.example"
    bus = BusSettings("one", address, ("org.example.*",), connections=1, breaker_failures=1, breaker_pause=3.0)
    async with dbus_backend(bus, around=dbus.Dependencies(monotonic=lambda: 0.0)) as backend:
        await backend.call(toy_route("Label", bus_name=absent), toy_call())
        there, gone, nowhere = await backend.services([TOY, absent, homeless], TIMEOUT)
    assert there == dbus.ServiceStatus(TOY, "one", Presence.OWNED, there.owner)
    assert there.owner.startswith(":1.")
    assert gone == dbus.ServiceStatus(absent, "one", Presence.ABSENT, "", BreakerState.OPEN, 3.0)
    assert nowhere == dbus.ServiceStatus(homeless, "", Presence.UNKNOWN)


async def test_services_of_a_bus_that_is_down_are_unknown() -> None:
    backend = Backend({"one": BusSettings("one", "unix:path=/nowhere", ("*",))})
    assert await backend.services([TOY], TIMEOUT) == (dbus.ServiceStatus(TOY, "one", Presence.UNKNOWN),)


async def test_an_object_is_introspected_once_or_says_why_not(address: str) -> None:
    async with dbus_backend(BusSettings("one", address, ("org.example.*",), connections=1)) as backend:
        xml = await backend.introspect(TOY, OBJECT_PATH)
        assert isinstance(xml, str)
        assert "<node" in xml
        assert await backend.introspect(TOY, OBJECT_PATH) is xml
        for name, error in (("org.example.Nobody", _ERROR + "ServiceUnknown"), ("com.example", "")):
            away = expect(Fault, await backend.introspect(name, OBJECT_PATH))
            assert (away.code, away.name) == (FaultCode.UNAVAILABLE, error)
