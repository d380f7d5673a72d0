from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from adapters.dbus.connection import Outbox
from tests.kit.programs import TIMEOUT


@pytest.fixture(params=[socket.SOCK_STREAM])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Ours, and what the bus reads from."""
    near, far = socket.socketpair(socket.AF_UNIX, request.param)
    near.settimeout(0)
    far.settimeout(0)
    with near, far:
        yield near, far


async def received(far: socket.socket, count: int) -> bytes:
    got = bytearray()
    async with asyncio.timeout(TIMEOUT):
        while len(got) < count:
            got += await asyncio.get_running_loop().sock_recv(far, 100_000)
    return bytes(got)


@pytest.mark.parametrize("is_alone", [False, True])
@pytest.mark.parametrize("pair", [socket.SOCK_SEQPACKET], indirect=True)  # packets show what left in one send
async def test_the_first_message_leaves_at_once_and_the_rest_of_the_turn_in_one_send(
    pair: tuple[socket.socket, socket.socket], *, is_alone: bool
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


async def test_a_broken_socket_is_left_for_its_reader_to_find(pair: tuple[socket.socket, socket.socket]) -> None:
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
    pair: tuple[socket.socket, socket.socket],
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
    pair: tuple[socket.socket, socket.socket],
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
