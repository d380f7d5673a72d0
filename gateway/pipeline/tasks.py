"""Tasks: calls that are answered with a reference at once, run in the background, and are asked about later.

`Tasks` runs calls and keeps their records; task_methods.py has the methods by which clients ask for them. Each record
is in the state file before its call is made: where it cannot be written, the call is refused and not made. A gateway
holds a lease on its pending tasks: when it dies, another gateway of the host, or the next one, ends them as failed with
an unknown outcome. No call is made a second time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import time
from typing import NamedTuple, TypeAlias
from uuid import uuid4

import msgspec

from gateway.core.admin.records import StateRefused
from gateway.core.logger import Logger
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Value
from gateway.state.store import StateStore
from gateway.state.task_records import (
    CANCELLED,
    CANCELLING,
    FAILURE,
    PENDING,
    RUNNING,
    SUCCESS,
    Task,
    TaskListener,
    TasksOfOthers,
)

PER_OWNER = 500  # tasks of one session, pending and finished; the finished ones make room for new ones
TOTAL = 10_000
STORED_BYTES = 64 * 1024**2  # texts and results of all tasks together; the oldest finished ones are forgotten
CLIENT_BYTES = 64 * 1024  # texts that clients give one task; a result that they give may have as many by itself
KEPT = 86_400.0  # seconds that a finished task is kept
LEASE = 10.0  # seconds after which the tasks of a gateway that has died are ended
RENEW = 2.0  # seconds

_log = Logger()


class TaskEnding(NamedTuple):
    """How a call ended, in the words of a task: the result as a fragment of XML-RPC, or the error."""

    result: str = ""
    error: tuple[str, ...] = ()


Describe: TypeAlias = Callable[[Outcome, Call], TaskEnding]
Cancel: TypeAlias = Callable[[], Awaitable[Outcome]]  # asks a call to end

# Makes a call for a task. It tells how far the call is, and how to cancel it, where that is possible.
Run: TypeAlias = Callable[[Callable[[float, Cancel | None], None]], Awaitable[Outcome]]


def outcome_unknown(method: str) -> list[str]:
    """The error of a task whose gateway has ended before the call did."""
    return ["INTERNAL_ERROR", f"outcome unknown: the gateway ended before {method} did; it may have been executed"]


class _Own(msgspec.Struct):
    """What a process knows of a task of its own."""

    task: Task
    size: int  # bytes
    is_written: bool = True  # the state file has it as it is
    is_seen: bool = False  # a client has asked for it since it has ended


class Tasks:
    """The tasks of one gateway process. `describe` turns an outcome into its ending."""

    def __init__(
        self,
        state: StateStore,
        describe: Describe,
        *,
        lease: float = LEASE,
        now: Callable[[], float] = time,
    ) -> None:
        self._state = state
        self._describe = describe
        self._lease = lease
        self._now = now
        self._instance = uuid4().hex
        self._own: dict[str, _Own] = {}  # of this process, the oldest first
        self.others = TasksOfOthers(state)
        self._listeners: list[TaskListener] = []
        self._others: set[str] = set()  # references in the state file
        self._running: dict[str, asyncio.Task[None]] = {}
        self._cancels: dict[str, Cancel | None] = {}  # of running ones
        self._renewing: asyncio.Task[None] | None = None
        self._forgetting: set[asyncio.Task[object]] = set()  # what clients will never know

    def own(self) -> list[Task]:
        """The tasks that this process knows, the oldest first."""
        return [each.task for each in self._own.values()]

    def is_own(self, ref: Value) -> bool:
        """Whether this process has begun this task."""
        return ref in self._own

    def subscribe(self, listener: TaskListener) -> None:
        """Report each task of this process that is new, changes or goes from now on."""
        self._listeners.append(listener)

    def _tell(self, task: Task, *, is_gone: bool = False) -> None:
        for listener in self._listeners:
            listener(task, is_gone)

    async def start(self) -> None:
        """Take the lease, and read the tasks that the state file has."""
        await self._renew()
        self._renewing = asyncio.get_running_loop().create_task(self._renew_for_ever())

    async def stop(self, grace: float = 0.0) -> None:
        """Wait for running calls, at most `grace` seconds; tasks that still run end with an unknown outcome."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])
        running = [*self._running.values()]
        if running:
            await asyncio.wait(running, timeout=grace)
            for each in running:
                each.cancel()
            await asyncio.wait(running)
        if self._forgetting:
            await asyncio.wait([*self._forgetting])

    # Running calls

    async def begin(self, name: str, owner: str, call: Call, run: Run) -> Task | Fault:
        """Make a task and run its call; returns as soon as the task is written down."""
        task = await self.create(name, owner, holder=self._instance)
        if isinstance(task, Task):
            running = self._running[task.ref] = asyncio.get_running_loop().create_task(self._run(task, call, run))
            running.add_done_callback(lambda _: (self._running.pop(task.ref), self._cancels.pop(task.ref, None)))
        return task

    async def create(self, name: str, owner: str, description: str = "", holder: str = "") -> Task | Fault:
        """Make a task. Without the instance that holds it, a client brings it to its end."""
        await self._make_room(owner)
        full = len(self._own) >= TOTAL or self._size() > STORED_BYTES
        if full or self._count(owner) >= PER_OWNER:
            most = f"there are {len(self._own)}" if full else f"this session has {PER_OWNER}"
            text = f"too many tasks: {most}; destroy those that have ended"
            return Fault(FaultCode.APPLICATION, text, name="TOO_MANY_PENDING_TASKS", data=[text])
        task = Task(f"OpaqueRef:{uuid4()}", name, owner, description, created=self._now())
        if task.client_size > CLIENT_BYTES:
            return _too_long(task.client_size)
        self._own[task.ref] = _Own(task, task.client_size)
        try:
            refused = await self._state.keep_task(task.ref, holder, _document(task))
        except asyncio.CancelledError:  # no client gets this task, and its call is not made
            self._forget(task.ref)
            raise
        if refused is not None:  # else a call could be made of which no record survives this process
            self._forget(task.ref)
            return Fault(FaultCode.UNAVAILABLE, f"not executed: its task cannot be written down now: {refused.why}")
        self._tell(task)
        return task

    def _forget(self, ref: str) -> None:
        """Forget a task whose reference no client has, in the state file as soon as that can be written."""
        self._drop(ref)
        forgetting = asyncio.get_running_loop().create_task(self._state.forget_tasks([ref]))
        self._forgetting.add(forgetting)
        forgetting.add_done_callback(self._forgetting.discard)

    async def cancel(self, task: Task) -> Fault | None:
        """Ask a task to end. A D-Bus call that was sent goes on, unless its service can cancel it."""
        if task.status != PENDING:
            return None
        task.status = CANCELLING
        refused = await self.changed(task)
        cancel = self._cancels.get(task.ref)
        if cancel is not None:
            await cancel()
        return refused

    async def _run(self, task: Task, call: Call, run: Run) -> None:
        def notify(progress: float, cancel: Cancel | None) -> None:
            before, task.progress = task.progress, min(max(progress, 0.0), 1.0)
            self._cancels[task.ref] = cancel
            if task.progress != before and task.ref in self._own:  # else it was destroyed meanwhile
                self._tell(task)

        try:
            ending = self._describe(await run(notify), call)
        except asyncio.CancelledError:
            task.end(FAILURE, self._now(), error=outcome_unknown(task.name_label))
            await self._keep(task)
            raise
        except Exception:  # noqa: BLE001 - the task must end, whatever went wrong
            _log.exception("a bug ended this task", method=task.name_label)
            ending = TaskEnding(error=("INTERNAL_ERROR", "internal error"))
        if ending.error and task.status == CANCELLING and self._cancels.get(task.ref) is not None:
            task.end(CANCELLED, self._now(), error=("TASK_CANCELLED", task.ref))
        elif ending.error:
            task.end(FAILURE, self._now(), error=ending.error)
        else:
            task.end(SUCCESS, self._now(), result=ending.result)
        await self._keep(task)

    async def _keep(self, task: Task) -> bool:
        """Tell of a task of this process that has changed, and write it down, unless it was destroyed meanwhile."""
        own = self._own.get(task.ref)
        if own is None or own.task is not task:
            return False
        self._tell(task)
        await self._write(own)
        return True

    async def _write(self, own: _Own) -> None:
        """What cannot be written now is written later."""
        task = own.task
        own.size = task.client_size + len(task.result)
        holder = self._instance if task.status in RUNNING and task.ref in self._running else ""
        own.is_written = await self._state.keep_task(task.ref, holder, _document(task)) is None

    # Records

    def knows(self, ref: Value) -> bool:
        """Whether this is a task of this gateway, or one that the state file had at the last look."""
        return isinstance(ref, str) and (ref in self._own or ref in self._others)

    async def look_up(self, ref: Value) -> None:
        """Learn whether another gateway has begun this task since the last look at the state file."""
        if isinstance(ref, str) and not self.knows(ref) and isinstance(await self._state.read_task(ref), str):
            self._others.add(ref)

    async def find(self, ref: str) -> Task | Fault | None:
        """The task with this reference; one that another gateway has begun is read from the state file.

        The fault: the state file cannot be read now, so it is unknown whether there is such a task.
        """
        own = self._own.get(ref)
        if own is not None:
            own.is_seen = own.is_seen or own.task.status not in RUNNING
            return own.task
        document = await self._state.read_task(ref)
        if isinstance(document, StateRefused):
            return Fault(FaultCode.UNAVAILABLE, f"tasks cannot be looked up now, try again: {document.why}")
        return None if document is None else _task(document)

    async def every(self) -> list[Task]:
        """All tasks, the oldest first."""
        documents = await self._state.tasks()
        others = [] if isinstance(documents, StateRefused) else [_task(document) for document in documents]
        found = {task.ref: task for task in (*others, *self.own())}
        return sorted(found.values(), key=lambda task: task.created)

    async def change(self, task: Task, field: str, value: Value) -> Fault | None:
        """Have a client change a field, unless the texts of the task become too long."""
        new = msgspec.structs.replace(task, **{field: value})
        size = len(new.result) if field == "result" else new.client_size
        old = len(task.result) if field == "result" else task.client_size
        if size > max(old, CLIENT_BYTES):
            return _too_long(size)
        grown = size - old
        if grown > 0 and self._size() + grown > STORED_BYTES:
            return Fault(FaultCode.BUSY, f"the tasks have {STORED_BYTES} bytes already; destroy those that have ended")
        setattr(task, field, value)
        return await self.changed(task)

    async def changed(self, task: Task) -> Fault | None:
        """A client has changed a task: write it down. The fault: one of another gateway cannot be changed now."""
        if task.status not in RUNNING and not task.finished:
            task.finished = self._now()
        if await self._keep(task):
            return None
        return _not_written(await self._state.change_task(task.ref, _document(task)))

    async def destroy(self, task: Task) -> Fault | None:
        """Forget a task. A call that still runs goes on. The fault: it cannot be forgotten now."""
        refused = _not_written(await self._state.forget_tasks([task.ref]))
        if refused is None:
            self._drop(task.ref)
            self._others.discard(task.ref)
            self.others.forget(task.ref)
        return refused

    def _count(self, owner: str) -> int:
        return sum(each.task.owner == owner for each in self._own.values())

    def _size(self) -> int:
        return sum(each.size for each in self._own.values())

    def _drop(self, ref: str) -> None:
        own = self._own.pop(ref, None)
        if own is not None:
            self._tell(own.task, is_gone=True)

    async def _make_room(self, owner: str) -> None:
        """Forget tasks that are too old, and finished ones where there are too many or too large ones.

        Of these the first to go are those that a client has seen after their end, each time the oldest first. One that
        a client should end counts as finished once it is too old.
        """
        oldest = self._now() - KEPT
        ended = [
            each
            for ref, each in self._own.items()
            if each.task.status not in RUNNING or (ref not in self._running and each.task.created < oldest)
        ]
        ended.sort(key=lambda each: (each.task.finished > oldest, not each.is_seen, each.task.finished))
        size = self._size()
        excess = len(self._own) - TOTAL + 1
        of_owner = self._count(owner) - PER_OWNER + 1
        gone = []
        for each in ended:
            task = each.task
            is_needed = excess > 0 or size > STORED_BYTES or (of_owner > 0 and task.owner == owner)
            if task.finished > oldest and not is_needed:
                continue
            size -= each.size
            excess -= 1
            of_owner -= task.owner == owner
            gone.append(task.ref)
            self._drop(task.ref)
        if gone:
            await self._state.forget_tasks(gone)

    # Tasks of gateways that have died

    async def _renew(self) -> None:
        await self._state.hold_lease(self._instance, self._instance, self._lease)
        refs = await self._state.end_orphans(self._orphaned, self._now() - KEPT)
        if not isinstance(refs, StateRefused):
            self._others = set(refs)
            await self.others.look(refs)
        for own in [each for each in self._own.values() if not each.is_written]:
            if own.task.ref in self._own:  # it may be destroyed meanwhile
                await self._write(own)

    async def _renew_for_ever(self) -> None:
        while True:
            await asyncio.sleep(min(RENEW, self._lease / 3))
            try:
                await self._renew()
            except Exception:  # noqa: BLE001 - a bug costs this look and not the tasks
                _log.exception("a bug while looking after tasks")

    def _orphaned(self, document: str) -> str:
        task = _task(document)
        task.end(FAILURE, self._now(), error=outcome_unknown(task.name_label))
        return _document(task)


def _not_written(refused: StateRefused | None) -> Fault | None:
    return None if refused is None else Fault(FaultCode.UNAVAILABLE, f"not done now, try again: {refused.why}")


def _too_long(size: int) -> Fault:
    text = f"expected texts of at most {CLIENT_BYTES} bytes in a task, got {size}"
    return Fault(FaultCode.INVALID_PARAMS, text)


def _document(task: Task) -> str:
    return msgspec.json.encode(task).decode()


def _task(document: str) -> Task:
    return msgspec.json.decode(document, type=Task)
