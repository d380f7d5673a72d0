"""Random changes while service, bus and gateway die: a client that applies events has the service's own state.

`EVENT_ROUNDS` sets the number of rounds (default 12).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import Variant

from gateway.core.dbus.names import escape_path_element
from tests.kit.clients import UnixConnection
from tests.kit.event_mirrors import (
    CUT,
    Caller,
    EventFrom,
    Failure,
    Mirror,
    OverWebSocket,
    ServerSent,
    WebSocketClient,
)
from tests.kit.gateway import REST, TOOLSTACK, Process, ship
from tests.kit.toolstack import Client, Toolstack

pytestmark = pytest.mark.bus

ROUNDS = int(os.environ.get("EVENT_ROUNDS", "12"))
SETTLED = 60.0  # seconds for a client to have the state of the service
PROPERTIES = "org.freedesktop.DBus.Properties"
MANAGER = "org.freedesktop.DBus.ObjectManager"
CONFIG = (
    """\
[listener.rpc]
bind = ["unix:{folder}/rpc"]
websocket = true
server_sent_events = true
[upstream.xapi]
url = "http+unix://{folder}/old"
dialect = "xenapi"
[upstream.xenopsd]
url = "http+unix://{folder}/old"
dialect = "xapi_idl"
[state]
file = "state.db"
"""
    + TOOLSTACK
    + REST
)


class World:
    """The toolstack, a gateway on its bus, and clients that mirror it."""

    def __init__(self, folder: Path, toolstack: Toolstack) -> None:
        self.folder = folder
        self.toolstack = toolstack
        self.chance = random.Random(1)
        ship(folder, "xapi", "xenopsd")
        self.config = folder / "gateway.toml"
        self.config.write_text(CONFIG.format(bus=toolstack.address, folder=folder))
        self.gateway = self._start()
        self.done: list[str] = []

    def _start(self) -> Process:
        process = Process(self.config)
        process.wait_for("ready")
        return process

    async def change(self) -> None:
        """A few changes, straight at the service."""
        async with self.toolstack.client() as client:
            kinds = (self._rename, self._rename, self._create, self._destroy)
            for _ in range(self.chance.randint(1, 20)):
                await self.chance.choice(kinds)(client)

    async def _paths(self, client: Client, kind: str) -> list[str]:
        found: dict[str, Any] = await client.call("xapi", kind, f"{MANAGER}.GetManagedObjects")
        return sorted(found)

    async def _rename(self, client: Client) -> None:
        kind, interface = self.chance.choice((("vm", "VM1"), ("network", "Network1")))
        path = self.chance.choice(await self._paths(client, kind))
        name = Variant("s", str(self.chance.random()))
        await client.call("xapi", path, f"{PROPERTIES}.Set", "ssv", f"org.xen.xcp.xapi.{interface}", "NameLabel", name)

    async def _create(self, client: Client) -> None:
        record = {"NameLabel": Variant("s", f"made {self.chance.random()}")}
        await client.call("xapi", "network", "NetworkManager1.Create", "a{sv}", record)

    async def _destroy(self, client: Client) -> None:
        networks = [
            path
            for path in await self._paths(client, "network")
            if str(await client.get("xapi", path, "Network1", "NameLabel")).startswith("made")
        ]
        if networks:
            await client.call("xapi", self.chance.choice(networks), "Network1.Destroy")

    async def kill_service(self) -> None:
        async with self.toolstack.client() as client:
            running = await client.ask_bus("NameHasOwner", "s", "org.xen.xcp.xapi")
        if running:
            await self.toolstack.kill("xapi")

    async def kill_bus(self) -> None:
        await self.toolstack.restart_bus()

    async def kill_gateway(self) -> None:
        await asyncio.to_thread(self.end_when_written)
        self.gateway = await asyncio.to_thread(self._start)

    async def stop_gateway(self) -> None:
        self.gateway.signal(signal.SIGTERM)
        assert await asyncio.to_thread(self.gateway.wait) == 0
        self.gateway.end()
        self.gateway = await asyncio.to_thread(self._start)

    def end_when_written(self, *, forget: bool = False) -> None:
        """Kill the gateway when it has written down what its clients have; `forget`: and that is gone."""
        caller, limit = Caller(self.folder / "rpc"), time.monotonic() + SETTLED
        known = caller.ask("event.get_current_id")
        caller.close()
        with closing(sqlite3.connect(self.folder / "state.db", timeout=SETTLED)) as db, db:
            while not db.execute("SELECT 1 FROM event_log WHERE saved >= ?", (int(known),)).fetchone():
                assert time.monotonic() < limit
                time.sleep(0.05)
            self.gateway.end()
            if forget:
                db.execute("DELETE FROM event_log")

    async def reload(self) -> None:
        self.gateway.signal(signal.SIGHUP)

    async def act(self) -> None:
        """Do one thing: each kind once, then any."""
        kinds: dict[str, tuple[Callable[[], Awaitable[None]], int]] = {
            "change": (self.change, 60),
            "kill service": (self.kill_service, 10),
            "kill bus": (self.kill_bus, 5),
            "kill gateway": (self.kill_gateway, 10),
            "stop gateway": (self.stop_gateway, 5),
            "reload": (self.reload, 10),
        }
        names, weights = [*kinds], [weight for _, weight in kinds.values()]
        name = names[len(self.done)] if len(self.done) < len(kinds) else self.chance.choices(names, weights)[0]
        self.done.append(name)
        await kinds[name][0]()

    def state(self) -> dict[tuple[str, str], Any]:
        """What the service itself has, as clients read it."""
        caller, end = Caller(self.folder / "rpc"), time.monotonic() + SETTLED
        while True:
            try:
                found = {name: caller.ask(f"{name}.get_all_records") for name in ("VM", "network")}
                caller.ask("session.logout")
            except (Failure, *CUT):
                assert time.monotonic() < end
                time.sleep(0.05)
            else:
                return {(name.lower(), ref): each for name, records in found.items() for ref, each in records.items()}
            finally:
                caller.close()

    def same(self, mirror: Mirror) -> bool:
        """Whether a client comes to have the state of the service, while nothing changes."""
        end = time.monotonic() + SETTLED
        while mirror.is_alive() and time.monotonic() < end:
            if dict(mirror.objects) == self.state():
                return True
            time.sleep(0.05)
        return False


MIRRORS: tuple[type[Mirror], ...] = (EventFrom, OverWebSocket, ServerSent)


async def test_clients_have_the_state_of_the_service_whatever_dies(tmp_path: Path) -> None:
    async with Toolstack() as toolstack:
        world = World(tmp_path, toolstack)
        mirrors = [make(tmp_path / "rpc") for make in MIRRORS]
        for mirror in mirrors:
            mirror.start()
        try:
            for number in range(ROUNDS):
                begun_anew = [mirror.begun_anew for mirror in mirrors]
                await world.act()
                if world.chance.random() < 0.5:
                    await world.change()
                for mirror in mirrors:
                    assert await asyncio.to_thread(world.same, mirror), (number, mirror, world.done[-5:])
                if world.done[-1] in ("stop gateway", "kill gateway"):  # their tokens continue
                    assert [mirror.begun_anew for mirror in mirrors] == begun_anew, (number, world.done[-5:])
        finally:
            for mirror in mirrors:
                mirror.stop()
            await asyncio.to_thread(world.gateway.end)
    assert all(mirror.events > ROUNDS for mirror in mirrors)


async def test_at_a_stop_whoever_waits_is_answered_and_nothing_is_cut_off(tmp_path: Path) -> None:
    async with Toolstack() as toolstack:
        world = World(tmp_path, toolstack)
        try:
            await asyncio.to_thread(stop_with_clients, world)
        finally:
            await asyncio.to_thread(world.gateway.end)


def stop_with_clients(world: World) -> None:
    """A WebSocket, a stream and a long poll wait; then the gateway is asked to stop."""
    socket = world.folder / "rpc"
    caller, streamed, waiting = Caller(socket), UnixConnection(socket), UnixConnection(socket)
    token = caller.ask("event.from", ["vm"], "", 0.0)["token"]
    with WebSocketClient(socket) as websocket:
        websocket.call("events.subscribe", caller.session, ["vm"], token)
        streamed.request("GET", f"/jsonrpc/events?token={token}", headers={"Cookie": f"session_id={caller.session}"})
        response = streamed.getresponse()
        params = [caller.session, ["vm"], token, 60.0]
        call = {"jsonrpc": "2.0", "id": 1, "method": "event.from", "params": params}
        waiting.request("POST", "/jsonrpc", json.dumps(call).encode())
        caller.ask("pool.get_all")  # once this is answered, what was sent before it has been read
        world.gateway.signal(signal.SIGTERM)
        with pytest.raises(ConnectionError, match=r"1001.* the gateway stops"):
            websocket.receive()
        assert response.read() in (b"", b": heartbeat\n\n")
        batch = json.loads(waiting.getresponse().read())["result"]
        assert (batch["events"], batch["token"]) == ([], token)
    for each in (streamed, waiting, caller):
        each.close()
    assert world.gateway.wait() == 0
    assert world.gateway.lines[-1]["event"] == "stopped, nothing in flight"


@pytest.mark.parametrize("is_continued", [True, False])
async def test_a_token_of_before_a_kill_is_continued_or_answered_with_everything(
    tmp_path: Path, *, is_continued: bool
) -> None:
    """Each kind of client has a token; the gateway is killed; objects come, change and go; the clients go on."""
    async with Toolstack() as toolstack:
        world = World(tmp_path, toolstack)
        try:
            async with toolstack.client() as client:
                gone = await client.call("xapi", "network", "NetworkManager1.Create", "a{sv}", {})
                await client.call("xenopsd", "", "Updates1.InjectBarrier", "sx", "before", 1)
                before = await asyncio.to_thread(tokens, world)
                await asyncio.to_thread(world.end_when_written, forget=not is_continued)
                await client.call("xapi", f"network/{escape_path_element(gone)}", "Network1.Destroy")
                made = await client.call("xapi", "network", "NetworkManager1.Create", "a{sv}", {})
                await client.call("xenopsd", "", "Updates1.InjectBarrier", "sx", "after", 2)
            world.gateway = await asyncio.to_thread(world._start)
            await asyncio.to_thread(go_on, world, before, gone, made, is_continued=is_continued)
        finally:
            await asyncio.to_thread(world.gateway.end)


def tokens(world: World) -> tuple[str, str, int]:
    """A session with a token of `event.from` that is registered for `event.next`; and the last number of xenopsd."""
    caller, xenopsd = Caller(world.folder / "rpc"), Caller(world.folder / "rpc", "/xenopsd/jsonrpc")
    token = caller.ask("event.from", ["network"], "", 0.0)["token"]
    caller.ask("event.register", ["network"])
    last = xenopsd.call("UPDATES.get", {"debug_info": "restart", "last_id": 0, "timeout": 1})[2]
    for each in (caller, xenopsd):
        each.close()
    return caller.session, token, last


def go_on(world: World, before: tuple[str, str, int], gone: str, made: str, *, is_continued: bool) -> None:
    """The session is valid. Each answer either has the changes, or says that it has everything."""
    session, token, last = before
    caller, xenopsd = Caller(world.folder / "rpc"), Caller(world.folder / "rpc", "/xenopsd/jsonrpc")
    caller.session = session
    expected = set(caller.ask("network.get_all"))
    assert made in expected
    assert gone not in expected
    if is_continued:
        changes = caller.ask("event.from", ["network"], token, 0.0)
        assert [(each["operation"], each["ref"]) for each in changes["events"]] == [("add", made), ("del", gone)]
        assert caller.ask("event.from", ["network"], changes["token"], 0.0)["events"] == []
    else:
        with pytest.raises(Failure, match="EVENTS_LOST"):
            caller.ask("event.from", ["network"], token, 0.0)
    whole = caller.ask("event.from", ["network"], "", 0.0)
    assert {(each["operation"], each["ref"]) for each in whole["events"]} == {("add", ref) for ref in expected}
    with pytest.raises(Failure, match="SESSION_NOT_REGISTERED"):
        caller.ask("event.next")
    expected = {made, gone} if is_continued else expected
    with WebSocketClient(world.folder / "rpc") as websocket:
        websocket.call("events.subscribe", session, ["network"], token)
        over_websocket = [websocket.receive()["params"]]
        while len(told(over_websocket)) < len(expected):
            over_websocket.append(websocket.receive()["params"])
    streamed = UnixConnection(world.folder / "rpc")
    headers = {"Cookie": f"session_id={session}", "Last-Event-ID": token}
    streamed.request("GET", "/jsonrpc/events?class=network", headers=headers)
    response = streamed.getresponse()
    sent: list[Any] = []
    while len(told(sent)) < len(expected):
        line = response.readline().decode()
        sent += [json.loads(line[6:])["params"]] if line.startswith("data: ") else []
    for notifications in (over_websocket, sent):
        assert [each.get("snapshot", False) for each in notifications] == [
            not is_continued, *[False] * (len(notifications) - 1)
        ]  # fmt: skip
        assert told(notifications) == expected
    _, changes, newest = xenopsd.call("UPDATES.get", {"debug_info": "restart", "last_id": last, "timeout": 30})
    assert (changes, newest) == ([["Vm", "after"]], last + 1)
    for each in (caller, xenopsd, streamed):
        each.close()


def told(notifications: list[Any]) -> set[str]:
    return {event["ref"] for each in notifications for event in each["events"]}
