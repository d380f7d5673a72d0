"""The workers act as one: all of them serve a new mapping or none does, and one that does not answer is replaced."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from gateway.ops.metrics import Snapshot
from gateway.workers.coordinator import Coordinator, ServedFiles, Stage, WorkerProcess
from gateway.workers.link import Answers, Link, LinkClosedError, Question, UnansweredError
from tests.kit.programs import TIMEOUT

Handle = Callable[[str, Any], Awaitable[Any]]
OLD, NEW = ServedFiles("old"), ServedFiles("new")


class Scripted:
    """What a worker answers in a test, and what it was asked."""

    def __init__(self, **answers: object) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def handle(self, name: str, _body: Any) -> Any:
        self.asked.append(name)
        answer = self.answers.get(name)
        if answer == "hang":
            await asyncio.Event().wait()
        if isinstance(answer, Exception):
            raise answer
        return answer


@asynccontextmanager
async def member(coordinator: Coordinator, number: int, script: Scripted) -> AsyncIterator[WorkerProcess]:
    """A process that sleeps, while the test answers in its place."""
    own, its = socket.socketpair()
    process = await asyncio.create_subprocess_exec("sleep", "infinity")
    worker = Link(its, script.handle)
    made = WorkerProcess(number, process, Link(own, _nothing))
    await made.link.start()
    await worker.start()
    coordinator.members[number] = made
    made.stage = Stage.SERVING
    waiting = asyncio.get_running_loop().create_task(made.wait())
    try:
        yield made
    finally:
        await made.kill()
        await waiting
        await worker.close()


async def _nothing(_name: str, _body: Any) -> None:
    """Answer what nobody asks."""


@asynccontextmanager
async def coordinator_of(scripts: Mapping[int, Scripted]) -> AsyncIterator[tuple[Coordinator, WorkerProcess]]:
    """A coordinator that serves the old files; the first of its workers asks."""
    coordinator = Coordinator()
    async with AsyncExitStack() as stack:
        members = [await stack.enter_async_context(member(coordinator, *each)) for each in scripts.items()]
        await coordinator.join(members[0], 0, OLD)
        members[0].stage = Stage.SERVING
        yield coordinator, members[0]


async def test_files_are_served_by_all_and_by_those_that_start_later_or_by_none() -> None:
    one, two = Scripted(prepare=["gateway.toml:1:1: no"]), Scripted(prepare=[])
    async with coordinator_of({1: Scripted(), 2: one, 3: two}) as (coordinator, asking):
        assert await coordinator.serve(asking, NEW) == Answers({2: ["gateway.toml:1:1: no"]})
        assert (one.asked, two.asked) == (["prepare"], ["prepare"])
        assert (coordinator.live, coordinator.version) == (OLD, 0)
        one.answers["prepare"] = []
        assert await coordinator.serve(asking, NEW) == Answers({})
        assert one.asked == two.asked == ["prepare", "prepare", "commit"]
        assert (coordinator.live, coordinator.version, coordinator.started) == (NEW, 1, OLD)
        late = coordinator.members[3]
        assert not await coordinator.join(late, 0, None), "it has started with the old files"
        assert await coordinator.join(late, 1, None)


async def test_one_that_fails_to_serve_them_is_replaced_before_the_answer() -> None:
    failing = Scripted(prepare=[], commit=RuntimeError("a bug"))
    async with coordinator_of({1: Scripted(), 2: failing}) as (coordinator, asking):
        answers = await coordinator.serve(asking, NEW)
        assert answers.notes == ("worker 2 could not answer (commit: RuntimeError); it is being replaced",)
        assert coordinator.members[2].ended.is_set()
        assert coordinator.live == NEW


async def test_when_the_leader_ends_while_others_prepare_all_of_them_serve_the_new_files() -> None:
    able, slow = Scripted(prepare=[]), Scripted(prepare="hang")
    async with coordinator_of({1: Scripted(), 2: able, 3: slow}) as (coordinator, asking):
        serving = asyncio.get_running_loop().create_task(coordinator.serve(asking, NEW))
        async with asyncio.timeout(TIMEOUT):
            while "prepare" not in slow.asked:  # noqa: ASYNC110 - no one tells it
                await asyncio.sleep(0)
            serving.cancel()  # as when its link is closed
            with pytest.raises(asyncio.CancelledError):
                await serving
            await coordinator.members[3].kill()
            while coordinator.version == 0:  # noqa: ASYNC110 - no one tells it
                await asyncio.sleep(0)
            while "commit" not in able.asked:  # noqa: ASYNC110 - no one tells it
                await asyncio.sleep(0)
        assert coordinator.live == NEW


async def test_one_that_must_answer_and_does_not_in_time_has_ended_before_the_answer() -> None:
    hanging, late = Scripted(follow="hang"), Scripted(follow="done")
    async with coordinator_of({1: Scripted(), 2: hanging, 3: Scripted(follow="done"), 4: late}) as (
        coordinator,
        asking,
    ):
        coordinator.members[4].stage = Stage.STARTING  # it has not joined, and is not asked
        answers = await coordinator.everyone(asking, Question("follow", seconds=0.01, must=False))
        assert answers == Answers({3: "done"}, ("worker 2 did not answer in 0.01 s",))
        assert not coordinator.members[2].ended.is_set()
        answers = await coordinator.everyone(asking, Question("follow", seconds=0.01))
        assert answers == Answers({3: "done"}, ("worker 2 did not answer in 0.01 s; it is being replaced",))
        assert (coordinator.members[2].status < 0, late.asked) == (True, [])


async def test_what_a_worker_had_counted_at_the_last_scrape_stays_when_it_ends() -> None:
    def counted(calls: float, in_flight: float) -> Snapshot:
        samples: dict[str, Mapping[tuple[str, ...], float]] = {
            "xcp_gateway_calls_total": {("s", "m", "dbus", "ok"): calls}
        }
        return Snapshot({**samples, "xcp_gateway_calls_in_flight": {(): in_flight}}, {}, {})

    async with coordinator_of({1: Scripted(), 2: Scripted(snapshot=counted(5, 3))}) as (coordinator, asking):
        before = await coordinator.scrape(asking, counted(1, 0))
        assert before.others == [Snapshot({}, {}, {}), counted(5, 3)]
        ended = coordinator.members[2]
        await ended.kill()
        coordinator.retire(ended)
        after = await coordinator.scrape(asking, counted(2, 0))
        assert after.others == [counted(5, 3).counters()]
        assert (after.workers, after.restarts) == (1, 0)


async def test_a_link_that_closes_ends_the_questions_that_wait() -> None:
    own, its = socket.socketpair()
    script = Scripted(one="hang", two=ValueError("secret"), three=3)
    asker, other = Link(own, _nothing), Link(its, script.handle)
    await asker.start()
    await other.start()
    assert await asker.ask("three") == 3
    with pytest.raises(UnansweredError, match="two: ValueError"):
        await asker.ask("two")
    waiting = asyncio.ensure_future(asker.ask("one"))
    await asker.ask("three")
    await other.close()
    with pytest.raises(LinkClosedError):
        await waiting
    with pytest.raises(LinkClosedError):
        await asker.ask("three")
    await asker.close()
