"""Requests to one legacy service over xenstore, as squeezed took them: nodes written below its root, nodes read back.

A request is a node `<root>/rpc/request/<function>/<id>` with its arguments below, written in one transaction; the
answer appears at `<root>/rpc/response/<function>/<id>`, as a whole too. Both are removed by who asked. `<root>/pid` is
the process that serves; it must live on this host. Knows nodes as the codec packs them, and no meaning of a value.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Coroutine, Sequence
from typing import Any

from adapters.limits import ConcurrencyLimiter
from adapters.xenstore.client.client import StoreError, StoreLostError, XenstoreClient
from adapters.xenstore.client.operations import StoreOperations, Transaction
from adapters.xenstore.client.wire import lasts
from gateway.core import interfaces
from gateway.core.admin.status import UpstreamStatus
from gateway.core.interfaces import Wanted, always
from gateway.core.rpc.model import Answer, Fault, FaultCode, RequestMetadata
from gateway.core.xenstore.paths import pack, unpack

SCHEME = "xenstore:"
CONTENT_TYPE = "application/x-xenstore-nodes"
MOST = 64  # requests at a time
REFUSED_PAUSE = 0.2  # seconds before an answer is read again that the store would not show
NOTHING = "nothing was executed"

Pair = tuple[str, bytes]  # path below the request or answer, value


class XenstoreUpstreamConnection(interfaces.UpstreamConnection):
    """One legacy service behind a node. `checks_pid`: whether it must be alive for a request to be written."""

    def __init__(
        self,
        name: str,
        root: str,
        store: XenstoreClient,
        *,
        most: int = MOST,
        waiting: int = MOST,
        checks_pid: bool = True,
    ) -> None:
        self.name = name
        self._root = root
        self._store = store
        self._limiter = ConcurrencyLimiter(most, waiting)
        self._checks_pid = checks_pid
        self._asked = 0
        self._retired = False
        self._tasks: set[asyncio.Task[None]] = set()  # what is left to do when nobody waits any more
        self._last_error = ""

    async def start(self) -> None:
        """Begin to connect to the store."""
        await self._store.start()

    async def stop(self) -> None:
        """Tidy up, close."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._store.stop()

    def retire(self) -> None:
        """Leave the store when the calls in flight have ended."""
        self._retired = True
        self._leave_when_idle()

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for an answer."""
        return not self._asked

    def status(self) -> UpstreamStatus:
        """How it is doing; the store is its one connection."""
        url = f"{SCHEME}{self._root}"
        return UpstreamStatus(
            self.name, url, self._asked, self._limiter.waiting, int(self._store.connected), self._last_error
        )

    async def send(
        self,
        body: bytes,
        carried: RequestMetadata,  # noqa: ARG002
        *,
        repeatable: bool = False,  # noqa: ARG002
        wanted: Wanted = always,
    ) -> Answer | Fault:
        """Write one request, wait for its answer."""
        if self._limiter.is_full:
            return Fault(
                FaultCode.BUSY, f"the legacy service '{self.name}' has {self._asked} calls in flight; {NOTHING}"
            )
        self._asked += 1
        try:
            if not await self._limiter.acquire(wanted):
                text = f"the mode changed while the call waited for the legacy service '{self.name}'; {NOTHING}"
                return Fault(FaultCode.BUSY, text)
            try:
                return await self._ask(body)
            finally:
                self._limiter.release()
        finally:
            self._asked -= 1
            self._leave_when_idle()

    def review(self) -> None:
        """See ports.Line."""
        self._limiter.review()

    async def _ask(self, body: bytes) -> Answer | Fault:
        method, *items = unpack(body)
        pairs = [(path.decode("ascii"), value) for path, value in zip(items[::2], items[1::2], strict=True)]
        identity = str(uuid.uuid4())
        request = f"{self._root}/rpc/request/{method.decode('ascii')}/{identity}"
        response = f"{self._root}/rpc/response/{method.decode('ascii')}/{identity}"
        try:
            return await self._written(request, pairs) or await self._answer(response)
        finally:
            self._later(self._tidy(request, response))

    async def _written(self, request: str, pairs: Sequence[Pair]) -> Fault | None:
        """Write a request, all of it at once; a fault when it was not, or nobody knows."""
        whole = False

        async def write(nodes: Transaction) -> None:
            nonlocal whole
            await nodes.mkdir(request)
            for path, value in pairs:
                await nodes.write(f"{request}/{path}" if path else request, value)
            whole = True

        try:
            if self._checks_pid and not _lives(await self._store.read(f"{self._root}/pid")):
                return self._fault(FaultCode.UNAVAILABLE, "is not registered in the store")
            await self._store.transaction(write)
        except StoreLostError as error:
            if whole and error.sent:
                return self._fault(FaultCode.NO_REPLY, "may have been asked", "the store went away meanwhile")
            return self._fault(FaultCode.UNAVAILABLE, "cannot be reached: the store is away")
        except StoreError as error:
            return self._fault(FaultCode.UNAVAILABLE, f"cannot be asked: the store says {error.name}")
        return None

    async def _answer(self, response: str) -> Answer | Fault:
        """Wait for the answer. A store that is away for a moment may bring it back with it."""
        watch = self._store.watch(response)
        try:
            async for _ in watch:
                nodes = await self._read(response)
                if nodes is not None:
                    items = [item for path, value in nodes for item in (path.encode(), value)]
                    return Answer(pack(items), CONTENT_TYPE)
            why = "was asked, and the gateway waits no more"
        except StoreError as error:
            why = f"was asked, and the store says {error.name} where its answer is"
        finally:
            watch.close()
        return self._fault(FaultCode.NO_REPLY, why, "whether it was executed is unknown")

    async def _read(self, response: str) -> list[Pair] | None:
        while True:
            try:
                return await _tree(self._store, response)
            except StoreLostError:
                await self._store.until_connected()
            except StoreError as error:  # the answer stands there: it is read when the store lets us
                if lasts(error):
                    raise
                self._last_error = str(error)
                await asyncio.sleep(REFUSED_PAUSE)

    async def _tidy(self, request: str, response: str) -> None:
        try:
            await self._store.remove(request)
            await self._store.remove(response)
        except (StoreLostError, StoreError) as error:
            self._last_error = f"nodes of a request are left behind: {error}"

    def _leave_when_idle(self) -> None:
        if self._retired and not self._asked:
            self._later(self._store.stop())

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _fault(self, code: FaultCode, why: str, so: str = NOTHING) -> Fault:
        self._last_error = why
        return Fault(code, f"the legacy service '{self.name}' {why}; {so}")


async def _tree(nodes: StoreOperations, path: str, below: str = "") -> list[Pair] | None:
    """A node's value and all below it; None when there is no such node. The codec refuses one with both."""
    value, names = await asyncio.gather(nodes.read(path), nodes.list(path))
    if value is None or names is None:
        return None
    if not names:
        return [(below, value)] if below or value else []  # an answer without nodes and without a value is nothing
    found: list[Pair] = [(below, value)] if value else []
    for name in names:
        found += await _tree(nodes, f"{path}/{name}", f"{below}/{name}" if below else name) or []
    return found


def _lives(pid: bytes | None) -> bool:
    """Whether the process of this number is there; one that we may not signal is."""
    try:
        os.kill(int(pid or b""), 0)
    except (ValueError, ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
