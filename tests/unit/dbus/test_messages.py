"""Calls as bytes, the messages that an inbox keeps apart, and an outbox that waits for a full socket."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import pytest
from dbus_fast import Message, MessageFlag, MessageType, Variant
from dbus_fast.aio.message_reader import build_message_reader

from adapters.dbus.connection import Outbox
from adapters.dbus.messages import LARGE, Inbox, marshalled, with_marshalled_body
from gateway.core.dbus import marshal
from gateway.core.dbus.marshal import MAX_MESSAGE
from gateway.core.dbus.target import MethodCall
from tests.kit.cases import each_case
from tests.kit.programs import TIMEOUT


def of_the_library(call: MethodCall, body: Sequence[object], serial: int, flags: MessageFlag) -> bytes:
    message = Message(
        destination=call.bus_name,
        path=call.object_path,
        interface=call.interface,
        member=call.member,
        signature=call.signature,
        body=list(body),
        serial=serial,
        flags=flags,
    )
    return bytes(message._marshall(False))


@each_case(
    "flags", [MessageFlag.NONE, MessageFlag.NO_AUTOSTART, MessageFlag.NO_AUTOSTART | MessageFlag.NO_REPLY_EXPECTED]
)
@each_case(
    ("signature", "ours", "theirs"),
    [
        ("", (), ()),
        ("s", ("",), ("",)),
        ("s", ("a text that is longer than the first",), ("a text that is longer than the first",)),
        ("yxas", (1, -(2**63), ["a", "bc"]), (1, -(2**63), ["a", "bc"])),
        ("a{sv}", ({"k": marshal.Variant("u", 1)},), ({"k": Variant("u", 1)},)),
    ],
)
def test_a_call_is_the_bytes_that_the_library_writes(
    signature: str, ours: Sequence[object], theirs: Sequence[object], flags: MessageFlag
) -> None:
    """Each call is marshalled twice: the second time, and for each length of the path, with a header that was kept."""
    for path in ("/", "/a", "/ab", "/abc/d", "/abc/defg/h"):
        call = MethodCall("org.xen.xcp.test", path, "org.xen.xcp.Test1", "Member", signature, ours)
        for serial in (1, 2**31):
            expected = of_the_library(call, theirs, serial, flags)
            assert marshalled(call, serial, flags.value) == expected
            assert marshalled(with_marshalled_body(call), serial, flags.value) == expected


# The inbox


SMALL, LONGEST, LONG = 1, LARGE - 200, 3 * LARGE  # characters of a text


class Reader:
    """The library reads through an inbox; what comes is noted in its order."""

    def __init__(self, near: socket.socket, *, takes_large: bool = True) -> None:
        self.seen: list[tuple[str, int]] = []
        self.ends: list[Exception | None] = []
        inbox = Inbox(near, self.ends.append)
        if takes_large:
            inbox.on_large = lambda data: self.seen.append(("large", len(data)))
        self.on_readable = build_message_reader(
            inbox,  # type: ignore[arg-type] # all that is asked of it is to receive
            lambda message: self.seen.append(("small", message.serial)),
            self.ends.append,
            negotiate_unix_fd=False,
        )
        self._near = near

    def read(self, far: socket.socket, stream: bytes, edges: Sequence[int]) -> None:
        """Send a stream, cut at these places, and read whenever there is something to read."""
        for at, end in zip(edges, [*edges[1:], len(stream)], strict=True):
            far.sendall(stream[at:end])
            while select.select([self._near], [], [], 0)[0]:
                self.on_readable()


Pair: TypeAlias = tuple[socket.socket, socket.socket]


@pytest.fixture(params=[socket.SOCK_STREAM])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Ours, and what the bus reads from and writes to."""
    near, far = socket.socketpair(socket.AF_UNIX, request.param)
    near.settimeout(0)
    far.settimeout(0)
    with near, far:
        yield near, far


def message(serial: int, length: int) -> bytes:
    return bytes(
        Message(
            message_type=MessageType.METHOD_RETURN, reply_serial=1, signature="s", body=["x" * length], serial=serial
        )._marshall(False)
    )


@pytest.mark.parametrize("cut", [1, 7, 16, 17, 1000, 8192])
def test_messages_come_in_their_order_however_they_are_cut(cut: int, pair: Pair) -> None:
    near, far = pair
    reader = Reader(near)
    long = message(3, LONG)
    head = b"".join([message(1, SMALL), message(2, LONGEST)])
    stream = b"".join([head, long, message(4, SMALL), long, long, message(5, LONGEST), message(6, SMALL)])
    edges = sorted({*range(0, 300, cut), *range(len(head), len(head) + 100, cut), *range(0, len(stream), 8192)})
    reader.read(far, stream, edges)
    large = ("large", len(long))
    assert reader.seen == [("small", 1), ("small", 2), large, ("small", 4), large, large, ("small", 5), ("small", 6)]
    assert not reader.ends


def test_the_library_gets_large_messages_where_nobody_else_takes_them(
    pair: Pair,
) -> None:
    near, far = pair
    reader = Reader(near, takes_large=False)
    stream = message(1, SMALL) + message(2, LONG) + message(3, SMALL)
    reader.read(far, stream, range(0, len(stream), 8192))
    assert reader.seen == [("small", 1), ("small", 2), ("small", 3)]


@pytest.mark.parametrize(
    ("sent", "ends"),
    [
        (b"l\x02\x00\x01" + (MAX_MESSAGE + 1).to_bytes(4, "little") + bytes(108), "InvalidMessageError"),
        (b"x\x02\x00\x01" + (2 * LARGE).to_bytes(4, "little") + bytes(108), "InvalidMessageError"),
        (message(1, LONG)[: LARGE // 2], "EOFError"),
    ],
    ids=["longer than a message may be", "not a message", "the end is in the middle"],
)
def test_what_is_no_message_ends_the_connection(sent: bytes, ends: str, pair: Pair) -> None:
    near, far = pair
    reader = Reader(near)
    far.sendall(sent)
    far.close()
    while not reader.ends:
        reader.on_readable()
    assert (reader.seen, type(reader.ends[0]).__name__) == ([], ends)


# The outbox


async def received(far: socket.socket, count: int) -> bytes:
    got = bytearray()
    async with asyncio.timeout(TIMEOUT):
        while len(got) < count:
            got += await asyncio.get_running_loop().sock_recv(far, 100_000)
    return bytes(got)


@pytest.mark.parametrize("is_alone", [False, True])
@pytest.mark.parametrize("pair", [socket.SOCK_SEQPACKET], indirect=True)  # packets show what left in one send
async def test_the_first_message_leaves_at_once_and_the_rest_of_the_turn_in_one_send(
    pair: Pair, *, is_alone: bool
) -> None:
    """Behind a message that was alone the next one leaves at once too. The library may write through it as well."""
    near, far = pair
    outbox = Outbox(near)
    if is_alone:
        assert outbox.put(b"alone", is_alone=True) == outbox.written == 5
        assert far.recv(100) == b"alone"
    begin = outbox.written
    ends = [outbox.put(data) for data in (b"first", b"second", b"third")]
    assert [end - begin for end in ends] == [5, 11, 16]
    assert outbox.send(memoryview(b"theirs")) == 6
    assert outbox.written == begin + 5
    await asyncio.sleep(0)
    assert outbox.written == begin + 22
    assert [far.recv(100), far.recv(100)] == [b"first", b"secondthirdtheirs"]


async def test_a_broken_socket_is_left_for_its_reader_to_find(pair: Pair) -> None:
    near, far = pair
    outbox = Outbox(near)
    far.close()
    end = outbox.put(b"lost")
    assert outbox.written < end
    # Nobody waits for a broken socket: a loop that has let go of it already would raise, and the error be logged.
    assert not asyncio.get_running_loop().remove_writer(near)
    near.close()
    outbox.put(b"lost as well")
    await asyncio.sleep(0)
    assert outbox.written == 0


async def test_a_full_socket_is_waited_for_and_what_has_not_begun_to_leave_can_be_taken_back(
    pair: Pair,
) -> None:
    near, far = pair
    outbox = Outbox(near)
    messages = [bytes([number]) * 300_000 for number in range(6)]
    ends = [outbox.put(message) for message in messages]
    told: list[int] = []
    last = asyncio.Event()
    for end in ends:
        outbox.when_written(end, lambda end=end: told.append(end))  # type: ignore[misc] # mypy infers no default
    outbox.when_written(ends[-1], last.set)
    assert (outbox.written < 300_000, told) == (True, [])
    assert not outbox.withdraw(ends[0], 300_000)  # half of it is out
    for number in (4, 1, 2):
        assert outbox.withdraw(ends[number], 300_000)
    assert await received(far, 900_000) == messages[0] + messages[3] + messages[5]
    await asyncio.wait_for(last.wait(), TIMEOUT)
    assert (told, outbox.written) == (ends, ends[-1])
    assert not outbox.withdraw(ends[-1], 300_000)
    assert outbox.put(b"after") == outbox.written


async def test_who_takes_all_back_that_waits_waits_for_no_room_any_more(
    pair: Pair,
) -> None:
    near, far = pair
    outbox = Outbox(near)
    first = outbox.put(bytes(100_000))
    while outbox.written == first:
        first = outbox.put(bytes(100_000))
        await asyncio.sleep(0)
    second = outbox.put(b"second")
    assert outbox.withdraw(second, 6)
    await received(far, first)
    assert outbox.written == second
    assert not asyncio.get_running_loop().remove_writer(near)
