"""A connection to a legacy service that takes requests over xenstore, as squeezed did (style `tree`).

A request is a node ROOT/rpc/request/FUNCTION/ID with its arguments below it, written in one transaction. The response
appears as a whole at ROOT/rpc/response/FUNCTION/ID. The caller removes both. ROOT/pid holds the process id of the
service, which runs on this host.

Failure semantics. Before the transaction was sent the call was not executed (UNAVAILABLE, BUSY). After that its outcome
is unknown until the response is there (NO_REPLY).
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
from gateway.core import interfaces
from gateway.core.admin.status import UpstreamStatus
from gateway.core.interfaces import Wanted, always
from gateway.core.rpc.model import Answer, Fault, FaultCode, RequestMetadata
from gateway.core.xenstore.paths import pack, unpack

SCHEME = "xenstore:"
CONTENT_TYPE = "application/x-xenstore-nodes"
MAX_CALLS = 64  # in flight, and as many waiting
REFUSED_PAUSE = 0.2  # seconds before a response is read again that the store refused to show
NOTHING = "nothing was executed"

Pair = tuple[str, bytes]  # path below the request or answer, value


class XenstoreUpstreamConnection(interfaces.UpstreamConnection):
    """One legacy service below the node `root`.

    `checks_pid`: send only while the process ROOT/pid is alive. `most`: calls in flight; `waiting`: calls in line.
    """

    def __init__(
        self,
        name: str,
        root: str,
        store: XenstoreClient,
        *,
        most: int = MAX_CALLS,
        waiting: int = MAX_CALLS,
        checks_pid: bool = True,
    ) -> None:
        self.name = name
        self._root = root
        self._store = store
        self._limiter = ConcurrencyLimiter(most, waiting)
        self._checks_pid = checks_pid
        self._in_flight = 0
        self._retired = False
        self._tasks: set[asyncio.Task[None]] = set()  # removals, and the end of a retired store client
        self._last_error = ""

    async def start(self) -> None:
        """Begin to connect to the store."""
        await self._store.start()

    async def stop(self) -> None:
        """Finish removals and disconnect from the store."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._store.stop()

    def retire(self) -> None:
        """Disconnect from the store when the calls in flight have ended."""
        self._retired = True
        self._leave_when_idle()

    @property
    def is_idle(self) -> bool:
        """Whether no call is in flight."""
        return not self._in_flight

    def status(self) -> UpstreamStatus:
        """The state for an operator. The store counts as the one connection."""
        url = f"{SCHEME}{self._root}"
        return UpstreamStatus(
            self.name, url, self._in_flight, self._limiter.waiting, int(self._store.connected), self._last_error
        )

    async def probe(self) -> str:
        """Look for the service in the store; see UpstreamConnection."""
        if not self._store.connected:
            return "the store is not connected"
        try:
            found = await self._store.read(f"{self._root}/pid") if self._checks_pid else b""
        except (StoreError, StoreLostError) as error:
            return f"the store cannot be read: {error}"
        return "" if not self._checks_pid or _is_alive(found) else "it is not registered in the store"

    async def send(
        self,
        body: bytes,
        carried: RequestMetadata,  # noqa: ARG002
        *,
        repeatable: bool = False,  # noqa: ARG002
        wanted: Wanted = always,
    ) -> Answer | Fault:
        """Write one request and wait for its response."""
        if self._limiter.is_full:
            return Fault(
                FaultCode.BUSY, f"the legacy service '{self.name}' has {self._in_flight} calls in flight; {NOTHING}"
            )
        self._in_flight += 1
        try:
            if not await self._limiter.acquire(wanted):
                text = f"the mode changed while the call waited for the legacy service '{self.name}'; {NOTHING}"
                return Fault(FaultCode.BUSY, text)
            try:
                return await self._call(body)
            finally:
                self._limiter.release()
        finally:
            self._in_flight -= 1
            self._leave_when_idle()

    def review(self) -> None:
        """Give up calls that wait and are not wanted any more (interfaces.UpstreamConnection)."""
        self._limiter.review()

    async def _call(self, body: bytes) -> Answer | Fault:
        method, *items = unpack(body)
        pairs = [(path.decode("ascii"), value) for path, value in zip(items[::2], items[1::2], strict=True)]
        identity = str(uuid.uuid4())
        request = f"{self._root}/rpc/request/{method.decode('ascii')}/{identity}"
        response = f"{self._root}/rpc/response/{method.decode('ascii')}/{identity}"
        try:
            return await self._write(request, pairs) or await self._receive(response)
        finally:
            self._later(self._remove(request, response))

    async def _write(self, request: str, pairs: Sequence[Pair]) -> Fault | None:
        """Write a request in one transaction. A fault when it was not written, or when that is unknown."""
        whole = False

        async def write(nodes: Transaction) -> None:
            nonlocal whole
            await nodes.mkdir(request)
            for path, value in pairs:
                await nodes.write(f"{request}/{path}" if path else request, value)
            whole = True

        try:
            if self._checks_pid and not _is_alive(await self._store.read(f"{self._root}/pid")):
                return self._fault(FaultCode.UNAVAILABLE, "is not registered in the store")
            await self._store.transaction(write)
        except StoreLostError as error:
            if whole and error.sent:
                return self._fault(FaultCode.NO_REPLY, "may have been asked", "the store went away meanwhile")
            return self._fault(FaultCode.UNAVAILABLE, "cannot be reached: the store is away")
        except StoreError as error:
            return self._fault(FaultCode.UNAVAILABLE, f"cannot be asked: the store refuses the request ({error.name})")
        return None

    async def _receive(self, response: str) -> Answer | Fault:
        """Wait for the response. A store that was away for a moment may still have it."""
        watch = self._store.watch(response)
        try:
            async for _ in watch:
                nodes = await self._read(response)
                if nodes is not None:
                    items = [item for path, value in nodes for item in (path.encode(), value)]
                    return Answer(pack(items), CONTENT_TYPE)
            why = "was asked, and the gateway stopped waiting"
        except StoreError as error:
            why = f"was asked, and the store refuses to show its answer ({error.name})"
        finally:
            watch.close()
        return self._fault(FaultCode.NO_REPLY, why, "whether it was executed is unknown")

    async def _read(self, response: str) -> list[Pair] | None:
        while True:
            try:
                return await _tree(self._store, response)
            except StoreLostError:
                await self._store.until_connected()
            except StoreError as error:  # the response exists: read it when the store permits
                if error.is_permanent:
                    raise
                self._last_error = str(error)
                await asyncio.sleep(REFUSED_PAUSE)

    async def _remove(self, request: str, response: str) -> None:
        try:
            await self._store.remove(request)
            await self._store.remove(response)
        except (StoreLostError, StoreError) as error:
            self._last_error = f"the nodes of a request cannot be removed: {error}"

    def _leave_when_idle(self) -> None:
        if self._retired and not self._in_flight:
            self._later(self._store.stop())

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _fault(self, code: FaultCode, why: str, executed: str = NOTHING) -> Fault:
        self._last_error = why
        return Fault(code, f"the legacy service '{self.name}' {why}; {executed}")


async def _tree(nodes: StoreOperations, path: str, below: str = "") -> list[Pair] | None:
    """The values of a node and its descendants; None when the node does not exist."""
    value, names = await asyncio.gather(nodes.read(path), nodes.list(path))
    if value is None or names is None:
        return None
    if not names:
        return [(below, value)] if below or value else []  # an empty response is the empty answer
    found: list[Pair] = [(below, value)] if value else []
    for name in names:
        found += await _tree(nodes, f"{path}/{name}", f"{below}/{name}" if below else name) or []
    return found


def _is_alive(pid: bytes | None) -> bool:
    """Whether a process with this number exists; one that may not be signalled does."""
    try:
        os.kill(int(pid or b""), 0)
    except (ValueError, ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
