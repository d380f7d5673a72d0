"""`event.from` and the other event methods, over a service whose signals a test sends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Self

import pytest

from gateway.core.dbus.marshal import Variant
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call, Fault, FaultCode, Peer, PeerConnection, Reply, Value
from gateway.events import hub
from gateway.events.hub import EventHub
from gateway.mapping.table import Table
from gateway.pipeline import event_methods
from gateway.pipeline.event_methods import DAY, Batch, EventMethods, Following, seconds_of
from gateway.state.store import StateStore
from tests.kit.cases import expect, present
from tests.kit.mappings import build_files
from tests.kit.object_service import VM, Service
from tests.kit.programs import TIMEOUT

IDL = """\
<node>
  <interface name="org.example.Session1">
    <method name="Check"><arg name="session" type="s" direction="in"/></method>
  </interface>
  <interface name="org.example.VM1"><property name="NameLabel" type="s" access="read"/></interface>
  <interface name="org.example.Message1"><property name="NameLabel" type="s" access="read"/></interface>
</node>
"""
MAPPING = """\
mapping: 1
service: xapi
dbus: {bus_name: org.example, object_path: /org/example, interface: org.example.Session1, idl: e.xml}
session: {parameter: session, member: Check, errors: {org.example.Gone: {code: SESSION_INVALID, args: ["{session}"]}}}
expose: [{listener: rpc, path: /, codec: jsonrpc, dialect: xenapi}]
defaults: {coerce: legacy}
methods:
  event.from: {events: from, params: [session, classes, token, timeout]}
  event.inject: {events: inject, params: [session, class, ref]}
  event.get_current_id: {events: get_current_id, params: [session]}
  event.register: {events: register, params: [session, classes]}
  event.unregister: {events: unregister, params: [session, classes]}
  event.next: {events: next, params: [session]}
classes:
  VM: {object_path: "/vm/{vm}", interface: org.example.VM1, manager: {object_path: /vm}}
  Message: {object_path: "/message/{m}", interface: org.example.Message1, manager: {object_path: /vm}}
"""
S = "OpaqueRef:session"
NOBODY = Peer()


def named(text: str) -> dict[str, Any]:
    return {"NameLabel": Variant("s", text)}


def built(directory: Path, mapping: str = MAPPING) -> Table:
    (directory / "e.xml").write_text(IDL)
    found = build_files(directory, m=mapping)
    assert found.problems == []
    return found.table


class Running:
    """Event methods over a service that has its name, with the objects of `names`."""

    def __init__(self, directory: Path, *names: str, state: StateStore | None = None) -> None:
        self.service = Service({f"/vm/{name}": {VM: named(name)} for name in names}, sessions={S, "other"})
        self.table = built(directory)
        self.hub = EventHub(self.service, state=state)
        self.off: set[str] = set()
        self.waiting = 0
        self.methods = EventMethods(self.hub, is_allowed=lambda r: r.method not in self.off, on_wait=self._count)
        self._tasks: list[asyncio.Task[Any]] = []

    def _count(self, change: int) -> None:
        self.waiting += change

    async def __aenter__(self) -> Self:
        await self.hub.follow(self.table)
        present(self.hub.find("xapi")).start()
        await asyncio.sleep(0)
        await self.owned()
        return self

    async def owned(self, owner: str = ":1.1") -> None:
        """The service has its name, and its objects are read."""
        self.service.own(owner)
        await asyncio.sleep(0)
        await self.service.settle()

    async def anew(self) -> None:
        """Another hub, which follows nobody yet."""
        await self.hub.stop()
        self.hub = EventHub(self.service)
        self.methods = EventMethods(self.hub, on_wait=self._count)
        await self.hub.follow(self.table)

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.hub.stop()

    def route(self, method: str) -> Route:
        [endpoint] = self.table.endpoints.values()
        return endpoint.routes[method]

    async def ask(self, method: str, *params: Any, session: str = S, peer: Peer = NOBODY, **more: Any) -> Any:
        call = Call(f"event.{method}", (session, *params), peer=peer, extensions=more)
        async with asyncio.timeout(TIMEOUT):
            return await self.methods.answer(self.route(call.method), call)

    async def value(self, method: str, *params: Any, **more: Any) -> Any:
        return expect(Reply, await self.ask(method, *params, **more)).value

    async def refused(self, method: str, *params: Any, **more: Any) -> Fault:
        return expect(Fault, await self.ask(method, *params, **more))

    async def events(self, token: str = "", *classes: str, seconds: float = 0) -> tuple[list[Any], str]:
        batch = await self.value("from", list(classes or ("*",)), token, seconds)
        return batch["events"], batch["token"]

    async def change(self, name: str, text: str) -> None:
        self.service.change(f"/vm/{name}", VM, **named(text))
        await self.service.settle()

    async def waits(self, *classes: str, **more: Any) -> asyncio.Task[Any]:
        """A call that waits for what changes from now on."""
        _, token = await self.events()
        return await self.begin("from", [*classes], token, 60.0, **more)

    async def begin(self, method: str, *params: Any, **more: Any) -> asyncio.Task[Any]:
        """A call that waits."""
        waiters = present(self.hub.find("xapi"))._waiters
        before = len(waiters)
        task = asyncio.get_running_loop().create_task(self.ask(method, *params, **more))
        self._tasks.append(task)
        async with asyncio.timeout(TIMEOUT):
            while len(waiters) == before:
                assert not task.done(), task.result()
                await asyncio.sleep(0)
        return task


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """With one object."""
    async with Running(tmp_path, "a") as made:
        yield made


def told(events: list[Any]) -> list[tuple[str, str, str]]:
    return [(each["operation"], each["class"], each["ref"]) for each in events]


async def answered(waiting: asyncio.Task[Any]) -> list[Any]:
    """The events with which a waiting call is answered."""
    return expect(list, expect(Reply, await waiting).value["events"])  # type: ignore[call-overload,index]


A = [("mod", "vm", "a")]


async def test_the_first_batch_has_every_object_with_its_record_and_then_a_call_waits(tmp_path: Path) -> None:
    async with Running(tmp_path, "a", "b") as running:
        batch = await running.value("from", ["*"], "", 5.0)
        assert told(batch["events"]) == [("add", "vm", "a"), ("add", "vm", "b")]
        first, token = batch["events"][0], batch["token"]
        assert first.keys() == {"id", "timestamp", "class", "operation", "ref", "snapshot"}
        assert (first["timestamp"], first["snapshot"], first["id"].isdecimal()) == ("0.0", {"name_label": "a"}, True)
        assert batch["valid_ref_counts"] == {"vm": 2, "message": 0}
        assert len(token) == 41
        assert await running.events(token, "vm", seconds=0.01) == ([], token)
        everything = await running.begin("from", ["*"], token, 60.0)
        one = await running.begin("from", ["VM/b"], token, 60.0)
        await running.change("a", "A")
        [event] = await answered(everything)
        assert (told([event]), event["snapshot"]) == (A, {"name_label": "A"})
        assert not one.done()
        running.service.remove("/vm/b")
        await running.service.settle()
        [event] = await answered(one)
        assert (told([event]), "snapshot" in event) == ([("del", "vm", "b")], False)
        assert one.result().value["valid_ref_counts"] == {"vm": 1}


async def test_in_a_batch_messages_come_first_then_new_objects_then_changes_then_deletions(tmp_path: Path) -> None:
    async with Running(tmp_path, "a", "b") as running:
        _, token = await running.events()
        service = running.service
        service.remove("/vm/a")
        service.change("/vm/b", VM, **named("B"))
        service.add("/vm/c", vm=named("c"))
        service.state["/message/m"] = {"org.example.Message1": named("m")}
        await running.owned(":1.2")
        events, _ = await running.events(token)
        assert told(events) == [("add", "message", "m"), ("add", "vm", "c"), ("mod", "vm", "b"), ("del", "vm", "a")]


async def test_a_timeout_that_makes_no_sense_is_a_day(running: Running) -> None:
    exact, senseless = (0, 60.1, 9e6), (-1, float("nan"), 1e300, 2**53 / 1e9 + 1)
    assert [*map(seconds_of, exact + senseless)] == [*exact, *[DAY] * len(senseless)]
    assert (await running.value("from", ["vm"], "", "0"))["valid_ref_counts"] == {"vm": 1}  # XML-RPC sends text


async def test_what_cannot_be_read_or_continued_is_said(running: Running) -> None:
    for params, error in (
        ((["vm/a/b"], "", 0), ["EVENT_SUBSCRIPTION_PARSE_FAILURE", "vm/a/b"]),
        ((["vm"], "now", 0), ["EVENT_FROM_TOKEN_PARSE_FAILURE", "now"]),
        ((["vm"], "1,2", 0), ["EVENTS_LOST"]),
    ):
        fault = await running.refused("from", *params)
        assert [fault.name, *expect(list, fault.data)] == error
    few, wrong = await running.refused("from", ["vm"]), await running.refused("from", "vm", "", 0)
    assert expect(dict, few.data).items() >= {"expected": 3, "received": 1}.items()
    assert wrong.code is FaultCode.INVALID_PARAMS


async def test_without_a_valid_session_nothing_is_told_and_no_service_followed(running: Running) -> None:
    for method, params in (("from", (["*"], "", 0.0)), ("next", ()), ("inject", ("vm", "a"))):
        assert (await running.refused(method, *params, session="stolen")).name == "SESSION_INVALID"
    await running.anew()
    await running.refused("from", ["*"], "", 0.0, session="stolen")
    await asyncio.sleep(0)
    assert not running.service.is_followed
    first = asyncio.ensure_future(running.ask("from", ["*"], "", 0.0))
    for _ in range(3):
        await asyncio.sleep(0)
    await running.owned(":1.9")
    assert told(await answered(first)) == [("add", "vm", "a")]


async def test_a_logout_wakes_the_calls_of_its_session_and_no_others(running: Running) -> None:
    mine = [await running.waits("vm") for _ in range(3)]
    other = await running.waits("vm", session="other")
    await running.value("register", ["*"])
    running.service.sessions.remove(S)
    running.methods.end_session(S)
    for each in await asyncio.gather(*mine):
        assert (each.name, each.data) == ("SESSION_INVALID", [S])
    assert not other.done()
    running.service.sessions.add(S)
    assert (await running.refused("next")).name == "SESSION_NOT_REGISTERED"


@pytest.mark.parametrize(("often", "changes"), [("FRESH", True), ("CHECK", False)])
async def test_a_session_is_checked_before_an_event_is_told_and_now_and_then(
    running: Running, often: str, *, changes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_methods, often, 0.0 if changes else 0.01)
    waiting = await running.waits("vm")
    running.service.sessions.remove(S)
    if changes:
        await running.change("a", "secret")
    assert expect(Fault, await waiting).name == "SESSION_INVALID"


async def test_a_class_that_is_off_has_no_events(running: Running) -> None:
    running.off.add("VM.get_record")
    batch = await running.value("from", ["*"], "", 0)
    assert (batch["events"], batch["valid_ref_counts"]) == ([], {"message": 0})
    assert "VM.get_record is switched off" in (await running.refused("from", ["vm"], "", 0)).message
    assert (await running.refused("inject", "VM", "a")).name == "HANDLE_INVALID"


async def test_inject_gives_the_token_of_before_and_has_the_object_count_as_changed(running: Running) -> None:
    waiting = await running.waits("vm")
    injected = await running.value("inject", "VM", "a")
    assert told(await answered(waiting)) == A
    events, _ = await running.events(injected)
    assert told(events) == A
    assert await running.value("get_current_id") == int(events[0]["id"])
    fault = await running.refused("inject", "VM", "none")
    assert (fault.name, fault.data) == ("HANDLE_INVALID", ["VM", "none"])


async def test_the_deprecated_methods_remember_what_a_session_knows(running: Running) -> None:
    fault = await running.refused("next")
    assert (fault.name, fault.data) == ("SESSION_NOT_REGISTERED", [S])
    await running.value("register", ["message"])
    await running.value("register", ["vm"])
    await running.change("a", "A")
    assert told(await running.value("next")) == A
    waiting = await running.begin("next")
    running.service.add("/vm/b", vm=named("b"))
    await running.service.settle()
    assert told(expect(Reply, await waiting).value) == [("add", "vm", "b")]  # type: ignore[arg-type]
    await running.value("unregister", ["vm", "message"])
    await running.refused("next")


async def test_what_a_session_registers_for_is_bounded(running: Running) -> None:
    def vms(first: int, last: int) -> list[str]:
        return [f"vm/{number}" for number in range(first, last)]

    await running.value("register", vms(0, 1000))
    await running.value("register", vms(0, 1000))  # the same
    fault = await running.refused("register", vms(1000, 3000))
    assert fault.code is FaultCode.TOO_LARGE
    assert fault.message.startswith("expected subscriptions of at most 131072 bytes")
    await running.value("unregister", vms(0, 1000))
    await running.value("register", vms(1000, 2500))


async def test_next_says_once_that_events_are_lost_and_goes_on(tmp_path: Path) -> None:
    async with Running(tmp_path, *(str(number) for number in range(5))) as running:
        present(running.hub.find("xapi")).log._most_deleted = 1
        await running.value("register", ["*"])
        for number in range(3):
            running.service.remove(f"/vm/{number}")
        await running.service.settle()
        fault = await running.refused("next")
        assert (fault.name, fault.data) == ("EVENTS_LOST", [])
        await running.change("4", "on")
        assert told(await running.value("next")) == [("mod", "vm", "4")]


async def test_while_a_call_waits_it_has_no_slot_of_its_transport(running: Running) -> None:
    slots: list[str] = []
    connection = PeerConnection()

    def wait() -> Callable[[], object]:
        slots.append("freed")
        return lambda: slots.append("taken")

    _, token = await running.events()
    connection.on_wait = wait
    waiting = await running.begin("from", ["vm"], token, 60.0, peer=Peer(connection=connection))
    assert slots == ["freed"]
    await running.change("a", "A")
    await waiting
    assert slots == ["freed", "taken"]
    waiting = await running.begin("from", ["sr"], token, 60.0, peer=Peer(connection=connection))
    waiting.cancel()
    await asyncio.wait([waiting])
    assert (slots, running.waiting) == (["freed", "taken"] * 2, 0)
    connection.on_wait = lambda: None
    fault = await running.refused("from", ["sr"], token, 60.0, peer=Peer(connection=connection))
    assert (fault.code, "max_waiting" in fault.message) == (FaultCode.BUSY, True)
    await running.begin(
        "from", ["sr"], token, 60.0, peer=Peer(connection=connection), batched=True
    )  # it keeps its slot


async def test_before_the_state_is_known_a_client_waits_and_is_told_nothing(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_methods, "FIRST_READ", 0.01)
    await running.anew()
    assert await running.events(seconds=0.01) == ([], "0" * 20 + "," + "0" * 20)
    waiting = await running.begin("from", ["vm"], "", 60.0)
    await running.owned(":1.9")
    assert told(await answered(waiting)) == [("add", "vm", "a")]


async def test_a_reload_keeps_those_who_wait_and_tells_what_differs(running: Running, tmp_path: Path) -> None:
    waiting = await running.waits("vm")
    await running.hub.follow(running.table)
    assert not waiting.done()
    stanza = 'manager: {object_path: /vm}, fields: {note: {type: s, default: "new"}}}\n  Message'
    text = MAPPING.replace("manager: {object_path: /vm}}\n  Message", stanza)
    (tmp_path / "again").mkdir()
    await running.hub.follow(built(tmp_path / "again", text))
    await asyncio.sleep(0)
    await running.owned()
    [event] = await answered(waiting)
    assert event["snapshot"] == {"name_label": "a", "note": "new"}


async def test_while_the_service_is_away_who_waits_goes_on_waiting(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_methods, "FRESH", 0.0)
    monkeypatch.setattr(event_methods, "RETRY", 0.001)
    waiting = await running.waits("vm")
    running.service.is_away = True
    await running.change("a", "A")
    before = len(running.service.checks)
    async with asyncio.timeout(TIMEOUT):
        while len(running.service.checks) < before + 3:
            assert not waiting.done(), waiting.result()
            await running.service.settle()
    assert not waiting.done()
    running.service.is_away = False
    assert told(await answered(waiting)) == A


async def test_when_the_gateway_stops_every_waiting_call_is_answered_with_its_token(running: Running) -> None:
    _, token = await running.events()
    waiting = await running.waits("vm")
    running.hub.release()
    assert await waiting == Reply({"events": [], "valid_ref_counts": {"vm": 1}, "token": token})


async def test_the_pool_counts_as_changed_now_and_then_for_who_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "HEARTBEAT", 0.01)
    monkeypatch.setattr(hub, "BEATS", "vm")
    async with Running(tmp_path, "a") as running:
        for wanted in ("*", "vm"):
            waiting = await running.waits(wanted)
            assert told(await answered(waiting)) == A
        token = waiting.result().value["token"]
        assert await running.events(token, "message", "vm/a", seconds=0.05) == ([], token)


# Clients that are sent changes


class Stream:
    """A client that is sent changes, as fast as it takes them."""

    def __init__(self, running: Running, *classes: str, token: str = "", session: str = S) -> None:
        self._running = running
        self._asked = (list(classes or ("*",)), token, session)

    async def __aenter__(self) -> Self:
        wanted, token, session = self._asked
        classes: Value = [*wanted]
        route = self._running.route("event.from")
        following = await self._running.methods.begin(
            route, Call("event.from", (session, classes, token, 0.0)), classes, token
        )
        assert isinstance(following, Following), following
        self._changes = self._running.methods.follow(following, 0.01)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._changes.aclose()

    async def next(self) -> Any:
        """The next batch or fault; heartbeats are left out."""
        async with asyncio.timeout(TIMEOUT):
            while (found := await anext(self._changes, "the end")) is None:
                pass
        return found


@pytest.mark.parametrize("most_told", [event_methods.MOST_TOLD, 4])
async def test_a_client_without_a_token_is_first_told_everything_in_short_batches(
    most_told: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_methods, "MOST_TOLD", most_told)
    names = [f"v{number}" for number in range(10)]
    async with Running(tmp_path, *names) as running:
        await running.change("v0", "changed after it was made")
        async with Stream(running) as stream:
            batches = [await stream.next() for _ in range(3)]
            assert [len(batch.events) for batch in batches] == [4, 4, 2]
            assert [batch.is_snapshot for batch in batches] == [True, False, False]
            assert {event["operation"] for batch in batches for event in batch.events} == {"add"}
            await running.change("v5", "V5")
            batch = await stream.next()
            assert told(batch.events) == [("mod", "vm", "v5")]
            assert not batch.is_snapshot
        async with Stream(running, token=str(batches[1].token)) as resumed:
            rest = await resumed.next()
            assert [event["ref"] for event in rest.events] == ["v9", "v0", "v5"]
            assert not rest.is_snapshot


async def test_a_token_that_cannot_be_continued_is_answered_with_everything_anew(tmp_path: Path) -> None:
    async with Running(tmp_path, "a") as running, Stream(running, "vm", token="1,2") as stream:
        batch = await stream.next()
        assert (told(batch.events), batch.is_snapshot) == ([("add", "vm", "a")], True)
    async with Running(tmp_path) as running, Stream(running, "vm", token="1,2") as stream:
        batch = await stream.next()
        assert (batch.events, batch.is_snapshot) == ([], True)


async def test_a_client_that_takes_nothing_gets_the_newest_state_when_it_goes_on(tmp_path: Path) -> None:
    async with Running(tmp_path, "a", "b") as running, Stream(running) as stream:
        await stream.next()
        for number in range(5000):
            running.service.change("/vm/a", VM, **named(str(number)))
        running.service.remove("/vm/b")
        await running.service.settle()
        batch = await stream.next()
        assert [(event["ref"], event.get("snapshot")) for event in batch.events] == [
            ("a", {"name_label": "4999"}),
            ("b", None),
        ]


def expected(service: Service) -> dict[str, Any]:
    """The names of the objects that a service has."""
    return {path.rpartition("/")[2]: each[VM]["NameLabel"].value for path, each in service.state.items()}


class Mirror:
    """What a client has that applies each batch, and takes no word of an object that it does not have."""

    def __init__(self) -> None:
        self.records: dict[str, Any] = {}

    def apply(self, batch: Batch) -> None:
        if batch.is_snapshot:
            self.records.clear()
        for event in expect(list, batch.events):
            assert event["operation"] == "add" or event["ref"] in self.records, event
            if event["operation"] == "del":
                del self.records[event["ref"]]
            else:
                self.records[event["ref"]] = event["snapshot"]["name_label"]


@pytest.mark.parametrize("most_told", [event_methods.MOST_TOLD, 6])
@pytest.mark.parametrize("seed", range(10))
async def test_what_changes_while_batches_are_on_their_way_is_told_as_the_client_has_it(
    seed: int, most_told: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_methods, "MOST_TOLD", most_told)
    chance, names = random.Random(seed), [f"v{number}" for number in range(16)]

    async def change_some(service: Service) -> None:
        for name in chance.sample(names, 3):
            path = f"/vm/{name}"
            if path not in service.state:
                service.add(path, vm=named("new"))
            elif chance.random() < 0.5:
                service.remove(path)
            else:
                service.change(path, VM, **named(str(chance.random())))
        await service.settle()

    async with StateStore(tmp_path / "state.db") as state:
        mirror = Mirror()
        async with Running(tmp_path, *names[:12], state=state) as before, Stream(before) as stream:
            await change_some(before.service)
            for _ in range(6):
                last = await stream.next()
                mirror.apply(last)
                await change_some(before.service)
            while (found := await anext(stream._changes)) is not None:
                mirror.apply(last := expect(Batch, found))
            assert mirror.records == expected(before.service)
        async with Running(tmp_path, *names[8:], state=state) as after, Stream(after, token=str(last.token)) as stream:
            for _ in range(3):
                mirror.apply(await stream.next())
                await change_some(after.service)
            while (found := await anext(stream._changes)) is not None:
                mirror.apply(expect(Batch, found))
            assert mirror.records == expected(after.service)


async def test_a_stream_ends_with_its_session_and_with_the_gateway(tmp_path: Path) -> None:
    async with Running(tmp_path, "a") as running, Stream(running) as stream, Stream(running, session="other") as other:
        await stream.next()
        await other.next()
        running.service.sessions.remove(S)
        running.methods.end_session(S)
        assert expect(Fault, await stream.next()).name == "SESSION_INVALID"
        assert await stream.next() == "the end"
        running.hub.release()
        assert await other.next() == "the end"


async def test_a_stream_tells_nothing_while_its_session_cannot_be_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_methods, "FRESH", 0.0)
    async with Running(tmp_path, "a") as running, Stream(running) as stream:
        await stream.next()
        running.service.is_away = True
        await running.change("a", "A")
        assert [await anext(stream._changes) for _ in range(3)] == [None] * 3
        running.service.is_away = False
        assert told((await stream.next()).events) == [("mod", "vm", "a")]


# Tokens of another process


async def test_after_an_orderly_stop_a_call_gets_what_has_changed_and_waits_if_nothing_has(tmp_path: Path) -> None:
    async with StateStore(tmp_path / "state.db") as state:
        async with Running(tmp_path, "a", "b", "c", state=state) as before:
            await before.change("a", "A")
            _, first = await before.events()
            await before.change("a", "a")
            before.service.remove("/vm/c")
            await before.service.settle()
            _, token = await before.events(first)
        async with Running(tmp_path, "a", "d", state=state) as after:
            events, later = await after.events(token)
            assert told(events) == [("add", "vm", "d"), ("del", "vm", "b")]
            added, *gone = told((await after.events(first))[0])  # it has an older state
            assert (added, gone) == (("add", "vm", "d"), [("mod", "vm", "a"), ("del", "vm", "b"), ("del", "vm", "c")])
            assert await after.events(token, "vm/a") == ([], later)
            assert await after.events(later) == ([], later)
            waiting = await after.begin("from", ["vm/a"], token, 60.0)
            await after.change("a", "A")
            assert told(await answered(waiting)) == [("mod", "vm", "a")]


async def test_a_stream_keeps_its_token_until_it_has_all_that_it_has_missed(tmp_path: Path) -> None:
    names = [str(number) for number in range(event_methods.IN_BATCH + 1)]
    async with StateStore(tmp_path / "state.db") as state:
        async with Running(tmp_path, "a", *names, state=state) as before:
            _, token = await before.events()
        async with Running(tmp_path, "a", "b", state=state) as after, Stream(after, token=token) as stream:
            first, last = await stream.next(), await stream.next()
            assert sorted(told(first.events) + told(last.events)) == [
                ("add", "vm", "b"), *(("del", "vm", name) for name in names)
            ]  # fmt: skip
            assert (first.is_snapshot, last.is_snapshot, str(first.token)) == (False, False, token)
            async with Stream(after, token=str(last.token)) as again:
                await after.change("a", "A")
                assert told((await again.next()).events) == told((await stream.next()).events) == [("mod", "vm", "a")]


async def test_a_stream_that_has_missed_very_much_is_told_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_methods, "MOST_TOLD", 2)
    async with StateStore(tmp_path / "state.db") as state:
        async with Running(tmp_path, "a", "b", "c", state=state) as before:
            _, token = await before.events()
        async with Running(tmp_path, "c", state=state) as after, Stream(after, token=token) as stream:
            batch = await stream.next()
            assert (told(batch.events), batch.is_snapshot) == ([("add", "vm", "c")], True)
