"""Bus connections that belong to a client connection or a session. The broker itself is the service: a name belongs to
the connection that requested it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from adapters.dbus.backend import Backend, BusSettings
from gateway.core.dbus.target import MethodCall, OwnConnection, Target
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Peer, PeerConnection, Reply
from tests.kit.backends import dbus_backend
from tests.kit.buses import PrivateBus, private_bus
from tests.kit.cases import each_case, expect, present
from tests.kit.mappings import HEAD, build_methods, route
from tests.kit.programs import TIMEOUT

pytestmark = pytest.mark.bus

BUS, PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"
NAME = "org.example.Mine"
OWNED, TAKEN, ALREADY = Reply(1), Reply(3), Reply(4)  # the results of RequestName


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[PrivateBus]:
    with private_bus(listen=f"unix:path={tmp_path}/bus") as bus:
        yield bus


@pytest.fixture
async def backend(bus: PrivateBus) -> AsyncIterator[Backend]:
    async with dbus_backend(BusSettings("b", bus.address, ("org.freedesktop.*",))) as backend:
        yield backend


def _route(member: str, signature: str, reply: str, own: OwnConnection | None) -> Route:
    body = [NAME, 4] if signature == "su" else [NAME]
    return route(
        member,
        target=Target(BUS, PATH, BUS, member, signature, reply),
        encode_arguments=lambda _call: MethodCall(BUS, PATH, BUS, member, signature, body),
        connection=own,
    )


def _session(call: Call) -> str | None:
    return str(call.params[0]) if call.params else None


async def _request(backend: Backend, own: OwnConnection, client: PeerConnection | None, *session: str) -> Outcome:
    call = Call("m", session, peer=Peer("x", connection=client))
    return await backend.call(_route("RequestName", "su", "u", own), call)


async def _until_free(backend: Backend) -> None:
    async with asyncio.timeout(TIMEOUT):
        while await backend.call(_route("NameHasOwner", "s", "b", None), Call("m")) != Reply(False):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_what_a_client_made_belongs_to_it_and_ends_with_its_connection(backend: Backend) -> None:
    own, one, other = OwnConnection("client"), PeerConnection(), PeerConnection()
    answers = await asyncio.gather(*(_request(backend, own, one) for _ in range(3)))  # they share it
    assert sorted(answers, key=repr) == [OWNED, ALREADY, ALREADY]
    assert await _request(backend, own, other) == TAKEN
    one.close()
    await _until_free(backend)
    assert await _request(backend, own, other) == OWNED
    gone = await _request(backend, own, one)
    assert gone == Fault(FaultCode.UNAVAILABLE, "the client has left; the call was not sent")
    of_session = OwnConnection("session", session=_session)
    for without, code in ((own, FaultCode.INVALID_REQUEST), (of_session, FaultCode.INVALID_PARAMS)):
        assert expect(Fault, await _request(backend, without, None)).code is code  # nobody would own it


async def test_their_number_is_bounded(backend: Backend) -> None:
    own = OwnConnection("client", at_most=2)
    clients = [PeerConnection() for _ in range(3)]
    assert await _request(backend, own, clients[0]) == OWNED
    assert await _request(backend, own, clients[1]) == TAKEN
    refused = expect(Fault, await _request(backend, own, clients[2]))
    assert (refused.code, "limit at_most" in refused.message) == (FaultCode.BUSY, True)
    clients[0].close()
    assert await _request(backend, own, clients[2]) in (OWNED, TAKEN)


async def test_that_of_a_session_ends_when_it_is_idle_or_after_a_method_that_ends_it(backend: Backend) -> None:
    idle = OwnConnection("session", idle=0.01, session=_session)
    own, logout = (OwnConnection("session", session=_session, ends=ends) for ends in (False, True))
    assert await _request(backend, idle, None, "s0") == OWNED
    await _until_free(backend)
    assert await _request(backend, own, None, "s1") == OWNED
    assert await _request(backend, own, None, "s2") == TAKEN
    assert await _request(backend, logout, None, "s1") == ALREADY
    await _until_free(backend)


async def test_a_client_keeps_nothing_of_the_connections_that_have_ended(backend: Backend) -> None:
    own, client = OwnConnection("client", ends=True), PeerConnection()
    for _ in range(5):
        assert await _request(backend, own, client) == OWNED
        await _until_free(backend)
    assert client._on_close == {}


async def test_after_the_loss_of_the_bus_the_next_call_opens_another(bus: PrivateBus, backend: Backend) -> None:
    own, client = OwnConnection("client"), PeerConnection()
    assert await _request(backend, own, client) == OWNED
    bus.restart()
    async with asyncio.timeout(TIMEOUT):
        while (answer := await _request(backend, own, client)) != OWNED:
            assert isinstance(answer, Fault), "the name was taken by a connection that nobody has"
            await asyncio.sleep(0.01)


# In mapping files

SESSION = "session: {parameter: s, interface: org.example.Session1, member: Check}\n"


def test_the_mapping_says_whose_the_connections_are(tmp_path: Path) -> None:
    head = HEAD.replace("methods:\n", "connection: {of: client, at_most: 5, ends: [n]}\nmethods:\n")
    built = build_methods(tmp_path, "m: {member: Stat}\nn: {member: Stat}", head)
    assert built.route("m").connection == OwnConnection("client", at_most=5)
    assert built.route("n").connection == OwnConnection("client", at_most=5, ends=True)
    head = HEAD.replace("methods:\n", f"{SESSION}connection: {{of: session, idle: 5s}}\nmethods:\n")
    built = build_methods(tmp_path, "m: {member: Stat}\nn: {member: Stat, params: [s]}", head)
    assert built.route("m").connection is None
    own = present(built.route("n").connection)
    assert (own.idle, present(own.session)(Call("n", ("abc",)))) == (5.0, "abc")


@each_case(
    ("connection", "problem"),
    [
        ("{of: session}", "12:18: connection.of: 'session' requires the session check of the file: add `session`"),
        (
            "{of: client, idle: 5s}",
            "12:26: connection.idle: 'idle' requires `of: session`; the other ends with its client",
        ),
        ("{of: client, ends: [k]}", "12:33: connection.ends[0]: unknown method 'k'; expected m"),
        ("{of: bus}", '12:18: connection.of: expected one of client, session, got "bus"'),
        ("{of: client, at_most: 0}", "12:35: connection.at_most: expected a number, at least 1, got 0"),
    ],
)
def test_problems_of_a_connection_have_their_place(tmp_path: Path, connection: str, problem: str) -> None:
    head = HEAD.replace("methods:\n", f"connection: {connection}\nmethods:\n")
    (found,) = build_methods(tmp_path, "m: {member: Stat}", head).problems
    assert found.startswith(f"x.yaml:{problem}")
