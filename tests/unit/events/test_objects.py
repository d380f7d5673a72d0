"""The state of a service: what is read and what is signalled, in every order in which the two can meet."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Self

import pytest

from gateway.core.rpc.model import EventsLost, Fault, FaultCode, Value
from gateway.events import objects
from gateway.events.changes import EVERYTHING, ChangeLog
from gateway.events.objects import ServiceObjects
from tests.kit.object_service import METRICS, NAME, OF_METRICS, VM, VMS, Service
from tests.kit.programs import TIMEOUT


class Running:
    """ServiceObjects of the service, and what the log has."""

    def __init__(self) -> None:
        self.service = Service()
        self.log = ChangeLog(1000, 1000, lambda _: None)
        self.objects = ServiceObjects(NAME, [VMS, OF_METRICS], self.log, lambda: None)
        self._task = asyncio.get_running_loop().create_task(self.objects.run(self.service))

    async def __aenter__(self) -> Self:
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})

    def was_read(self) -> bool:
        return self.objects.was_read

    async def owned(self) -> None:
        self.service.own()
        await asyncio.sleep(0)
        await self.service.settle()

    def records(self) -> dict[tuple[str, str], Value]:
        return {each.id: each.record for each in self.log.since(0, EVERYTHING) if not each.is_deleted}

    def expected(self) -> dict[tuple[str, str], Value]:
        found: dict[tuple[str, str], Value] = {}
        for path, interfaces in self.service.state.items():
            if VM in interfaces:
                found["vm", path.rpartition("/")[2]] = interfaces[VM]
            if METRICS in interfaces:
                found["vm_metrics", interfaces[METRICS]["Uuid"]] = interfaces[METRICS]
        return found


async def test_nothing_is_told_before_the_state_was_read_and_then_every_object_is() -> None:
    async with Running() as running:
        running.service.state = {"/vm/a": {VM: {"Name": "a"}, METRICS: {"Uuid": "u"}}}
        assert not running.was_read()
        await running.owned()
        assert running.was_read()
        assert running.records() == {("vm", "a"): {"Name": "a"}, ("vm_metrics", "u"): {"Uuid": "u"}}
        assert running.service.queries == 1  # both classes have one manager


async def test_signals_change_add_and_remove_without_reading_again() -> None:
    async with Running() as running:
        service = running.service
        service.state = {"/vm/a": {VM: {"Name": "a", "Memory": 1}}}
        await running.owned()
        service.change("/vm/a", VM, Memory=2)
        service.add("/vm/b", vm={"Name": "b"}, metrics={"Uuid": "u"})
        service.remove("/vm/a")
        service.add("/other/c", vm={"Name": "of another manager"})
        del service.state["/other/c"]
        await service.settle()
        assert running.records() == running.expected() != {}
        assert service.queries == 1


async def test_a_signal_that_changes_nothing_is_no_event() -> None:
    async with Running() as running:
        running.service.state = {"/vm/a": {VM: {"Name": "a"}}}
        await running.owned()
        before = running.log.generation
        running.service.change("/vm/a", VM, Name="a")
        await running.service.settle()
        assert running.log.generation == before


async def test_an_object_that_was_changed_before_it_was_announced_is_read() -> None:
    async with Running() as running:
        await running.owned()
        running.service.state["/vm/a"] = {VM: {"Name": "a", "Memory": 1}}
        running.service.change("/vm/a", VM, Memory=2)
        await running.service.settle()
        assert running.records() == {("vm", "a"): {"Name": "a", "Memory": 2}}


async def test_an_object_whose_reference_changes_is_another_one() -> None:
    async with Running() as running:
        running.service.state = {"/vm/a": {METRICS: {"Uuid": "old"}}}
        await running.owned()
        token = running.log.token
        running.service.change("/vm/a", METRICS, Uuid="new")
        await running.service.settle()
        told = [(each.id[1], each.is_deleted) for each in running.log.since(token.generation, EVERYTHING)]
        assert told == [("old", True), ("new", False)]


async def test_a_new_owner_is_read_and_only_the_difference_is_told() -> None:
    async with Running() as running:
        service = running.service
        service.state = {f"/vm/{name}": {VM: {"Name": name}} for name in "abc"}
        await running.owned()
        token = running.log.token
        service.own("")  # it has left: what was known stays
        assert len(running.records()) == 3
        service.state = {"/vm/a": {VM: {"Name": "a"}}, "/vm/b": {VM: {"Name": "B"}}, "/vm/d": {VM: {"Name": "d"}}}
        service.own(":1.2")
        await service.settle()
        told = {each.id[1]: each.is_deleted for each in running.log.since(token.generation, EVERYTHING)}
        assert told == {"b": False, "c": True, "d": False}


async def test_a_manager_that_does_not_exist_has_no_objects() -> None:
    async with Running() as running:
        running.service.refuses = Fault(FaultCode.NOT_FOUND, "no object at /vm")
        await running.owned()
        assert running.was_read()
        assert running.records() == {}


async def test_a_state_that_cannot_be_read_is_read_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "FIRST_PAUSE", 0.001)
    async with Running() as running:
        running.service.state = {"/vm/a": {VM: {"Name": "a"}}}
        running.service.refuses = Fault(FaultCode.TIMEOUT, "no answer")
        running.service.own()
        await running.service.settle()
        assert not running.was_read()
        running.service.refuses = None
        async with asyncio.timeout(TIMEOUT):
            while not running.was_read():
                await running.service.settle()
        assert running.records() == running.expected() != {}


async def test_an_object_that_cannot_be_read_is_not_asked_for_at_every_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "FIRST_PAUSE", 3600.0)
    async with Running() as running:
        running.service.state = {"/vm/a": {VM: {"Name": "a"}}, "/vm/b": {VM: {"Name": "b"}}}
        await running.owned()
        running.service.refuses = Fault(FaultCode.UNREPRESENTABLE, "expected reply signature 'a{sv}', got ''")
        for number in range(5):
            for path in ("/vm/a", "/vm/b"):
                running.service.invalidate(path, VM, "Name", number)
            await running.service.settle()
        assert running.service.queries == 3  # the manager, and each object once
        running.service.refuses = None
        await running.owned()  # a new owner is asked at once
        assert running.records() == running.expected() != {}


async def test_a_signal_that_comes_while_its_manager_is_read_is_not_applied_and_the_object_is_read() -> None:
    async with Running() as running:
        service = running.service
        service.state = {"/vm/a": {VM: {"Name": "0"}}}
        await running.owned()
        service.own(":1.2")
        for _ in range(3):
            await asyncio.sleep(0)
        [(call, *_)] = service.asked
        assert call.member == "GetManagedObjects"
        service.change("/vm/a", VM, Name="1")
        before = running.log.generation
        service.deliver()
        assert running.log.generation == before
        await service.settle()
        assert running.records() == running.expected() != {}
        assert service.queries == 3  # the manager twice, then the object


async def test_a_reply_that_comes_after_signals_were_lost_is_out_of_date() -> None:
    async with Running() as running:
        service = running.service
        service.own()
        for _ in range(3):
            await asyncio.sleep(0)
        service.answer()
        late = service.wire.pop()
        service.state = {"/vm/a": {VM: {"Name": "new"}}}
        assert service.feed is not None
        service.feed.miss(EventsLost(NAME, ":1.1", "too many signals"))
        late()
        assert not running.was_read()
        await service.settle()
        assert running.records() == running.expected() != {}


def step(service: Service, what: str, path: str, number: int) -> None:
    """Do one thing, where it is possible now."""
    found = service.state.get(path, {})
    possible: dict[str, tuple[object, Callable[[], None]]] = {
        "change": (VM in found, lambda: service.change(path, VM, Name=number)),
        "invalidate": (METRICS in found, lambda: service.invalidate(path, METRICS, "Size", number)),
        "add": (
            not found,
            lambda: service.add(path, vm={"Name": number}, metrics={"Uuid": f"{path} {number}", "Size": 0}),
        ),
        "remove": (found, lambda: service.remove(path)),
        "answer": (service.asked, service.answer),
        "deliver": (service.wire, service.deliver),
        "own": (number % 5 == 0, lambda: service.own(f":1.{number}")),
    }
    can, act = possible[what]
    if can:
        act()


@pytest.mark.parametrize("seed", range(60))
async def test_in_every_order_of_changes_reads_and_new_owners_the_state_is_that_of_the_service(seed: int) -> None:
    chance = random.Random(seed)
    kinds = ["change", "change", "invalidate", "add", "remove", "answer", "deliver", "deliver", "own", "turn"]
    async with Running() as running:
        service = running.service
        service.own()
        for number in range(200):
            what, path = chance.choice(kinds), f"/vm/{chance.choice('abcd')}"
            if what == "turn":
                await asyncio.sleep(0)
            else:
                step(service, what, path, number)
        await service.settle()
        assert running.records() == running.expected()
