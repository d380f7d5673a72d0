"""How the workers act as one: questions to all others, changes of the mapping, what they count together.

A worker asks the supervisor, which asks the others and bounds the time of each answer. Where all must agree, one that
does not answer in time is killed before the answer is given: none goes on with an old mode or mapping. A new mapping is
prepared by every worker before one of them serves it. The supervisor keeps it for workers that start later, and the
counters of workers that have ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from gateway.core.logger import Logger
from gateway.ops.metrics import Snapshot, merged
from gateway.workers.link import LinkClosedError, UnansweredError
from gateway.workers.processes import BOUND, Stage, WorkerProcess
from gateway.workers.served_files import ServedFiles

LOOK = 1.0  # seconds between two reports of a worker, and between two looks of the supervisor
PREPARE = 60.0  # seconds for a worker to compile a new mapping
COMMIT = 15.0  # seconds for a worker to serve it

_log = Logger()


class Question(Struct, frozen=True):
    """A question to all other workers. `must`: a worker without an answer in `seconds` is replaced."""

    name: str
    body: Any = None
    seconds: float = BOUND
    must: bool = True


class Answers(Struct, frozen=True):
    """Their answers, by the number of the worker; `notes` say for operators who did not answer."""

    by_worker: Mapping[int, Any]
    notes: tuple[str, ...] = ()


class WorkerRow(Struct, frozen=True):
    """A row of `xcp-gateway status`."""

    number: int
    pid: int
    state: str
    leads: bool
    restarts: int


class Scrape(Struct, frozen=True):
    """What a scrape needs beside the samples of the worker that asks."""

    others: Sequence[Snapshot]
    workers: int
    restarts: int


class Coordinator:
    """The members, and what they ask of each other."""

    def __init__(self) -> None:
        self.members: dict[int, WorkerProcess] = {}  # by number, from 1
        self.leader: WorkerProcess | None = None
        self.restarts: dict[int, int] = {}  # by number
        self.started: ServedFiles | None = None
        self.live: ServedFiles | None = None
        self.version = 0  # of `live`
        self._retired = Snapshot({}, {}, {})  # counters of workers that have ended, as of the last scrape
        self._replacing = asyncio.Lock()
        self._serving: asyncio.Task[Answers] | None = None
        self.answers: Mapping[str, Callable[[WorkerProcess, Any], Awaitable[Any]]] = {
            "everyone": self.everyone,
            "news": self._news,
            "to": self._to,
            "serve": self._serve,
            "refused": self._refused,
            "scrape": self._scrape,
            "rows": self._rows,
        }

    def is_serving(self, number: int) -> bool:
        """Whether the worker with this number serves calls."""
        member = self.members.get(number)
        return member is not None and member.stage is Stage.SERVING and not member.ended.is_set()

    def summary(self) -> str:
        """One line for `systemctl status`."""
        serving = sum(map(self.is_serving, self.members))
        return f"{serving} workers; the leader: {self.leader.summary if self.leader is not None else 'none'}"

    async def join(self, member: WorkerProcess, version: int, served: ServedFiles | None) -> bool:
        """Whether a worker has the mapping that is served now; from then on it takes part."""
        async with self._replacing:  # between two versions nobody joins
            if self.started is None:
                self.started = self.live = served
            if version != self.version:
                return False
            member.stage, member.missed = Stage.JOINED, 0
            return True

    def retire(self, member: WorkerProcess) -> None:
        """Keep what a worker that has ended has counted."""
        if member.snapshot is not None:
            self._retired = merged([self._retired, member.snapshot.counters()])
            member.snapshot = None
        for other in self._others(member):
            other.link.tell("gone", member.number)

    def _others(self, asking: WorkerProcess) -> list[WorkerProcess]:
        return [each for _, each in sorted(self.members.items()) if each is not asking and each.takes_part]

    async def everyone(self, asking: WorkerProcess, question: Question) -> Answers:
        """Ask all others at once."""
        others = self._others(asking)
        found = await asyncio.gather(*(self._ask(each, question) for each in others))
        given = zip(others, found, strict=True)
        answers = {each.number: answer for each, (is_answer, answer) in given if is_answer}
        return Answers(answers, tuple(note for is_answer, note in found if not is_answer and note))

    async def _ask(self, member: WorkerProcess, question: Question) -> tuple[bool, Any]:
        """Whether it has answered, and its answer or a note."""
        try:
            return True, await member.ask(question.name, question.body, question.seconds)
        except TimeoutError:
            note = f"worker {member.number} did not answer in {question.seconds:g} s"
        except UnansweredError as error:
            note = f"worker {member.number} could not answer ({error})"
        except LinkClosedError:  # its calls are lost, and its successor begins with what holds then
            note = ""
        if question.must:
            if note:
                note = f"{note}; it is being replaced"
                _log.error(note, pid=member.process.pid, question=question.name)
            await member.kill()
        return False, note

    async def _news(self, asking: WorkerProcess, body: tuple[str, Any]) -> None:
        """Pass news on; their order stays."""
        name, news = body
        for other in self._others(asking):
            other.link.tell(name, (asking.number, news))

    async def _to(self, _asking: WorkerProcess, body: tuple[int, Question]) -> tuple[bool, Any]:
        """Ask one other worker; whether it has answered, and its answer."""
        number, question = body
        member = self.members.get(number)
        if member is None or not member.takes_part:
            return False, ""
        return await self._ask(member, question)

    async def _serve(self, asking: WorkerProcess, served: ServedFiles) -> Answers:
        """Let all others serve other files, or none: the answers are the problems of those that cannot.

        What has begun is done to its end, also when the leader ends meanwhile: else some would serve the old files.
        """
        self._serving = asyncio.get_running_loop().create_task(self._prepare_and_commit(asking, served))
        return await asyncio.shield(self._serving)

    async def _prepare_and_commit(self, asking: WorkerProcess, served: ServedFiles) -> Answers:
        async with self._replacing:
            prepared = await self.everyone(asking, Question("prepare", served, PREPARE))
            problems = {number: found for number, found in prepared.by_worker.items() if found}
            if problems:
                return Answers(problems, prepared.notes)
            self.live, self.version = served, self.version + 1
            done = await self.everyone(asking, Question("commit", None, COMMIT))
            return Answers({}, (*prepared.notes, *done.notes))

    async def _refused(self, asking: WorkerProcess, problems: tuple[str, ...]) -> None:
        """Remember why newer files are not served: the next leader has to say so too."""
        if self.live is not None:
            self.live = replace(self.live, refused=problems)
        await self._news(asking, ("refused", problems))

    async def _scrape(self, asking: WorkerProcess, own: Snapshot) -> Scrape:
        """The samples of all others. Of one that does not answer those of the last scrape stay."""
        asking.snapshot = own
        asked = dict(self.members)
        answers = await self.everyone(asking, Question("snapshot", must=False))
        for number, taken in answers.by_worker.items():
            if not asked[number].ended.is_set():
                asked[number].snapshot = taken
        others = [each.snapshot for each in self.members.values() if each is not asking and each.snapshot is not None]
        serving = sum(map(self.is_serving, self.members))
        return Scrape([self._retired, *others], serving, sum(self.restarts.values()))

    async def _rows(self, _asking: WorkerProcess, _body: None) -> list[WorkerRow]:
        return [
            WorkerRow(
                number,
                each.process.pid,
                "ended" if each.ended.is_set() else each.stage.value,
                each is self.leader,
                self.restarts.get(number, 0),
            )
            for number, each in sorted(self.members.items())
        ]
