"""A D-Bus method that returns an object for its operation, over a real bus; tests/unit/pipeline has each ending."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import Variant
from dbus_fast.aio import MessageBus
from dbus_fast.constants import PropertyAccess
from dbus_fast.service import ServiceInterface, dbus_property, method

from adapters.codecs import CODECS
from adapters.dbus.backend import BusSettings
from adapters.dialects import DIALECTS
from gateway.core.rpc.model import MessageLimits, Peer
from gateway.mapping.compiler import build
from gateway.pipeline.dispatcher import Dispatcher
from gateway.pipeline.endpoint import RpcEndpoint
from gateway.pipeline.tasks import Tasks
from gateway.state.store import StateStore
from gateway.wiring import SPELLINGS, task_ending
from tests.kit.backends import dbus_backend
from tests.kit.buses import private_bus
from tests.kit.mappings import TASK_IDL, TASK_MAPPING
from tests.kit.programs import TIMEOUT
from tests.kit.upstreams import Scripted

pytestmark = pytest.mark.bus


class Task1(ServiceInterface):
    """One operation, which a test brings to its end."""

    def __init__(self) -> None:
        super().__init__("org.example.Task1")
        self.state: dict[str, Any] = {"Status": "pending", "Progress": 0.0, "Result": Variant("s", ""), "Error": []}

    @dbus_property(access=PropertyAccess.READ)
    def Status(self) -> s:  # type: ignore[name-defined]  # noqa: F821 - dbus-next reads the annotation
        return self.state["Status"]

    @dbus_property(access=PropertyAccess.READ)
    def Progress(self) -> d:  # type: ignore[name-defined]  # noqa: F821
        return self.state["Progress"]

    @dbus_property(access=PropertyAccess.READ)
    def Result(self) -> v:  # type: ignore[name-defined]  # noqa: F821
        return self.state["Result"]

    @dbus_property(access=PropertyAccess.READ)
    def Error(self) -> "as":  # type: ignore[valid-type]  # noqa: F722
        return self.state["Error"]

    @method()
    def Cancel(self):  # type: ignore[no-untyped-def]
        self.state["Status"] = "cancelled"


class VMs1(ServiceInterface):
    """Begins operations."""

    def __init__(self, bus: MessageBus) -> None:
        super().__init__("org.example.VMs1")
        self.bus = bus
        self.tasks: list[Task1] = []
        self.begun = asyncio.Event()

    @method()
    def Migrate(self, vm: s) -> o:  # type: ignore[name-defined]  # noqa: F821
        self.tasks.append(Task1())
        path = f"/org/example/task/{len(self.tasks)}"
        self.bus.export(path, self.tasks[-1])
        self.begun.set()
        return path


class Front:
    """An endpoint before the service."""

    def __init__(self, service: VMs1, endpoint: RpcEndpoint) -> None:
        self.service = service
        self._endpoint = endpoint

    async def call(self, name: str, *params: Any) -> Any:
        body = json.dumps({"method": name, "params": params, "id": 1}).encode()
        answer = json.loads((await self._endpoint.answer(body, Peer())).body or b"")
        return answer["result"] if answer["error"] is None else answer["error"]

    async def operation(self) -> Task1:
        """The operation that is begun next, or was begun since the last one."""
        await asyncio.wait_for(self.service.begun.wait(), TIMEOUT)
        self.service.begun.clear()
        return self.service.tasks[-1]

    async def until(self, task: str, field: str, value: Any) -> Any:
        async with asyncio.timeout(TIMEOUT):
            while True:
                record = await self.call("task.get_record", "", task)
                if record[field] == value:
                    return record
                await asyncio.sleep(0.01)


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    (tmp_path / "operations.xml").write_text(TASK_IDL)
    (tmp_path / "example.yaml").write_text(TASK_MAPPING)
    table, problems = build([tmp_path], codecs={"jsonrpc"}, dialects={"xenapi"}, listeners={"rpc"}, spellings=SPELLINGS)
    assert problems == []
    with private_bus() as running:
        bus = await MessageBus(bus_address=running.address).connect()
        service = VMs1(bus)
        bus.export("/org/example", service)
        await bus.request_name("org.example")
        [endpoint] = table.endpoints.values()
        codec, dialect = CODECS["jsonrpc"](MessageLimits()), DIALECTS["xenapi"]("jsonrpc")
        async with dbus_backend(BusSettings("one", running.address, ("*",))) as backend, StateStore(None) as state:
            tasks = Tasks(state, task_ending)
            await tasks.start()
            yield Front(
                service, RpcEndpoint(endpoint, codec, dialect, Dispatcher(backend, upstreams=Scripted({})), tasks=tasks)
            )
            await tasks.stop()
        bus.disconnect()
        await bus.wait_for_disconnect()  # type: ignore[no-untyped-call] # of the library


async def test_a_call_and_tasks_follow_the_operations_of_a_service_to_their_ends(front: Front) -> None:
    calling = asyncio.ensure_future(front.call("VM.migrate", "vm"))
    operation = await front.operation()
    operation.state.update(Status="success", Result=Variant("as", ["a", "b"]))
    assert await asyncio.wait_for(calling, TIMEOUT) == ["a", "b"]
    task = await front.call("Async.VM.migrate", "vm")
    operation = await front.operation()
    operation.state["Progress"] = 0.5
    assert (await front.until(task, "progress", 0.5))["status"] == "pending"
    await front.call("task.cancel", "", task)
    assert (await front.until(task, "status", "cancelled"))["error_info"] == ["TASK_CANCELLED", task]
    assert operation.state["Status"] == "cancelled"
    task = await front.call("Async.VM.migrate", "vm")
    front.service.bus.unexport("/org/example/task/3", await front.operation())
    assert "it is unknown how" in (await front.until(task, "status", "failure"))["error_info"][1]
