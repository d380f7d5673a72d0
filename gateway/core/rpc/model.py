"""The values that pass between transport, codec, dialect, dispatcher and backend, and the identity of a peer.

They are the same for all protocols. Each is a frozen msgspec.Struct: immutable, and cheaper to make than a dataclass.
To change a field, use `msgspec.structs.replace`.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from enum import Enum
from functools import lru_cache
from typing import Any, TypeAlias

import msgspec

# The values of legacy protocols: a struct is a dict, an array a list. No D-Bus types.
Value: TypeAlias = "bool | int | float | str | bytes | datetime | list[Value] | dict[str, Value] | None"

_SMALL = frozenset({int, bool, float, type(None)})  # whatever they are
_SEQUENCES = (tuple, list)
_FEW, _SHORT = 16, 1024  # values, and characters of each, that are never large together
LARGE = 20_000  # elements, or 64 bytes of text: about 10 ms to write as XML


def is_large(value: object, most: int = LARGE) -> bool:
    """Return whether converting a value takes so long that other calls would notice: it runs in a thread."""
    if isinstance(value, _SEQUENCES) and len(value) == 1:
        value = value[0]  # the usual case
    if isinstance(value, str):
        return len(value) >> 6 > most
    if type(value) in _SMALL or (isinstance(value, _SEQUENCES) and len(value) <= _FEW and _are_small(value)):
        return False
    left = most
    rest: list[Any] = [value]
    while rest:
        item = rest.pop()
        kind = type(item)
        if kind in _SMALL:
            continue
        if kind is str or kind is bytes:
            left -= len(item) >> 6
        elif kind is list or kind is tuple:
            left -= len(item)
            rest.extend(item)
        elif kind is dict or isinstance(item, Mapping):
            left -= len(item)
            rest.extend(item.values())
        if left < 0:
            return True
    return False


def _are_small(values: Iterable[object]) -> bool:
    """Whether a few values are single ones without much text: the usual case."""
    for item in values:  # noqa: SIM110 - `all` is slower
        if type(item) not in _SMALL and not (type(item) is str and len(item) <= _SHORT):
            return False
    return True


class FaultCode(Enum):
    """The reason why a call has no reply; FAULTS has the meanings. Each protocol has a table with an entry for each."""

    PARSE_ERROR = "parse_error"
    INVALID_REQUEST = "invalid_request"
    TOO_LARGE = "too_large"
    UNKNOWN_METHOD = "unknown_method"
    PARAMETER_COUNT = "parameter_count"  # data: {expected, received}, and {missing: name} where one is
    INVALID_PARAMS = "invalid_params"
    ACCESS_DENIED = "access_denied"
    NOT_FOUND = "not_found"
    BUSY = "busy"
    UNAVAILABLE = "unavailable"
    TIMEOUT = "timeout"
    NO_REPLY = "no_reply"
    UNREPRESENTABLE = "unrepresentable"
    APPLICATION = "application"  # name: the error's code; data: the list of its arguments
    REMOTE = "remote"  # name: the callee's error name; data: its arguments
    INTERNAL = "internal"  # the message never holds the text of an exception


# The meaning of each code, and whether the service has executed the call: no, yes, or unknown.
FAULTS: Mapping[FaultCode, tuple[str, str]] = {
    FaultCode.PARSE_ERROR: ("The bytes are not a message of this protocol.", "no"),
    FaultCode.INVALID_REQUEST: ("The message is well-formed, but not a call.", "no"),
    FaultCode.TOO_LARGE: (
        "Over a limit on size, depth or number of elements. Of an answer: the call was executed.",
        "no; yes, of an answer",
    ),
    FaultCode.UNKNOWN_METHOD: ("No mapping and no service has this method.", "no"),
    FaultCode.PARAMETER_COUNT: ("Too many or too few parameters, counted without the session.", "no"),
    FaultCode.INVALID_PARAMS: (
        'A value does not fit; the message names its place: "$.params[1]: expected u, got -1".',
        "no",
    ),
    FaultCode.ACCESS_DENIED: ("The caller may not make this call.", "no"),
    FaultCode.NOT_FOUND: ("The bus has no such object, interface or property.", "no"),
    FaultCode.BUSY: ("No capacity at the moment: try again.", "no"),
    FaultCode.UNAVAILABLE: ("The service or its bus cannot be reached.", "no"),
    FaultCode.TIMEOUT: ("The deadline passed; the message says where the call was not sent at all.", "unknown"),
    FaultCode.NO_REPLY: ("The service disconnected before it replied.", "unknown"),
    FaultCode.UNREPRESENTABLE: ("The reply has a value that this protocol cannot carry.", "yes"),
    FaultCode.APPLICATION: (
        "An error of the service in the client's own terms, with code and arguments.",
        "as the error says",
    ),
    FaultCode.REMOTE: ("An error of the service that no mapping translates, with its D-Bus name.", "as the error says"),
    FaultCode.INTERNAL: ("A bug of the gateway; its log has the details.", "unknown"),
}


class PeerConnection:
    """A connection of a client, which owns what ends with it."""

    __slots__ = ("_on_close", "has_capacity", "is_open", "on_wait", "subscriber")

    def __init__(self) -> None:
        self.is_open = True
        # Set by a transport that counts calls: frees the slot of the call that waits now, until the returned function
        # is called. None: too many calls wait.
        self.on_wait: Callable[[], Callable[[], object] | None] | None = None
        self.has_capacity: Callable[[], bool] | None = None  # whether one more call may begin
        self.subscriber: object = None  # of a connection over which messages can be sent at any time
        self._on_close: dict[Callable[[], object], None] = {}

    def when_closed(self, tell: Callable[[], object]) -> Callable[[], object]:
        """Call `tell` when the connection is closed; the returned function ends that."""
        self._on_close[tell] = None
        return lambda: self._on_close.pop(tell, None)

    def close(self) -> None:
        """The connection is closed."""
        self.is_open = False
        self.on_wait = self.has_capacity = None
        self.subscriber = None
        told, self._on_close = self._on_close, {}
        for tell in told:
            tell()


class Peer(msgspec.Struct, frozen=True, cache_hash=True):
    """The caller: `address` for people ("tcp:127.0.0.1:4711", "unix:/run/x"), the rest if the transport knows it."""

    address: str = ""
    uid: int | None = None
    gid: int | None = None
    pid: int | None = None
    domid: int | None = None
    connection: PeerConnection | None = None  # over which the call came; None where the transport has none


class Origin(dict[str, object]):
    """The extensions of calls that came the same way. Nobody changes them.

    `is_shared`: several calls have this object, so what is made of it may be kept for the next one.
    """

    __slots__ = ("is_shared",)

    def __init__(self, values: Mapping[str, object], *, is_shared: bool = False) -> None:
        super().__init__(values)
        self.is_shared = is_shared


def is_shared(extensions: Mapping[str, object]) -> bool:
    """Whether several calls have these extensions; see Origin."""
    return type(extensions) is Origin and extensions.is_shared


class Call(msgspec.Struct, frozen=True):
    """One call. `extensions` holds what a protocol or transport adds: protocol, path, agent, request_id, user."""

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


class Int32(int):
    """An integer that XML-RPC writes as <i4>, for clients that accept no other element."""


# The name of a NO_REPLY fault when the legacy service closed the connection before its answer. Only the passthrough of
# whole messages sees it: a dialect would show a client the fault's name in place of its message.
HUNG_UP = "HungUp"

# The outcomes of calls whose client left before the answer. They are counted and never sent; compare with `is`.
ABANDONED = Fault(
    FaultCode.NO_REPLY, "the client has left; it is unknown whether the call was executed", name="ClientLeft"
)
WITHDRAWN = Fault(FaultCode.UNAVAILABLE, "the client has left; the call was not sent", name="ClientLeft")


REDIRECTS = frozenset({301, 302, 303, 307, 308})  # statuses that name another place (RFC 9110 section 15.4)
_REDIRECTED = re.compile("HTTP (?:status )?(?:" + "|".join(map(str, REDIRECTS)) + r")\b")  # in messages of our own
_OTHER_HOST = "HOST_IS_SLAVE"  # XenAPI's error of a pool member: its argument is the coordinator's address


def http_failure(status: int) -> Fault:
    """The outcome of a request that an upstream answered with a status that is not a success."""
    return Fault(FaultCode.REMOTE, f"HTTP {status}", name=str(status))


def is_redirect(outcome: Outcome) -> bool:
    """Whether an upstream has answered that the client must ask elsewhere."""
    if not isinstance(outcome, Fault):
        return False
    if outcome.code is FaultCode.APPLICATION:
        return outcome.name == _OTHER_HOST
    return outcome.name.isdigit() and int(outcome.name) in REDIRECTS and bool(_REDIRECTED.search(outcome.message))


def ended(outcome: Outcome) -> str:
    """The outcome in a word, for log and metrics.

    It is ok, redirect, a fault's code, or unknown or withdrawn if the client left.
    """
    if isinstance(outcome, Reply):
        return "ok"
    if outcome is ABANDONED:
        return "unknown"
    if outcome is WITHDRAWN:
        return "withdrawn"
    return "redirect" if is_redirect(outcome) else outcome.code.value


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


Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]  # names and values in their order, as the peer wrote them


class RequestMetadata(msgspec.Struct, frozen=True):
    """An HTTP message without its body; headers in their order, as the client wrote them.

    Messages with the same head may share it.
    """

    verb: str = "POST"
    target: str = ""  # path and query
    headers: Headers = ()

    @property
    def agent(self) -> str:
        """The User-Agent (RFC 9110 section 10.1.5); empty if there is none."""
        return self._header(_AGENT)

    @property
    def charset(self) -> str:
        """The charset of the Content-Type (RFC 9110 section 8.3.2); empty if there is none."""
        return charset_of(self._header(_CONTENT_TYPE))

    @property
    def request_id(self) -> str:
        """The client's own name of the request: X-Request-Id, else the trace of `traceparent` (W3C Trace Context)."""
        return self._header(_REQUEST_ID) or self._header(_TRACE)[3:35]

    def _header(self, wanted: bytes) -> str:
        found = (text for name, text in self.headers if len(name) == len(wanted) and name.lower() == wanted)
        return next(found, b"").decode("latin-1")


_REQUEST_ID, _TRACE = b"x-request-id", b"traceparent"
_AGENT = b"user-agent"
_CONTENT_TYPE = b"content-type"
_CHARSET = re.compile(r""";[ \t]*charset[ \t]*=[ \t]*["']?([^\s;"']{1,40})""", re.IGNORECASE)


@lru_cache(maxsize=256)
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
    headers: Headers = ()
    as_page: bool = False  # where `fault` is set: servers of the dialect say so in a page with status 500
    hang_up: bool = False  # the legacy service closed the connection without an answer, and so does the transport
    # The head of a legacy service's answer as a transport sends it to a client of HTTP/1.1 whose connection stays open,
    # where it is known and the body is not encoded. Else the transport makes it.
    known_head: bytes = b""


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


@lru_cache(maxsize=4096)
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
    if isinstance(address, ipaddress.IPv6Address) and not address.is_loopback:
        return f"tcp:[{ipaddress.IPv6Network((int(address), _NETWORK), strict=False)}]"
    return f"tcp:{address}" if isinstance(address, ipaddress.IPv4Address) else name


def is_loopback(peer: Peer) -> bool:
    """Whether the peer connects over TCP from this host, so that its address does not identify it."""
    address = _address(caller(peer))
    return address is not None and address.is_loopback


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address of a caller over TCP; that of IPv4 where it is mapped to IPv6."""
    if not name.startswith("tcp:"):
        return None
    try:
        address = ipaddress.ip_address(name.removeprefix("tcp:").strip("[]").partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
