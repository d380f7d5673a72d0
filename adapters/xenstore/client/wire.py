"""xenstore's packets: bytes to packets and back, paths and permissions checked; pure, knows no socket.

Operation numbers, layout of the header and the base of all errors are pyxs's. Its `Packet` and its checks are not used:
they refuse answers over 4096 bytes and the empty value, and take any error name they do not know for errno 0.
"""

from __future__ import annotations

import errno
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from pyxs import PyXSError
from pyxs._internal import NUL as _NUL
from pyxs._internal import Op, Packet

NUL: Final[bytes] = _NUL
OK = b"OK" + NUL
MAX_PAYLOAD = 4096  # bytes of a request; xenstored ends the connection of who sends more (xs_wire.h)
MAX_ANSWER = 16 * 1024**2  # bytes; oxenstored answers DIRECTORY in one piece, and this is 400,000 children
MAX_PATH = 3072  # bytes of an absolute path (xs_wire.h, XENSTORE_ABS_PATH_MAX)

_HEADER: struct.Struct = Packet._struct  # noqa: SLF001 - operation, request id, transaction id, length of payload
HEADER_SIZE = _HEADER.size
# xenstore.txt: these characters and no other, no trailing and no double slash. `@`: what is watched but is no node.
_PATH = re.compile(r"/|(?:/[\w@-]+)+|@[\w@/-]+", re.ASCII)
_CODES = {name: code for code, name in errno.errorcode.items()}
_GRANTS = frozenset("nrwb")  # none, read, write, both


class Operation(IntEnum):
    """What a packet is about."""

    DIRECTORY = Op.DIRECTORY
    READ = Op.READ
    GET_PERMS = Op.GET_PERMS
    WATCH = Op.WATCH
    UNWATCH = Op.UNWATCH
    TRANSACTION_START = Op.TRANSACTION_START
    TRANSACTION_END = Op.TRANSACTION_END
    WRITE = Op.WRITE
    MKDIR = Op.MKDIR
    RM = Op.RM
    SET_PERMS = Op.SET_PERMS
    WATCH_EVENT = Op.WATCH_EVENT
    ERROR = Op.ERROR
    DIRECTORY_PART = 22  # newer than pyxs, and not in every store


ACKNOWLEDGED = frozenset(
    {
        Operation.WATCH,
        Operation.UNWATCH,
        Operation.TRANSACTION_END,
        Operation.WRITE,
        Operation.MKDIR,
        Operation.RM,
        Operation.SET_PERMS,
    }
)


class StoreError(PyXSError):  # type: ignore[misc] # theirs has no types
    """What the store refused: `name` is its word for it (ENOENT, EACCES, EQUOTA...), `path` where."""

    def __init__(self, name: str, path: str, reason: str = "") -> None:
        self.name = name
        self.path = path
        super().__init__(_CODES.get(name, 0), f"{path}: {reason or name}")  # EQUOTA has no number

    def __str__(self) -> str:
        return str(self.args[1])


# What will be refused again, however often it is asked; all else (ENOMEM, EIO, EAGAIN, EBUSY, ENOSPC, EQUOTA) passes.
LASTING = frozenset({"EINVAL", "E2BIG", "EACCES"})


def lasts(error: StoreError) -> bool:
    """Whether it is useless to try again."""
    return error.name in LASTING


class ProtocolError(Exception):
    """What the store sent makes no sense; the text says what."""


class Received(NamedTuple):
    """One packet from the store. A watch event has the ids 0."""

    operation: int
    request: int
    transaction: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Permissions:
    """Who may do what with a node: its owner everything, `domains` what their letter says, all others `others`.

    Letters: n (nothing), r (read), w (write), b (both).
    """

    owner: int = 0  # domid
    others: str = "n"
    domains: tuple[tuple[int, str], ...] = ()  # domid, letter

    def encode(self) -> bytes:
        """As SET_PERMS wants it; ValueError for what is no permission."""
        return b"".join(_grant(letter, domid) for domid, letter in ((self.owner, self.others), *self.domains))

    @classmethod
    def decode(cls, payload: bytes, path: str = "") -> Permissions:
        """As GET_PERMS gives it; raises StoreError EBADMSG."""
        texts = [text.decode("ascii", "replace") for text in payload.split(NUL) if text]
        if not texts or any(text[0] not in _GRANTS or not text[1:].isdecimal() for text in texts):
            raise StoreError("EBADMSG", path, f"permissions that make no sense: {payload[:80]!r}")
        first, *rest = [(int(text[1:]), text[0]) for text in texts]
        return cls(*first, tuple(rest))


def _grant(letter: str, domid: int) -> bytes:
    if letter not in _GRANTS or domid < 0:
        raise ValueError(f"no permission: {letter}{domid}")
    return b"%s%d\0" % (letter.encode(), domid)


def path_argument(path: str) -> bytes:
    """A path as packets have it; raises StoreError, since a NUL within would be read as the end of the path."""
    if len(path) > MAX_PATH:
        raise StoreError("EINVAL", _shown(path), f"{len(path)} characters, xenstore takes at most {MAX_PATH}")
    if not _PATH.fullmatch(path):
        raise StoreError("EINVAL", _shown(path), "no xenstore path")
    return path.encode() + NUL


def _shown(path: str) -> str:
    return ascii(path[:80])


def request(operation: int, payload: bytes, request_id: int, transaction: int = 0, *, path: str = "") -> bytes:
    """A packet to the store; `path` only names the place when it is too large."""
    size = len(payload)
    if size > MAX_PAYLOAD:
        raise StoreError("E2BIG", path, f"the request is {size} bytes long, xenstore takes at most {MAX_PAYLOAD}")
    return _HEADER.pack(operation, request_id, transaction, size) + payload


def text(data: bytes) -> str:
    """A path, a name or a number; what is not ASCII is shown, and is no path."""
    return data.decode("ascii", "backslashreplace")


def children(payload: bytes) -> list[str]:
    """The names in an answer to DIRECTORY."""
    return [text(name) for name in payload.split(NUL)[:-1]]


def part(payload: bytes, path: str = "") -> tuple[bytes, bytes, bool]:
    """Of an answer to DIRECTORY_PART: generation, names, whether these are the last; raises StoreError EBADMSG."""
    generation, separator, names = payload.partition(NUL)
    if not separator or not names.endswith(NUL):
        raise StoreError("EBADMSG", path, f"a part of a directory that makes no sense: {payload[:80]!r}")
    last = names == NUL or names.endswith(NUL + NUL)
    return generation, names[:-1] if last else names, last


def transaction_id(payload: bytes) -> int:
    """The number in an answer to TRANSACTION_START; raises StoreError EBADMSG."""
    number = payload.rstrip(NUL)
    if not number.isdigit():
        raise StoreError("EBADMSG", "transaction", f"a number that makes no sense: {payload[:80]!r}")
    return int(number)


def event(payload: bytes) -> tuple[str, bytes]:
    """Path and token of a watch event; raises JunkError."""
    parts = payload.split(NUL)
    if len(parts) != 3 or parts[2]:  # path, token, the end
        raise ProtocolError(f"a watch event that makes no sense: {payload[:80]!r}")
    return text(parts[0]), parts[1]


class Reader:
    """Cuts what arrives into packets, in whatever pieces it arrives."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def amid(self) -> bool:
        """Whether it holds a part of a packet."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> Iterator[Received]:
        """The packets that are whole now; raises JunkError where no packet can begin."""
        buffer = self._buffer
        buffer += data
        at = 0
        try:
            while len(buffer) - at >= HEADER_SIZE:
                operation, request_id, transaction, size = _HEADER.unpack_from(buffer, at)
                _check(operation, size)
                end = at + HEADER_SIZE + size
                if len(buffer) < end:
                    break
                payload = bytes(memoryview(buffer)[at + HEADER_SIZE : end])
                at = end
                yield Received(operation, request_id, transaction, payload)
        finally:
            del buffer[:at]


_OPERATIONS = frozenset(Operation)


def _check(operation: int, size: int) -> None:
    if operation not in _OPERATIONS:
        raise ProtocolError(f"a packet of type {operation}, which does not exist")
    if size > MAX_ANSWER:
        raise ProtocolError(f"a packet of {size} bytes, over the {MAX_ANSWER} that are read")
