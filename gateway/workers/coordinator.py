"""The worker processes, and how they act as one: questions to all others, changes of the mapping, what they count.

A worker asks the supervisor, which asks the others and bounds the time of each answer. Where all must agree, one that
does not answer in time is killed before the answer is given: none goes on with an old mode or mapping. A new mapping is
prepared by every worker before one of them serves it. The supervisor keeps it for workers that start later, and the
counters of workers that have ended.

A worker that starts later serves exactly what the others serve, whatever has happened to the files since they were
loaded: the supervisor keeps the content of config, mapping and IDL files.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from msgspec import Struct, field
from msgspec.structs import replace

from gateway import wiring
from gateway.config import Config
from gateway.core.logger import Logger
from gateway.mapping.table import Table
from gateway.ops.metrics import Snapshot, merged
from gateway.start import MappingError, Start
from gateway.workers.link import Answers, Link, LinkClosedError, Question, UnansweredError

if TYPE_CHECKING:
    from gateway.admin.api import WorkerStatus

PREPARE = 60.0  # seconds for a worker to compile a new mapping
COMMIT = 15.0  # seconds for a worker to serve it
ADMIN, METRICS, WEB = "admin", "metrics", "web"  # the sockets of operators among those of an assignment
_OF_THE_SERVICE_MANAGER = frozenset(
    {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"}
)

_log = Logger()


class ServedFiles(Struct, frozen=True):
    """The content of the files that are served. `refused`: the problems of newer files, which are not served."""

    config: str
    mappings: Mapping[str, bytes] = field(default_factory=dict)
    idl: Mapping[str, bytes] = field(default_factory=dict)
    refused: tuple[str, ...] = ()

    @classmethod
    def of(cls, text: str, table: Table, refused: Sequence[str] = ()) -> ServedFiles:
        """The files of a table, and the text of its config."""
        mappings, idl = (
            {str(path): content for path, content in files.items()} for files in (table.mappings, table.idl)
        )
        return cls(text, mappings, idl, tuple(refused))

    def load(self, path: Path) -> Config:
        """The config, as if the file at `path` had this content."""
        return wiring.load_config(path, self.config)

    def start(self, path: Path) -> Start:
        """What a gateway is made of; raises ConfigError or MappingError."""
        settings = self.load(path)
        table, problems = wiring.compile_contents(settings, self.mappings, self.idl)
        if problems:
            raise MappingError(problems)
        return Start(settings, table, list(self.refused))


class Assignment(Struct, frozen=True):
    """What one worker is started with.

    `started`: the files at the start of the gateway, from which sockets and limits come; `live`: those served now.
    None: the worker is the first, and reads the files.
    """

    number: int
    config: str  # the text with which the gateway has started
    started: ServedFiles | None
    live: ServedFiles | None
    version: int  # of `live`
    sockets: Mapping[str, Sequence[int]]  # descriptors by name; see supervisor.SharedSockets
    watchdog: float | None  # seconds in which it must report that its buses answer


class Stage(Enum):
    """How far a worker is."""

    STARTING = "starting"
    JOINED = "joined"  # it takes part in every decision, and does not serve yet
    SERVING = "serving"
    STOPPING = "stopping"  # it finishes its calls


class WorkerProcess:
    """A worker process, from its start to its end."""

    def __init__(self, number: int, process: asyncio.subprocess.Process, link: Link) -> None:
        self.number = number
        self.process = process
        self.link = link
        self.stage = Stage.STARTING
        self.began = asyncio.get_running_loop().time()
        self.missed = 0  # looks of the supervisor since the last report
        self.alive_at = self.began  # when its buses have answered
        self.revision = ""
        self.methods = 0
        self.summary = ""
        self.leads = False
        self.snapshot: Snapshot | None = None  # at the last scrape
        self.ended = asyncio.Event()

    @classmethod
    async def start(
        cls, number: int, handle: Callable[[WorkerProcess, str, Any], Awaitable[Any]], descriptors: Sequence[int]
    ) -> Self:
        """Start the program of this process again as a worker that inherits these descriptors.

        `handle` gets what it asks and tells.
        """
        own, its = socket.socketpair()
        with its:
            command = [sys.executable, *sys.orig_argv[1:], "--worker", str(its.fileno())]
            environment = {name: value for name, value in os.environ.items() if name not in _OF_THE_SERVICE_MANAGER}
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.DEVNULL,
                    env=environment,
                    pass_fds=[its.fileno(), *descriptors],
                    process_group=0,  # signals of the terminal are the supervisor's
                )
            except BaseException:
                own.close()
                raise
        link = Link(own, lambda name, body: handle(member, name, body))
        member = cls(number, process, link)
        await link.start()
        return member

    @property
    def takes_part(self) -> bool:
        """Whether it serves calls, or may do so at any time."""
        return self.stage is not Stage.STARTING and not self.ended.is_set()

    @property
    def status(self) -> int:
        """The exit status; negative: the signal that has ended it."""
        assert self.process.returncode is not None, "ended"
        return self.process.returncode

    async def wait(self) -> None:
        """Wait until the process has ended, and close its link."""
        await self.process.wait()
        await self.link.close()
        self.ended.set()

    async def kill(self) -> None:
        """End it at once, and return when it has ended."""
        if not self.ended.is_set() and self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
        await self.ended.wait()

    async def ask(self, name: str, body: Any, seconds: float) -> Any:
        """Ask it; raises TimeoutError, LinkClosedError or UnansweredError."""
        async with asyncio.timeout(seconds):
            return await self.link.ask(name, body)


class Scrape(Struct, frozen=True):
    """What a scrape needs beside the samples of the worker that asks."""

    others: Sequence[Snapshot]
    workers: int
    restarts: int


class Coordinator:
    """The members, and what they ask of each other (`answers`)."""

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
        # By the name under which a worker asks; each is called with that worker and the body.
        self.answers: Mapping[str, Callable[[WorkerProcess, Any], Awaitable[Any]]] = {
            "everyone": self.everyone,
            "news": self.news,
            "to": self.to,
            "serve": self.serve,
            "refused": self.refused,
            "scrape": self.scrape,
            "rows": self.rows,
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

    async def news(self, asking: WorkerProcess, body: tuple[str, Any]) -> None:
        """Pass news on; their order stays."""
        name, news = body
        for other in self._others(asking):
            other.link.tell(name, (asking.number, news))

    async def to(self, _asking: WorkerProcess, body: tuple[int, Question]) -> tuple[bool, Any]:
        """Ask one other worker; whether it has answered, and its answer."""
        number, question = body
        member = self.members.get(number)
        if member is None or not member.takes_part:
            return False, ""
        return await self._ask(member, question)

    async def serve(self, asking: WorkerProcess, served: ServedFiles) -> Answers:
        """Let all others serve other files, or none: the answers are the problems of those that cannot.

        What has begun is done to its end, also when the leader ends meanwhile: else some would serve the old files.
        """

        async def prepare_and_commit() -> Answers:
            async with self._replacing:
                prepared = await self.everyone(asking, Question("prepare", served, PREPARE))
                problems = {number: found for number, found in prepared.by_worker.items() if found}
                if problems:
                    return Answers(problems, prepared.notes)
                self.live, self.version = served, self.version + 1
                done = await self.everyone(asking, Question("commit", None, COMMIT))
                return Answers({}, (*prepared.notes, *done.notes))

        self._serving = asyncio.get_running_loop().create_task(prepare_and_commit())
        return await asyncio.shield(self._serving)

    async def refused(self, asking: WorkerProcess, problems: tuple[str, ...]) -> None:
        """Remember why newer files are not served: the next leader has to say so too."""
        if self.live is not None:
            self.live = replace(self.live, refused=problems)
        await self.news(asking, ("refused", problems))

    async def scrape(self, asking: WorkerProcess, own: Snapshot) -> Scrape:
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

    async def rows(self, _asking: WorkerProcess, _body: None) -> list[WorkerStatus]:
        """The rows of `xcp-gateway status`."""
        return [
            {
                "number": number,
                "pid": each.process.pid,
                "state": "ended" if each.ended.is_set() else each.stage.value,
                "leads": each is self.leader,
                "restarts": self.restarts.get(number, 0),
            }
            for number, each in sorted(self.members.items())
        ]
