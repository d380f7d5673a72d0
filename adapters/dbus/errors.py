"""D-Bus errors as faults, and which of them mean that the service was not reached."""

from __future__ import annotations

from adapters.dbus.connection import BUS_NAME, Received
from gateway.core.dbus import marshal
from gateway.core.dbus.signature import parse
from gateway.core.rpc.model import Fault, FaultCode, Value

_ERROR = "org.freedesktop.DBus.Error."

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
        FaultCode.REMOTE: (
            "Failed NoMemory IOError BadAddress NotSupported NoServer NoNetwork AddressInUse FileExists"
            " UnixProcessIdUnknown InvalidFileContent SELinuxSecurityContextUnknown AdtAuditDataUnknown ObjectPathInUse"
            " InconsistentMessage MatchRuleNotFound MatchRuleInvalid NotContainer"
        ),
    }.items()
    for name in names.split()
}

# From the broker these mean that the call was not delivered. From a service they concern a peer of that service.
NOT_DELIVERED = frozenset({FaultCode.UNAVAILABLE, FaultCode.BUSY})

# Errors of the broker about a destination that did not take the call, or died before it answered.
TRANSPORT_FAILURES = frozenset({FaultCode.UNAVAILABLE, FaultCode.NO_REPLY, FaultCode.TIMEOUT})


def fault(message: Received) -> Fault:
    """Turn a D-Bus error into a fault with its name, text and arguments, before the mapping's error rules apply."""
    arguments = _arguments(message)
    name = message.error_name or ""
    text = arguments[0] if arguments and isinstance(arguments[0], str) else name
    code = ERROR_NAMES.get(name, FaultCode.REMOTE)
    if code in NOT_DELIVERED and message.sender != BUS_NAME:
        code = FaultCode.REMOTE
    if code is FaultCode.NO_REPLY:
        text += "; it is unknown whether the call was executed"
    return Fault(code, text, name=name, data=arguments)


def _arguments(message: Received) -> list[Value]:
    """The arguments of an error; empty where they have no legacy representation."""
    try:
        types = parse(message.signature)
        return [marshal.from_dbus(type_)(value) for type_, value in zip(types, message.body, strict=True)]
    except (ValueError, marshal.MarshalError):
        return []


def is_transport_failure(message: Received) -> bool:
    """Return whether the broker answered in place of the destination."""
    if not message.error_name or message.sender != BUS_NAME:
        return False
    return ERROR_NAMES.get(message.error_name) in TRANSPORT_FAILURES
