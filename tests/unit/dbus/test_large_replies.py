"""Replies that are too large for the event loop, from a service that is written with the library alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from dbus_fast import Message, MessageType
from dbus_fast.errors import InvalidMessageError

from adapters.dbus import connect, large_message
from adapters.dbus.connection import BusConnectionLimits, DBusConnection, Outbox, Received, ReplyFuture
from adapters.dbus.large_message import PIECE, LargeMessage
from gateway.core.dbus.target import MethodCall
from gateway.core.rpc.model import Fault, FaultCode
from tests.kit.buses import PrivateBus, private_bus
from tests.kit.cases import expect
from tests.kit.programs import TIMEOUT

NAME, INTERFACE = "org.example.Large", "org.example.Large1"
RECORDS = {f"record {at}": {f"field {field}": "x" * 20 for field in range(20)} for at in range(2000)}  # about 1 MB
HEADER = 4096  # bytes of a message that are not its body


@pytest.fixture(scope="module")
def bus() -> Iterator[PrivateBus]:
    with private_bus() as bus:
        yield bus


@asynccontextmanager
async def connected(address: str, gate: asyncio.Semaphore | None = None) -> AsyncIterator[DBusConnection]:
    """A connection to a bus with a service that has large and small replies."""
    service = await connect.connect(address)
    writer = service._writer
    assert writer is not None
    assert writer.sock is not None
    writer.sock = Outbox(writer.sock)  # type: ignore[assignment] # the library takes a full socket for a closed one
    bodies: dict[str | None, tuple[str, list[object]]] = {"Large": ("a{sa{ss}}", [RECORDS]), "Small": ("s", ["small"])}

    def answer(message: Message) -> Message | None:
        if message.message_type is not MessageType.METHOD_CALL or message.interface != INTERFACE:
            return None
        return Message.new_method_return(message, *bodies[message.member])

    service.add_message_handler(answer)
    await service.request_name(NAME)
    connection = await DBusConnection.open(address, BusConnectionLimits(), gate)
    try:
        yield connection
    finally:
        connection.close()
        await connection.closed()
        await connect.close(service)


def ask(member: str) -> MethodCall:
    return MethodCall(NAME, "/", INTERFACE, member, "")


async def body(call: asyncio.Future[ReplyFuture | None]) -> list[object]:
    async with asyncio.timeout(TIMEOUT):
        return expect(Received, await call).body


async def test_the_event_loop_reads_no_more_than_the_header(bus: PrivateBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a thread reads the rest in pieces, none of which holds the interpreter for long."""
    sizes: dict[bool, list[int]] = {True: [], False: []}  # by whether the event loop waits for it
    unmarshalled = large_message._unmarshalled

    def counted(data: bytes | bytearray) -> Message | None:
        sizes[threading.current_thread() is threading.main_thread()].append(len(data))
        return unmarshalled(data)

    monkeypatch.setattr(large_message, "_unmarshalled", counted)
    async with connected(bus.address) as connection:
        assert await body(asyncio.ensure_future(connection.call(ask("Large")))) == [RECORDS]
    assert max(sizes[True]) < HEADER
    assert max(sizes[False]) < PIECE + HEADER
    assert sum(sizes[False]) > 1_000_000


async def test_a_small_reply_does_not_wait_for_a_large_one_that_is_read(bus: PrivateBus) -> None:
    gate = asyncio.Semaphore(0)  # nothing is read beside the loop until it opens
    async with connected(bus.address, gate) as connection, asyncio.TaskGroup() as group:
        large = group.create_task(connection.call(ask("Large")))
        small = group.create_task(connection.call(ask("Small")))
        assert await body(small) == ["small"]
        while connection.in_flight:
            await body(group.create_task(connection.call(ask("Small"))))
        assert not large.done()
        gate.release()
        assert await body(large) == [RECORDS]


async def test_a_reply_with_a_place_among_the_signals_keeps_it(bus: PrivateBus) -> None:
    """It is read at once, so that nothing behind it comes first."""
    taken: list[object] = []
    async with connected(bus.address, asyncio.Semaphore(0)) as connection, asyncio.timeout(TIMEOUT):
        await asyncio.gather(
            connection.call(ask("Large"), take=lambda reply: taken.append(reply.body)),
            connection.call(ask("Small"), take=lambda reply: taken.append(reply.body)),
        )
    assert taken == [[RECORDS], ["small"]]


async def test_a_call_that_is_given_up_while_its_reply_is_read_holds_nothing(bus: PrivateBus) -> None:
    gate = asyncio.Semaphore(0)
    async with connected(bus.address, gate) as connection:
        large = asyncio.ensure_future(connection.call(ask("Large")))
        await asyncio.sleep(0)  # it is sent
        while connection.in_flight:
            await body(asyncio.ensure_future(connection.call(ask("Small"))))
        large.cancel()
        with pytest.raises(asyncio.CancelledError):
            await large
        assert (connection.in_flight, connection.late_replies) == (0, 0)
        gate.release()
        assert await body(asyncio.ensure_future(connection.call(ask("Large")))) == [RECORDS]


async def test_a_malformed_large_reply_ends_the_connection_with_an_unknown_outcome(
    bus: PrivateBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_large: LargeMessage) -> Message:
        raise InvalidMessageError("malformed message of 5 bytes: no array")

    monkeypatch.setattr(LargeMessage, "read_in_pieces", refuse)
    async with connected(bus.address) as connection, asyncio.timeout(TIMEOUT):
        fault = expect(Fault, await connection.call(ask("Large")))
        assert fault.code is FaultCode.NO_REPLY
        await connection.closed()
        assert connection.error == "malformed message of 5 bytes: no array"
        assert expect(Fault, await connection.call(ask("Small"))).code is FaultCode.UNAVAILABLE
