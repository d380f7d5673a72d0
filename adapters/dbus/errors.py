"""D-Bus errors as faults, and which of them mean that the service was not reached."""

from __future__ import annotations

import re

from msgspec.structs import replace

from adapters.dbus.connection import BUS_NAME, Received
from gateway.core.dbus import marshal
from gateway.core.dbus.signature import parse
from gateway.core.dbus.target import MethodCall
from gateway.core.rpc.model import Fault, FaultCode

_ERROR = "org.freedesktop.DBus.Error."
PROPERTIES = "org.freedesktop.DBus.Properties"
_DENIED = frozenset(_ERROR + name for name in ("AccessDenied", "NoReply", "ServiceUnknown", "NameHasNoOwner"))

# D-Bus specification, "Error names"; dbus-protocol.h has the list. Any other name is REMOTE.
ERROR_NAMES: dict[str, FaultCode] = {
    _ERROR + name: code
    for code, names in {
        FaultCode.UNAVAILABLE: (
            "ServiceUnknown NameHasNoOwner Spawn.ExecFailed Spawn.ForkFailed Spawn.ChildExited Spawn.ChildSignaled"
            " Spawn.Failed Spawn.FailedToSetup Spawn.ConfigInvalid Spawn.ServiceNotValid Spawn.ServiceNotFound"
            " Spawn.PermissionsInvalid Spawn.FileInvalid Spawn.NoMemory"
        ),
        FaultCode.BUSY: "LimitsExceeded",
        FaultCode.NO_REPLY: "NoReply Disconnected",
        FaultCode.TIMEOUT: "Timeout TimedOut",
        FaultCode.ACCESS_DENIED: "AccessDenied AuthFailed InteractiveAuthorizationRequired PropertyReadOnly",
        FaultCode.UNKNOWN_METHOD: "UnknownMethod",
        FaultCode.NOT_FOUND: "UnknownObject UnknownInterface UnknownProperty FileNotFound",
        FaultCode.INVALID_PARAMS: "InvalidArgs InvalidSignature",
    }.items()
    for name in names.split()
}

# From the broker these mean that the call was not delivered. From a service they concern a peer of that service.
NOT_DELIVERED = frozenset({FaultCode.UNAVAILABLE, FaultCode.BUSY})

# Errors of the broker about a destination that did not take the call, or died before it answered.
TRANSPORT_FAILURES = frozenset({FaultCode.UNAVAILABLE, FaultCode.NO_REPLY, FaultCode.TIMEOUT})


def fault(message: Received) -> Fault:
    """Turn a D-Bus error into a fault with its name, text and arguments, before the mapping's error rules apply."""
    try:
        types = parse(message.signature)
        arguments = [marshal.from_dbus(type_)(value) for type_, value in zip(types, message.body, strict=True)]
    except (ValueError, marshal.MarshalError):  # they have no legacy representation
        arguments = []
    name = message.error_name or ""
    text = arguments[0] if arguments and isinstance(arguments[0], str) else name
    code = ERROR_NAMES.get(name, FaultCode.REMOTE)
    if code in NOT_DELIVERED and message.sender != BUS_NAME:
        code = FaultCode.REMOTE
    if code is FaultCode.NO_REPLY:
        text += "; it is unknown whether the call was executed"
    return Fault(code, text, name=name, data=arguments)


NO_OBJECT = _ERROR + "UnknownObject"
INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"
_NO_METHOD = frozenset({_ERROR + "UnknownMethod", _ERROR + "UnknownInterface"})
_NO_INTERFACE = frozenset({*_NO_METHOD, _ERROR + "InvalidArgs", NO_OBJECT})
_READS = frozenset({"Get", "GetAll"})


def lacks_interface(message: Received) -> bool:
    """Return whether an error of GetAll says that the object does not have the interface, its only argument."""
    name = message.error_name or ""
    return name in _NO_INTERFACE or name.endswith(".UnknownInterface")


def asks_for_object(message: Received) -> bool:
    """Return whether a service that has no such object may have sent this error.

    Many libraries answer UnknownMethod for it, which would blame the mapping.
    """
    return message.error_name in _NO_METHOD and message.sender != BUS_NAME


def of_properties(found: Fault, call: MethodCall) -> Fault:
    """Return the fault of a read of properties: an invalid argument can only be the interface or the property."""
    if found.code is FaultCode.INVALID_PARAMS and call.interface == PROPERTIES and call.member in _READS:
        return replace(found, code=FaultCode.NOT_FOUND)
    return found


def without_object(found: Fault, call: MethodCall, introspected: Received | Fault | None) -> Fault:
    """Return the fault of a call whose object the service does not have, by the answer of Introspect; else `found`."""
    interface = str(call.body[0]) if call.interface == PROPERTIES and call.body else call.interface
    if not isinstance(introspected, Received) or introspected.error_name in _DENIED:
        return found
    xml = introspected.body[0] if introspected.signature == "s" and not introspected.error_name else ""
    if re.search(rf"<interface\s[^>]*\bname\s*=\s*[\"']{re.escape(interface)}[\"']", xml):
        return found
    text = f"{call.bus_name} has no object {call.object_path} with the interface {interface} ({found.message})"
    return Fault(FaultCode.NOT_FOUND, text, name=NO_OBJECT, data=[text])


def is_transport_failure(message: Received) -> bool:
    """Return whether the broker answered in place of the destination."""
    if not message.error_name or message.sender != BUS_NAME:
        return False
    return ERROR_NAMES.get(message.error_name) in TRANSPORT_FAILURES
