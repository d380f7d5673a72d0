"""Watches the nodes of a trigger and rings when the content of one has changed: once for each content. Knows no D-Bus.

Whatever is found is held against what is settled (xenstore_settled.py). A ring that surely was not heard is tried
again; one that may have been heard is not, when its method is a write.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, TypeAlias

from adapters.xenstore.client.client import Permissions, StoreError, StoreLostError, Transaction, Watch, XenstoreClient
from adapters.xenstore.client.operations import StoreOperations
from adapters.xenstore.client.wire import is_permanent
from adapters.xenstore.server.caller import caller_of, least_privileged
from gateway.core.dbus.scalars import MarshalError
from gateway.core.routing.publication import Content, Found, RelatedNode, WatchTrigger, digest
from gateway.core.routing.route import Effect, Route
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome
from gateway.core.xenstore.paths import MAX_VALUE, Template

# Which content of a trigger's node is settled: rung already, or published by us. Rings no bell itself.
#
# `/tool/xcp-gateway/settled/PATH` holds the digest of the content. It is in the store itself: a gateway that comes
# back rings for what was changed meanwhile and for nothing else, and what it writes itself rings no bell. `?NEW OLD`:
# NEW is being rung.


ROOT = "/tool/xcp-gateway/settled"
RINGING = "?"


class ProcessedContent(NamedTuple):
    """What is known of a node's content."""

    digest: str = ""  # of the content that is settled; empty when none is
    ringing: str = ""  # of what is being rung by a method that must not be called twice


def record(path: str) -> str:
    """Where it is written down."""
    return ROOT + path


async def read_processed(nodes: StoreOperations, path: str) -> ProcessedContent:
    """What is settled, and what is being rung."""
    written = (await nodes.read(record(path)) or b"").decode("ascii", "replace")
    if not written.startswith(RINGING):
        return ProcessedContent(written)
    ringing, _, digest = written.removeprefix(RINGING).partition(" ")
    return ProcessedContent(digest, ringing)


async def mark_processed(nodes: StoreOperations, path: str, digest: str) -> None:
    """From now on this content is nothing new; without a digest nothing is settled."""
    if digest:
        await nodes.write(record(path), digest.encode())
    else:
        await forget(nodes, path)


async def begin(nodes: StoreOperations, path: str, before: ProcessedContent, digest: str) -> None:
    """It is being rung, and must not be twice."""
    await nodes.write(record(path), f"{RINGING}{digest} {before.digest}".encode())


async def forget(nodes: StoreOperations, path: str) -> None:
    """The node is gone, and with it whatever was written down only for its sake."""
    written = record(path)
    while written != ROOT and await nodes.list(written) == []:
        await nodes.remove(written)
        written = written.rpartition("/")[0]


MAX_CONCURRENT = 16  # at once, of one trigger; of one node there is one
MAX_TREE = 256  # nodes that are told with a ring; with more it is refused
FIRST_PAUSE, LAST_PAUSE = 0.2, 5.0  # seconds before a ring that was not heard is tried again
ALL = ""  # in place of a path: all of them are to be looked at

NOTHING = ProcessedContent()
NOT_EXECUTED = frozenset({FaultCode.UNAVAILABLE, FaultCode.BUSY})
UNKNOWN = frozenset({FaultCode.TIMEOUT, FaultCode.NO_REPLY})

FireTrigger: TypeAlias = Callable[[Route, Call], Awaitable[Outcome]]

log = logging.getLogger(__name__)


class _Fired(NamedTuple):
    """What is to be called for which content, and what was settled before. `call`: None when it must not be made."""

    call: Call | None
    digest: str
    before: str


class XenstoreTrigger:
    """One trigger of one store. `run` watches and rings; `on_rung` is told of each path whose ring is over."""

    def __init__(
        self, trigger: WatchTrigger, store: XenstoreClient, ring: FireTrigger, on_rung: Callable[[str], object]
    ) -> None:
        self._trigger = trigger
        self._store = store
        self._ring = ring
        self._on_rung = on_rung
        self._due: dict[str, None] = {}
        self._busy: set[str] = set()
        self._known: set[str] = set()  # nodes that were there
        self._pauses: dict[str, float] = {}  # of nodes whose ring was not heard
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._unheard: dict[
            str, str
        ] = {}  # node -> digest that surely was not heard, wherever that is not written down
        self._more = asyncio.Event()
        self._watch: Watch | None = None
        self._closed = False

    @property
    def node(self) -> str:
        """Where it hangs, with names in braces."""
        return str(self._trigger.node)

    def is_at(self, path: str) -> bool:
        """Whether it hangs at this node."""
        match = self._trigger.node.match(path)
        return match is not None and not match.rest

    async def run(self) -> None:
        """Until cancelled, closed, or the store is stopped."""
        if self._closed:
            return
        self._watch = watch = self._store.watch(self._trigger.node.root)
        try:
            async with asyncio.TaskGroup() as tasks:
                answering = tasks.create_task(self._answer(tasks))
                async for path in watch:
                    await self._noticed(path, everything=path == watch.path)
                answering.cancel()
        finally:
            watch.close()
            for timer in self._timers.values():
                timer.cancel()

    def close(self) -> None:
        """Ring no more; `run` ends when all that is being rung is over."""
        self._closed = True
        if self._watch is not None:
            self._watch.close()

    # Which nodes may have changed

    async def _noticed(self, path: str, *, everything: bool) -> None:
        if everything:
            await self._scan_all()
        elif self.is_at(path):
            self._look_at(path)
        else:  # something above it is gone, or has come; what came with it is told by its own event
            for known in [known for known in self._known if known.startswith(f"{path}/")]:
                self._look_at(known)

    async def _scan_all(self) -> None:
        """Again after a while when the store refuses it: what was changed before would ring at its next change only."""
        self._timers.pop(ALL, None)
        try:
            for found in await self._scan():
                self._look_at(found)
            self._pauses.pop(ALL, None)
        except (StoreLostError, StoreError) as error:
            log.warning("trigger %s: not scanned: %s", self._trigger.source, error)
            if (
                self._watch is not None and self._store.connected
            ):  # else the watch tells everything again with the store
                self._timers[ALL] = self._after_a_pause(ALL, self._watch.notify, self._watch.path)

    async def _scan(self) -> list[str]:
        """Every node that may be there, and every node of which something is written down."""
        template = self._trigger.node
        written_down = Template((*ROOT.split("/")[1:], *template.elements))
        recorded = [path.removeprefix(ROOT) for path in await _expand(self._store, written_down)]
        return [*await _expand(self._store, template), *recorded]

    def _look_at(self, path: str) -> None:
        self._timers.pop(path, None)
        self._due[path] = None
        self._more.set()

    # Ringing

    async def _answer(self, tasks: asyncio.TaskGroup) -> None:
        room = asyncio.Semaphore(MAX_CONCURRENT)

        async def visit(path: str) -> None:
            try:
                await self._visit(path)
            except StoreLostError:
                pass  # the watch tells everything again with the next connection
            except StoreError as error:
                log.warning("trigger %s at %s: %s", self._trigger.source, path, error)
                if not is_permanent(error):
                    self._timers[path] = self._after_a_pause(path, self._look_at, path)
            finally:
                room.release()
                self._busy.discard(path)
                self._more.set()

        while True:
            await self._more.wait()
            self._more.clear()
            for path in [path for path in self._due if path not in self._busy]:
                await room.acquire()
                del self._due[path]
                self._busy.add(path)
                tasks.create_task(visit(path))

    async def _visit(self, path: str) -> None:
        if await self._is_nothing_new(path):
            self._pauses.pop(path, None)
            return
        rung = await self._store.transaction(lambda nodes: self._prepare(nodes, path))
        if rung is None or rung.call is None:
            self._over(path, settled=rung is not None)
            return
        outcome = await self._ring(self._trigger.route, rung.call)
        if isinstance(outcome, Fault) and self._was_not_heard(outcome):
            self._unheard[path] = rung.digest
            self._try_again(path, outcome)
            await self._write_down(path, rung.before)
            return
        if isinstance(outcome, Fault):
            log.warning("trigger %s at %s: %s", self._trigger.source, path, _told(outcome))
        await self._write_down(path, rung.digest)
        self._over(path, settled=True)

    def _over(self, path: str, *, settled: bool) -> None:
        self._pauses.pop(path, None)
        self._unheard.pop(path, None)
        if settled:
            self._on_rung(path)

    async def _is_nothing_new(self, path: str) -> bool:
        """The usual case, seen without a transaction; what it does not see, a transaction does."""
        value, known = await asyncio.gather(self._store.read(path), read_processed(self._store, path))
        if value is None:
            return known == NOTHING and path not in self._known
        return not self._trigger.beside and known == (digest(value), "")

    async def _prepare(self, nodes: Transaction, path: str) -> _Fired | None:
        """What to ring for; None when there is nothing new."""
        value = await nodes.read(path)
        if value is None:
            self._known.discard(path)
            await forget(nodes, path)
            return None
        self._known.add(path)
        writers: list[Permissions] = []
        content = Content(value, {each: await _beside(nodes, path, each, writers) for each in self._trigger.beside})
        before = await read_processed(nodes, path)
        if content.digest == before.digest and not before.ringing:
            return None
        call = None
        if content.digest == before.ringing and self._unheard.get(path) != content.digest:
            log.warning("trigger %s at %s: it is unknown whether it was heard", self._trigger.source, path)
        elif content.digest != before.digest:
            call = await self._call(nodes, path, content, writers)
        if call is None:
            await mark_processed(nodes, path, content.digest)
        elif self._trigger.route.effect is Effect.WRITE:
            await begin(nodes, path, before, content.digest)
        return _Fired(call, content.digest, before.digest)

    async def _call(
        self, nodes: Transaction, path: str, content: Content, writers: Sequence[Permissions]
    ) -> Call | None:
        """The call, made by the least privileged writer of the content; None when it must not be made."""
        match = self._trigger.node.match(path)
        permissions = await nodes.permissions(path)
        assert match is not None
        assert permissions is not None
        domid = least_privileged(map(caller_of, (permissions, *writers)))
        why = "whoever may write this node may not ring"
        if domid is not None and self._trigger.domains.allow(domid, match.parameters):
            try:
                if _fits(content):
                    return self._trigger.call(content, match.parameters, domid)
                why = "it is too much"
            except MarshalError as error:
                why = error.bare
        log.warning("trigger %s at %s: not rung: %s", self._trigger.source, path, why)
        return None

    async def _write_down(self, path: str, digest: str) -> None:
        """What has come of a ring; until the store takes it, for a ring that is not written down is made again."""
        pause = FIRST_PAUSE
        while True:
            try:
                return await self._store.transaction(lambda nodes: self._settle(nodes, path, digest))
            except StoreError as error:
                if is_permanent(error):
                    raise
                log.warning("trigger %s at %s: written down later: %s", self._trigger.source, path, error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE)

    async def _settle(self, nodes: Transaction, path: str, digest: str) -> None:
        """Unless the node is gone meanwhile."""
        is_there = await nodes.read(path) is not None
        await mark_processed(nodes, path, digest if is_there else "")

    def _was_not_heard(self, fault: Fault) -> bool:
        may_repeat = self._trigger.route.effect is not Effect.WRITE
        return fault.code in NOT_EXECUTED or (may_repeat and fault.code in UNKNOWN)

    def _try_again(self, path: str, fault: Fault) -> None:
        """After a while, with whatever the content is then."""
        if path not in self._pauses:
            log.warning("trigger %s at %s is tried again: %s", self._trigger.source, path, _told(fault))
        self._timers[path] = self._after_a_pause(path, self._look_at, path)

    def _after_a_pause(self, key: str, work: Callable[[str], None], path: str) -> asyncio.TimerHandle:
        """The pause of each key grows until it has been forgotten."""
        before = self._timers.pop(key, None)
        if before is not None:
            before.cancel()
        pause = self._pauses.get(key, FIRST_PAUSE)
        self._pauses[key] = min(2 * pause, LAST_PAUSE)
        return asyncio.get_running_loop().call_later(pause, work, path)


async def _expand(nodes: StoreOperations, template: Template) -> list[str]:
    """Every path that fits, as far as its parameters go: what stands behind the last of them need not be there."""
    paths = [""]
    for wanted in template.elements:
        if Template((wanted,)).parameters:
            paths = [f"{path}/{name}" for path in paths for name in await nodes.list(path or "/") or ()]
        else:
            paths = [f"{path}/{wanted}" for path in paths]
    return paths


async def _beside(nodes: StoreOperations, path: str, beside: RelatedNode, writers: list[Permissions]) -> Found:
    """What stands beside the node; `writers` gets the permissions of each node that is told."""
    parent = path.rpartition("/")[0]
    start = parent if beside.path == "." else f"{parent}/{beside.path}"
    if not beside.tree:
        value, permissions = await asyncio.gather(nodes.read(start), nodes.permissions(start))
        writers += [permissions] if permissions is not None else []
        return value
    found: dict[str, bytes] = {}
    waiting = [start]
    while waiting and len(found) <= MAX_TREE:
        here = waiting.pop()
        value, names, permissions = await asyncio.gather(nodes.read(here), nodes.list(here), nodes.permissions(here))
        below = names or []
        waiting += [f"{here}/{name}" for name in below]
        if value is not None and here not in (start, path) and (value or not below):
            found[here.removeprefix(f"{start}/")] = value
            writers += [permissions] if permissions is not None else []
    return found


def _told(fault: Fault) -> str:
    """For the log: what the service says may repeat what a guest wrote, and only its name for the error is told."""
    if fault.code in NOT_EXECUTED | UNKNOWN:
        return fault.message
    return f"{fault.code.value} {fault.name}".rstrip()


def _fits(content: Content) -> bool:
    """Whether it is not too much to tell."""
    trees = [found for found in content.beside.values() if not isinstance(found, bytes | None)]
    values = [content.value, *(value for tree in trees for value in tree.values())]
    values += [found for found in content.beside.values() if isinstance(found, bytes)]
    return all(len(tree) <= MAX_TREE for tree in trees) and all(len(value) <= MAX_VALUE for value in values)
