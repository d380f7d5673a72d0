"""A large message, read in pieces in a thread beside the event loop, and freed in slices.

The library reads a message in one step that holds the interpreter. So each large array is cut between its elements,
and the library reads one piece after the other, each as the body of a small message of its own: in between, the event
loop has its turns. (D-Bus specification, "Marshaling (Wire Format)")

A value is aligned by its place in the message. A piece begins at the same place modulo 8, so it is aligned as before:
bytes in front of a value are kept as bytes ("y"), and elements of an array come behind the length of the array.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from functools import lru_cache
from io import BytesIO
from sys import getrefcount
from typing import TYPE_CHECKING, Any, TypeVar, cast

from dbus_fast import Message, MessageFlag, MessageType, Variant
from dbus_fast._private.unmarshaller import Unmarshaller
from dbus_fast.errors import InvalidMessageError

from adapters.dbus.messages import HEAD
from gateway.core.dbus.marshal import ALIGNMENT, MAX_DEPTH
from gateway.core.dbus.signature import Type, parse, parse_one

if TYPE_CHECKING:
    from io import BufferedRWPair

T = TypeVar("T")

PIECE = 32 * 1024  # bytes, a multiple of 8: about 0.2 ms
_SIZES = {code: ALIGNMENT[code] for code in "ybnqiuxtdh"}  # of a value
_ENDIAN = {ord("l"): "<", ord("B"): ">"}
_FIELDS = 8  # where serial and header fields begin: the body of a message "ua(yv)"
# Codes of header fields ("Header Fields"), and the arguments of a Message
_NAMES = {1: "path", 2: "interface", 3: "member", 4: "error_name", 5: "reply_serial", 6: "destination", 7: "sender"}
_SIGNATURE = 8
_MALFORMED = (ValueError, IndexError, struct.error, RecursionError)


async def in_thread(gate: asyncio.Semaphore, work: Callable[..., T], *what: object) -> T:
    """Do long work in a thread, one at a time. A caller that is cancelled leaves its turn when the thread has ended."""
    await gate.acquire()
    running = asyncio.get_running_loop().run_in_executor(None, work, *what)
    running.add_done_callback(lambda _: gate.release())
    return await asyncio.shield(running)


class LargeMessage:
    """A message whose header is read, and whose body is not."""

    __slots__ = ("_body_at", "_data", "_fields", "_gate", "_signature", "reply_serial", "type")

    def __init__(self, data: bytearray, gate: asyncio.Semaphore) -> None:
        """`gate`: one message is read at a time, or the threads take every turn. Raises InvalidMessageError."""
        self._data, self._gate = data, gate
        (length,) = struct.unpack_from(_ENDIAN[data[0]] + "I", data, HEAD - 4)
        self._body_at = HEAD + length + -length % 8
        fields = dict(_library(data[0], "ua(yv)", data[_FIELDS : HEAD + length])[1])
        self._fields = {name: fields[code].value for code, name in _NAMES.items() if code in fields}
        self._signature = fields[_SIGNATURE].value if _SIGNATURE in fields else ""
        self.type = MessageType(data[1])
        self.reply_serial = self._fields.get("reply_serial", 0)

    async def read(self) -> Message:
        """Read it in a thread; raises InvalidMessageError."""
        return await in_thread(self._gate, self.read_in_pieces)

    def without_body(self) -> Message:
        """The message without its body: for a reply that nobody waits for."""
        return self._message("", [])

    def read_at_once(self) -> Message:
        """Have the library read it; raises what the library raises."""
        message = _unmarshalled(self._data)
        if not isinstance(message, Message):
            raise InvalidMessageError(f"the message of {len(self._data)} bytes ends too early")
        return message

    def read_in_pieces(self) -> Message:
        """The same message; raises InvalidMessageError. The library itself may crash on what no bus lets through."""
        try:
            body = _Pieces(self._data, self._body_at).values(parse(self._signature))
        except OverflowError:  # a signature of 255 characters leaves no room for what a piece has in front
            return self.read_at_once()
        except _MALFORMED as error:
            raise InvalidMessageError(f"malformed message of {len(self._data)} bytes: {error}") from error
        return self._message(self._signature, body)

    def _message(self, signature: str, body: list[Any]) -> Message:
        (serial,) = struct.unpack_from(_ENDIAN[self._data[0]] + "I", self._data, _FIELDS)
        return Message(
            **self._fields,
            message_type=self.type,
            flags=MessageFlag(self._data[2]),
            signature=signature,
            unix_fds=[],
            body=body,
            serial=serial,
            validate=False,  # as the library does with what it reads
        )


class _Pieces:
    """Reads values of a message."""

    def __init__(self, data: bytearray, body_at: int) -> None:
        self._data, self._body_at = data, body_at
        self._u32 = struct.Struct(_ENDIAN[data[0]] + "I").unpack_from

    def values(self, kinds: tuple[Type, ...]) -> list[Any]:
        """The values of a whole body."""
        values, at = [], self._body_at
        for kind in kinds:
            value, at = self._value(kind, at, 0)
            values.append(value)
        if at != len(self._data):
            raise ValueError(f"its values end at {at}")
        return values

    def _value(self, kind: Type, at: int, depth: int) -> tuple[Any, int]:
        """A value, and its end. `depth`: how many containers are around it."""
        end = self._end(kind, at)
        if end > len(self._data) or depth > MAX_DEPTH:
            raise ValueError(f"a value ends at {end}, {depth} containers deep")
        if end - at > PIECE:
            match kind.code:
                case "a" if kind.children[0].code != "y":  # bytes are one copy
                    return self._array(kind, at, depth), end
                case "(":
                    return tuple(self._fields(kind, at, depth)), end
                case "v":
                    signature = self._data[at + 1 : at + 1 + self._data[at]].decode()
                    value, _ = self._value(parse_one(signature), at + len(signature) + 2, depth + 1)
                    return Variant(signature, value, verify=False), end
        skipped = at % 8
        return _library(self._data[0], "y" * skipped + str(kind), self._data[at - skipped : end])[-1], end

    def _fields(self, kind: Type, at: int, depth: int) -> list[Any]:
        at += -at % 8
        values = []
        for child in kind.children:
            value, at = self._value(child, at, depth + 1)
            values.append(value)
        return values

    def _array(self, kind: Type, at: int, depth: int) -> Any:
        """An array, piece by piece; an element that is longer than a piece is cut itself."""
        element = kind.children[0]
        at, end = self._elements(element, at)
        all_: Any = {} if kind.is_dict else []
        add = all_.update if kind.is_dict else all_.extend
        while at < end:
            begun, (at, is_single) = at, self._piece(element, at, end)
            if at > begun:
                add(self._run(kind, begun, at))
            if is_single:
                at += -at % ALIGNMENT[element.code]
                if kind.is_dict:
                    (key, value), at = self._fields(element, at, depth + 1), self._end(element, at)
                    all_[key] = value
                else:
                    value, at = self._value(element, at, depth + 1)
                    all_.append(value)
        if at != end:
            raise ValueError(f"the elements of an array end at {at}, expected {end}")
        return all_

    def _piece(self, element: Type, at: int, end: int) -> tuple[int, bool]:
        """The end of a piece that begins here, and whether the element behind it is read by itself.

        That is a long one, or one that begins where no length of an array can end.
        """
        if element.code in _SIZES:
            return min(end, at + PIECE), False
        may_lie_askew = ALIGNMENT[element.code] < 4
        if at & 3 and may_lie_askew:
            return at, True
        limit = at + PIECE
        if element.code == "s":  # the same, for the most frequent one
            data, u32 = self._data, self._u32
            while at < end and at < limit:
                at = (after := at + -at % 4) + 5 + u32(data, after)[0]
            return at, False
        while at < end and (at < limit or (may_lie_askew and at & 3)):
            after = self._end(element, at)
            if after - at > PIECE:
                return at, True
            at = after
        return at, False

    def _run(self, kind: Type, at: int, end: int) -> Any:
        """Some elements of an array."""
        align = ALIGNMENT[kind.children[0].code]
        at += -at % align
        length = struct.pack(_ENDIAN[self._data[0]] + "I", end - at)
        if align == 8:
            return _library(self._data[0], str(kind), length + bytes(4) + self._data[at:end])[0]
        if at % 8:
            return _library(self._data[0], str(kind), length + self._data[at:end])[0]
        return _library(self._data[0], "u" + str(kind), bytes(4) + length + self._data[at:end])[1]

    def _elements(self, element: Type, at: int) -> tuple[int, int]:
        """Begin and end of the elements of an array."""
        at += -at % 4
        (length,) = self._u32(self._data, at)
        at += 4
        at += -at % ALIGNMENT[element.code]
        return at, at + length

    def _end(self, kind: Type, at: int) -> int:
        """The end of a value. An array is passed over by its length."""
        code = kind.code
        if code == "s" or code == "o":
            at += -at % 4
            return at + 5 + int(self._u32(self._data, at)[0])
        if code == "a":
            return self._elements(kind.children[0], at)[1]
        if code == "(" or code == "{":
            at += -at % 8
            for child in kind.children:
                at = self._end(child, at)
            return at
        if code == "v":
            length = self._data[at]
            return self._end(parse_one(self._data[at + 1 : at + 1 + length].decode()), at + length + 2)
        if code == "g":
            return at + 2 + self._data[at]
        size = _SIZES[code]
        return at + -at % size + size


def _library(endian: int, signature: str, body: bytes | bytearray) -> list[Any]:
    """Have the library read some values."""
    pack, fields = _head(endian, signature)
    head = bytes((endian, MessageType.METHOD_RETURN.value, 0, 1)) + pack(len(body), 1, len(signature) + 6)
    message = _unmarshalled(b"".join((head, fields, body)))
    if message is None:
        raise ValueError("a piece of it ends too early")
    values: list[Any] = message.body
    return values


@lru_cache(maxsize=256)
def _head(endian: int, signature: str) -> tuple[Callable[..., bytes], bytes]:
    """What packs the lengths of a message, and the one field of its header: the signature."""
    field = b"\x08\x01g\x00%c%b\x00" % (len(signature), signature.encode())
    return struct.Struct(_ENDIAN[endian] + "III").pack, field + bytes(-len(field) % 8)


def _unmarshalled(data: bytes | bytearray) -> Message | None:
    stream = cast("BufferedRWPair[Any, Any]", BytesIO(data))  # only its `read` is called
    return Unmarshaller(stream, None, negotiate_unix_fd=False).unmarshall()


# A large value is freed a few parts at a time

_INTERVAL = 0.05  # seconds between two looks
_PATIENCE = 60.0  # seconds after which a value that others still hold is left to them
_SLICE = 100  # parts that are freed in one turn of the loop: about 0.1 ms of records of 20 fields
_MANY = 1000  # parts that are enough: a value is taken apart no further
_HELD_HERE = 2  # references of the count itself: the list, and the argument


def release_slowly(*values: object) -> None:
    """Hold the parts of large values until nothing else refers to them, and let go of them in slices.

    The interpreter frees a value with all that it holds in one step: 10,000 records of 20 fields take 7 ms, in which no
    call goes on. Of `values`, one that is part of another comes after it. One that is no container needs no slices.
    """
    containers = [value for value in values if isinstance(value, dict | list)]
    if containers:
        _Release([*reversed(containers)])


class _Release:
    def __init__(self, values: list[object]) -> None:
        self._values = values
        self._parts: list[object] = []
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + _PATIENCE
        self._loop.call_later(_INTERVAL, self._look)

    def _look(self) -> None:
        """Take apart what nothing else refers to; look again while there is more."""
        if self._loop.time() > self._until:
            return
        while self._values and getrefcount(self._values[-1]) <= _HELD_HERE:
            self._parts += _parts(self._values.pop())
        if self._parts:
            del self._parts[-_SLICE:]
            self._loop.call_soon(self._look)
        elif self._values:
            self._loop.call_later(_INTERVAL, self._look)


def _parts(value: object) -> list[object]:
    """Containers inside a value, from the first level that has many."""
    parts: list[object] = [value]
    while 0 < len(parts) < _MANY:
        inside: list[object] = []
        for part in parts:
            items: Any = part.values() if isinstance(part, dict) else part if isinstance(part, list | tuple) else ()
            inside += [item for item in items if isinstance(item, dict | list | tuple)]
        if not inside:
            break
        parts = inside
    return parts
