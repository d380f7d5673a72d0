"""Tasks: a reference at once, the record while the call runs and after it, bounds, and gateways that die."""

from __future__ import annotations

import asyncio
import json
import threading
import xmlrpc.client
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from adapters.codecs import CODECS
from adapters.dialects import DIALECTS
from gateway.core.migration.modes import Migration, Mode, Setting
from gateway.core.routing.route import Effect, Route
from gateway.core.rpc.model import Call, Fault, FaultCode, MessageLimits, Outcome, Peer, Reply
from gateway.mapping.table import EndpointKey, EndpointTable
from gateway.pipeline import tasks
from gateway.pipeline.dispatcher import Dispatcher
from gateway.pipeline.endpoint import RpcEndpoint
from gateway.pipeline.tasks import CLIENT_BYTES, KEPT, Cancel, Tasks
from gateway.state.store import PATIENCE, StateStore
from gateway.state.task_records import Task
from gateway.wiring import task_ending
from tests.kit.cases import expect
from tests.kit.mappings import route
from tests.kit.programs import TIMEOUT
from tests.kit.traffic import ScriptedBus
from tests.kit.upstreams import Scripted

DBUS = Setting()
PEER = Peer("tcp:127.0.0.1:4711")


class Service(ScriptedBus):
    """VM.start ends when `go` is set; `check` is the session check."""

    def __init__(self) -> None:
        super().__init__(self._serve)
        self.started: list[Call] = []
        self.go = asyncio.Event()
        self.outcome: Outcome = Reply("OpaqueRef:vm<9>")

    async def _serve(self, route: Route, call: Call) -> Outcome:
        if route.method == "session check":
            valid = bool(call.params) and call.params[0] == "session"
            return Reply() if valid else Fault(FaultCode.APPLICATION, "", "SESSION_INVALID", [str(call.params[0])])
        self.started.append(call)
        await self.go.wait()
        return self.outcome


class Front:
    """An endpoint of XenAPI before a service."""

    def __init__(self, state: StateStore, setting: Setting = DBUS, *, mapped: bool = False, **limits: Any) -> None:
        check = route("session check", effect=Effect.READ)
        start = route(
            "VM.start",
            effect=Effect.WRITE,
            migration=Migration(setting),
            session_check=check,
            session=lambda call: str(call.params[0]) if call.params else None,
        )
        reading = replace(
            start, method="VM.get_record", effect=Effect.READ, migration=Migration(setting, tasks="reject")
        )
        login = route("session.login", login=lambda _call: "root")
        routes = {each.method: each for each in (start, reading, login)}
        if mapped:  # the D-Bus side has tasks of its own
            routes["task.get_record"] = route("task.get_record", effect=Effect.READ)
        self.state = state
        self.service = Service()
        dispatcher = Dispatcher(self.service, upstreams=Scripted({}))
        self.tasks = Tasks(state, task_ending, **limits)
        self.fronts = {}
        for codec in ("jsonrpc", "xmlrpc"):
            dialect = DIALECTS["xenapi"](codec)
            more = {"spelling": dialect.spelling, "session_check": check}
            table = EndpointTable(EndpointKey("rpc", "/"), codec, "xenapi", routes, **more)  # type: ignore[arg-type]
            made = CODECS[codec](MessageLimits())
            self.fronts[codec] = RpcEndpoint(table, made, dialect, dispatcher, tasks=self.tasks)

    async def json(self, method: str, *params: Any) -> Any:
        """Call over JSON-RPC 1.0; the result or the error."""
        body = json.dumps({"method": method, "params": params, "id": 1}).encode()
        answer = json.loads((await self.fronts["jsonrpc"].answer(body, PEER)).body or b"")
        return answer["result"] if answer["error"] is None else answer["error"]

    async def start(self, vm: str = "vm") -> Any:
        """The reference of a task, or the error."""
        return await self.json("Async.VM.start", "session", vm)

    async def task(self, method: str, *params: Any) -> Any:
        """Call a method of the class with a valid session."""
        return await self.json(f"task.{method}", "session", *params)

    async def xml(self, method: str, *params: Any) -> Any:
        """Call over XML-RPC; the Status struct."""
        body = xmlrpc.client.dumps(params, method, allow_none=True).encode()
        [answer], _ = xmlrpc.client.loads((await self.fronts["xmlrpc"].answer(body, PEER)).body or b"")
        return answer

    async def record(self, task: str) -> Any:
        return await self.task("get_record", task)

    @asynccontextmanager
    async def silent_state(self) -> AsyncIterator[None]:
        """The state file does not answer."""
        go = threading.Event()
        holding = self.state._thread.do(lambda: go.wait(TIMEOUT))
        yield
        go.set()
        await asyncio.wrap_future(holding)

    async def until(self, task: str, status: str) -> Any:
        """The record once the task has this status."""
        async with asyncio.timeout(TIMEOUT):
            while True:
                record = await self.record(task)
                if record["status"] == status:
                    return record
                await asyncio.sleep(0.01)


Made = Callable[..., Awaitable[Front]]


@pytest.fixture
async def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Made]:
    """Makes fronts that share a state file, with other BOUNDS of tasks; each is stopped at the end."""
    open_ones: list[tuple[Front, StateStore]] = []

    async def made(setting: Setting = DBUS, patience: float = PATIENCE, **limits: Any) -> Front:
        for name in [name for name in limits if name.isupper()]:
            monkeypatch.setattr(tasks, name, limits.pop(name))
        state = StateStore(tmp_path / "state.db", patience=patience)
        await state.start()
        front = Front(state, setting, **limits)
        open_ones.append((front, state))
        await front.tasks.start()
        return front

    yield made
    for front, state in open_ones:
        await front.tasks.stop()
        await state.stop()


@pytest.mark.parametrize("method", ["Async.VM.start", "InternalAsync.VM.start"])
async def test_a_call_for_a_task_is_answered_at_once_and_its_record_follows_the_call(make: Made, method: str) -> None:
    front = await make()
    task = await front.json(method, "session", "vm", False)
    assert task.startswith("OpaqueRef:")
    record = await front.record(task)
    assert (record["status"], record["progress"], record["result"], record["error_info"]) == ("pending", 0.0, "", [])
    assert record["name_label"] == method
    front.service.go.set()
    record = await front.until(task, "success")
    assert record["result"] == "<value>OpaqueRef:vm&lt;9&gt;</value>"
    assert record["progress"] == 1.0
    assert [call.method for call in front.service.started] == [method]
    told = (await front.xml("task_get_record", "session", task))["Value"]
    assert told.keys() == record.keys()
    assert isinstance(told["created"], xmlrpc.client.DateTime)
    assert await front.task("get_all") == [task]
    assert await front.task("get_by_uuid", record["uuid"]) == task
    assert await front.task("destroy", task) == ""
    assert await front.record(task) == ["HANDLE_INVALID", "task", task]


@pytest.mark.parametrize(
    ("outcome", "result", "error"),
    [
        (Reply(None), "", []),
        (Reply({"a": 2**40, "b": [True]}), None, []),
        (
            Fault(FaultCode.APPLICATION, "", "VM_BAD_POWER_STATE", ["vm", "Halted"]),
            "",
            ["VM_BAD_POWER_STATE", "vm", "Halted"],
        ),
        (Fault(FaultCode.TIMEOUT, "no answer"), "", ["INTERNAL_ERROR", "no answer"]),
    ],
)
async def test_a_task_ends_as_its_call_did(make: Made, outcome: Outcome, result: str | None, error: list[str]) -> None:
    front = await make()
    front.service.outcome = outcome
    front.service.go.set()
    task = await front.start()
    record = await front.until(task, "failure" if error else "success")
    assert record["error_info"] == error
    if result is None:
        document = f"<params><param>{record['result']}</param></params>"
        assert xmlrpc.client.loads(document)[0] == ({"a": str(2**40), "b": [True]},)
    else:
        assert record["result"] == result


async def test_what_can_be_refused_at_once_makes_no_task(make: Made) -> None:
    front, off = await make(), await make(Setting(Mode.OFF))
    assert await front.json("Async.VM.start", "dead", "vm") == ["SESSION_INVALID", "dead"]
    no_mode = await front.json("Async.VM.get_record", "session", "vm")
    assert no_mode == ["Fault", "No async mode for this operation (rpc: Async.VM.get_record)"]
    assert "is switched off" in (await off.start())[1]
    assert await front.json("task.get_all", "dead") == ["SESSION_INVALID", "dead"]
    assert await front.task("get_all") == await off.task("get_all") == []
    assert front.service.started == off.service.started == []
    names, names_off = [await each.xml("system.listMethods") for each in (front, off)]
    assert {"VM.start", "task.get_record", "task.cancel", "session.login"} <= set(names)
    assert ("VM.start" in names_off, "session.login" in names_off) == (False, True)
    # An unknown method is told only to a valid session.
    assert await front.json("Foo.bar", "dead") == ["SESSION_INVALID", "dead"]
    for session in (["session"], []):
        assert await front.json("Foo.bar", *session) == ["MESSAGE_METHOD_UNKNOWN", "Foo.bar"]


async def test_a_client_makes_changes_and_ends_a_task(make: Made) -> None:
    front = await make()
    task = await front.task("create", "import", "of a disk")
    for name, value in (("progress", 0.5), ("result", "<value>1</value>"), ("error_info", ["A", "b"])):
        assert await front.task(f"set_{name}", task, value) == ""
        assert await front.task(f"get_{name}", task) == value
    assert (await front.xml("task.set_progress", "session", task, "0.75"))["Status"] == "Success"
    assert await front.task("add_to_other_config", task, "key", "value") == ""
    again = await front.task("add_to_other_config", task, "key", "value")
    assert again == ["MAP_DUPLICATE_KEY", "task", "other_config", task, "key"]
    assert await front.task("cancel", task) == ""
    assert await front.task("get_status", task) == "cancelling"
    assert await front.task("set_status", task, "cancelled") == ""
    assert (await front.record(task))["finished"] != "19700101T00:00:00Z"
    assert (await front.task("set_status", task, "no"))[0] == "INVALID_VALUE"
    count = await front.task("set_status", task)
    assert count == ["MESSAGE_PARAMETER_COUNT_MISMATCH", "task.set_status", "2", "1"]


async def test_a_call_that_was_sent_goes_on_though_its_task_is_cancelled_or_destroyed(make: Made) -> None:
    front = await make()
    task, other = [await front.json("Async.VM.start", "session", vm) for vm in ("a", "b")]
    await front.task("cancel", task)
    await front.until(task, "cancelling")
    await front.task("destroy", other)
    front.service.go.set()
    assert (await front.until(task, "success"))["result"] != ""
    assert [call.params[1] for call in front.service.started] == ["a", "b"]
    assert await front.task("get_all") == [task]


async def test_the_progress_of_a_destroyed_task_is_no_event(make: Made) -> None:
    front, go, ended = await make(), asyncio.Event(), asyncio.Event()
    told: list[tuple[float, bool]] = []
    front.tasks.subscribe(lambda task, is_gone: told.append((task.progress, is_gone)))

    async def run(notify: Callable[[float, Cancel | None], None]) -> Outcome:
        notify(0.25, None)
        await go.wait()
        notify(0.5, None)
        ended.set()
        return Reply()

    task = expect(Task, await front.tasks.begin("Async.VM.start", "session", Call("VM.start"), run))
    await front.task("destroy", task.ref)
    go.set()
    await asyncio.wait_for(ended.wait(), TIMEOUT)
    assert told == [(0.0, False), (0.25, False), (0.25, True)]


async def test_a_session_and_a_gateway_have_so_many_tasks(make: Made) -> None:
    front = await make(PER_OWNER=2)
    first, _ = [await front.start() for _ in range(2)]
    assert (await front.start())[0] == "TOO_MANY_PENDING_TASKS"
    await front.task("destroy", first)
    assert (await front.task("create", "a", "b")).startswith("OpaqueRef:")
    small = await make(TOTAL=2)
    small.service.go.set()
    ended = await small.start()
    await small.until(ended, "success")
    for _ in range(2):
        assert (await small.task("create", "a", "b")).startswith("OpaqueRef:")
    assert len(small.tasks.own()) == 2


async def test_finished_tasks_of_a_session_make_room_those_that_were_seen_first(make: Made) -> None:
    front = await make(PER_OWNER=3)
    front.service.go.set()
    first, second, third = [await front.start() for _ in range(3)]
    async with asyncio.timeout(TIMEOUT):
        while front.tasks._running:  # noqa: ASYNC110 - nothing tells it
            await asyncio.sleep(0.01)
    await front.until(second, "success")
    front.service.go.clear()
    fourth = await front.start()
    assert await front.task("get_all") == [first, third, fourth]
    fifth = await front.start()
    assert await front.task("get_all") == [third, fourth, fifth]
    await front.start()
    assert (await front.start())[0] == "TOO_MANY_PENDING_TASKS"
    assert (await front.task("get_record", third))[:2] == ["HANDLE_INVALID", "task"]


async def test_the_texts_that_clients_give_a_task_are_bounded(make: Made) -> None:
    front = await make()
    task = await front.task("create", "a", "b")
    size = CLIENT_BYTES // 2
    assert await front.task("add_to_other_config", task, "a", "x" * size) == ""
    refused = await front.task("add_to_other_config", task, "b", "x" * size)
    assert f"expected texts of at most {CLIENT_BYTES} bytes in a task, got" in str(refused)
    for method, value in (("set_result", "x" * 2 * size + "x"), ("set_error_info", ["x" * size])):
        assert (await front.task(method, task, value))[0] == "INVALID_VALUE"
    assert (await front.record(task))["other_config"].keys() == {"a"}
    assert (await front.task("create", "x" * 2 * size, "b"))[0] == "INVALID_VALUE"
    assert await front.task("remove_from_other_config", task, "a") == ""
    assert await front.task("get_all") == [task]


async def test_the_texts_of_tasks_that_have_not_ended_are_bounded_together(make: Made) -> None:
    front = await make(STORED_BYTES=1000)
    task = await front.task("create", "x" * 900, "")
    grown = await front.task("set_result", task, "x" * 200)
    assert "destroy those that have ended" in str(grown)
    assert (await front.task("create", "x" * 200, "")).startswith("OpaqueRef:")
    assert (await front.start())[0] == "TOO_MANY_PENDING_TASKS"
    await front.task("destroy", task)
    assert (await front.start()).startswith("OpaqueRef:")


async def test_a_task_that_its_client_never_ends_is_forgotten_as_a_finished_one_is(make: Made) -> None:
    moments = [1000.0]
    front = await make(TOTAL=2, now=lambda: moments[0])
    running = await front.start()
    assert (await front.task("create", "a", "")).startswith("OpaqueRef:")
    assert (await front.task("create", "b", ""))[0] == "TOO_MANY_PENDING_TASKS"
    moments[0] += KEPT + 1
    later = await front.task("create", "b", "")
    assert await front.task("get_all") == [running, later]


async def test_a_client_that_leaves_before_it_has_a_reference_leaves_no_task(make: Made) -> None:
    front = await make(PER_OWNER=1)
    held, go = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        go.wait(TIMEOUT)

    holding = front.state._thread.do(hold)  # the state file is busy
    assert await asyncio.to_thread(held.wait, TIMEOUT)
    leaving = asyncio.get_running_loop().create_task(front.start())
    async with asyncio.timeout(TIMEOUT):
        while not len(front.tasks.own()):  # noqa: ASYNC110 - nothing tells it
            await asyncio.sleep(0.01)
    leaving.cancel()
    await asyncio.wait([leaving])
    go.set()
    await asyncio.wrap_future(holding)
    assert front.service.started == []
    task = await front.start()
    assert await front.task("get_all") == [task]


async def test_results_of_finished_tasks_are_bounded_together(make: Made) -> None:
    front = await make(STORED_BYTES=1000)
    front.service.outcome = Reply("x" * 600)
    front.service.go.set()
    for task in [await front.start() for _ in range(3)]:
        await front.until(task, "success")
    await front.task("create", "one more", "")
    assert len(front.tasks.own()) == 2


async def test_while_the_state_file_does_not_answer_no_task_of_another_gateway_is_said_to_be_gone(
    make: Made,
) -> None:
    first, second = await make(), await make(patience=0.05)
    task = await first.start()
    async with second.silent_state():
        for method, about in (("get_record", task), ("get_by_uuid", task.partition(":")[2])):
            refused = await second.task(method, about)
            assert "tasks cannot be looked up now, try again" in str(refused)
    assert (await second.record(task))["status"] == "pending"


async def test_a_call_whose_task_cannot_be_written_down_is_refused_and_not_made(make: Made) -> None:
    front = await make(patience=0.05)
    async with front.silent_state():
        for method, *params in (("Async.VM.start", "vm"), ("task.create", "a", "b")):
            refused = await front.json(method, "session", *params)
            assert "not executed: its task cannot be written down now: state file" in str(refused)
        assert len(front.tasks.own()) == 0
    front.service.go.set()
    task = await front.start()
    await front.until(task, "success")
    assert len(front.service.started) == 1
    assert await front.task("get_all") == [task]


async def test_what_cannot_be_written_about_a_task_now_is_written_later(make: Made) -> None:
    front = await make(patience=0.05, lease=0.5)
    task = await front.start()
    async with front.silent_state():
        front.service.go.set()
        await front.until(task, "success")
        assert "not done now, try again" in str(await front.task("destroy", task))
        assert (await front.record(task))["status"] == "success"
    other = await make()
    await other.until(task, "success")
    assert await front.task("destroy", task) == ""
    assert (await other.record(task))[:2] == ["HANDLE_INVALID", "task"]


async def test_a_task_of_another_gateway_is_known_at_once_where_others_answer_for_tasks_too(make: Made) -> None:
    second = await make(mapped=True)
    first = await make()
    task = await first.start()
    assert (await second.record(task))["status"] == "pending"
    assert second.service.started == []
    second.service.go.set()
    assert await second.record("OpaqueRef:of-the-service") == "OpaqueRef:vm<9>"


@pytest.mark.parametrize("is_killed", [True, False])
async def test_a_task_whose_gateway_has_ended_has_an_unknown_outcome_and_its_call_is_not_made_again(
    make: Made, *, is_killed: bool
) -> None:
    ending = await make(lease=0.5)
    task = await ending.start()
    if is_killed:
        assert ending.tasks._renewing is not None
        ending.tasks._renewing.cancel()  # what a kill does to the lease
    else:
        await ending.tasks.stop()
    other = await make(lease=0.5)
    code, text = (await other.until(task, "failure"))["error_info"]
    assert code == "INTERNAL_ERROR"
    assert text.startswith("outcome unknown: the gateway ended before Async.VM.start did")
    assert other.service.started == []
