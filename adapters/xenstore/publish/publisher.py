"""Publishes nodes in one store and runs its watch triggers.

The nodes of one set are written in one transaction, and only those that differ. They are compared again after each new
connection, since the store may have forgotten them. A node with a trigger is left alone until the trigger has processed
its content. Writing has a task of its own, and so has each trigger.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import NamedTuple

from adapters.xenstore.client.client import Permissions, StoreError, StoreLostError, Transaction, Watch, XenstoreClient
from adapters.xenstore.publish import watch_trigger
from adapters.xenstore.publish.watch_trigger import FireTrigger, XenstoreTrigger
from gateway.core import interfaces
from gateway.core.routing.publication import Grants, NodeSet, WatchTrigger, digest

CONNECTION_WATCH = "/tool/xcp-gateway/connections"  # a node that does not exist: its watch reports only new connections
MAX_NODE_SETS = 50_000
FIRST_PAUSE, LAST_PAUSE = 0.05, 5.0  # seconds before refused nodes are written again
MAX_AWAITED = 1000  # domains that do not exist yet, each with a watch

log = logging.getLogger(__name__)


class _Awaited(NamedTuple):
    """Node sets that wait for a domain, and the watch that reports the domain."""

    keys: set[str]
    watch: Watch


class XenstorePublisher(interfaces.NodePublisher):
    """Publishes nodes and runs triggers between `start` and `stop`.

    `fire` makes a call; `on_fired` is called with the key of the node set whose node has fired.
    """

    def __init__(self, store: XenstoreClient, fire: FireTrigger, on_fired: Callable[[str], object]) -> None:
        self._store = store
        self._fire = fire
        self._on_fired = on_fired
        self._node_sets: OrderedDict[str, NodeSet] = OrderedDict()
        self._keys: dict[str, str] = {}  # path of a leaf -> key
        self._due: dict[str, None] = {}
        self._pauses: dict[str, float] = {}  # seconds, of node sets that the store refused
        self._there: set[str] = set()  # domains that existed over this connection
        self._awaited: dict[str, _Awaited] = {}  # by domain that does not exist yet
        self._more = asyncio.Event()
        self._triggers: dict[str, XenstoreTrigger] = {}  # by fingerprint
        self._tasks: dict[str, asyncio.Task[None]] = {}  # by fingerprint; that of the writer under ""
        self._leaving: dict[asyncio.Task[None], XenstoreTrigger] = {}  # unregistered, with calls in progress
        self.written = 0  # nodes

    def start(self) -> None:
        """Begin to write."""
        self._begin("", self._write_all())

    async def stop(self, grace: float = 0.0) -> int:
        """Stop writing and firing; calls in progress have `grace` seconds. Returns how many triggers were cut off."""
        writer = self._tasks.pop("", None)
        if writer is not None:
            writer.cancel()
        for watcher in self._triggers.values():
            watcher.close()
        self._triggers.clear()
        running = {*self._tasks.values(), *self._leaving}
        late = (await asyncio.wait(running, timeout=grace))[1] if running else set()
        for task in late:
            task.cancel()
        tasks = {*late, *([writer] if writer is not None else [])}
        if tasks:
            await asyncio.wait(tasks)
        return len(late)

    def show(self, key: str, node_set: NodeSet) -> None:
        """Write these nodes, and keep them so. Nodes of the key's previous set that are not in this one stay."""
        self.forget(key)
        self._node_sets[key] = node_set
        self._keys.update(dict.fromkeys(node_set.leaves, key))
        if len(self._node_sets) > MAX_NODE_SETS:
            self.forget(next(iter(self._node_sets)))
        self._check(key)

    def forget(self, key: str) -> None:
        """Stop writing the nodes of a key; the nodes stay as they are."""
        node_set = self._node_sets.pop(key, None)
        self._due.pop(key, None)
        self._pauses.pop(key, None)
        if node_set is None:
            return
        for path in node_set.leaves:
            if self._keys.get(path) == key:
                del self._keys[path]
        self._stop_waiting(key, node_set.domain)

    def register(self, trigger: WatchTrigger) -> None:
        """Call the trigger's method when one of its nodes changes."""
        watcher = XenstoreTrigger(trigger, self._store, self._fire, self._after_fire)
        before = [task for task, left in self._leaving.items() if left.node == watcher.node]
        self._triggers[trigger.fingerprint] = watcher
        self._begin(trigger.fingerprint, _after(before, watcher.run))

    def unregister(self, trigger: WatchTrigger) -> None:
        """Fire no more. Calls in progress end before a new trigger of the same node starts."""
        watcher = self._triggers.pop(trigger.fingerprint, None)
        task = self._tasks.pop(trigger.fingerprint, None)
        if watcher is not None and task is not None:
            watcher.close()
            self._leaving[task] = watcher
            task.add_done_callback(self._leaving.pop)

    def _begin(self, key: str, work: Coroutine[object, object, None]) -> None:
        self._tasks[key] = asyncio.get_running_loop().create_task(_run(work))

    def _after_fire(self, path: str) -> None:
        key = self._keys.get(path)
        if key is not None:
            self._on_fired(key)

    # Writing

    def _check(self, key: str) -> None:
        """Compare the nodes of a key with the store, and write those that differ."""
        if key in self._node_sets:
            self._due[key] = None
            self._more.set()

    async def _write_all(self) -> None:
        """Write until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_connections())
            while True:
                await self._more.wait()
                await self._store.until_connected()
                if self._due:
                    await self._write_next(tasks)
                else:
                    self._more.clear()

    async def _follow_connections(self) -> None:
        """After a new connection compare everything: the store may have forgotten all nodes."""
        async for _ in self._store.watch(CONNECTION_WATCH):
            self._there.clear()
            self._due = dict.fromkeys(self._node_sets)
            self._more.set()

    async def _write_next(self, tasks: asyncio.TaskGroup) -> None:
        """Write one node set. Wait for its domain if that does not exist yet; forget the nodes of one that has gone."""
        key = next(iter(self._due))
        del self._due[key]
        node_set = self._node_sets[key]
        domain = node_set.domain
        try:
            is_there = await self._store.transaction(lambda transaction: self._write(transaction, key, node_set))
        except StoreLostError:
            self._check(key)  # it may be forgotten meanwhile
            return
        except StoreError as error:
            log.warning("nodes cannot be published: %s", error)
            if not error.is_permanent:
                pause = self._pauses.get(key, FIRST_PAUSE)
                self._pauses[key] = min(2 * pause, LAST_PAUSE)
                asyncio.get_running_loop().call_later(pause, self._check, key)
            return
        self._pauses.pop(key, None)
        if self._node_sets.get(key) is not node_set or not domain:
            return
        if is_there:
            self._there.add(domain)
            self._stop_waiting(key, domain)
        elif domain in self._there:
            self.forget(key)
        elif domain in self._awaited:
            self._awaited[domain].keys.add(key)
        elif len(self._awaited) < MAX_AWAITED:
            self._awaited[domain] = _Awaited({key}, self._store.watch(domain))
            tasks.create_task(self._watch_domain(self._awaited[domain]))

    async def _watch_domain(self, awaited: _Awaited) -> None:
        """Check the waiting node sets whenever the domain's node may have been created."""
        try:
            async for _ in awaited.watch:
                for key in awaited.keys:
                    self._check(key)
        except StoreError as error:
            log.warning("a domain that does not exist yet cannot be watched: %s", error)

    def _stop_waiting(self, key: str, domain: str) -> None:
        awaited = self._awaited.get(domain)
        if awaited is None:
            return
        awaited.keys.discard(key)
        if not awaited.keys:
            del self._awaited[domain]
            awaited.watch.close()

    async def _write(self, nodes: Transaction, key: str, node_set: NodeSet) -> bool:
        """Write a node set unless it was replaced meanwhile. False, and nothing is written, without its domain."""
        if self._node_sets.get(key) is not node_set:
            return True
        if node_set.domain and await nodes.read(node_set.domain) is None:
            return False
        for path, value in sorted(node_set.leaves.items()):  # ancestors first: writing one may remove its descendants
            await self._write_leaf(nodes, key, node_set, path, value)
        return True

    async def _write_leaf(
        self, nodes: Transaction, key: str, node_set: NodeSet, path: str, value: bytes | None
    ) -> None:
        now, grants = await nodes.read(path), node_set.grants
        if any(watcher.is_at(path) for watcher in self._triggers.values()):
            known = await watch_trigger.read_processed(nodes, path)
            if now is not None and known != (digest(now), ""):
                return  # its trigger has not processed this content
            if self._node_sets.get(key) is not node_set:
                return  # an old value would count as processed: a client that writes the same would not be heard
            wanted = "" if value is None else digest(value)
            if known.digest != wanted:  # our content fires no trigger
                await watch_trigger.mark_processed(nodes, path, wanted)
        if value is None:
            if now is not None:
                await nodes.remove(path)
                self.written += 1
            return
        anew = bool(grants) and await nodes.permissions(path) != _permissions(grants)
        if now is not None and anew:  # it may belong to another domain, as may the nodes below it
            await nodes.remove(path)
        if now != value or anew:
            await nodes.write(path, value)
            self.written += 1
        if anew:
            await nodes.set_permissions(path, _permissions(grants))


def _permissions(grants: Grants) -> Permissions:
    (others, owner), *rest = grants
    return Permissions(owner, others, tuple((domid, letter) for letter, domid in rest))


async def _after(tasks: Collection[asyncio.Task[None]], work: Callable[[], Awaitable[None]]) -> None:
    if tasks:
        await asyncio.wait(tasks)
    await work()


async def _run(work: Coroutine[object, object, None]) -> None:
    """A bug is logged and ends only this work."""
    try:
        await work
    except* StoreError as errors:
        log.warning("the store refuses a watch: %s", errors.exceptions)
    except* Exception:
        log.exception("a bug ended a task of the publisher")
