from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
import uvloop
from dbus_fast import Message, MessageType

from adapters.dbus.connection import BusConnectionLimits, ConnectError, DBusConnection, Received
from gateway.core.dbus.target import MethodCall
from gateway.core.interfaces import NOT_SENT
from gateway.core.rpc.model import Fault, FaultCode
from tests.kit.backends import TOY
from tests.kit.buses import ANONYMOUS, SYSTEM_LIMITS, PrivateBus, private_bus
from tests.kit.cases import each_case, expect, present
from tests.kit.programs import TIMEOUT
from tests.kit.toy_service import INTERFACE, OBJECT_PATH, toy_service

uvloop.new_event_loop().close()  # libuv opens a pipe of its own with the first loop of a process, and keeps it

ROOMY = BusConnectionLimits(in_flight=10_000)

# What no `bind` lets through; None in a variant is a SIGSEGV in the library itself.
UNCHECKED = [
    ("v", None, TypeError),
    ("a{sv}", {"a": None}, TypeError),
    ("s", "a\0b", ValueError),
    ("u", -1, ValueError),
    ("u", None, ValueError),
]


@pytest.fixture(scope="module")
def bus() -> Iterator[PrivateBus]:
    with private_bus() as bus, toy_service(bus.address, TOY):
        yield bus


@asynccontextmanager
async def connected(address: str, limits: BusConnectionLimits = ROOMY) -> AsyncIterator[DBusConnection]:
    connection = await DBusConnection.open(address, limits)
    try:
        yield connection
    finally:
        connection.close()
        await connection.closed()


def ask(member: str, signature: str = "", *body: object) -> MethodCall:
    return MethodCall(TOY, OBJECT_PATH, INTERFACE, member, signature, body)


async def answer(connection: DBusConnection, call: MethodCall) -> list[object]:
    got = expect(Received, await asyncio.wait_for(connection.call(call), TIMEOUT))
    assert not got.error_name, got
    return got.body


async def test_a_value_that_would_crash_the_library_costs_only_its_own_call(bus: PrivateBus) -> None:
    """Ten calls are in flight on the same connection when the bad ones come past a bind that does not check."""
    async with connected(bus.address) as connection, asyncio.TaskGroup() as group:
        held = [group.create_task(answer(connection, ask("Hold"))) for _ in range(10)]
        await answer(connection, ask("Held"))
        for signature, bad, error in UNCHECKED:
            with pytest.raises(error):
                await connection.call(ask("Unchecked", signature, bad))  # its header is not kept
        assert connection.in_flight == 10
        await answer(connection, ask("Release"))
        assert [await one for one in held] == [["released"]] * 10


async def test_a_connection_with_many_calls_given_up_or_few_serials_left_is_worn(bus: PrivateBus) -> None:
    async with connected(bus.address, BusConnectionLimits(in_flight=4)) as connection:
        waiting = [asyncio.ensure_future(connection.call(ask("Hang"))) for _ in range(2)]
        await answer(connection, ask("Label"))
        assert not connection.stale.is_set()
        for one in waiting:
            one.cancel()
        await asyncio.wait(waiting)
        assert (connection.stale.is_set(), connection.lost) == (True, False)
    async with connected(bus.address, BusConnectionLimits(serials=4)) as connection:
        for _ in range(3):
            assert not connection.stale.is_set()
            await answer(connection, ask("Label"))
        assert connection.stale.is_set()
        assert await answer(connection, ask("Label")) == ["toy"]


async def test_a_message_over_the_limit_is_refused_and_not_sent_and_the_limit_is_exact() -> None:
    """The broker accepts a message of exactly its limit; so do we, and we refuse one byte more."""
    with private_bus(limits={**SYSTEM_LIMITS, "max_message_size": 65536}) as small, toy_service(small.address, TOY):
        async with connected(small.address, BusConnectionLimits(max_message=65536)) as connection:
            refused = expect(Fault, await connection.call(ask("Echo", "s", "x" * 65536)))
            assert refused.code is FaultCode.TOO_LARGE
            assert "the bus takes at most 65536" in refused.message
            over = int(refused.message.split()[4]) - 65536
            assert await answer(connection, ask("Note", "s", "x" * (65536 - over))) == []
            assert isinstance(await connection.call(ask("Note", "s", "x" * (65537 - over))), Fault)
            assert connection.in_flight == 0


async def test_what_the_specification_does_not_allow_is_refused_however_much_the_bus_takes(bus: PrivateBus) -> None:
    """An array of over 2^26 bytes, and a message of over 2^27: the receiver would close the connection."""
    mib = bytes(1024**2)
    async with connected(bus.address, BusConnectionLimits(max_message=2**28)) as connection:
        array = expect(Fault, await connection.call(ask("Note", "aay", [mib] * 64)))
        message = expect(Fault, await connection.call(ask("Note", "aayaayaay", *[[mib] * 45] * 3)))
        assert (array.code, message.code) == (FaultCode.TOO_LARGE, FaultCode.TOO_LARGE)
        assert "$.body[0]: expected an array of at most 67108864 bytes, got 67109120" in array.message
        assert "the bus takes at most 134217728" in message.message
        assert await answer(connection, ask("Label")) == ["toy"]


@each_case(("starts_services", "flags"), [(True, (1, 0)), (False, (3, 2))])  # NO_REPLY_EXPECTED, NO_AUTO_START
async def test_a_call_says_on_the_wire_whether_it_wants_a_reply_and_starts_a_service(
    bus: PrivateBus, *, starts_services: bool, flags: tuple[int, int]
) -> None:
    async with connected(bus.address, BusConnectionLimits(starts_services=starts_services)) as connection:
        assert await connection.call(ask("Note", "s", "oneway"), oneway=True) is None
        await answer(connection, ask("Note", "s", "with reply"))
        notes = expect(list, *await answer(connection, ask("Notes")))
        assert notes[-2:] == [(flags[0], "oneway"), (flags[1], "with reply")]  # nothing else is ever set
        assert connection.in_flight == 0


async def test_a_call_after_the_broker_died_was_not_sent() -> None:
    """At once, before the loop has had a chance to notice, and ever after; and the log has nothing to complain of."""
    complaints: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    with private_bus() as bus:
        async with connected(bus.address) as connection:
            bus.kill()
            for _ in range(3):
                got = expect(Fault, await asyncio.wait_for(connection.call(ask("Label")), TIMEOUT))
                assert got.code is FaultCode.UNAVAILABLE
    gc.collect()
    assert not complaints


async def test_a_call_that_a_stalled_broker_has_not_taken_was_not_sent() -> None:
    """The socket's buffer is full: what did not fit into it cannot have been executed."""
    with private_bus() as bus:
        async with connected(bus.address) as connection:
            os.kill(bus.pid, signal.SIGSTOP)
            large = ask("Echo", "ay", b"x" * 4_000_000)
            waiting = [asyncio.ensure_future(connection.call(large, oneway=each)) for each in (False, False, True)]
            await asyncio.wait(waiting, timeout=0)
            bus.kill()
            for one in waiting:
                got = expect(Fault, await asyncio.wait_for(one, TIMEOUT))
                assert got.code is FaultCode.UNAVAILABLE


async def test_a_call_that_is_given_up_before_the_broker_took_a_byte_of_it_is_never_made() -> None:
    with private_bus() as bus, toy_service(bus.address, TOY):
        async with connected(bus.address) as connection:
            assert await answer(connection, ask("Echo", "s", "first")) == ["first"]
            os.kill(bus.pid, signal.SIGSTOP)
            large = asyncio.ensure_future(connection.call(ask("Note", "s", "x" * 4_000_000)))
            small = asyncio.ensure_future(sent(connection, ask("Echo", "s", "never")))
            await asyncio.wait((large, small), timeout=0)
            small.cancel()
            assert not await small
            assert connection.in_flight == 1
            os.kill(bus.pid, signal.SIGCONT)
            await asyncio.wait_for(large, TIMEOUT)
            assert await answer(connection, ask("Echoes")) == [1]

            hanging = asyncio.ensure_future(sent(connection, ask("Hang")))
            await answer(connection, ask("Label"))
            hanging.cancel()
            assert await hanging


async def sent(connection: DBusConnection, call: MethodCall) -> bool:
    """Whether a call that is cancelled had been sent."""
    try:
        await connection.call(call)
    except asyncio.CancelledError as error:
        return NOT_SENT not in error.args
    raise AssertionError("it was answered")


async def test_who_waits_for_an_owner_is_told_of_each_one_and_asks_the_bus_once(bus: PrivateBus) -> None:
    name, told = "org.example.Other", list[str]()
    async with connected(bus.address) as connection:
        connection.when_owned(name, told.append)
        serial = connection._bus.next_serial()
        connection.when_owned(name, told.append)
        assert connection._bus.next_serial() == serial + 1  # nothing was sent
        for _ in range(2):
            with toy_service(bus.address, name):
                await answer(connection, ask("Label"))  # the signal came before this answer
        assert told == [name, name]


async def test_others_may_ask_the_gateway_who_it_is(bus: PrivateBus) -> None:
    """Peer.GetMachineId makes the library call the bus in its own name; that answer is left to it."""
    async with connected(bus.address) as connection, connected(bus.address) as other:
        name = present(connection._bus.unique_name)
        call = MethodCall(name, "/", "org.freedesktop.DBus.Peer", "GetMachineId", "")
        machine = expect(str, *await answer(other, call))
        assert len(machine) == 32


# Opening

# What systemd-stdio-bridge does, for machines that have no systemd.
BRIDGE = """
import os, socket, sys, threading
bus = socket.socket(socket.AF_UNIX)
bus.connect(sys.argv[1])
def carry(source, sink):
    while data := os.read(source, 65536):
        os.write(sink, data)
    os._exit(0)
threading.Thread(target=carry, args=(0, bus.fileno())).start()
carry(bus.fileno(), 1)
"""
GET_ID = MethodCall("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "GetId", "")


async def test_a_bus_is_reached_through_a_process_or_anonymously_over_tcp(bus: PrivateBus) -> None:
    path = quote(bus.address.removeprefix("unix:path=").split(",")[0])
    program = f"unixexec:path={sys.executable},argv2={quote(BRIDGE)},argv1=-c,argv3={path}"  # in any order
    with private_bus(listen="tcp:host=127.0.0.1,port=0", auth=ANONYMOUS) as over_tcp:
        for address in (program, over_tcp.address.replace("localhost", "127.0.0.1")):
            async with connected(address) as connection:
                assert len(expect(str, *await answer(connection, GET_ID))) == 32


@each_case(
    ("address", "says"),
    [
        ("unix:path=/nowhere", "No such file or directory"),
        ("tcp:host=127.0.0.1,port=1", "."),
        ("carrier:pigeon=1", "."),
        ("nonsense", "."),
        ("unixexec:argv1=-xT", "a unixexec address needs path="),
        ("unixexec:path=/no/such/command", "No such file or directory"),
        ("unixexec:path=/bin/false", "."),
        ("unixexec:path=/bin/cat", "."),
    ],
)
async def test_an_address_without_a_bus_is_refused_for_the_operator_to_read(address: str, says: str) -> None:
    with pytest.raises(ConnectError, match=says):
        await DBusConnection.open(address, BusConnectionLimits())


async def test_a_socket_or_a_process_that_says_nothing_is_given_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("adapters.dbus.connection.OPEN_TIMEOUT", 0.05)
    monkeypatch.setattr("adapters.dbus.connect.EXIT_TIMEOUT", 0.01)
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "bus"))
        mute.listen()
        for address in (f"unix:path={tmp_path}/bus", "unixexec:path=/bin/sleep,argv1=1000"):
            with pytest.raises(ConnectError):
                await DBusConnection.open(address, BusConnectionLimits())


async def test_a_bus_that_passes_no_descriptors_on_is_a_bus_all_the_same(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "bus"))
        listener.listen()
        listener.setblocking(False)
        opening = asyncio.ensure_future(DBusConnection.open(f"unix:path={tmp_path}/bus", ROOMY))
        async with asyncio.timeout(TIMEOUT):
            with await hello(listener, descriptors=b"ERROR"):
                connection = await opening
            await connection.closed()


# A broker that dies


async def hello(listener: socket.socket, descriptors: bytes = b"AGREE_UNIX_FD") -> socket.socket:
    """Authenticate the one client that comes, and answer its Hello."""
    loop = asyncio.get_running_loop()
    client, _ = await loop.sock_accept(listener)
    client.setblocking(False)
    heard = b""
    for line, reply in ((b"AUTH", b"OK 0123456789abcdef0123456789abcdef"), (b"NEGOTIATE", descriptors)):
        while line not in heard:
            heard += await loop.sock_recv(client, 4096)
        await loop.sock_sendall(client, reply + b"\r\n")
    while b"Hello" not in heard:
        heard += await loop.sock_recv(client, 4096)
    welcome = Message(message_type=MessageType.METHOD_RETURN, reply_serial=1, signature="s", body=[":1.1"])
    welcome.serial = 1
    await loop.sock_sendall(client, welcome._marshall(False))
    return client


@pytest.mark.parametrize("new_loop", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_a_broker_that_dies_behind_a_message_with_calls_unread_ends_the_connection(
    tmp_path: Path, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def run() -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "bus"))
            listener.listen()
            listener.setblocking(False)
            opening = asyncio.ensure_future(DBusConnection.open(f"unix:path={tmp_path}/bus", ROOMY))
            broker = await hello(listener)
            connection = await opening
            calling = asyncio.ensure_future(connection.call(ask("Unread")))
            await asyncio.sleep(0)  # it is sent
            last = Message(message_type=MessageType.SIGNAL, path="/", interface=INTERFACE, member="Last")
            last.serial = 2
            broker.send(last._marshall(False))
            broker.close()
            async with asyncio.timeout(TIMEOUT):
                fault = expect(Fault, await calling)
                await connection.closed()
            assert fault.code is FaultCode.NO_REPLY
            assert connection.error

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(run())
