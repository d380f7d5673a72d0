"""Messages that pass through without a task: clients that leave, deadlines, a second attempt, the end of it all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from adapters.http.client.upstream import ConnectionPoolLimits
from adapters.http.connection import HttpConnection
from adapters.http.quotas import HttpLimits
from gateway.core.rpc.model import ABANDONED, Fault, FaultCode, Outcome, Reply
from tests.kit.cases import expect
from tests.kit.clients import Wire, connect, post
from tests.kit.passthrough import Front, front
from tests.kit.programs import TIMEOUT
from tests.kit.upstreams import LegacyServer, legacy_server, ok

CALL = "<methodCall><methodName>%s</methodName></methodCall>"
READ, WRITE = post((CALL % "get").encode()), post((CALL % "set").encode())
RESULT = b"<methodResponse><params><param><value>%b</value></param></params></methodResponse>"


@asynccontextmanager
async def waiting(
    message: bytes, seconds: float = TIMEOUT, pool: ConnectionPoolLimits | None = None
) -> AsyncIterator[tuple[LegacyServer, Front, Wire]]:
    """A client whose message was sent to the legacy service over a connection that was used before."""
    async with (
        legacy_server(lambda _: ok(RESULT % b"x")) as old,
        front(old.url, seconds=seconds, pool=pool) as gateway,
        connect(gateway.server.addresses[0]) as wire,
    ):
        await wire.send(message)
        assert (await wire.reply()).body == RESULT % b"x"
        await old.seen.acquire()
        await gateway.wait(1)
        gateway.finished.clear()
        old.hold.clear()
        await wire.send(message)
        await asyncio.wait_for(old.seen.acquire(), TIMEOUT)
        yield old, gateway, wire


def tasks() -> list[str]:
    """The tasks that serve messages."""
    return [name for task in asyncio.all_tasks() if (name := task.get_name()) == "http call"]


def outcomes(gateway: Front) -> list[Outcome]:
    """How the calls have ended."""
    return [each.outcome for each in gateway.finished]


async def settled(gateway: Front) -> None:
    """Wait until nothing is held anywhere."""
    async with asyncio.timeout(TIMEOUT):
        while gateway.held != (0,) * 6 or tasks():  # noqa: ASYNC110 - it has no event of its own
            await asyncio.sleep(0)


async def test_no_task_waits_for_the_answer() -> None:
    async with waiting(WRITE) as (old, gateway, wire):
        assert tasks() == []
        assert gateway.held == (1, 1, len(CALL % "set"), 1, 1, 1)
        old.hold.set()
        assert (await wire.reply()).body == RESULT % b"x"
        await gateway.wait(1)
        assert outcomes(gateway) == [Reply("x")]
        await settled(gateway)
        assert old.connections == 1


async def sent_again(old: LegacyServer) -> None:
    """Its connection ends, and the message comes again over another one."""
    await old.close_connections()
    await asyncio.wait_for(old.seen.acquire(), TIMEOUT)


ATTEMPTS = pytest.mark.parametrize(("message", "again"), [(READ, False), (WRITE, False), (READ, True)])


@ATTEMPTS
async def test_a_client_that_leaves_frees_its_place_and_its_call_is_unknown(message: bytes, *, again: bool) -> None:
    async with waiting(message) as (old, gateway, wire):
        if again:
            await sent_again(old)
        wire.reset()
        await gateway.wait(1)
        await settled(gateway)
        old.hold.set()
        await asyncio.wait_for(old.left.acquire(), TIMEOUT)  # its connection is closed, and serves no other client
        old.left.release()
        assert outcomes(gateway) == [ABANDONED]


async def test_a_client_that_has_sent_its_last_byte_still_gets_its_answer() -> None:
    async with waiting(WRITE) as (old, gateway, wire):
        wire.end()
        await asyncio.sleep(0)
        old.hold.set()
        assert RESULT % b"x" in await wire.rest()
        await gateway.wait(1)
        assert outcomes(gateway) == [Reply("x")]


async def test_messages_that_are_sent_ahead_wait_for_their_turn() -> None:
    async with waiting(WRITE) as (old, gateway, wire):
        await wire.send(READ + WRITE)
        old.hold.set()
        for _ in range(3):
            assert (await wire.reply()).body == RESULT % b"x"
        await gateway.wait(3)
        assert [each.route.method for each in gateway.finished] == ["set", "get", "set"]
        await settled(gateway)


@ATTEMPTS
async def test_past_the_deadline_the_outcome_is_unknown_and_the_client_stays(message: bytes, *, again: bool) -> None:
    seconds = 0.5 if again else 0.05
    async with waiting(message, seconds=seconds) as (old, gateway, wire):
        if again:
            await sent_again(old)
        says = f"no answer from the legacy service 'old' within {seconds:g} s; it may have been executed"
        assert says.encode() in (await wire.reply()).body
        await settled(gateway)
        assert [expect(Fault, each).code for each in outcomes(gateway)] == [FaultCode.TIMEOUT]
        old.hold.set()
        await wire.send(message)
        assert (await wire.reply()).status == 200


async def test_a_write_is_not_sent_again_when_its_connection_ends() -> None:
    async with waiting(WRITE) as (old, gateway, wire):
        await old.close_connections()
        assert b"whether the call was executed is unknown" in (await wire.reply()).body
        assert [expect(Fault, each).code for each in outcomes(gateway)] == [FaultCode.NO_REPLY]
        assert len(old.requests) == 2
        await settled(gateway)
        old.hold.set()


async def test_a_read_is_sent_again_once_in_a_task() -> None:
    async with waiting(READ) as (old, gateway, wire):
        await sent_again(old)
        assert (len(tasks()), len(old.requests)) == (1, 3)
        old.hold.set()
        assert (await wire.reply()).body == RESULT % b"x"
        await gateway.wait(1)
        assert outcomes(gateway) == [Reply("x")]
        await settled(gateway)


@pytest.mark.parametrize("late", [False, True])
async def test_a_second_attempt_that_never_begins_gives_all_back(late: bool) -> None:
    async with waiting(READ) as (old, gateway, _):
        (client,) = gateway.server._connections
        (connection,) = gateway.pool._open
        assert isinstance(client, HttpConnection)
        transport = connection.transport
        assert transport is not None
        connection.connection_lost(ConnectionResetError())  # its task is made, and has not begun
        assert len(tasks()) == 1
        if late:
            (deadline,) = gateway.dispatcher._deadlines._queues[TIMEOUT].waiting
            deadline.lift()
            deadline.expire()
        else:
            client.connection_lost(None)
        await gateway.wait(1)
        await settled(gateway)
        (outcome,) = outcomes(gateway)
        assert (expect(Fault, outcome).code is FaultCode.TIMEOUT) if late else outcome is ABANDONED
        assert len(old.requests) == 2
        transport.abort()
        old.hold.set()


async def test_at_the_end_of_the_gateway_the_outcome_is_unknown() -> None:
    async with waiting(WRITE) as (old, gateway, _):
        assert await gateway.server.stop(0) == 1
        await settled(gateway)
        assert outcomes(gateway) == [ABANDONED]
        old.hold.set()


async def test_a_stop_waits_for_the_answer_which_says_that_it_was_the_last() -> None:
    async with waiting(WRITE) as (old, gateway, wire):
        stopping = asyncio.ensure_future(gateway.server.stop(TIMEOUT))
        await asyncio.sleep(0)
        old.hold.set()
        reply = await wire.reply()
        assert (reply.body, reply.headers["connection"]) == (RESULT % b"x", "close")
        assert await stopping == 0


async def test_where_no_connection_is_free_a_task_waits_for_one() -> None:
    async with waiting(WRITE, pool=ConnectionPoolLimits(connections=1, keepalive=True)) as (old, gateway, wire):
        async with connect(gateway.server.addresses[0]) as other:
            await other.send(READ)
            async with asyncio.timeout(TIMEOUT):
                while gateway.pool.status().waiting != 1:  # noqa: ASYNC110 - see above
                    await asyncio.sleep(0)
            assert len(tasks()) == 1
            old.hold.set()
            assert (await wire.reply()).status == (await other.reply()).status == 200
        await gateway.wait(2)
        assert old.connections == 1
        await settled(gateway)


async def test_an_answer_that_its_client_does_not_read_is_held_until_it_is() -> None:
    large = RESULT % (b"y" * 60_000)  # short enough for the way of short answers
    async with (
        legacy_server(lambda _: ok(large)) as old,
        front(old.url, limits=HttpLimits(write_timeout=TIMEOUT)) as gateway,
        connect(gateway.server.addresses[0]) as wire,
    ):
        for _ in range(2):
            await wire.send(WRITE)
            assert (await wire.reply()).body == large
        for _ in range(300):  # more than the buffers of the kernel hold
            await wire.send(WRITE)
        async with asyncio.timeout(TIMEOUT):
            while not gateway.quota.slow_readers:  # noqa: ASYNC110 - see above
                await asyncio.sleep(0)
        assert gateway.quota.buffered >= len(large)
        for _ in range(300):
            assert (await wire.reply()).body == large
        await settled(gateway)
        assert {*outcomes(gateway)} == {Reply("y" * 60_000)}
