"""What each D-Bus error tells: a client, and the breaker."""

from __future__ import annotations

import pytest
from dbus_fast import ErrorType, Message, MessageType, Variant

from adapters.dbus.connection import BUS_NAME
from adapters.dbus.errors import ERROR_NAMES, fault, is_transport_failure
from gateway.core.rpc.model import Fault, FaultCode

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


@pytest.mark.parametrize(
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


@pytest.mark.parametrize("name", ["ServiceUnknown", "NameHasNoOwner", "LimitsExceeded", "Spawn.ChildExited"])
def test_a_service_that_passes_on_what_it_was_told_of_another_may_have_executed_the_call(name: str) -> None:
    """Else the legacy service would be asked to execute it again."""
    got = fault(error(_ERROR + name, "s", ["no xenopsd"], sender=":1.7"))
    assert got == Fault(FaultCode.REMOTE, "no xenopsd", _ERROR + name, ["no xenopsd"])


def test_an_error_that_nobody_knows_is_remote_with_its_arguments() -> None:
    got = fault(error("org.xen.Oops", "sua{sv}", ["text", 5, {"a": Variant("u", 1)}]))
    assert got == Fault(FaultCode.REMOTE, "text", "org.xen.Oops", ["text", 5, {"a": 1}])


def test_an_error_without_a_body_has_its_name_as_message() -> None:
    assert fault(error("org.xen.Oops")) == Fault(FaultCode.REMOTE, "org.xen.Oops", "org.xen.Oops", [])


def test_an_error_whose_first_argument_is_no_text_has_its_name_as_message() -> None:
    assert fault(error("org.xen.Oops", "u", [7])) == Fault(FaultCode.REMOTE, "org.xen.Oops", "org.xen.Oops", [7])


def test_an_error_with_a_file_descriptor_has_no_arguments() -> None:
    assert fault(error("org.xen.Oops", "h", [0])).data == []


def test_no_reply_says_that_nobody_knows_what_was_done() -> None:
    got = fault(error(_ERROR + "NoReply", "s", ["it went away"]))
    assert got.code is FaultCode.NO_REPLY
    assert got.message == "it went away; it is unknown whether the call was executed"
    assert got.data == ["it went away"]


@pytest.mark.parametrize(
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
