"""What one store shows and where it rings: its mirror and its triggers, each with a task; knows no D-Bus."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import NamedTuple

from adapters.xenstore.client.client import Permissions, StoreError, StoreLostError, Transaction, Watch, XenstoreClient
from adapters.xenstore.client.wire import is_permanent
from adapters.xenstore.publish import watch_trigger
from adapters.xenstore.publish.watch_trigger import FireTrigger, XenstoreTrigger
from gateway.core import interfaces
from gateway.core.routing.publication import Grants, NodeSet, WatchTrigger, digest

# Keeps nodes of a store as they were last shown; knows no D-Bus.
#
# What belongs together is written in one transaction, only what differs, and again when the store comes back. A node
# with a trigger is left alone as long as its content was not rung.


WATCHED = "/tool/xcp-gateway/mirror"  # nobody writes it: its watch tells of a new connection, and of nothing else
MAX_NODE_SETS = 50_000
FIRST_PAUSE, LAST_PAUSE = 0.05, 5.0  # seconds before what the store has refused is written again
MAX_AWAITED = 1000  # domains that are not there yet, each with a watch


class _Awaited(NamedTuple):
    """Pictures that wait for a domain, and what will tell that it has come."""

    keys: set[str]
    watch: Watch


class NodeWriter:
    """The pictures of one store, by keys of whoever shows them. `run` writes."""

    def __init__(self, store: XenstoreClient, has_bell: Callable[[str], bool]) -> None:
        self._store = store
        self._has_bell = has_bell
        self._pictures: OrderedDict[str, NodeSet] = OrderedDict()
        self._keys: dict[str, str] = {}  # path of a leaf -> key
        self._due: dict[str, None] = {}
        self._pauses: dict[str, float] = {}  # of pictures that the store refused
        self._there: set[str] = set()  # domains that were found there over this connection
        self._awaited: dict[str, _Awaited] = {}  # domains that are not there yet
        self._more = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None
        self.written = 0  # nodes

    def show(self, key: str, picture: NodeSet) -> None:
        """These nodes from now on; those of the key's picture before stay as they are."""
        self.forget(key)
        self._pictures[key] = picture
        self._keys.update(dict.fromkeys(picture.leaves, key))
        if len(self._pictures) > MAX_NODE_SETS:
            self.forget(next(iter(self._pictures)))
        self.again(key)

    def forget(self, key: str) -> None:
        """Write them no more; the nodes stay as they are."""
        picture = self._pictures.pop(key, None)
        self._due.pop(key, None)
        self._pauses.pop(key, None)
        if picture is None:
            return
        for path in picture.leaves:
            if self._keys.get(path) == key:
                del self._keys[path]
        self._await_no_more(key, picture.domain)

    def again(self, key: str) -> None:
        """Look whether the nodes are as they should be."""
        if key in self._pictures:
            self._due[key] = None
            self._more.set()

    def key_of(self, path: str) -> str | None:
        """Whose picture has this node."""
        return self._keys.get(path)

    async def run(self) -> None:
        """Write, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            tasks.create_task(self._follow_connections())
            while True:
                await self._more.wait()
                await self._store.until_connected()
                await self._write_next()

    async def _follow_connections(self) -> None:
        """A new connection may lead to a store that has forgotten everything."""
        async for _ in self._store.watch(WATCHED):
            self._there.clear()
            self._due = dict.fromkeys(self._pictures)
            self._more.set()

    async def _write_next(self) -> None:
        key = next(iter(self._due), None)
        if key is None:
            self._more.clear()
            return
        del self._due[key]
        picture = self._pictures[key]
        try:
            is_there = await self._store.transaction(lambda transaction: self._write(transaction, key, picture))
        except StoreLostError:
            self._due[key] = None  # and everything else, with the next connection
        except StoreError as error:
            log.warning("not published: %s", error)
            if not is_permanent(error):
                self._try_later(key)
        else:
            self._pauses.pop(key, None)
            if self._pictures.get(key) is picture:
                self._note(key, picture.domain, is_there=is_there)

    def _try_later(self, key: str) -> None:
        """After a while, with whatever is to be shown then."""
        pause = self._pauses.get(key, FIRST_PAUSE)
        self._pauses[key] = min(2 * pause, LAST_PAUSE)
        asyncio.get_running_loop().call_later(pause, self.again, key)

    def _note(self, key: str, domain: str, *, is_there: bool) -> None:
        """A domain that is not there yet is waited for; one that was there is gone for good."""
        if not domain:
            return
        if is_there:
            self._there.add(domain)
            self._await_no_more(key, domain)
        elif domain in self._there:
            self.forget(key)
        elif domain in self._awaited:
            self._awaited[domain].keys.add(key)
        elif len(self._awaited) < MAX_AWAITED and self._tasks is not None:
            self._awaited[domain] = _Awaited({key}, self._store.watch(domain))
            self._tasks.create_task(self._await(self._awaited[domain]))

    async def _await(self, awaited: _Awaited) -> None:
        """Look again whenever the domain's node may have come."""
        try:
            async for _ in awaited.watch:
                for key in awaited.keys:
                    self.again(key)
        except StoreError as error:
            log.warning("cannot wait for a domain: %s", error)

    def _await_no_more(self, key: str, domain: str) -> None:
        awaited = self._awaited.get(domain)
        if awaited is None:
            return
        awaited.keys.discard(key)
        if not awaited.keys:
            del self._awaited[domain]
            awaited.watch.close()

    async def _write(self, nodes: Transaction, key: str, picture: NodeSet) -> bool:
        """Whether the picture's domain is there; if not, nothing was written. Nor is what is out of date meanwhile."""
        if self._pictures.get(key) is not picture:
            return True
        if picture.domain and await nodes.read(picture.domain) is None:
            return False
        for path, value in sorted(picture.leaves.items()):  # what stands above first: it may be made anew
            await self._write_leaf(nodes, path, value, picture.grants)
        return True

    async def _write_leaf(self, nodes: Transaction, path: str, value: bytes | None, grants: Grants) -> None:
        now = await nodes.read(path)
        if self._has_bell(path) and not await _may_write(nodes, path, now, value):
            return
        if value is None:
            if now is not None:
                await nodes.remove(path)
                self.written += 1
            return
        anew = bool(grants) and await nodes.permissions(path) != _permissions(grants)
        if now is not None and anew:  # somebody else's, perhaps, and whatever stands below it
            await nodes.remove(path)
        if now != value or anew:
            await nodes.write(path, value)
            self.written += 1
        if anew:
            await nodes.set_permissions(path, _permissions(grants))


async def _may_write(nodes: Transaction, path: str, now: bytes | None, value: bytes | None) -> bool:
    """Whether the node's content was rung, so that ours may stand there, which is settled with that."""
    known = await watch_trigger.read_processed(nodes, path)
    if now is not None and (known.ringing or known.digest != digest(now)):
        return False
    wanted = "" if value is None else digest(value)
    if known.digest != wanted:
        await watch_trigger.mark_processed(nodes, path, wanted)
    return True


def _permissions(grants: Grants) -> Permissions:
    (others, owner), *rest = grants
    return Permissions(owner, others, tuple((domid, letter) for letter, domid in rest))


log = logging.getLogger(__name__)


class XenstorePublisher(interfaces.NodePublisher):
    """Between `start` and `stop`. `ring` makes a call, `on_rung` is told which picture to look at after one."""

    def __init__(self, store: XenstoreClient, ring: FireTrigger, on_rung: Callable[[str], object]) -> None:
        self._store = store
        self._ring = ring
        self._on_rung = on_rung
        self._mirror = NodeWriter(store, self._has_bell)
        self._bells: dict[str, XenstoreTrigger] = {}  # by fingerprint
        self._tasks: dict[str, asyncio.Task[None]] = {}  # the same, and that of the mirror under ""
        self._leaving: dict[asyncio.Task[None], XenstoreTrigger] = {}  # taken down, and still ringing

    @property
    def written(self) -> int:
        """How many nodes were written."""
        return self._mirror.written

    def start(self) -> None:
        """Begin to write."""
        self._begin("", self._mirror.run())

    async def stop(self, grace: float = 0.0) -> int:
        """Write no more, ring no more; what is being rung has `grace` seconds. Returns how many bells were cut off."""
        mirror = self._tasks.pop("", None)
        if mirror is not None:
            mirror.cancel()
        for bell in self._bells.values():
            bell.close()
        self._bells.clear()
        ringing = {*self._tasks.values(), *self._leaving}
        late = (await asyncio.wait(ringing, timeout=grace))[1] if ringing else set()
        for task in late:
            task.cancel()
        tasks = {*late, *([mirror] if mirror is not None else [])}
        if tasks:
            await asyncio.wait(tasks)
        return len(late)

    def show(self, key: str, picture: NodeSet) -> None:
        """These nodes from now on, in place of those of the same key."""
        self._mirror.show(key, picture)

    def forget(self, key: str) -> None:
        """Show them no more; the nodes stay as they are."""
        self._mirror.forget(key)

    def register(self, trigger: WatchTrigger) -> None:
        """Ring when one of its nodes changes."""
        bell = XenstoreTrigger(trigger, self._store, self._ring, self._rung)
        before = [task for task, left in self._leaving.items() if left.node == bell.node]
        self._bells[trigger.fingerprint] = bell
        self._begin(trigger.fingerprint, _after(before, bell.run))

    def unregister(self, trigger: WatchTrigger) -> None:
        """Ring no more; what is being rung is still rung, and only then another bell hangs at the same node."""
        bell = self._bells.pop(trigger.fingerprint, None)
        task = self._tasks.pop(trigger.fingerprint, None)
        if bell is not None and task is not None:
            bell.close()
            self._leaving[task] = bell
            task.add_done_callback(self._leaving.pop)

    def _begin(self, key: str, work: Coroutine[object, object, None]) -> None:
        self._tasks[key] = asyncio.get_running_loop().create_task(_run(work))

    def _has_bell(self, path: str) -> bool:
        return any(bell.is_at(path) for bell in self._bells.values())

    def _rung(self, path: str) -> None:
        key = self._mirror.key_of(path)
        if key is not None:
            self._on_rung(key)


async def _after(tasks: Collection[asyncio.Task[None]], work: Callable[[], Awaitable[None]]) -> None:
    if tasks:
        await asyncio.wait(tasks)
    await work()


async def _run(work: Coroutine[object, object, None]) -> None:
    """A bug ends this work, is told, and harms nothing else."""
    try:
        await work
    except* StoreError as errors:
        log.warning("the store refuses a watch: %s", errors.exceptions)
    except* Exception:
        log.exception("a bug ended this work")
