"""Watches the nodes of one trigger and makes a call when the content of one has changed, once for each content.

What was processed is recorded in the store itself: /tool/xcp-gateway/processed/PATH holds the digest of the content of
PATH. A gateway that starts again therefore fires for what was changed meanwhile and for nothing else, and a node that
the gateway publishes itself fires no trigger. `?NEW OLD`: a write is being called for the content NEW; after a crash
its outcome is unknown, and it is not called again.

A call that certainly was not executed is repeated. A call that may have been executed is repeated only if its method is
no write.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, TypeAlias

from adapters.xenstore.client.client import Permissions, StoreError, StoreLostError, Transaction, Watch, XenstoreClient
from adapters.xenstore.client.operations import StoreOperations
from adapters.xenstore.client.wire import least_privileged
from adapters.xenstore.server.transactions import places
from gateway.core.dbus.scalars import MarshalError
from gateway.core.routing.publication import Content, RelatedContent, RelatedNode, WatchTrigger, digest
from gateway.core.routing.route import Effect, Route
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome
from gateway.core.xenstore.paths import MAX_VALUE, Template

RECORDS = "/tool/xcp-gateway/processed"
IN_PROGRESS = "?"


class ProcessedContent(NamedTuple):
    """The record of a node's content. `digest`: of the content that was processed; empty for none.

    `in_progress`: of the content for which a write is being called.
    """

    digest: str = ""
    in_progress: str = ""


def record_path(path: str) -> str:
    """The path of the record of a node."""
    return RECORDS + path


async def read_processed(nodes: StoreOperations, path: str) -> ProcessedContent:
    """Read the record of a node."""
    written = (await nodes.read(record_path(path)) or b"").decode("ascii", "replace")
    if not written.startswith(IN_PROGRESS):
        return ProcessedContent(written)
    in_progress, _, digest = written.removeprefix(IN_PROGRESS).partition(" ")
    return ProcessedContent(digest, in_progress)


async def mark_processed(nodes: StoreOperations, path: str, digest: str) -> None:
    """Record that this content was processed; without a digest remove the record."""
    if digest:
        await nodes.write(record_path(path), digest.encode())
    else:
        await remove_record(nodes, path)


async def mark_in_progress(nodes: StoreOperations, path: str, before: ProcessedContent, digest: str) -> None:
    """Record that a write is being called for this content."""
    await nodes.write(record_path(path), f"{IN_PROGRESS}{digest} {before.digest}".encode())


async def remove_record(nodes: StoreOperations, path: str) -> None:
    """Remove the record of a node that is gone, and the folders above it that are empty then."""
    written = record_path(path)
    while written != RECORDS and await nodes.list(written) == []:
        await nodes.remove(written)
        written = written.rpartition("/")[0]


MAX_CONCURRENT = 16  # calls of one trigger at the same time; of one node there is at most one
MAX_RELATED = 256  # related nodes that are passed with a call; with more the call is not made
FIRST_PAUSE, LAST_PAUSE = 0.2, 5.0  # seconds before a call is repeated
ALL = ""  # in place of a path: a scan of all nodes

NOT_EXECUTED = frozenset({FaultCode.UNAVAILABLE, FaultCode.BUSY})
UNKNOWN = frozenset({FaultCode.TIMEOUT, FaultCode.NO_REPLY})

FireTrigger: TypeAlias = Callable[[Route, Call], Awaitable[Outcome]]

log = logging.getLogger(__name__)


class _Planned(NamedTuple):
    """A call for a content. `call`: None when it must not be made. `before`: the digest that was processed before."""

    call: Call | None
    digest: str
    before: str


class XenstoreTrigger:
    """One trigger of one store. `run` watches and calls; `on_fired` is called with each path whose call has ended."""

    def __init__(
        self, trigger: WatchTrigger, store: XenstoreClient, fire: FireTrigger, on_fired: Callable[[str], object]
    ) -> None:
        self._trigger = trigger
        self._source = trigger.source
        self._store = store
        self._fire = fire
        self._on_fired = on_fired
        self._due: dict[str, None] = {}
        self._busy: set[str] = set()
        self._known: set[str] = set()  # nodes that existed
        self._pauses: dict[str, float] = {}  # by node, or ALL: seconds before the next repetition
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._repeatable: dict[str, str] = {}  # node -> digest of a content in progress that was certainly not called
        self._more = asyncio.Event()
        self._watch: Watch | None = None
        self._closed = False

    @property
    def node(self) -> str:
        """The template of the nodes."""
        return str(self._trigger.node)

    def is_at(self, path: str) -> bool:
        """Whether this trigger watches the node."""
        match = self._trigger.node.match(path)
        return match is not None and not match.rest

    async def run(self) -> None:
        """Run until cancelled, closed, or the store is stopped."""
        if self._closed:
            return
        self._watch = watch = self._store.watch(self._trigger.node.root)
        try:
            async with asyncio.TaskGroup() as tasks:
                answering = tasks.create_task(self._process_due(tasks))
                async for path in watch:
                    if path == watch.path:
                        await self._scan_all()
                    elif self.is_at(path):
                        self._schedule(path)
                    else:  # an ancestor was removed or created; nodes that came with it have events of their own
                        for known in [known for known in self._known if known.startswith(f"{path}/")]:
                            self._schedule(known)
                answering.cancel()
        finally:
            watch.close()
            for timer in self._timers.values():
                timer.cancel()

    def close(self) -> None:
        """Fire no more; `run` returns when the calls in progress have ended."""
        self._closed = True
        if self._watch is not None:
            self._watch.close()

    # Which nodes may have changed

    async def _scan_all(self) -> None:
        """Schedule every node that may exist, and every node that has a record.

        When the store refuses the scan, repeat it: changes from before have no later event.
        """
        template = self._trigger.node
        records = Template((*RECORDS.split("/")[1:], *template.elements))
        self._timers.pop(ALL, None)
        try:
            nodes = await places(self._store, template, "")
            recorded = await places(self._store, records, "")
            for path in [*(match.node for match in nodes), *(match.node.removeprefix(RECORDS) for match in recorded)]:
                self._schedule(path)
            self._pauses.pop(ALL, None)
        except (StoreLostError, StoreError) as error:
            log.warning("trigger %s: the nodes cannot be scanned; tried again: %s", self._source, error)
            if self._watch is not None and self._store.connected:  # else the next connection reports the watched path
                self._call_later(ALL, self._watch.notify, self._watch.path)

    def _schedule(self, path: str) -> None:
        self._timers.pop(path, None)
        self._due[path] = None
        self._more.set()

    # Calling

    async def _process_due(self, tasks: asyncio.TaskGroup) -> None:
        slots = asyncio.Semaphore(MAX_CONCURRENT)

        async def visit(path: str) -> None:
            try:
                await self._visit(path)
            except StoreLostError:
                if self._store.connected:  # a late response; otherwise the next connection reports the watched path
                    self._call_later(path, self._schedule, path)
            except StoreError as error:
                log.warning("trigger %s at %s: %s", self._source, path, error)
                if not error.is_permanent:
                    self._call_later(path, self._schedule, path)
            finally:
                slots.release()
                self._busy.discard(path)
                self._more.set()

        while True:
            await self._more.wait()
            self._more.clear()
            for path in [path for path in self._due if path not in self._busy]:
                await slots.acquire()
                del self._due[path]
                self._busy.add(path)
                tasks.create_task(visit(path))

    async def _visit(self, path: str) -> None:
        """Make a call if the content of the node is new. That it is not is the usual case, without a transaction."""
        value, known = await asyncio.gather(self._store.read(path), read_processed(self._store, path))
        if value is None:
            is_unchanged = known == ProcessedContent() and path not in self._known
        else:
            is_unchanged = not self._trigger.related and known == (digest(value), "")
        if is_unchanged:
            self._pauses.pop(path, None)
            return
        planned = await self._store.transaction(lambda nodes: self._prepare(nodes, path, known))
        if planned is not None and planned.call is not None:
            self._repeatable.pop(path, None)
            outcome = await self._fire(self._trigger.route, planned.call)
            if isinstance(outcome, Fault):
                may_repeat = self._trigger.route.effect is not Effect.WRITE
                if outcome.code in NOT_EXECUTED or (may_repeat and outcome.code in UNKNOWN):
                    if path not in self._pauses:
                        log.warning("trigger %s at %s is tried again: %s", self._source, path, _loggable(outcome))
                    self._repeatable[path] = planned.digest
                    self._call_later(path, self._schedule, path)  # with the content of that moment
                    await self._record(path, planned.before)
                    return
                log.warning("trigger %s at %s: %s", self._source, path, _loggable(outcome))
            await self._record(path, planned.digest)
        self._pauses.pop(path, None)
        self._repeatable.pop(path, None)
        if planned is not None:
            self._on_fired(path)

    async def _prepare(self, nodes: Transaction, path: str, known: ProcessedContent) -> _Planned | None:
        """The call for a new content; None when the content is not new. Runs in a transaction.

        `known`: the record before it. In a transaction that the store has dropped none is found.
        """
        value = await nodes.read(path)
        if value is None:
            self._known.discard(path)
            await remove_record(nodes, path)
            return None
        self._known.add(path)
        writers: list[Permissions] = []
        content = Content(
            value, {each: await _read_related(nodes, path, each, writers) for each in self._trigger.related}
        )
        before = await read_processed(nodes, path)
        if content.digest == before.digest and not before.in_progress:
            return None
        call = None
        if content.digest == before.in_progress and self._repeatable.get(path) != content.digest:
            why = "it is unknown whether the call was executed; it is not repeated"
            log.warning("trigger %s at %s: %s", self._source, path, why)
        elif content.digest != before.digest:
            call = await self._call(nodes, path, content, writers)
        if call is None:
            await mark_processed(nodes, path, content.digest)
        elif self._trigger.route.effect is Effect.WRITE:
            if content.digest != known.in_progress:
                self._repeatable[path] = content.digest
            await mark_in_progress(nodes, path, before, content.digest)
        return _Planned(call, content.digest, before.digest)

    async def _call(
        self, nodes: Transaction, path: str, content: Content, writers: Sequence[Permissions]
    ) -> Call | None:
        """The call in the name of the least privileged writer of the content; None when it must not be made."""
        match = self._trigger.node.match(path)
        permissions = await nodes.permissions(path)
        assert match is not None
        assert permissions is not None
        domid = least_privileged([permissions, *writers])
        why = "the domain that can write this node may not call"
        if domid is not None and self._trigger.domains.allow(domid, match.parameters):
            try:
                if _fits(content):
                    return self._trigger.call(content, match.parameters, domid)
                why = f"expected at most {MAX_RELATED} nodes of at most {MAX_VALUE} bytes"
            except MarshalError as error:
                why = error.bare
        log.warning("trigger %s at %s: not called: %s", self._source, path, why)
        return None

    async def _record(self, path: str, digest: str) -> None:
        """Record the outcome of a call unless the node is gone meanwhile.

        Repeat until the store accepts it, or the call would be made again.
        """

        async def record(nodes: Transaction) -> None:
            is_there = await nodes.read(path) is not None
            await mark_processed(nodes, path, digest if is_there else "")

        pause = FIRST_PAUSE
        while True:
            try:
                return await self._store.transaction(record)
            except (StoreError, StoreLostError) as error:
                if not self._store.connected or (isinstance(error, StoreError) and error.is_permanent):
                    raise
                log.warning("trigger %s at %s: the record is written later: %s", self._source, path, error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE)

    def _call_later(self, key: str, work: Callable[[str], None], path: str) -> None:
        """Do the work after a pause, which grows until the key's pause is forgotten."""
        before = self._timers.pop(key, None)
        if before is not None:
            before.cancel()
        pause = self._pauses.get(key, FIRST_PAUSE)
        self._pauses[key] = min(2 * pause, LAST_PAUSE)
        self._timers[key] = asyncio.get_running_loop().call_later(pause, work, path)


async def _read_related(
    nodes: StoreOperations, path: str, related: RelatedNode, writers: list[Permissions]
) -> RelatedContent:
    """Read a related node or tree; appends the permissions of each node that is passed to `writers`."""
    parent = path.rpartition("/")[0]
    start = parent if related.path == "." else f"{parent}/{related.path}"
    if not related.tree:
        value, permissions = await asyncio.gather(nodes.read(start), nodes.permissions(start))
        writers += [permissions] if permissions is not None else []
        return value
    found: dict[str, bytes] = {}
    waiting = [start]
    while waiting and len(found) <= MAX_RELATED:
        here = waiting.pop()
        value, names, permissions = await asyncio.gather(nodes.read(here), nodes.list(here), nodes.permissions(here))
        below = names or []
        waiting += [f"{here}/{name}" for name in below]
        if value is not None and here not in (start, path) and (value or not below):
            found[here.removeprefix(f"{start}/")] = value
            writers += [permissions] if permissions is not None else []
    return found


def _loggable(fault: Fault) -> str:
    """The fault for the log. A service may repeat what a guest wrote, so only the name of its error is logged."""
    if fault.code in NOT_EXECUTED | UNKNOWN:
        return fault.message
    return f"{fault.code.value} {fault.name}".rstrip()


def _fits(content: Content) -> bool:
    """Whether the content is within the limits."""
    trees = [found for found in content.related.values() if not isinstance(found, bytes | None)]
    values = [content.value, *(value for tree in trees for value in tree.values())]
    values += [found for found in content.related.values() if isinstance(found, bytes)]
    return all(len(tree) <= MAX_RELATED for tree in trees) and all(len(value) <= MAX_VALUE for value in values)
