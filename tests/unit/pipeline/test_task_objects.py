"""A D-Bus method that returns an object for its operation: a call waits for its end, a task follows it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from adapters.codecs import CODECS
from adapters.dialects import DIALECTS
from gateway.core.dbus.marshal import Variant
from gateway.core.dbus.target import MethodCall
from gateway.core.rpc.model import Fault, FaultCode, MessageLimits, Peer
from gateway.pipeline.dispatcher import Dispatcher
from gateway.pipeline.endpoint import RpcEndpoint
from gateway.pipeline.tasks import Tasks
from gateway.state.store import StateStore
from gateway.wiring import task_ending
from tests.kit.backends import MemoryBackend
from tests.kit.mappings import TASK_IDL, TASK_MAPPING, build_files
from tests.kit.programs import TIMEOUT
from tests.kit.upstreams import Scripted

TASK = "/org/example/task/1"


class Front:
    """An endpoint before a service, whose operation a test brings to its end."""

    def __init__(self, directory: Path, state: StateStore) -> None:
        (directory / "operations.xml").write_text(TASK_IDL)
        found = build_files(directory, example=TASK_MAPPING)
        assert found.problems == []
        [table] = found.table.endpoints.values()
        self.state: dict[str, Variant] | None = None  # of the operation, once it has begun and until it vanishes
        self.backend = MemoryBackend(
            {
                ("org.example.VMs1", "Migrate"): self._migrate,
                ("org.freedesktop.DBus.Properties", "GetAll"): self._read,
                ("org.example.Task1", "Cancel"): self._cancel,
            }
        )
        self.tasks = Tasks(state, task_ending)
        self._begun = asyncio.Event()
        made = CODECS["jsonrpc"](MessageLimits()), DIALECTS["xenapi"]("jsonrpc")
        self._endpoint = RpcEndpoint(table, *made, Dispatcher(self.backend, upstreams=Scripted({})), tasks=self.tasks)

    def _migrate(self, _call: MethodCall) -> Sequence[object]:
        assert self.state is None, "it is begun once"
        self.set(Status="pending", Progress=0.0, Error=[])
        self._begun.set()
        return [TASK]

    def _read(self, call: MethodCall) -> Sequence[object] | Fault:
        assert call.object_path == TASK
        return [self.state] if self.state is not None else Fault(FaultCode.NOT_FOUND, "no such object")

    def _cancel(self, call: MethodCall) -> Sequence[object]:
        assert call.object_path == TASK
        self.set(Status="cancelled")
        return []

    def set(self, **properties: Any) -> None:
        """Set properties of the operation."""
        types = {"Status": "s", "Progress": "d", "Result": "v", "Error": "as"}
        self.state = {**(self.state or {}), **{name: Variant(types[name], each) for name, each in properties.items()}}

    async def call(self, name: str, *params: Any) -> Any:
        body = json.dumps({"method": name, "params": params, "id": 1}).encode()
        answer = json.loads((await self._endpoint.answer(body, Peer())).body or b"")
        return answer["result"] if answer["error"] is None else answer["error"]

    async def begin(self, method: str) -> asyncio.Task[Any]:
        """A call whose operation has begun."""
        calling = asyncio.ensure_future(self.call(method, "vm"))
        await asyncio.wait_for(self._begun.wait(), TIMEOUT)
        return calling

    async def until(self, task: str, field: str, value: Any) -> Any:
        async with asyncio.timeout(TIMEOUT):
            while True:
                record = await self.call("task.get_record", "", task)
                if record[field] == value:
                    return record
                await asyncio.sleep(0.01)


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with StateStore(None) as state:
        made = Front(tmp_path, state)
        await made.backend.start()
        await made.tasks.start()
        yield made
        await made.tasks.stop()


@pytest.mark.parametrize(
    ("ends", "answer"),
    [
        ({"Status": "success", "Result": Variant("as", ["a", "b"])}, ["a", "b"]),
        ({"Status": "failure", "Error": ["org.example.Error.Broken", "disk"]}, ["VM_BROKEN", "disk"]),
    ],
)
async def test_a_call_returns_what_its_operation_returned_or_its_error(
    front: Front, ends: dict[str, Any], answer: list[str]
) -> None:
    calling = await front.begin("VM.migrate")
    front.set(**ends)
    assert await asyncio.wait_for(calling, TIMEOUT) == answer


async def test_a_task_follows_its_operation_to_its_end(front: Front) -> None:
    task = await (await front.begin("Async.VM.migrate"))
    front.set(Progress=0.25)
    assert (await front.until(task, "progress", 0.25))["status"] == "pending"
    front.set(Status="success", Result=Variant("s", "done"))
    assert (await front.until(task, "status", "success"))["result"] == "<value>done</value>"


async def test_a_task_that_is_cancelled_cancels_its_operation(front: Front) -> None:
    task = await (await front.begin("Async.VM.migrate"))
    front.set(Progress=0.5)
    await front.until(task, "progress", 0.5)  # from now on it is known how to cancel it
    await front.call("task.cancel", "", task)
    assert (await front.until(task, "status", "cancelled"))["error_info"] == ["TASK_CANCELLED", task]


async def test_an_operation_that_vanishes_leaves_its_outcome_unknown(front: Front) -> None:
    task = await (await front.begin("Async.VM.migrate"))
    front.state = None
    record = await front.until(task, "status", "failure")
    assert "it is unknown how" in record["error_info"][1]
