"""The record of a task, and the records of the tasks that other workers of this gateway run.

Clients reach each task over any worker. Each worker tells the others of its tasks, so that all of them have the events
of all tasks. A call about a task is answered by the worker that runs it. When that worker has ended, the state file
says what has become of its tasks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TypeAlias

import msgspec
from msgspec import Struct

from gateway.core.admin.records import StateRefused
from gateway.core.rpc.model import Fault, FaultCode, Outcome, Value
from gateway.state.store import StateStore

ENTRY = 64  # bytes that an entry of a list or a struct takes besides its text

PENDING, SUCCESS, FAILURE, CANCELLING, CANCELLED = "pending", "success", "failure", "cancelling", "cancelled"
RUNNING = (PENDING, CANCELLING)
STATUSES = (PENDING, SUCCESS, FAILURE, CANCELLING, CANCELLED)


class Task(msgspec.Struct):
    """The record of one task; moments are Unix seconds. `result` is a fragment of XML-RPC, as XenAPI has it."""

    ref: str
    name_label: str
    owner: str = ""  # the session that began it
    name_description: str = ""
    created: float = 0.0
    finished: float = 0.0
    status: str = PENDING
    progress: float = 0.0
    result: str = ""
    error_info: list[str] = []
    other_config: dict[str, str] = {}

    @property
    def uuid(self) -> str:
        """Its UUID, which its reference holds."""
        return self.ref.partition(":")[2]

    @property
    def client_size(self) -> int:
        """Bytes of the texts that clients can give, without the result."""
        pairs = sum(len(key) + len(value) + ENTRY for key, value in self.other_config.items())
        errors = sum(len(word) + ENTRY for word in self.error_info)
        return len(self.name_label) + len(self.name_description) + errors + pairs

    def end(self, status: str, now: float, *, result: str = "", error: Sequence[str] = ()) -> None:
        """Take over how it ended."""
        self.status, self.finished, self.result, self.error_info = status, now, result, [*error]
        self.progress = 1.0


TaskListener: TypeAlias = Callable[[Task, bool], object]  # gets a task that has changed, and whether it is gone

# Number of a worker, method, parameters -> whether it has answered, and its answer (None: it has no such task) or a
# note why it is unknown whether it has acted.
AskWorker: TypeAlias = Callable[[int, str, Sequence[Value]], Awaitable[tuple[bool, "Outcome | str | None"]]]

NOBODY = 0  # in place of the number of a worker that has ended


class _Foreign(Struct):
    worker: int
    task: Task


class TasksOfOthers:
    """What this worker knows of them. Without other workers it is empty."""

    def __init__(self, state: StateStore) -> None:
        self._state = state
        self._tasks: dict[str, _Foreign] = {}
        self._listeners: list[TaskListener] = []
        self._ask: AskWorker | None = None

    def connect(self, ask: AskWorker) -> None:
        """Ask other workers from now on."""
        self._ask = ask

    def known(self) -> list[Task]:
        """All of them."""
        return [each.task for each in self._tasks.values()]

    def subscribe(self, listener: TaskListener) -> None:
        """Report each of them that is new, changes or goes from now on."""
        self._listeners.append(listener)

    def learn(self, worker: int, document: bytes, *, is_gone: bool) -> None:
        """A worker tells of its task."""
        task = msgspec.json.decode(document, type=Task)
        if is_gone:
            self.forget(task.ref)
        else:
            self._put(worker, task)

    def forget(self, ref: str) -> None:
        """A task was destroyed."""
        known = self._tasks.pop(ref, None)
        if known is not None:
            self._tell(known.task, is_gone=True)

    def lost(self, worker: int) -> None:
        """A worker has ended."""
        for each in self._tasks.values():
            if each.worker == worker:
                each.worker = NOBODY

    async def look(self, stored: Collection[str]) -> None:
        """Learn from the state file, which has these tasks, what has become of the tasks of workers that have ended."""
        left = {ref: each.task for ref, each in self._tasks.items() if each.worker == NOBODY}
        for ref in left.keys() - set(stored):
            self.forget(ref)
        if not any(task.status in RUNNING for task in left.values()):
            return
        documents = await self._state.tasks()
        for document in () if isinstance(documents, StateRefused) else documents:
            task = msgspec.json.decode(document, type=Task)
            before = left.get(task.ref)
            if before is not None and before != task:
                self._put(NOBODY, task)

    async def answer(self, ref: Value, method: str, values: Sequence[Value]) -> Outcome | None:
        """The answer of the worker that runs this task; None: no other worker does."""
        known = self._tasks.get(ref) if isinstance(ref, str) else None
        if known is None or known.worker == NOBODY or self._ask is None:
            return None
        is_answer, answer = await self._ask(known.worker, method, values)
        if is_answer or not answer:
            return None if isinstance(answer, str) else answer
        return Fault(FaultCode.NO_REPLY, f"{answer}; it is unknown whether {method} was done")

    def _put(self, worker: int, task: Task) -> None:
        self._tasks[task.ref] = _Foreign(worker, task)
        self._tell(task)

    def _tell(self, task: Task, *, is_gone: bool = False) -> None:
        for listener in self._listeners:
            listener(task, is_gone)
