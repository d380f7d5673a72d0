"""Replies that are too large for the event loop, from a service that is written with the library alone."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from dbus_fast import Message, MessageType, Variant
from dbus_fast.errors import InvalidMessageError

from adapters.dbus import connect, large_message
from adapters.dbus.connection import BusConnectionLimits, DBusConnection, Outbox, Received, ReplyFuture
from adapters.dbus.large_message import PIECE, LargeMessage, release_slowly
from gateway.core.dbus.target import MethodCall
from gateway.core.rpc.model import Fault, FaultCode
from gateway.server import GC_THRESHOLDS
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


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> dict[bool, list[int]]:
    """The bytes of each piece that the library reads, by whether the event loop waits for it."""
    found: dict[bool, list[int]] = {True: [], False: []}
    unmarshalled = large_message._unmarshalled

    def counted(data: bytes | bytearray) -> Message | None:
        found[threading.current_thread() is threading.main_thread()].append(len(data))
        return unmarshalled(data)

    monkeypatch.setattr(large_message, "_unmarshalled", counted)
    return found


async def test_the_event_loop_reads_no_more_than_the_header(bus: PrivateBus, sizes: dict[bool, list[int]]) -> None:
    """And a thread reads the rest in pieces, none of which holds the interpreter for long."""
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


async def test_a_large_reply_that_comes_too_late_is_not_read(bus: PrivateBus, sizes: dict[bool, list[int]]) -> None:
    async with connected(bus.address) as connection:
        large = asyncio.ensure_future(connection.call(ask("Large")))
        await asyncio.sleep(0)  # it is sent
        large.cancel()
        with pytest.raises(asyncio.CancelledError):
            await large
        while not connection.late_replies:
            assert await body(asyncio.ensure_future(connection.call(ask("Small")))) == ["small"]
        assert connection.in_flight == 0
    assert max(sizes[True]) < HEADER
    assert not sizes[False]


async def test_a_caller_that_leaves_keeps_its_turn_until_its_thread_has_ended() -> None:
    gate, began, goes_on = asyncio.Semaphore(1), threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        assert goes_on.wait(TIMEOUT)

    first = asyncio.ensure_future(large_message.in_thread(gate, work))
    assert await asyncio.to_thread(began.wait, TIMEOUT)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert gate.locked()
    goes_on.set()
    async with asyncio.timeout(TIMEOUT):
        assert await large_message.in_thread(gate, lambda: "next") == "next"


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


def test_no_collection_of_garbage_goes_over_much_of_a_large_reply() -> None:
    """A collection stops every thread, and its time grows with the objects of the generations that it goes over."""
    gone_over: list[int] = []

    def began(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            gone_over.append(sum(len(gc.get_objects(each)) for each in range(info["generation"] + 1)))

    properties: dict[str, object] = {f"property {at}": Variant("as", ["x"]) for at in range(20)}
    body = [{f"/vm/{at}": {"org.example.VM1": properties} for at in range(2_000)}]
    reply = Message(message_type=MessageType.METHOD_RETURN, reply_serial=1, signature="a{oa{sa{sv}}}", body=body)
    reply.serial = 1
    large = LargeMessage(bytearray(reply._marshall(False)), asyncio.Semaphore(1))
    before = gc.get_threshold()
    gc.collect()
    gc.set_threshold(*GC_THRESHOLDS)
    gc.callbacks.append(began)
    try:
        assert large.read_in_pieces().body == body
    finally:
        gc.callbacks.remove(began)
        gc.set_threshold(*before)
    assert max(gone_over) < 20_000
    assert len(gone_over) > 10


# A large value is freed


COUNT = 1000


class Record(dict[str, object]):
    """A part of a value, whose end is seen."""


def records(freed: Callable[[], None]) -> dict[str, Record]:
    made = {f"{at}": Record(label="x") for at in range(COUNT)}
    for record in made.values():
        weakref.finalize(record, freed)
    return made


@pytest.mark.parametrize("is_body", [False, True], ids=["the result is a part of the body", "there is no result"])
async def test_a_value_is_freed_in_slices_once_nothing_else_refers_to_it(
    monkeypatch: pytest.MonkeyPatch, *, is_body: bool
) -> None:
    monkeypatch.setattr(large_message, "_INTERVAL", 0.001)
    turn, turns = 0, dict[int, int]()

    def freed() -> None:
        turns[turn] = turns.get(turn, 0) + 1

    value: list[object] | dict[str, object] = {"Value": records(freed)}
    if is_body:
        value = [value]
        release_slowly(value, None)
    else:
        release_slowly([value], value)
    async with asyncio.timeout(TIMEOUT):
        for _ in range(20):
            await asyncio.sleep(0.001)
            turn += 1
        assert not turns, "it is still in use"
        del value
        while sum(turns.values()) < COUNT:
            await asyncio.sleep(0)
            turn += 1
    assert max(turns.values()) <= large_message._SLICE


async def test_a_value_that_stays_in_use_is_left_to_its_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_message, "_PATIENCE", 0.0)
    ends: list[None] = []
    value = records(lambda: ends.append(None))
    left = asyncio.Event()
    weakref.finalize(large_message._Release([value]), left.set)
    async with asyncio.timeout(TIMEOUT):
        await left.wait()
    assert not ends
    del value
    assert len(ends) == COUNT
