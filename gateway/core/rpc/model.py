"""The values that flow between transport, codec, dialect, dispatcher and backend; knows no protocol."""

from __future__ import annotations

import ipaddress
import re
import struct
from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from typing import TypeAlias

import msgspec

# What legacy protocols can say. No D-Bus types; a struct is a dict, an array a list.
Value: TypeAlias = "bool | int | float | str | bytes | datetime | list[Value] | dict[str, Value] | None"


class FaultCode(Enum):
    """Why a call has no reply. Closed: every edge owns a column (a dict constant) that names each member."""

    PARSE_ERROR = "parse_error"  # the bytes are no message of this protocol
    INVALID_REQUEST = "invalid_request"  # well-formed, but no call
    TOO_LARGE = "too_large"  # over a limit on size, depth or number of elements
    UNKNOWN_METHOD = "unknown_method"
    PARAMETER_COUNT = (
        "parameter_count"  # data: {expected, received} without the session, and {missing: name} where one is
    )
    INVALID_PARAMS = "invalid_params"  # the message names the place: "$.params[1]: expected u, got -1"
    ACCESS_DENIED = "access_denied"
    NOT_FOUND = "not_found"  # no such object, interface or property on the bus
    BUSY = "busy"  # refused now for want of room; nothing was executed
    UNAVAILABLE = "unavailable"  # the service or its bus cannot be reached; nothing was executed
    TIMEOUT = "timeout"  # the deadline passed; whether it was executed is unknown
    NO_REPLY = "no_reply"  # the callee went away in mid-call; whether it was executed is unknown
    UNREPRESENTABLE = "unrepresentable"  # the reply holds a value that this protocol cannot carry
    APPLICATION = "application"  # an error in the client's own terms: name is its code, data its list of arguments
    REMOTE = "remote"  # an error of the far side that no mapping names: name is its error name, data its arguments
    INTERNAL = "internal"  # a bug here; the message never holds the text of an exception


class Peer(msgspec.Struct, frozen=True):
    """Who called: `address` for people ("tcp:127.0.0.1:4711", "unix:/run/x"), the rest where the wire tells it."""

    address: str = ""
    uid: int | None = None
    gid: int | None = None
    pid: int | None = None
    domid: int | None = None


class Call(msgspec.Struct, frozen=True):
    """One call as the client meant it; `extensions` is the one place to leak (headers, domid)."""

    method: str
    params: tuple[Value, ...] = ()
    named: Mapping[str, Value] = {}
    oneway: bool = False  # the client wants no answer
    peer: Peer = Peer()
    extensions: Mapping[str, object] = {}


class Reply(msgspec.Struct, frozen=True):
    """It worked. A method without a result replies with None."""

    value: Value = None


class Fault(msgspec.Struct, frozen=True):
    """It did not work. A value, never raised."""

    code: FaultCode
    message: str
    name: str = ""  # the far side's own error name or code, verbatim
    data: Value = None  # its arguments (a list for APPLICATION and REMOTE) or details
    wire: Value = None  # the whole error as a dialect writes it, for protocols whose error may be any value


Outcome: TypeAlias = Reply | Fault

# The name of a NO_REPLY fault where the legacy service closed the connection before its answer. It goes no further
# than to whoever forwards whole messages: a dialect would tell a client a fault's name in place of its message.
HUNG_UP = "HungUp"

# What a call came to whose client left before its answer. Noted, sent to nobody; compared with `is`.
ABANDONED = Fault(
    FaultCode.NO_REPLY, "the client has left; it is unknown whether the call was executed", name="ClientLeft"
)
WITHDRAWN = Fault(FaultCode.UNAVAILABLE, "the client has left; the call was not sent", name="ClientLeft")


def ended(outcome: Outcome) -> str:
    """How a call ended, for log and metrics: ok, a fault's code, or unknown or withdrawn where its client has left."""
    if isinstance(outcome, Reply):
        return "ok"
    if outcome is ABANDONED:
        return "unknown"
    return "withdrawn" if outcome is WITHDRAWN else outcome.code.value


class RefusedCall(msgspec.Struct, frozen=True):
    """A call that was read and that nobody may execute: it is answered with the fault and goes nowhere.

    It is not an entry that could not be read (a Fault in an envelope), which a legacy service may still be shown.
    """

    call: Call
    fault: Fault


class Envelope(msgspec.Struct, frozen=True):
    """One decoded message: an entry for each call in it, a Fault where an entry made no sense."""

    entries: tuple[Call | Fault, ...]
    tags: object = None  # what the codec needs to answer; opaque to everybody else
    batch: bool = False


class RequestMetadata(msgspec.Struct, frozen=True):
    """What an HTTP message has beside its body; headers in their order, as they were written."""

    verb: str = "POST"
    target: str = ""  # path and query
    headers: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def agent(self) -> str:
        """What the client's program calls itself (RFC 9110 section 10.1.5); empty when it does not say."""
        return self._header(_AGENT)

    @property
    def charset(self) -> str:
        """What its Content-Type says of the encoding of the body (RFC 9110 section 8.3.2); empty when it does not."""
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


NO_METADATA = RequestMetadata()  # a message that came without HTTP


class Answer(msgspec.Struct, frozen=True):
    """What goes back over the wire. `body` is None when the protocol sends nothing (a notification)."""

    body: bytes | None
    content_type: str
    fault: Fault | None = None  # set when the message as a whole was refused; a transport may turn it into a status
    status: int | None = None  # set with `headers` when a legacy service gave this answer: it goes back as it came
    reason: str = ""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    hang_up: bool = False  # the legacy service closed the connection without an answer: so does the transport


class Event(msgspec.Struct, frozen=True):
    """A D-Bus signal, or properties that have changed, as the service told it and its owner alone."""

    bus_name: str  # the service's well-known name
    object_path: str
    interface: str  # of the signal, or of the properties
    member: str = ""  # empty where properties have changed
    body: tuple[Value, ...] = ()  # a signal's arguments
    properties: Mapping[str, Value] = {}
    invalidated: frozenset[str] = frozenset()  # properties that have changed too, to what must be read


class EventsLost(msgspec.Struct, frozen=True):
    """Events may have been missed before this moment: what they would have told must be read."""

    bus_name: str
    owner: str  # unique name; empty when nobody owns the bus name now, so that there is nobody to ask
    why: str  # for the operator


class MessageLimits(msgspec.Struct, frozen=True):
    """What one message may hold; past it the fault is TOO_LARGE."""

    body: int = 300 * 1024  # bytes, after inflating
    depth: int = 64  # nested structs and arrays
    elements: int = 100_000  # values in one message
    batch: int = 100  # calls in one message


# Who called: the kernel's words for it read, and a caller in a word that stays the same. Opens no socket.


_CREDENTIALS = struct.Struct("iII")  # struct ucred of unix(7), SO_PEERCRED: pid, and uid and gid without a sign
CREDENTIALS_SIZE = _CREDENTIALS.size
_NETWORK = 64  # bits of an IPv6 address that one host cannot choose (RFC 4291 section 2.5.4)


def credentials(told: bytes) -> tuple[int, int, int]:
    """pid, uid and gid of what the kernel tells for SO_PEERCRED."""
    pid, uid, gid = _CREDENTIALS.unpack(told)
    return pid, uid, gid


def caller(peer: Peer) -> str:
    """ "domid 5" by the store, "uid 1000" over a Unix socket, else the address without its port."""
    if peer.domid is not None:
        return f"domid {peer.domid}"
    if peer.uid is not None:
        return f"uid {peer.uid}"
    return peer.address.rpartition(":")[0] if peer.address.startswith("tcp:") else peer.address


def share_owner(peer: Peer) -> str:
    """Who shares one quota: a user of this host, an IPv4 address, or the /64 network of an IPv6 address."""
    name = caller(peer)
    address = _address(name)
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return f"tcp:{address.ipv4_mapped}"
        if not address.is_loopback:
            return f"tcp:[{ipaddress.IPv6Network((int(address), _NETWORK), strict=False)}]"
    return name


def is_loopback(peer: Peer) -> bool:
    """Whether it came over TCP from this host: then its address tells nothing of who it is."""
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
