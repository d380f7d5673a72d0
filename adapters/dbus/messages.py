"""Messages as bytes: calls that are written, and the ends of those that are read (D-Bus, "Message Format").

The header of a call is the same from call to call but for the length of the body and the serial. So it is marshalled
once for each member, and only the body is marshalled for each call. Variants are converted to the library's class by
a converter compiled once for each signature.

The library reads a message as a whole, in compiled code that nothing interrupts: about 7 ms for each MiB, while every
other call waits. So it gets the messages up to LARGE, and an Inbox keeps longer ones apart.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from dbus_fast import Message, MessageFlag, Variant
from dbus_fast._private.marshaller import Marshaller
from dbus_fast.errors import InvalidMessageError
from msgspec.structs import replace

from gateway.core.dbus import marshal
from gateway.core.dbus.marshal import MAX_MESSAGE
from gateway.core.dbus.signature import Type, parse, parse_one
from gateway.core.dbus.target import MethodCall

_KEPT = 4096  # headers and converters
_LENGTH = struct.Struct("<I")
_LENGTHS = struct.Struct("<II")  # of the body, and the serial
_START = 4  # bytes before them: byte order, type, flags, version

LARGE = 128 * 1024  # bytes of a message that is read: about 1 ms
HEAD = 16  # bytes up to the header fields, whose length is the last number
_ENDS = {ord("l"): struct.Struct("<4xI4xI").unpack_from, ord("B"): struct.Struct(">4xI4xI").unpack_from}

_STARTS = tuple(bytes((*b"l\x01", flags, 1)) for flags in range(8))  # of a call, little endian, version 1

_Names: TypeAlias = tuple[str, str, str, str, str]  # destination, path, interface, member, signature
_kept_fields: dict[_Names, bytes] = {}  # what follows the serial, up to the body


class MarshalledBody(tuple[object, ...]):
    """The body of a large call, with its bytes."""

    data: bytes


def with_marshalled_body(call: MethodCall) -> MethodCall:
    """Marshal the body of a large call beforehand, in a thread."""
    body = MarshalledBody(call.body)
    body.data = bytes(Marshaller(call.signature, to_library(call.signature)(body)).marshall())
    return replace(call, body=body)


def marshalled(call: MethodCall, serial: int, flags: int) -> bytes:
    """Return the message of a checked call; raises InvalidMessageError where it is too long for D-Bus.

    `flags`: the number of a MessageFlag, whose members are slow keys.
    """
    signature = call.signature
    names = (call.bus_name, call.object_path, call.interface, call.member, signature)
    fields = _kept_fields.get(names)
    if fields is None:
        return _first(names, to_library(signature)(call.body), serial, flags)
    if type(call.body) is MarshalledBody:
        body: bytes | bytearray = call.body.data
    elif signature == "s":  # the most frequent one, without a Marshaller
        (text,) = call.body
        assert isinstance(text, str)
        data = text.encode()
        body = b"%b%b\0" % (_LENGTH.pack(len(data)), data)
    else:
        body = Marshaller(signature, to_library(signature)(call.body)).marshall() if signature else b""
    if len(body) > MAX_MESSAGE:
        raise InvalidMessageError(f"the body is {len(body)} bytes long")
    return b"".join((_STARTS[flags], _LENGTHS.pack(len(body), serial), fields, body))


def _first(names: _Names, body: list[object], serial: int, flags: int) -> bytes:
    """Have the library marshal a whole message, and keep the fields of its header."""
    bus_name, path, interface, member, signature = names
    message = Message(
        destination=bus_name,
        path=path,
        interface=interface,
        member=member,
        flags=MessageFlag(flags),
        signature=signature,
        body=body,
        serial=serial,
        validate=False,  # a MethodCall is checked already
    )
    data = bytes(message._marshall(False))  # noqa: FBT003, SLF001 - no descriptors; the library has no public name
    length, _ = _LENGTHS.unpack_from(data, _START)
    if len(_kept_fields) >= _KEPT:
        _kept_fields.clear()
    _kept_fields[names] = data[_START + _LENGTHS.size : len(data) - length]
    return data


Convert: TypeAlias = Callable[[Any], object]


@lru_cache(maxsize=_KEPT)
def to_library(signature: str) -> Callable[[Sequence[object]], list[object]]:
    """Return a function that converts the variants of a checked body to the library's class."""
    converters = [_converter(type_) for type_ in parse(signature)]
    if not any(converters):
        return list
    return lambda body: [
        value if convert is None else convert(value) for convert, value in zip(converters, body, strict=True)
    ]


@lru_cache(maxsize=_KEPT)
def _inner(signature: str) -> Convert | None:
    return _converter(parse_one(signature))


def _variant(value: object) -> Variant:
    # The library crashes on None here (SIGSEGV), hence this check although the body was checked.
    if not isinstance(value, marshal.Variant):
        raise TypeError("a variant is expected")
    convert = _inner(value.signature)
    return Variant(value.signature, value.value if convert is None else convert(value.value), verify=False)


def _converter(type_: Type) -> Convert | None:
    """Return the converter for values of this type; None where no conversion is needed."""
    if not type_.has_variant:
        return None
    if type_.code == "v":
        return _variant
    children = type_.children[0].children if type_.is_dict else type_.children
    converters = [_converter(child) or (lambda value: value) for child in children]
    convert = converters[-1]
    if type_.is_dict:
        return lambda value: {key: convert(one) for key, one in value.items()}
    if type_.code == "a":
        return lambda value: [convert(one) for one in value]
    return lambda value: [convert(one) for convert, one in zip(converters, value, strict=True)]


class Inbox:
    """Stands in for the socket of a connection: the library's reads pass through `recv`.

    A large message goes to `on_large` as bytes, once all of it has come and the library has processed each message
    before it.
    """

    def __init__(self, sock: socket.socket, on_error: Callable[[OSError], object]) -> None:
        """`on_error`: called with the error of the socket, which may be the last time that it is read."""
        self.on_large: Callable[[bytearray], None] | None = None  # None: the library gets all messages
        self._on_error = on_error
        self._sock = sock
        self._left = 0  # bytes to come of a message that the library gets
        self._head = b""  # the first bytes of a message whose length has not come yet
        self._large: bytearray | None = None  # a large message that is coming
        self._filled = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def recv(self, size: int) -> bytes:
        """Return bytes for the library. Raises BlockingIOError where there are none, b"" is the end."""
        if self._large is not None:
            return self._fill(self._large)
        data = self._sock.recv(size)
        if not data:
            return data
        self._check()
        if self._head:
            data, self._head = self._head + data, b""
        at, end = self._left, len(data)
        while end - at >= HEAD:
            unpack = _ENDS.get(data[at])
            body, fields = unpack(data, at) if unpack is not None else (0, MAX_MESSAGE)
            length = HEAD + fields + -fields % 8 + body
            if LARGE < length <= MAX_MESSAGE and self.on_large is not None:  # the library refuses what is longer
                self._large, self._filled, self._left = bytearray(length), end - at, 0
                self._large[: end - at] = data[at:]
                data = data[:at]
                break
            at += length
        else:
            if at < end:
                data, self._head, at = data[:at], data[at:], end
            self._left = at - end
        if data:
            return data
        raise _nothing_yet()

    def _fill(self, large: bytearray) -> bytes:
        """Read on in a large message: never beyond its end, and once in each turn of the loop."""
        received = self._sock.recv_into(memoryview(large)[self._filled :])
        if not received:
            return b""
        self._check()
        self._filled += received
        if self._filled == len(large):
            self._large = None
            assert self.on_large is not None, "it was there when the message began"
            self.on_large(large)
        raise _nothing_yet()

    def _check(self) -> None:
        number = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            self._on_error(OSError(number, os.strerror(number)))


def _nothing_yet() -> BlockingIOError:
    return BlockingIOError(errno.EAGAIN, "no bytes for the library yet")
