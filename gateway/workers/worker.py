"""One of several processes that serve: a gateway whose sockets, files and decisions are shared with the others.

A worker joins before it serves: from then on it takes part in every decision. Then it reads what was decided until
now, and listens. The leader serves operators and xenstores too; it asks the others for their part of an answer.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from gateway import __version__, config, wiring
from gateway.admin.health import ServiceRow
from gateway.config import Config
from gateway.core.admin.records import Change, StoredState
from gateway.core.admin.status import BreakerState, BusStatus, UpstreamStatus
from gateway.core.logger import Logger
from gateway.mapping.table import Table
from gateway.ops import log, metrics
from gateway.pipeline.task_methods import answer_worker
from gateway.readings import rendered
from gateway.server import Gateway, run_until
from gateway.start import start_from_files
from gateway.workers.coordinator import ADMIN, METRICS, WEB, Assignment, Scrape, ServedFiles
from gateway.workers.link import BOUND, Answers, LinkClosedError, OtherWorkers, RelayedNotifications
from gateway.workers.recordings import SharedRecordings

if TYPE_CHECKING:
    from gateway.admin.api import WorkerStatus

FOLLOW = BOUND / 2  # seconds for the state file: a worker must answer, although its file hangs

_BREAKERS = tuple(each.value for each in (BreakerState.CLOSED, BreakerState.HALF_OPEN, BreakerState.OPEN))
_ADDED = ("in_flight", "tasks", "buffered")

_T = TypeVar("_T")

_log = Logger()


class OutdatedError(Exception):
    """The mapping has changed while this worker started: the next one starts with the new one."""


class WorkerGateway(Gateway):
    """A gateway that is one of several."""

    def __init__(self, path: Path, assignment: Assignment, other_workers: OtherWorkers) -> None:
        self._assignment = assignment
        self._other_workers = other_workers
        started = assignment.started
        start = start_from_files(path, assignment.config) if started is None else started.start(path)
        given = {name: found for name, found in assignment.sockets.items() if name not in (ADMIN, METRICS, WEB)}
        super().__init__(path, start, wiring.InheritedSockets(given, listening=False))
        other_workers.summary = self.readings.summary
        self.manager = RelayedNotifications(other_workers, assignment.watchdog)
        state = self.migration.state
        state.share_with(self._share)
        self._prepared: tuple[Config, Table, Mapping[str, wiring.Upstream]] | None = None
        self._leading = asyncio.Lock()
        self._is_stopping = False
        self._operators_stack = AsyncExitStack()
        self._publishers_stack = AsyncExitStack()
        other_workers.handlers |= {
            "lead": self._lead,
            "follow": lambda body: state.follow(body[0], is_stored=body[1], seconds=FOLLOW),
            "kept": lambda _: (state.kept, state.held),
            "save": self._save,
            "prepare": self._prepare,
            "commit": self._commit,
            "status": lambda _: self.readings.status(),
            "unready": lambda _: self.readings.unready(),
            "totals": lambda _: self.calls.ended(),
            "snapshot": lambda _: self.readings.snapshot(),
            "tasks": lambda _: [*map(msgspec.json.encode, self.tasks.own())],
            "about task": lambda body: answer_worker(self.tasks, *body),
            # News, with the number of their worker
            "gone": self._learn_gone,
            "refused": self._learn_refused,
            "task": self._learn_task,
            "session": lambda news: self.sessions.learn_news(news[1]),
            "logout": lambda news: super(WorkerGateway, self).end_session(news[1]),
        }
        self._recordings = SharedRecordings(assignment.number, self.recorder, other_workers)
        self.tasks.subscribe(lambda task, is_gone: other_workers.news("task", (msgspec.json.encode(task), is_gone)))
        self.tasks.others.connect(lambda number, *call: other_workers.one(number, "about task", call))
        self.sessions.connect(lambda news: other_workers.news("session", news))

    # Start and stop

    async def _bind(self, stack: AsyncExitStack) -> None:
        """Take the sockets that the supervisor has bound."""
        for name, server in ((ADMIN, self._admin), (METRICS, self._monitoring), (WEB, self._web)):
            if server is not None:
                stack.push_async_callback(server.stop)
                server.adopt(socket.socket(fileno=self._assignment.sockets[name][0]))
        for transport in self.transports.values():
            stack.push_async_callback(transport.stop, 0)
            await transport.bind()

    async def _open(self, stack: AsyncExitStack) -> None:
        """Join the others, then let clients in."""
        stack.push_async_callback(self._operators_stack.aclose)
        stack.push_async_callback(self._recordings.stop)
        stack.callback(self.recorder.stop)
        stack.push_async_callback(self._drain)
        await self._join()
        await self.expose()
        for transport in self.transports.values():
            if isinstance(transport, wiring.HttpServer):
                await transport.start()
        stack.push_async_callback(self._publishers_stack.aclose)
        stack.push_async_callback(self._lead_no_more)

    async def _join(self) -> None:
        assignment, served = self._assignment, None
        if assignment.started is None:
            served = ServedFiles.of(assignment.config, self.table, self._refused)
        elif assignment.version and assignment.live is not None:
            await self._apply(assignment.live)
        if not await self._other_workers.link.ask("join", (assignment.version, served)):
            raise OutdatedError
        await self._other_workers.everyone("save", must=False)
        tasks = await self._other_workers.everyone("tasks", must=False)
        for number, documents in tasks.by_worker.items():
            for document in documents:
                self.tasks.others.learn(number, document, is_gone=False)
        await self.sessions.read()
        state = self.migration.state
        await state.refresh()
        found = await self._other_workers.everyone("kept", must=False)
        answers: list[tuple[StoredState, Sequence[Change]]] = [*found.by_worker.values()]
        if answers:
            held = [change for _, changes in answers for change in changes]
            await state.adopt(answers[-1][0], held, seconds=FOLLOW)

    async def _apply(self, served: ServedFiles) -> None:
        """Serve other files than those with which the gateway has started, as a reload does."""
        start = served.start(self._path)
        await self.apply_config(start.settings, start.table, wiring.upstreams(start.settings, self.quota))
        self._refused = start.refused

    def _announce(self) -> None:
        _log.info("a worker serves", revision=self.table.revision)
        self._other_workers.link.tell("serving", (self.table.revision, len(self.table.routes())))

    async def _lead(self, _body: None) -> None:
        """Serve operators and xenstores from now on."""
        async with self._leading:
            if self._is_stopping:
                raise OutdatedError
            self.leads = True
            self.warn(self.settings)
            await self._serve_operators(self._operators_stack)
            for store in self.stores:
                await store.start()
            await self.start_publishers(self._publishers_stack)
            if not self._refused:
                await self._store_table()

    async def _lead_no_more(self) -> None:
        async with self._leading:
            self._is_stopping = True

    async def _stop_transports(self) -> int:
        cut = await super()._stop_transports()
        self._other_workers.link.tell("stopped", cut)
        return cut

    async def _store_table(self) -> None:
        if self.leads:
            await super()._store_table()

    # Decisions

    async def _share(self, change: Change, is_stored: bool) -> Sequence[str]:  # noqa: FBT001 - see state.store.Share
        """Return once the change is in force in every worker that serves."""
        return (await self._other_workers.everyone("follow", (change, is_stored))).notes

    async def _save(self, _body: None) -> None:
        """Write down what this worker knows and others may need."""
        await self.migration.flush()
        await self.sessions.save()

    async def flush(self) -> None:
        """Write down what every worker has counted until now."""
        await self._other_workers.everyone("save", must=False)
        await super().flush()

    # Files

    async def _agree(self, text: str, table: Table) -> tuple[list[str], list[str]]:
        answers: Answers = await self._other_workers.link.ask("serve", ServedFiles.of(text, table))
        wrong = [
            f"worker {number}: {problem}" for number, found in sorted(answers.by_worker.items()) for problem in found
        ]
        return wrong, [*answers.notes]

    async def _prepare(self, served: ServedFiles) -> list[str]:
        """Compile other files; the problems, if there are any."""
        self._prepared = None
        try:
            settings = served.load(self._path)
            table, problems = await asyncio.to_thread(wiring.compile_contents, settings, served.mappings, served.idl)
            if not problems:
                self._prepared = settings, table, wiring.upstreams(settings, self.quota)
            return [str(problem) for problem in problems]
        except config.ConfigError as error:
            return [str(problem) for problem in error.problems]

    async def _commit(self, _body: None) -> None:
        """Serve what was prepared."""
        assert self._prepared is not None, "prepared without a problem"
        prepared, self._prepared = self._prepared, None
        await self._replace(*prepared)

    def _refuse(self, wrong: list[str]) -> None:
        super()._refuse(wrong)
        self._other_workers.link.tell("refused", tuple(wrong))

    def _learn_refused(self, news: tuple[int, tuple[str, ...]]) -> None:
        self._refused = [*news[1]]

    # The operator's view

    async def status(self) -> Mapping[str, object]:
        """The state of all workers together."""
        own, others, rows = await asyncio.gather(
            super().status(), self._other_workers.everyone("status", must=False), self._other_workers.link.ask("rows")
        )
        return merged_status(self._assignment.number, own, others, rows)

    async def unready(self) -> list[str]:
        """The reasons why calls of some worker cannot be made."""
        own, others = await asyncio.gather(super().unready(), self._other_workers.everyone("unready", must=False))
        return merged_reasons(own, others)

    async def totals(self) -> tuple[int, int]:
        """The finished calls of the workers that run, and those with a fault."""
        own, others = await asyncio.gather(super().totals(), self._other_workers.everyone("totals", must=False))
        counted = [own, *others.by_worker.values()]
        return sum(calls for calls, _ in counted), sum(faults for _, faults in counted)

    async def metrics(self) -> bytes:
        """The series of all workers as text."""
        own = await self.readings.snapshot()
        together: Scrape = await self._other_workers.link.ask("scrape", own)
        all_ = metrics.merged([own, *together.others])
        samples: dict[str, Mapping[tuple[str, ...], float]] = {
            **all_.samples,
            "xcp_gateway_workers": {(): together.workers},
            "xcp_gateway_worker_restarts_total": {(): together.restarts},
        }
        return await asyncio.to_thread(rendered, replace(all_, samples=samples))

    # What other workers tell

    def _learn_gone(self, number: int) -> None:
        self.tasks.others.lost(number)
        self._recordings.lost(number)

    def _learn_task(self, news: tuple[int, tuple[bytes, bool]]) -> None:
        number, (document, is_gone) = news
        self.tasks.others.learn(number, document, is_gone=is_gone)

    def end_session(self, session: str) -> None:
        """A session has been closed, so it ends in every worker."""
        super().end_session(session)
        self._other_workers.news("logout", session)


# The status of all workers as that of one gateway: what is counted is added, and of states the worst one is shown.


def merged_status(
    number: int, own: Mapping[str, Any], others: Answers, rows: Sequence[WorkerStatus]
) -> Mapping[str, object]:
    """`number`: of the worker whose own status this is, the leader; it has what only the leader serves."""
    found: Sequence[Mapping[str, Any]] = [own, *others.by_worker.values()]
    why = merged_reasons(
        own["reasons"], Answers({n: each["reasons"] for n, each in others.by_worker.items()}, others.notes)
    )
    warned = [
        f"worker {n}: {text}"
        for n, each in others.by_worker.items()
        for text in each["warnings"]
        if text not in own["warnings"]
    ]
    older = [
        f"worker {n} serves revision {each['revision']}, and worker {number} revision {own['revision']}"
        for n, each in others.by_worker.items()
        if each["revision"] != own["revision"]
    ]
    return {
        **own,
        "ready": not why,
        "reasons": why,
        "warnings": [*own["warnings"], *warned, *older],
        **{name: sum(each[name] for each in found) for name in _ADDED},
        "buses": _rows(found, "buses", _bus),
        "upstreams": _rows(found, "upstreams", _upstream),
        "services": _rows(found, "services", _service),
        "workers": rows,
    }


def merged_reasons(own: Sequence[str], others: Answers) -> list[str]:
    """Why calls of some worker cannot be made; what is the same in all workers is listed once."""
    theirs = [f"worker {n}: {why}" for n, found in others.by_worker.items() for why in found if why not in own]
    return [*own, *theirs, *others.notes]


def _rows(found: Sequence[Mapping[str, Any]], name: str, add: Callable[[_T, _T], _T]) -> list[_T]:
    """The rows of all workers, one for each name and bus."""
    rows: dict[tuple[str, str], _T] = {}
    for each in found:
        for row in each[name]:
            key = row.name, getattr(row, "bus", "")
            rows[key] = add(rows[key], row) if key in rows else row
    return [*rows.values()]


def _sums(one: Struct, other: Struct, *names: str) -> dict[str, Any]:
    return {name: getattr(one, name) + getattr(other, name) for name in names}


def _bus(one: BusStatus, other: BusStatus) -> BusStatus:
    worse = one if not one.connected else other
    counted = _sums(one, other, "connections", "in_flight", "late_replies", "unanswered", "signals", "overflows")
    return replace(worse, **counted, last_error=worse.last_error or one.last_error or other.last_error)


def _upstream(one: UpstreamStatus, other: UpstreamStatus) -> UpstreamStatus:
    return replace(
        one,
        **_sums(one, other, "in_flight", "waiting", "idle"),
        last_error=one.last_error or other.last_error,
        unreachable=one.unreachable or other.unreachable,
    )


def _service(one: ServiceRow, other: ServiceRow) -> ServiceRow:
    worse = max(one, other, key=lambda row: _BREAKERS.index(row.breaker))
    return replace(worse, **_sums(one, other, "in_flight", "calls", "faults"))


async def run(path: Path, descriptor: int) -> None:
    """Run a worker until its supervisor stops it or has ended, or until SIGTERM. `descriptor`: of its link."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGHUP):  # those are for the supervisor
        signal.signal(number, signal.SIG_IGN)
    other_workers = OtherWorkers(socket.socket(fileno=descriptor))
    loop.add_signal_handler(signal.SIGTERM, other_workers.stop.set)
    await other_workers.link.start()
    try:
        assignment: Assignment | None = await other_workers.link.ask("begin", __version__)
        if assignment is None:
            _log.error(f"the program is {__version__} now, and the gateway runs another version: restart the gateway")
            return
        settings = wiring.load_config(path, assignment.config)
        log.configure(settings.log.format, settings.log.level, worker=assignment.number)
        beside = [loop.create_task(other_workers.report()), loop.create_task(_stop_alone(other_workers))]
        try:
            await run_until(
                other_workers.stop, other_workers.reload, lambda: WorkerGateway(path, assignment, other_workers)
            )
        finally:
            for task in beside:
                task.cancel()
            await asyncio.wait(beside)
    except OutdatedError:
        _log.info("the mapping has changed while this worker started; it is started again")
    except LinkClosedError:
        _log.error("the supervisor has ended: this worker does not start")
    finally:
        await other_workers.link.close()


async def _stop_alone(other_workers: OtherWorkers) -> None:
    """Stop when the supervisor has ended."""
    await other_workers.link.closed.wait()
    _log.error("the supervisor has ended: this worker stops")
    other_workers.stop.set()
