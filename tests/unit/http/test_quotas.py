"""Shares of peers, as numbers and over the wire."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from msgspec.structs import replace

from adapters.http.quotas import PeerShare, Quotas
from adapters.http.server import HttpLimits
from adapters.limits import Quota
from gateway.core.rpc.model import NO_METADATA, Answer, Peer, RequestMetadata
from tests.kit.cases import each_case, present
from tests.kit.clients import connect, post
from tests.kit.listeners import CONTENT_TYPE, Echo, Fixed, Waiting
from tests.kit.programs import TIMEOUT
from tests.unit.http.listening import ask, begin, running

ONE, OTHER = Peer("tcp:192.0.2.1:1"), Peer("tcp:192.0.2.2:1")
USER = Peer("unix:/run/rpc", uid=1000)
FIVE = HttpLimits(max_connections=5, max_calls=5)


class Client:
    """A connection that remembers for whom it had to go."""

    def __init__(self) -> None:
        self.went: tuple[str, int] | None = None

    def evict(self, whose: str, among: int) -> None:
        self.went = (whose, among)


def entered(quotas: Quotas, peer: Peer, *, idle: bool = True) -> tuple[Client, PeerShare]:
    client = Client()
    share = present(quotas.enter(client, peer))
    if not idle:
        share.idle.pop(client)
    return client, share


@each_case(
    ("address", "limits", "expected"),
    [
        *((address, FIVE, (3, 3)) for address in ("tcp:192.0.2.1:1", "tcp:[2001:db8::1]:9")),
        # clients over loopback cannot be told apart
        *((address, FIVE, (5, 5)) for address in ("tcp:127.0.0.1:1", "tcp:[::1]:1", "tcp:[::ffff:127.0.0.1]:1")),
        ("tcp:127.0.0.1:1", replace(FIVE, max_connections_per_peer=2, max_calls_per_peer=1), (2, 1)),
    ],
)
def test_one_peer_has_half_of_the_connections_and_of_the_calls(
    address: str, limits: HttpLimits, expected: tuple[int, int]
) -> None:
    share = entered(Quotas(Quota(), limits), Peer(address))[1]
    assert (share.max_connections, share.max_calls) == expected
    share = entered(Quotas(Quota(), FIVE), USER)[1]
    assert (share.max_connections, share.max_calls) == (3, 3)


def test_a_peer_past_its_share_gives_up_the_one_of_its_own_that_is_idle_for_the_longest_time() -> None:
    quotas = Quotas(Quota(), HttpLimits(max_connections=4))
    other, _ = entered(quotas, OTHER)
    first, second, _ = (entered(quotas, ONE)[0] for _ in range(3))
    assert (other.went, first.went, second.went) == (None, ("tcp:192.0.2.1", 2), None)
    assert quotas.connections == 3


def test_when_there_is_no_place_the_peer_with_the_most_makes_way() -> None:
    quotas = Quotas(Quota(), HttpLimits(max_connections=5))
    lonely, _ = entered(quotas, OTHER)
    many = [entered(quotas, ONE)[0] for _ in range(3)]
    entered(quotas, USER)
    entered(quotas, Peer("tcp:192.0.2.3:1"))
    assert [client.went for client in (lonely, *many)] == [None, ("tcp:192.0.2.1", 3), None, None]
    assert quotas.connections == 5


def test_with_nothing_idle_a_newcomer_is_turned_away() -> None:
    quotas = Quotas(Quota(), HttpLimits(max_connections=4))
    for peer, busy in ((ONE, 2), (OTHER, 2)):
        for _ in range(busy):
            entered(quotas, peer, idle=False)
        assert quotas.enter(Client(), peer) is None  # its share is used up
    assert quotas.enter(Client(), USER) is None


def test_calls_of_one_peer_leave_places_for_others() -> None:
    quota = Quota()
    quotas = Quotas(quota, HttpLimits(max_connections=10, max_calls=4))
    one, other = entered(quotas, ONE)[1], entered(quotas, OTHER)[1]
    assert [quotas.begin_call(one, 0) for _ in range(3)] == [True, True, False]
    assert not quotas.fits(one, 0)
    assert quotas.fits(other, 0)
    assert [quotas.begin_call(other, 0) for _ in range(2)] == [True, True]
    for share in (one, one, other, other):
        quotas.end_call(share)
    assert (quotas.calls, quota.calls) == (0, 0)


def test_what_is_gone_is_forgotten_even_when_its_call_outlives_it() -> None:
    quota = Quota()
    quotas = Quotas(quota, HttpLimits(max_connections=10, max_calls=4))
    client, share = entered(quotas, ONE)
    assert quotas.begin_call(share, 0)
    quotas.leave(client, share)
    quotas.leave(client, share)
    again = entered(quotas, ONE)[1]
    assert again is share
    assert quotas.connections == 1
    quotas.leave(next(iter(share.connections)), share)
    quotas.end_call(share)
    assert quotas.connections == 0
    assert entered(quotas, ONE)[1] is not share


def test_one_peer_has_half_of_the_calls_that_wait() -> None:
    quotas = Quotas(Quota(), HttpLimits(max_connections=10, max_calls=10, max_waiting=3))
    _, share = entered(quotas, ONE)
    for allowed in (True, True, False):
        assert quotas.begin_call(share, 0)
        assert quotas.begin_wait(share) is allowed
    _, other = entered(quotas, OTHER)
    assert quotas.begin_call(other, 0)
    assert quotas.begin_wait(other)


def test_what_a_slow_reader_holds_beyond_its_share_counts_against_itself_alone() -> None:
    quota = Quota(max_buffered=1000)
    mine, others = quota.open_account("a"), quota.open_account("b")
    quota.reserve(5000, mine)
    assert quota.is_full_for(mine)
    assert not quota.is_full_for(others)
    assert quota.fits(500, others)
    assert not quota.fits(501, others)
    quota.reserve(-5000, mine)
    assert not quota.is_full_for(mine)
    assert quota.buffered == 0


def test_the_share_of_a_peer_is_there_while_a_call_of_it_waits() -> None:
    quotas = Quotas(Quota(), FIVE)
    client, share = entered(quotas, ONE)
    assert quotas.begin_call(share, 0)
    assert quotas.begin_wait(share)
    quotas.leave(client, share)
    assert entered(quotas, ONE)[1] is share


# Over the wire


async def test_a_newcomer_is_served_however_many_idle_connections_there_are_but_for_no_call_that_runs() -> None:
    told: list[str] = []
    waiting, echo = Waiting(), Echo()
    limits = HttpLimits(max_connections=20)
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(
            running(lambda path: waiting if path == "/wait" else echo, limits, on_abort=told.append)
        )
        busy, first, *_ = [await stack.enter_async_context(connect(address)) for _ in range(20)]
        await begin(busy, waiting, post(b"x", "/wait"))
        for _ in range(20):
            async with connect(address) as wire:
                assert (await ask(wire, post(b"x"))).body == b"x"
        assert await first.rest() == b""
        waiting.release.set()
        assert (await busy.reply()).body == b"x"
    assert told[0] == "tcp:127.0.0.1 gave up an idle connection of 20 for newcomers"
    assert len(told) < 20  # a line a second


async def test_clients_that_do_not_read_their_large_answers_block_nobody_for_long() -> None:
    told: list[str] = []
    large, echo = Fixed(Answer(bytes(30_000_000), CONTENT_TYPE)), Echo()
    async with AsyncExitStack() as stack, asyncio.timeout(TIMEOUT):
        address = await stack.enter_async_context(
            running(lambda path: large if path == "/large" else echo, on_abort=told.append)
        )
        for _ in range(12):
            await (await stack.enter_async_context(connect(address))).send(post(b"x", "/large"))
        other = await stack.enter_async_context(connect(address))
        while (await ask(other, post(b"x"))).status != 200:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)
    assert "and others need the room" in told[0]


async def test_a_client_that_reads_keeps_its_answer_while_others_need_the_room() -> None:
    size = 80_000_000  # what is left unread at the end is more than the kernel takes
    large, quota = Fixed(Answer(bytes(size), CONTENT_TYPE)), Quota(max_buffered=10_000)
    async with (
        running(large, HttpLimits(poll_interval=60), quota=quota) as address,
        connect(address) as reads,
        connect(address) as other,
    ):
        await reads.send(post(b"x"))
        got = 0
        for _ in range(65):  # for longer than a client may stall
            got += len(await reads.raw(1_000_000))  # the kernel asks for more once a third of 4 MiB is free
            assert (await ask(other, post(b"x"))).status == 503
            await asyncio.sleep(0.02)
        assert len(await reads.raw(size - got)) == size - got


class Parked(Echo):
    """Waits for events when the body says so, and answers any other body at once."""

    def __init__(self) -> None:
        super().__init__()
        self.parked = asyncio.Semaphore(0)
        self.go_on = asyncio.Event()

    async def answer(self, body: bytes, peer: Peer, carried: RequestMetadata = NO_METADATA) -> Answer:
        if body != b"wait":
            return await super().answer(body, peer)
        resume = present(present(peer.connection).on_wait)()
        if resume is None:
            return Answer(b"too many wait", CONTENT_TYPE)
        self.parked.release()
        try:
            await self.go_on.wait()
        finally:
            resume()
        return Answer(b"went on", CONTENT_TYPE)


async def test_calls_that_wait_for_events_leave_their_slots_to_others_and_are_bounded_themselves() -> None:
    endpoint, quota = Parked(), Quota(max_calls=1)
    limits = HttpLimits(max_calls=1, max_waiting=5)
    async with AsyncExitStack() as stack, asyncio.timeout(TIMEOUT):
        address = await stack.enter_async_context(running(endpoint, limits, quota=quota))
        other, *waiting = [await stack.enter_async_context(connect(address)) for _ in range(6)]
        for wire in waiting:
            await wire.send(post(b"wait"))
            await endpoint.parked.acquire()
        assert (await ask(other, post(b"work"))).body == b"work"
        assert (await ask(other, post(b"wait"))).body == b"too many wait"
        waiting.pop().reset()
        assert (await ask(other, post(b"work"))).body == b"work"
        endpoint.go_on.set()  # all go on, however few calls may run
        for wire in waiting:
            assert (await wire.reply()).body == b"went on"
        assert (await ask(other, post(b"work"))).body == b"work"
    assert quota.calls == 0
