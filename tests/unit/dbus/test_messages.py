from __future__ import annotations

from collections.abc import Sequence

import pytest
from dbus_fast import Message, MessageFlag, Variant

from adapters.dbus.messages import marshalled, with_marshalled_body
from gateway.core.dbus import marshal
from gateway.core.dbus.target import MethodCall


def of_the_library(call: MethodCall, body: Sequence[object], serial: int, flags: MessageFlag) -> bytes:
    message = Message(
        destination=call.bus_name,
        path=call.object_path,
        interface=call.interface,
        member=call.member,
        signature=call.signature,
        body=list(body),
        serial=serial,
        flags=flags,
    )
    return bytes(message._marshall(False))


@pytest.mark.parametrize(
    "flags", [MessageFlag.NONE, MessageFlag.NO_AUTOSTART, MessageFlag.NO_AUTOSTART | MessageFlag.NO_REPLY_EXPECTED]
)
@pytest.mark.parametrize(
    ("signature", "ours", "theirs"),
    [
        ("", (), ()),
        ("s", ("",), ("",)),
        ("s", ("a text that is longer than the first",), ("a text that is longer than the first",)),
        ("yxas", (1, -(2**63), ["a", "bc"]), (1, -(2**63), ["a", "bc"])),
        ("a{sv}", ({"k": marshal.Variant("u", 1)},), ({"k": Variant("u", 1)},)),
    ],
)
def test_a_call_is_the_bytes_that_the_library_writes(
    signature: str, ours: Sequence[object], theirs: Sequence[object], flags: MessageFlag
) -> None:
    """Each call is marshalled twice: the second time, and for each length of the path, with a header that was kept."""
    for path in ("/", "/a", "/ab", "/abc/d", "/abc/defg/h"):
        call = MethodCall("org.xen.xcp.test", path, "org.xen.xcp.Test1", "Member", signature, ours)
        for serial in (1, 2**31):
            expected = of_the_library(call, theirs, serial, flags)
            assert marshalled(call, serial, flags.value) == expected
            assert marshalled(with_marshalled_body(call), serial, flags.value) == expected
