"""The values that pass between transport, codec, dialect, dispatcher and backend, and the identity of a peer.

They are the same for all protocols. Each is a frozen msgspec.Struct: immutable, and cheaper to make than a dataclass.
To change a field, use `msgspec.structs.replace`.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from typing import TypeAlias

import msgspec

# The values of legacy protocols: a struct is a dict, an array a list. No D-Bus types.
Value: TypeAlias = "bool | int | float | str | bytes | datetime | list[Value] | dict[str, Value] | None"


class FaultCode(Enum):
    """The reason why a call has no reply. Closed: each protocol has a table with an entry for every member."""

    PARSE_ERROR = "parse_error"  # the bytes are not a message of this protocol
    INVALID_REQUEST = "invalid_request"  # well-formed, but not a call
    TOO_LARGE = "too_large"  # over a limit on size, depth or number of elements
    UNKNOWN_METHOD = "unknown_method"
    PARAMETER_COUNT = (
        "parameter_count"  # data: {expected, received} without the session, and {missing: name} where one is
    )
    INVALID_PARAMS = "invalid_params"  # the message names the place: "$.params[1]: expected u, got -1"
    ACCESS_DENIED = "access_denied"
    NOT_FOUND = "not_found"  # no such object, interface or property on the bus
    BUSY = "busy"  # no capacity now; nothing was executed
    UNAVAILABLE = "unavailable"  # the service or its bus cannot be reached; nothing was executed
    TIMEOUT = "timeout"  # the deadline passed; whether it was executed is unknown
    NO_REPLY = "no_reply"  # the callee disconnected before it replied; whether the call was executed is unknown
    UNREPRESENTABLE = "unrepresentable"  # the reply holds a value that this protocol cannot carry
    APPLICATION = "application"  # an error in the client's own terms: name is its code, data its list of arguments
    REMOTE = "remote"  # an error that no mapping translates: name is the callee's error name, data its arguments
    INTERNAL = "internal"  # a bug here; the message never holds the text of an exception


class Peer(msgspec.Struct, frozen=True):
    """The caller: `address` for people ("tcp:127.0.0.1:4711", "unix:/run/x"), the rest if the transport knows it."""

    address: str = ""
    uid: int | None = None
    gid: int | None = None
    pid: int | None = None
    domid: int | None = None


class Call(msgspec.Struct, frozen=True):
    """One call. `extensions` holds what a protocol or transport adds: protocol, path, agent, user."""

    method: str
    params: tuple[Value, ...] = ()
    named: Mapping[str, Value] = {}
    oneway: bool = False  # the client wants no answer
    peer: Peer = Peer()
    extensions: Mapping[str, object] = {}


class Reply(msgspec.Struct, frozen=True):
    """The result of a call; None for a method without a result."""

    value: Value = None


class Fault(msgspec.Struct, frozen=True):
    """The failure of a call. A value, never raised."""

    code: FaultCode
    message: str
    name: str = ""  # the callee's own error name or code, unchanged
    data: Value = None  # its arguments (a list for APPLICATION and REMOTE) or details
    wire: Value = None  # the whole error as a dialect writes it, for protocols whose error may be any value


Outcome: TypeAlias = Reply | Fault

# The name of a NO_REPLY fault when the legacy service closed the connection before its answer. Only the passthrough of
# whole messages sees it: a dialect would show a client the fault's name in place of its message.
HUNG_UP = "HungUp"

# The outcomes of calls whose client left before the answer. They are counted and never sent; compare with `is`.
ABANDONED = Fault(
    FaultCode.NO_REPLY, "the client has left; it is unknown whether the call was executed", name="ClientLeft"
)
WITHDRAWN = Fault(FaultCode.UNAVAILABLE, "the client has left; the call was not sent", name="ClientLeft")


def ended(outcome: Outcome) -> str:
    """The outcome in a word, for log and metrics: ok, a fault's code, or unknown or withdrawn if the client left."""
    if isinstance(outcome, Reply):
        return "ok"
    if outcome is ABANDONED:
        return "unknown"
    return "withdrawn" if outcome is WITHDRAWN else outcome.code.value


class RefusedCall(msgspec.Struct, frozen=True):
    """A call that was read and that no side may execute: it is answered with the fault and never passed through.

    An entry that could not be read is a Fault in the envelope.
    """

    call: Call
    fault: Fault


class Envelope(msgspec.Struct, frozen=True):
    """One decoded message: its calls in order, with a Fault for each entry that could not be read."""

    entries: tuple[Call | Fault, ...]
    tags: object = None  # the codec's own data for its answer
    batch: bool = False


class RequestMetadata(msgspec.Struct, frozen=True):
    """An HTTP message without its body; headers in their order, as the client wrote them."""

    verb: str = "POST"
    target: str = ""  # path and query
    headers: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def agent(self) -> str:
        """The User-Agent (RFC 9110 section 10.1.5); empty if there is none."""
        return self._header(_AGENT)

    @property
    def charset(self) -> str:
        """The charset of the Content-Type (RFC 9110 section 8.3.2); empty if there is none."""
        return charset_of(self._header(_CONTENT_TYPE))

    def _header(self, wanted: bytes) -> str:
        found = (text for name, text in self.headers if len(name) == len(wanted) and name.lower() == wanted)
        return next(found, b"").decode("latin-1")


_AGENT = b"user-agent"
_CONTENT_TYPE = b"content-type"
_CHARSET = re.compile(r""";[ \t]*charset[ \t]*=[ \t]*["']?([^\s;"']{1,40})""", re.IGNORECASE)


def charset_of(content_type: str) -> str:
    """The parameter `charset` of a Content-Type; empty when there is none."""
    found = _CHARSET.search(content_type)
    return found[1] if found else ""


NO_METADATA = RequestMetadata()  # of a message that did not come over HTTP


class Answer(msgspec.Struct, frozen=True):
    """The answer to a message. `body` is None if the protocol sends none (a notification)."""

    body: bytes | None
    content_type: str
    fault: Fault | None = None  # set if the message as a whole was refused; a transport may map it to a status
    status: int | None = None  # set with `headers` if a legacy service gave this answer: it is sent unchanged
    reason: str = ""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    hang_up: bool = False  # the legacy service closed the connection without an answer, and so does the transport


class Event(msgspec.Struct, frozen=True):
    """A D-Bus signal or a change of properties, sent by the owner of the bus name."""

    bus_name: str  # the service's well-known name
    object_path: str
    interface: str  # of the signal, or of the properties
    member: str = ""  # empty for a change of properties
    body: tuple[Value, ...] = ()  # a signal's arguments
    properties: Mapping[str, Value] = {}
    invalidated: frozenset[str] = frozenset()  # properties that have changed to a value that must be read


class EventsLost(msgspec.Struct, frozen=True):
    """Events may have been missed before this one, so the state must be read."""

    bus_name: str
    owner: str  # unique name; empty if the bus name has no owner now
    why: str  # for the operator


class MessageLimits(msgspec.Struct, frozen=True):
    """The limits of one message; beyond them the fault is TOO_LARGE."""

    body: int = 300 * 1024  # bytes, after inflating
    depth: int = 64  # nested structs and arrays
    elements: int = 100_000  # values in one message
    batch: int = 100  # calls in one message


# The identity of a peer

_CREDENTIALS = struct.Struct("iII")  # struct ucred of unix(7), SO_PEERCRED: pid, and uid and gid without a sign
CREDENTIALS_SIZE = _CREDENTIALS.size
_NETWORK = 64  # bits of an IPv6 address that a host cannot choose (RFC 4291 section 2.5.4)


def credentials(ucred: bytes) -> tuple[int, int, int]:
    """pid, uid and gid of a peer, from the value of SO_PEERCRED."""
    pid, uid, gid = _CREDENTIALS.unpack(ucred)
    return pid, uid, gid


def caller(peer: Peer) -> str:
    """A peer in a word: "domid 5" for a domain, "uid 1000" over a Unix socket, else the address without its port."""
    if peer.domid is not None:
        return f"domid {peer.domid}"
    if peer.uid is not None:
        return f"uid {peer.uid}"
    return peer.address.rpartition(":")[0] if peer.address.startswith("tcp:") else peer.address


def share_owner(peer: Peer) -> str:
    """The name under which peers share a quota: a user of this host, an IPv4 address, or an IPv6 /64 network."""
    name = caller(peer)
    address = _address(name)
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return f"tcp:{address.ipv4_mapped}"
        if not address.is_loopback:
            return f"tcp:[{ipaddress.IPv6Network((int(address), _NETWORK), strict=False)}]"
    return name


def is_loopback(peer: Peer) -> bool:
    """Whether the peer connects over TCP from this host, so that its address does not identify it."""
    address = _address(caller(peer))
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address is not None and address.is_loopback


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    if not name.startswith("tcp:"):
        return None
    try:
        return ipaddress.ip_address(name.removeprefix("tcp:").strip("[]").partition("%")[0])
    except ValueError:
        return None
