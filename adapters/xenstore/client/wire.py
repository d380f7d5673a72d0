"""xenstore's wire protocol without a socket: packets to bytes and back, checked paths, permissions.

The protocol is that of xen/include/public/io/xs_wire.h and docs/misc/xenstore.txt. A packet is a header of four 32-bit
integers in the byte order of the host (operation, request id, transaction id, length of the payload) and the payload.
The errors derive from those of pyxs. Its packets are not used: they are private, refuse responses over 4096 bytes and
empty values, and read an unknown error name as errno 0.
"""

from __future__ import annotations

import errno
import re
import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

from msgspec import Struct
from pyxs import PyXSError, UnexpectedPacket

from gateway.core.xenstore.paths import DOM0

NUL: Final = b"\0"
OK = b"OK" + NUL
MAX_PAYLOAD = 4096  # bytes of a request; xenstored closes the connection after a larger one (xs_wire.h)
MAX_RESPONSE = 16 * 1024**2  # bytes; oxenstored sends a whole directory in one packet, and this is 400,000 names
MAX_PATH = 3072  # bytes of an absolute path (xs_wire.h, XENSTORE_ABS_PATH_MAX)

KNOWN_PERMISSIONS = 256  # that are not read again; most nodes have one of a few

HEADER = struct.Struct("IIII")  # operation, request id, transaction id, length of the payload
# xenstore.txt: only these characters, no trailing and no double slash. `@`: special watches, which are not nodes.
_PATH = re.compile(r"/|(?:/[\w@-]+)+|@[\w@/-]+", re.ASCII)
_CODES = {name: code for code, name in errno.errorcode.items()}
_GRANTS = frozenset("nrwb")  # none, read, write, both
WRITES = "wb"


class Operation(IntEnum):
    """The type of a packet (xs_wire.h, `enum xsd_sockmsg_type`), as far as this client uses it."""

    DIRECTORY = 1
    READ = 2
    GET_PERMS = 3
    WATCH = 4
    UNWATCH = 5
    TRANSACTION_START = 6
    TRANSACTION_END = 7
    WRITE = 11
    MKDIR = 12
    RM = 13
    SET_PERMS = 14
    WATCH_EVENT = 15
    ERROR = 16
    DIRECTORY_PART = 22  # not in every store


_OPERATIONS = frozenset(Operation)
_WITH_CONTENT = {"DIRECTORY", "READ", "GET_PERMS", "TRANSACTION_START", "WATCH_EVENT", "ERROR", "DIRECTORY_PART"}
ACKNOWLEDGED = frozenset(each for each in Operation if each.name not in _WITH_CONTENT)  # their response is OK


class StoreError(PyXSError):  # type: ignore[misc] # theirs has no types
    """The store refused a request on `path`. `name` is the error that it sent: ENOENT, EACCES, EQUOTA, ..."""

    def __init__(self, name: str, path: str, reason: str = "") -> None:
        self.name = name
        self.path = path
        super().__init__(_CODES.get(name, 0), f"{path}: {reason or name}")  # EQUOTA has no number

    def __str__(self) -> str:
        return str(self.args[1])

    @property
    def is_permanent(self) -> bool:
        """Whether a retry will fail in the same way. ENOMEM, EIO, EAGAIN, EBUSY, ENOSPC and EQUOTA are transient."""
        return self.name in ("EINVAL", "E2BIG", "EACCES")


class ProtocolError(UnexpectedPacket):  # type: ignore[misc] # theirs has no types
    """The store sent a packet that violates the protocol; the text says what was found."""


class Received(NamedTuple):
    """One packet from the store. Both ids of a watch event are 0."""

    operation: int
    request: int
    transaction: int
    payload: bytes


class Asked(NamedTuple):
    """An operation to be sent: its payload, and the path that its errors name."""

    operation: Operation
    payload: bytes
    path: str


Answer: TypeAlias = "bytes | StoreError"  # the payload of a response, or the error with which the store refused


class Permissions(Struct, frozen=True):
    """Permissions of a node. Its owner may do everything, a listed domain its letter, every other domain `others`.

    The letters: n (no access), r (read), w (write), b (read and write).
    """

    owner: int = 0  # domid
    others: str = "n"
    domains: tuple[tuple[int, str], ...] = ()  # domid, letter

    @property
    def writer(self) -> int | None:
        """The domain that may have written the node: its owner or a domain with write permission; None for several.

        xenstore names no sender. Domain 0 may write every node, so it is the writer only where no other domain may
        write.
        """
        if self.others in WRITES:
            return None
        writers = {self.owner, *(domid for domid, letter in self.domains if letter in WRITES)} - {DOM0}
        if len(writers) > 1:
            return None
        return writers.pop() if writers else DOM0

    def encode(self) -> bytes:
        """The payload of SET_PERMS. Raises ValueError for an unknown letter or a negative domid."""
        grants = ((self.owner, self.others), *self.domains)
        for domid, letter in grants:
            if letter not in _GRANTS or domid < 0:
                what = f"expected a permission such as r5 (one of n, r, w, b and a domid), got {letter}{domid}"
                raise ValueError(what)
        return b"".join(b"%s%d\0" % (letter.encode(), domid) for domid, letter in grants)

    @classmethod
    def decode(cls, payload: bytes, path: str = "") -> Permissions:
        """Read the payload of GET_PERMS. Raises StoreError EBADMSG."""
        try:
            return _decoded(payload)
        except ValueError:
            what = f"expected permissions such as n0 r5, got {payload[:80]!r}"
            raise StoreError("EBADMSG", path, what) from None


@lru_cache(KNOWN_PERMISSIONS)
def _decoded(payload: bytes) -> Permissions:
    texts = [text.decode("ascii", "replace") for text in payload.split(NUL) if text]
    if not texts or any(text[0] not in _GRANTS or not text[1:].isdecimal() for text in texts):
        raise ValueError
    first, *rest = [(int(text[1:]), text[0]) for text in texts]
    return Permissions(*first, tuple(rest))


def least_privileged(permissions: Iterable[Permissions]) -> int | None:
    """The domain in whose name a request of several nodes is made: the guest among their writers, or domain 0.

    None when several guests have written it, or when the writer of a node is unknown.
    """
    guests = {each.writer for each in permissions} - {DOM0}  # None is one that is not known
    if len(guests) > 1:
        return None
    return guests.pop() if guests else DOM0


def path_argument(path: str) -> bytes:
    """A path as packets carry it. Raises StoreError EINVAL: the store would read a NUL inside it as its end."""
    if len(path) > MAX_PATH:
        why = f"expected a path of at most {MAX_PATH} characters, got {len(path)}"
    elif not _PATH.fullmatch(path):
        why = "expected an absolute xenstore path (A-Z a-z 0-9 - _ @ and /)"
    else:
        return path.encode() + NUL
    raise StoreError("EINVAL", ascii(path[:80]), why)


def request(operation: int, payload: bytes, request_id: int, transaction: int = 0, *, path: str = "") -> bytes:
    """A packet to the store. Raises StoreError E2BIG, which names `path`, when the payload is too large."""
    size = len(payload)
    if size > MAX_PAYLOAD:
        raise StoreError("E2BIG", path, f"expected a request of at most {MAX_PAYLOAD} bytes, got {size}")
    return HEADER.pack(operation, request_id, transaction, size) + payload


def text(data: bytes) -> str:
    """A path, a name or a number. Bytes that are not ASCII become escapes, which no path contains."""
    return data.decode("ascii", "backslashreplace")


def children(payload: bytes) -> list[str]:
    """The names in a response to DIRECTORY."""
    return [text(name) for name in payload.split(NUL)[:-1]]


def part(payload: bytes, path: str = "") -> tuple[bytes, bytes, bool]:
    """Split a response to DIRECTORY_PART: generation, names, whether these are the last. Raises StoreError EBADMSG."""
    generation, separator, names = payload.partition(NUL)
    if not separator or not names.endswith(NUL):
        raise StoreError("EBADMSG", path, f"expected a generation and names, got {payload[:80]!r}")
    last = names == NUL or names.endswith(NUL + NUL)
    return generation, names[:-1] if last else names, last


def transaction_id(payload: bytes) -> int:
    """The number in a response to TRANSACTION_START. Raises StoreError EBADMSG."""
    number = payload.rstrip(NUL)
    if not number.isdigit():
        raise StoreError("EBADMSG", "transaction", f"expected the number of a transaction, got {payload[:80]!r}")
    return int(number)


def event(payload: bytes) -> tuple[str, bytes]:
    """Path and token of a watch event. Raises ProtocolError."""
    parts = payload.split(NUL)
    if len(parts) != 3 or parts[2]:  # path, token, the end
        raise ProtocolError(f"a watch event without path and token: {payload[:80]!r}")
    return text(parts[0]), parts[1]


class Reader:
    """Cuts a stream of bytes into packets. The stream may arrive in pieces of any size."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def is_inside_packet(self) -> bool:
        """Whether the bytes so far end in the middle of a packet."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> Iterator[Received]:
        """The packets that are complete now. Raises ProtocolError for an unknown operation or a too large payload."""
        buffer: bytes | bytearray = data
        if self._buffer:  # most data is whole packets, which are cut from it as it is
            self._buffer += data
            buffer = self._buffer
        at, whole = 0, len(buffer)
        try:
            while whole - at >= HEADER.size:
                operation, request_id, transaction, size = HEADER.unpack_from(buffer, at)
                if operation not in _OPERATIONS:
                    raise ProtocolError(f"a packet of the unknown type {operation}")
                if size > MAX_RESPONSE:
                    raise ProtocolError(f"a packet of {size} bytes; expected at most {MAX_RESPONSE}")
                end = at + HEADER.size + size
                if whole < end:
                    break
                payload = bytes(buffer[at + HEADER.size : end])
                at = end
                yield Received(operation, request_id, transaction, payload)
        finally:
            if buffer is self._buffer:
                del self._buffer[:at]
            else:
                self._buffer += buffer[at:]
