"""Fuzz targets for xenstore: packets and their content, a connection, names of nodes, lists of byte strings."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from adapters.xenstore.client.connection import StoreLostError, XenstoreConnection
from adapters.xenstore.client.wire import (
    NUL,
    Answer,
    Asked,
    Operation,
    Permissions,
    ProtocolError,
    Reader,
    Received,
    StoreError,
    children,
    event,
    part,
    path_argument,
    transaction_id,
)
from gateway.core.xenstore.paths import element, index_of, is_path, member, pack, template, text_of, unpack
from tests.fuzz.target import DeadWire, Target, told, words
from tests.kit.fake_stores import END, ERROR, EVENT, START, WRITE, packed
from tests.kit.fake_stores import READ as READ_

PIECE = 7  # bytes: neither a header nor a part of one

# Packets


def _packets(body: bytes) -> str:
    """Packets are what their bytes say, or are refused in the same way, in one piece and in many."""
    whole = _read([body])
    assert whole == _read([body[at : at + PIECE] for at in range(0, len(body), PIECE)])
    found, junk = whole
    return " ".join(sorted({*map(_payload, found), told(junk)}))


def _read(pieces: Sequence[bytes]) -> tuple[list[Received], str]:
    reader, found = Reader(), []
    try:
        for piece in pieces:
            for packet in reader.feed(piece):
                found.append(packet)
    except ProtocolError as junk:
        return found, str(junk)
    whole, read = b"".join(pieces), b"".join(packed(*packet) for packet in found)
    assert whole.startswith(read)
    assert reader.is_inside_packet is (len(read) < len(whole))
    return found, ""


def _payload(packet: Received) -> str:
    read = _PAYLOADS.get(packet.operation, children)
    try:
        read(packet.payload)
    except StoreError as error:
        return f"{error.name} {told(str(error))}"
    except ProtocolError as junk:
        return told(str(junk))
    return Operation(packet.operation).name


def _permissions(payload: bytes) -> None:
    """A packet that can be read survives writing and reading."""
    permissions = Permissions.decode(payload)
    assert Permissions.decode(permissions.encode()) == permissions


def _part(payload: bytes) -> None:
    generation, names, last = part(payload)
    assert payload == generation + NUL + names + (NUL if last else b"")


_PAYLOADS: Mapping[int, Callable[[bytes], object]] = {
    Operation.WATCH_EVENT: event,
    Operation.GET_PERMS: _permissions,
    Operation.DIRECTORY_PART: _part,
    Operation.TRANSACTION_START: transaction_id,
}


# A connection that waits for answers and receives any bytes


ASKED: Sequence[tuple[Operation, int]] = (
    (Operation.READ, 0),
    (Operation.TRANSACTION_START, 0),
    (Operation.WRITE, 5),
    (Operation.DIRECTORY, 5),
    (Operation.WATCH, 0),
)


async def _answered(body: bytes) -> str:
    """Each waiting request gets an outcome, also for senseless bytes; events have a path and a token."""
    events: list[tuple[str, bytes]] = []
    connection = XenstoreConnection(lambda path, token: events.append((path, token)), deadline=1000.0)
    connection.connection_made(DeadWire())
    waiting = [connection.send_all([Asked(operation, b"/a\0", "/a")], at) for operation, at in ASKED]
    waiting[1].cancel()  # this transaction is abandoned
    connection.data_received(body)
    connection.connection_lost(None)
    await asyncio.wait(waiting)
    endings = [*map(_ending, waiting), told(re.sub(r"b'.*", "", connection.error))]
    assert all(path.isascii() for path, _ in events)
    return " ".join([*endings, str(len(events) > 0)])


def _ending(waiting: asyncio.Future[list[Answer]]) -> str:
    if waiting.cancelled():
        return "cancelled"
    answer = waiting.exception() or waiting.result()[0]
    assert isinstance(answer, bytes | StoreLostError | StoreError), answer
    return type(answer).__name__


# Names


def _names(body: bytes) -> str:
    """Any text is a name of a node and comes back; an invalid name is refused; a template parses its own paths."""
    text = body.decode("utf-8", "replace")
    for name in (element(text), member(text)):
        assert is_path(f"/{name}") or len(name) >= 3072
        assert text_of(name) == text
    assert index_of(member(text)) is None
    return f"{_name(body.decode('latin-1'))} {_template(body.decode('latin-1'))}"


def _name(written: str) -> str:
    try:
        text = text_of(written)
    except ValueError as error:
        return told(str(error))
    assert written in (element(text), member(text))
    return "name"


def _template(written: str) -> str:
    try:
        path_argument(written)
        is_one = True
    except StoreError as error:
        told(str(error))
        is_one = False
    assert is_one or not is_path(written)
    try:
        read = template(written)
    except ValueError as error:
        return told(str(error))
    assert str(read) == written
    filled = re.sub(r"\{\w+\}", "x", written)
    match = read.below("request").match(f"{filled}/request/0")
    assert match is not None
    assert (match.node, match.rest) == (f"{filled}/request", ("0",))
    assert tuple(match.parameters) == read.parameters
    return "template"


# Lists of byte strings


def _strings(body: bytes) -> str:
    items = body.split(b"|")
    assert unpack(pack(items)) == items
    try:
        read = unpack(body)
    except ValueError as error:
        return told(str(error))
    assert pack(read) == body
    return "list"


_ANSWERS = (
    packed(READ_, 1, 0, b"value") + packed(START, 2, 0, b"7\0") + packed(WRITE, 3, 5, b"OK\0"),
    packed(EVENT, 0, 0, b"/a/b\0token\0") + packed(ERROR, 1, 0, b"ENOENT\0") + packed(END, 9, 7, b"OK\0"),
    packed(Operation.DIRECTORY, 4, 5, b"a\0b\0") + packed(Operation.WATCH, 5, 0, b"OK\0"),
    packed(Operation.GET_PERMS, 3, 0, b"n0\0r5\0") + packed(Operation.DIRECTORY_PART, 4, 0, b"12\0a\0b\0\0"),
)
_PIECES = (*(packed(number, number % 6, 0, b"") for number in Operation), *words("OK EAGAIN EQUOTA n0 b5 w1 /a"), NUL)

_TARGETS: Mapping[str, Target] = {
    "packets": Target(_ANSWERS, _PIECES, _packets),
    "names": Target(
        [b"VM@2estart", b"/local/domain/{domid}/control", b"@", "é@c3@a9".encode()],
        (*words("@ @2e @c3 @A9 { } {a} / // 0 01 -1 _ 999999 \u0660 \u00b2 \u4e16"), b"\0", b"\n", b"\xff"),
        _names,
    ),
    "netstrings": Target([b"4:echo,0:,", b"a|bc||"], (*words(": , 0 00 1 10 999999999 -1 | \u0660"), b"\0"), _strings),
}


@contextmanager
def targets() -> Iterator[Mapping[str, Target]]:
    """Return all targets; a connection needs an event loop."""
    loop = asyncio.new_event_loop()
    try:
        yield {
            **_TARGETS,
            "connection": Target(_ANSWERS, _PIECES, lambda body: loop.run_until_complete(_answered(body))),
        }
    finally:
        loop.close()
