"""`event.from` and the other event methods, over a service whose signals a test sends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest

from gateway.core.dbus.marshal import Variant
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call, Fault, FaultCode, Peer, PeerConnection, Reply, Value
from gateway.events import hub
from gateway.events.changes import Token, parse_token
from gateway.events.hub import EventHub
from gateway.mapping.table import Table
from gateway.pipeline import event_methods
from gateway.pipeline.event_methods import DAY, EventMethods, Following, seconds_of
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


def reply(outcome: object) -> Any:
    assert isinstance(outcome, Reply), outcome
    return outcome


def refused(outcome: object) -> Any:
    assert isinstance(outcome, Fault), outcome
    return outcome


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
        service = self.hub.find("xapi")
        assert service is not None
        service.start()
        await asyncio.sleep(0)
        self.service.own()
        await asyncio.sleep(0)
        await self.service.settle()
        return self

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
        outcome = await self.ask(method, *params, **more)
        outcome = reply(outcome)
        return outcome.value

    async def events(self, token: str = "", *classes: str, seconds: float = 0) -> tuple[list[Any], str]:
        batch = await self.value("from", list(classes or ("*",)), token, seconds)
        return batch["events"], batch["token"]

    async def begin(self, method: str, *params: Any, **more: Any) -> asyncio.Task[Any]:
        """A call that waits."""
        events = present(self.hub.find("xapi"))
        before = len(events)
        task = asyncio.get_running_loop().create_task(self.ask(method, *params, **more))
        self._tasks.append(task)
        async with asyncio.timeout(TIMEOUT):
            while len(events) == before:
                assert not task.done(), task.result()
                await asyncio.sleep(0)
        return task

    async def settle(self) -> None:
        await self.service.settle()


def told(events: list[Any]) -> list[tuple[str, str, str]]:
    return [(each["operation"], each["class"], each["ref"]) for each in events]


async def test_the_first_batch_has_every_object_with_its_record(tmp_path: Path) -> None:
    async with Running(tmp_path, "a", "b") as running:
        batch = await running.value("from", ["*"], "", 5.0)
        assert told(batch["events"]) == [("add", "vm", "a"), ("add", "vm", "b")]
        first = batch["events"][0]
        assert first.keys() == {"id", "timestamp", "class", "operation", "ref", "snapshot"}
        assert (first["timestamp"], first["snapshot"]) == ("0.0", {"name_label": "a"})
        assert first["id"].isdecimal()
        assert batch["valid_ref_counts"] == {"vm": 2, "message": 0}
        assert len(batch["token"]) == 41


async def test_a_call_waits_until_something_wanted_changes(tmp_path: Path) -> None:
    async with Running(tmp_path, "a", "b") as running:
        _, token = await running.events()
        everything = await running.begin("from", ["*"], token, 60.0)
        one = await running.begin("from", ["VM/b"], token, 60.0)
        running.service.change("/vm/a", VM, **named("A"))
        await running.settle()
        outcome = await everything
        outcome = reply(outcome)
        [event] = outcome.value["events"]
        assert (event["operation"], event["ref"], event["snapshot"]) == ("mod", "a", {"name_label": "A"})
        assert not one.done()
        running.service.remove("/vm/b")
        await running.settle()
        outcome = await one
        outcome = reply(outcome)
        [event] = outcome.value["events"]
        assert (event["operation"], event["ref"]) == ("del", "b")
        assert "snapshot" not in event
        assert outcome.value["valid_ref_counts"] == {"vm": 1}


async def test_in_a_batch_messages_come_first_then_new_objects_then_changes_then_deletions(tmp_path: Path) -> None:
    async with Running(tmp_path, "a", "b") as running:
        _, token = await running.events()
        service = running.service
        service.remove("/vm/a")
        service.change("/vm/b", VM, **named("B"))
        service.add("/vm/c", vm=named("c"))
        service.state["/message/m"] = {"org.example.Message1": named("m")}
        service.own(":1.2")
        await asyncio.sleep(0)
        await running.settle()
        events, _ = await running.events(token)
        assert told(events) == [("add", "message", "m"), ("add", "vm", "c"), ("mod", "vm", "b"), ("del", "vm", "a")]


async def test_many_changes_of_an_object_are_one_event_with_its_newest_record(tmp_path: Path) -> None:
    async with Running(tmp_path, "a") as running:
        _, token = await running.events()
        for number in range(1000):
            running.service.change("/vm/a", VM, **named(str(number)))
        running.service.add("/vm/short", vm=named("short"))
        running.service.remove("/vm/short")
        await running.settle()
        events, _ = await running.events(token)
        assert [event["snapshot"] for event in events] == [{"name_label": "999"}]


async def test_when_the_time_is_over_the_batch_is_empty_and_its_token_goes_on(tmp_path: Path) -> None:
    async with Running(tmp_path, "a") as running:
        _, token = await running.events()
        events, later = await running.events(token, "vm", seconds=0.01)
        assert (events, later) == ([], token)


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [(0, 0.0), (60.1, 60.1), (-1, DAY), (float("nan"), DAY), (1e300, DAY), (2**53 / 1e9 + 1, DAY), (9e6, 9e6)],
)
def test_a_timeout_that_makes_no_sense_is_a_day(timeout: float, seconds: float) -> None:
    assert seconds_of(timeout) == seconds


async def test_a_timeout_may_be_text_as_xml_rpc_clients_send_numbers(tmp_path: Path) -> None:
    async with Running(tmp_path, "a") as running:
        assert (await running.value("from", ["vm"], "", "0"))["valid_ref_counts"] == {"vm": 1}


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ((["vm/a/b"], "", 0), ["EVENT_SUBSCRIPTION_PARSE_FAILURE", "vm/a/b"]),
        ((["vm"], "now", 0), ["EVENT_FROM_TOKEN_PARSE_FAILURE", "now"]),
        ((["vm"], "1,2", 0), ["EVENTS_LOST"]),
    ],
)
async def test_what_cannot_be_read_or_continued_is_said(tmp_path: Path, params: Any, error: list[str]) -> None:
    async with Running(tmp_path, "a") as running:
        fault = await running.ask("from", *params)
        fault = refused(fault)
        assert [fault.name, *fault.data] == error


async def test_wrong_parameters_are_refused_as_those_of_any_method(tmp_path: Path) -> None:
    async with Running(tmp_path, "a") as running:
        few, wrong = await running.ask("from", ["vm"]), await running.ask("from", "vm", "", 0)
        few = refused(few)
        assert few.data == {"expected": 3, "received": 1} | {k: v for k, v in few.data.items() if k == "missing"}
        wrong = refused(wrong)
        assert wrong.code is FaultCode.INVALID_PARAMS


async def test_without_a_valid_session_nothing_is_told(tmp_path: Path) -> None:
    async with Running(tmp_path, "a") as running:
        for method, params in (("from", (["*"], "", 0.0)), ("next", ()), ("inject", ("vm", "a"))):
            fault = await running.ask(method, *params, session="stolen")
            fault = refused(fault)
            assert fault.name == "SESSION_INVALID"


async def test_a_service_is_followed_from_the_first_client_with_a_session_on(tmp_path: Path) -> None:
    async with Running(tmp_path, "a") as running:
        await running.hub.stop()
        running.hub = EventHub(running.service)
        running.methods = EventMethods(running.hub)
        await running.hub.follow(running.table)
        refused(await running.ask("from", ["*"], "", 0.0, session="stolen"))
        await asyncio.sleep(0)
        assert not running.service.is_followed
        first = asyncio.ensure_future(running.ask("from", ["*"], "", 0.0))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        running.service.own(":1.9")  # it is followed
        await asyncio.sleep(0)
        await running.settle()
        assert told(reply(await first).value["events"]) == [("add", "vm", "a")]


async def test_a_logout_wakes_the_calls_of_its_session_and_no_others(tmp_path: Path) -> None:
    async with Running(tmp_path, "a") as running:
        _, token = await running.events()
        mine = [await running.begin("from", ["vm"], token, 60.0) for _ in range(3)]
        other = await running.begin("from", ["vm"], token, 60.0, session="other")
        running.service.sessions.remove(S)
        running.methods.end_session(S)
        for each in await asyncio.gather(*mine):
            outcome = refused(each)
            assert (outcome.name, outcome.data) == ("SESSION_INVALID", [S])
        assert not other.done()


async def test_a_session_that_ended_at_the_service_gets_no_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_methods, "FRESH", 0.0)
    async with Running(tmp_path, "a") as running:
        _, token = await running.events()
        waiting = await running.begin("from", ["vm"], token, 60.0)
        running.service.sessions.remove(S)
        running.service.change("/vm/a", VM, **named("secret"))
        await running.settle()
        outcome = await waiting
        outcome = refused(outcome)
        assert outcome.name == "SESSION_INVALID"


async def test_a_long_wait_has_its_session_checked_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_methods, "CHECK", 0.01)
    async with Running(tmp_path, "a") as running:
        _, token = await running.events()
        waiting = await running.begin("from", ["vm"], token, 60.0)
        running.service.sessions.remove(S)
        outcome = await waiting
        outcome = refused(outcome)
        assert outcome.name == "SESSION_INVALID"


async def test_a_class_that_is_off_has_no_events(tmp_path: Path) -> None:
    async with Running(tmp_path, "a") as running:
        running.off.add("VM.get_record")
        batch = await running.value("from", ["*"], "", 0)
        assert batch["events"] == []
        assert batch["valid_ref_counts"] == {"message": 0}
        fault = await running.ask("from", ["vm"], "", 0)
        fault = refused(fault)
        assert "VM.get_record is switched off" in fault.message
        fault = await running.ask("inject", "VM", "a")
        fault = refused(fault)
        assert fault.name == "HANDLE_INVALID"


async def test_inject_gives_the_token_of_before_and_has_the_object_count_as_changed(tmp_path: Path) -> None:
    async with Running(tmp_path, "a") as running:
        _, token = await running.events()
        waiting = await running.begin("from", ["vm"], token, 60.0)
        injected = await running.value("inject", "VM", "a")
        reply(await waiting)
        events, _ = await running.events(injected)
        assert told(events) == [("mod", "vm", "a")]
        assert await running.value("get_current_id") == int(events[0]["id"])
        fault = await running.ask("inject", "VM", "none")
        fault = refused(fault)
        assert (fault.name, fault.data) == ("HANDLE_INVALID", ["VM", "none"])


async def test_the_deprecated_methods_remember_what_a_session_knows(tmp_path: Path) -> None:
    async with Running(tmp_path, "a") as running:
        fault = await running.ask("next")
        fault = refused(fault)
        assert (fault.name, fault.data) == ("SESSION_NOT_REGISTERED", [S])
        await running.value("register", ["message"])
        await running.value("register", ["vm"])
        running.service.change("/vm/a", VM, **named("A"))
        await running.settle()
        assert told(await running.value("next")) == [("mod", "vm", "a")]
        waiting = await running.begin("next")
        running.service.add("/vm/b", vm=named("b"))
        await running.settle()
        outcome = await waiting
        outcome = reply(outcome)
        assert told(outcome.value) == [("add", "vm", "b")]
        await running.value("unregister", ["vm", "message"])
        refused(await running.ask("next"))


async def test_what_a_session_registers_for_is_bounded(tmp_path: Path) -> None:
    async with Running(tmp_path, "a") as running:
        await running.value("register", [f"vm/{number}" for number in range(1000)])
        await running.value("register", [f"vm/{number}" for number in range(1000)])  # the same
        outcome = await running.ask("register", [f"vm/{number}" for number in range(1000, 3000)])
        fault = refused(outcome)
        assert (fault.code, fault.message.partition(" bytes")[0]) == (
            FaultCode.TOO_LARGE,
            "expected subscriptions of at most 131072",
        )
        await running.value("unregister", [f"vm/{number}" for number in range(1000)])
        await running.value("register", [f"vm/{number}" for number in range(1000, 2500)])


async def test_next_says_once_that_events_are_lost_and_goes_on(tmp_path: Path) -> None:
    async with Running(tmp_path, *(str(number) for number in range(5))) as running:
        service = running.hub.find("xapi")
        assert service is not None
        service.log._most_deleted = 1
        await running.value("register", ["*"])
        for number in range(3):
            running.service.remove(f"/vm/{number}")
        await running.settle()
        fault = await running.ask("next")
        fault = refused(fault)
        assert (fault.name, fault.data) == ("EVENTS_LOST", [])
        running.service.change("/vm/4", VM, **named("on"))
        await running.settle()
        assert told(await running.value("next")) == [("mod", "vm", "4")]


async def test_a_logout_ends_what_a_session_has_registered_for(tmp_path: Path) -> None:
    async with Running(tmp_path, "a") as running:
        await running.value("register", ["*"])
        running.methods.end_session(S)
        fault = await running.ask("next")
        fault = refused(fault)
        assert fault.name == "SESSION_NOT_REGISTERED"


async def test_while_a_call_waits_it_has_no_slot_of_its_transport(tmp_path: Path) -> None:
    slots: list[str] = []

    def wait() -> Callable[[], object]:
        slots.append("freed")
        return lambda: slots.append("taken")

    async with Running(tmp_path, "a") as running:
        _, token = await running.events()
        connection = PeerConnection()
        connection.on_wait = wait
        waiting = await running.begin("from", ["vm"], token, 60.0, peer=Peer(connection=connection))
        assert slots == ["freed"]
        running.service.change("/vm/a", VM, **named("A"))
        await running.settle()
        await waiting
        assert slots == ["freed", "taken"]
        waiting = await running.begin("from", ["sr"], token, 60.0, peer=Peer(connection=connection))
        waiting.cancel()
        await asyncio.wait([waiting])
        assert slots == ["freed", "taken"] * 2
        assert running.waiting == 0


async def test_too_many_waiting_calls_are_refused_and_in_a_batch_a_call_keeps_its_slot(tmp_path: Path) -> None:
    async with Running(tmp_path, "a") as running:
        _, token = await running.events()
        connection = PeerConnection()
        connection.on_wait = lambda: None
        fault = await running.ask("from", ["vm"], token, 60.0, peer=Peer(connection=connection))
        fault = refused(fault)
        assert fault.code is FaultCode.BUSY
        assert "max_waiting" in fault.message
        await running.begin("from", ["vm"], token, 60.0, peer=Peer(connection=connection), batched=True)


async def test_when_the_gateway_stops_every_waiting_call_is_answered_with_its_token(tmp_path: Path) -> None:
    async with Running(tmp_path, "a") as running:
        _, token = await running.events()
        waiting = await running.begin("from", ["vm"], token, 60.0)
        running.hub.release()
        outcome = await waiting
        outcome = reply(outcome)
        assert outcome.value == {"events": [], "valid_ref_counts": {"vm": 1}, "token": token}


async def test_before_the_state_is_known_a_client_waits_and_is_told_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_methods, "FIRST_READ", 0.01)
    async with Running(tmp_path, "a") as running:
        await running.hub.stop()
        running.hub = EventHub(running.service)
        running.methods = EventMethods(running.hub, on_wait=running._count)
        await running.hub.follow(running.table)
        batch = await running.value("from", ["*"], "", 0.01)
        assert batch["events"] == []
        assert batch["token"] == "0" * 20 + "," + "0" * 20
        waiting = await running.begin("from", ["vm"], batch["token"], 60.0)
        running.service.own(":1.9")
        await asyncio.sleep(0)
        await running.settle()
        outcome = await waiting
        outcome = reply(outcome)
        assert told(outcome.value["events"]) == [("add", "vm", "a")]


async def test_a_reload_keeps_those_who_wait_and_tells_what_differs(tmp_path: Path) -> None:
    async with Running(tmp_path, "a") as running:
        _, token = await running.events()
        waiting = await running.begin("from", ["vm"], token, 60.0)
        await running.hub.follow(running.table)
        assert not waiting.done()
        stanza = 'manager: {object_path: /vm}, fields: {note: {type: s, default: "new"}}}\n  Message'
        text = MAPPING.replace("manager: {object_path: /vm}}\n  Message", stanza)
        (tmp_path / "again").mkdir()
        await running.hub.follow(built(tmp_path / "again", text))
        await asyncio.sleep(0)
        running.service.own(":1.1")
        await asyncio.sleep(0)
        await running.settle()
        outcome = await waiting
        outcome = reply(outcome)
        [event] = outcome.value["events"]
        assert event["snapshot"] == {"name_label": "a", "note": "new"}


async def test_while_the_service_is_away_who_waits_goes_on_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_methods, "FRESH", 0.0)
    monkeypatch.setattr(event_methods, "RETRY", 0.001)
    async with Running(tmp_path, "a") as running:
        _, token = await running.events()
        waiting = await running.begin("from", ["vm"], token, 60.0)
        running.service.is_away = True
        running.service.change("/vm/a", VM, **named("A"))
        await running.settle()
        before = len(running.service.checks)
        async with asyncio.timeout(TIMEOUT):
            while len(running.service.checks) < before + 3:
                assert not waiting.done(), waiting.result()
                await running.service.settle()
        assert not waiting.done()
        running.service.is_away = False
        assert told(reply(await waiting).value["events"]) == [("mod", "vm", "a")]


async def test_the_pool_counts_as_changed_now_and_then_for_who_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "HEARTBEAT", 0.01)
    monkeypatch.setattr(hub, "BEATS", "vm")
    async with Running(tmp_path, "a") as running:
        _, token = await running.events()
        for wanted in ("*", "vm"):
            outcome = reply(await (await running.begin("from", [wanted], token, 60.0)))
            assert told(outcome.value["events"]) == [("mod", "vm", "a")]
            token = outcome.value["token"]
        others = await running.events(token, "message", "vm/a", seconds=0.05)
        assert others == ([], token)


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


async def test_a_client_without_a_token_is_first_told_everything_in_short_batches(tmp_path: Path) -> None:
    names = [f"v{number}" for number in range(10)]
    async with Running(tmp_path, *names) as running:
        running.service.change("/vm/v0", VM, **named("changed after it was made"))
        await running.settle()
        async with Stream(running) as stream:
            batches = [await stream.next() for _ in range(3)]
            assert [len(batch.events) for batch in batches] == [4, 4, 2]
            assert [batch.is_snapshot for batch in batches] == [True, False, False]
            assert {event["operation"] for batch in batches for event in batch.events} == {"add"}
            running.service.change("/vm/v5", VM, **named("V5"))
            await running.settle()
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
        await running.settle()
        batch = await stream.next()
        assert [(event["ref"], event.get("snapshot")) for event in batch.events] == [
            ("a", {"name_label": "4999"}),
            ("b", None),
        ]


async def test_a_stream_ends_with_its_session_and_with_the_gateway(tmp_path: Path) -> None:
    async with Running(tmp_path, "a") as running, Stream(running) as stream, Stream(running, session="other") as other:
        await stream.next()
        await other.next()
        running.service.sessions.remove(S)
        running.methods.end_session(S)
        assert refused(await stream.next()).name == "SESSION_INVALID"
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
        running.service.change("/vm/a", VM, **named("A"))
        await running.settle()
        assert [await anext(stream._changes) for _ in range(3)] == [None] * 3
        running.service.is_away = False
        assert told((await stream.next()).events) == [("mod", "vm", "a")]


# Tokens of another process


async def test_after_an_orderly_stop_a_call_gets_what_has_changed_and_waits_if_nothing_has(tmp_path: Path) -> None:
    async with StateStore(tmp_path / "state.db") as state:
        async with Running(tmp_path, "a", "b", "c", state=state) as before:
            _, first = await before.events()
            before.service.remove("/vm/c")
            await before.settle()
            _, token = await before.events(first)
        async with Running(tmp_path, "a", "d", state=state) as after:
            events, later = await after.events(token)
            assert told(events) == [("add", "vm", "d"), ("del", "vm", "b")]
            assert told((await after.events(first))[0]) == [*told(events), ("del", "vm", "c")]
            assert await after.events(token, "vm/a") == ([], later)
            assert await after.events(later) == ([], later)
            waiting = await after.begin("from", ["vm/a"], token, 60.0)
            after.service.change("/vm/a", VM, **named("A"))
            await after.settle()
            assert told(reply(await waiting).value["events"]) == [("mod", "vm", "a")]


async def test_a_token_that_is_newer_than_what_was_written_is_not_continued(tmp_path: Path) -> None:
    async with StateStore(tmp_path / "state.db") as state:
        async with Running(tmp_path, "a", state=state) as before:
            token = expect(Token, parse_token((await before.events())[1]))
        told_but_not_written = str(token._replace(generation=token.generation + 1))
        async with Running(tmp_path, "a", state=state) as after:
            assert refused(await after.ask("from", ["*"], told_but_not_written, 0.0)).name == "EVENTS_LOST"
            async with Stream(after, token=told_but_not_written) as stream:
                assert (await stream.next()).is_snapshot


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
                after.service.change("/vm/a", VM, **named("A"))
                await after.settle()
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


async def test_what_changes_is_written_down_while_the_gateway_runs(tmp_path: Path) -> None:
    async with StateStore(tmp_path / "state.db") as state, Running(tmp_path, "a", state=state) as running:
        _, text = await running.events()
        token = expect(Token, parse_token(text))
        async with asyncio.timeout(TIMEOUT):
            while not await state.event_log("xapi", token.epoch, token.generation):  # noqa: ASYNC110 - no one tells it
                await asyncio.sleep(0.01)
