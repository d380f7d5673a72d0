"""A style of requests in xenstore without a store, and a client of the style `tree` as a coroutine."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from adapters.xenstore.client.client import StoreError, StoreLostError, XenstoreClient
from adapters.xenstore.client.operations import StoreOperations
from adapters.xenstore.styles import STYLES
from adapters.xenstore.styles.base import Pairs, Remove, Request, Style, WriteStep
from gateway.core.rpc.model import Fault
from gateway.core.xenstore.paths import Exposure, Match, template
from tests.kit.programs import TIMEOUT

ERROR: Pairs = [("code", b"2"), ("description", b"no")]


T = TypeVar("T")


class Tried:
    """One style on one path."""

    def __init__(self, name: str, path: str, **said: Any) -> None:
        self.style: Style = STYLES[name](Exposure(name, template(path), **said))

    def match(self, node: str) -> Match:
        """Return the match of a node at or below which something changed."""
        match = self.style.requests.match(node)
        assert match is not None, node
        return match

    def request(self, node: str, tree: Mapping[str, bytes] | None = None, **nodes: bytes) -> Request | None:
        """Return the request of the nodes below it; nodes beside it are given by their last element."""
        match = self.match(node)
        wanted = self.style.read_set(match)
        assert (tree is None) or wanted.tree == match.node
        beside = {path: nodes[name] for path in wanted.nodes if (name := path.rpartition("/")[2]) in nodes}
        assert len(beside) == len(nodes), "it wants no such node"
        inner = {path: (tree or {}).get(path.removeprefix(f"{match.node}/")) for path in wanted.nodes}
        beside.update({path: value for path, value in inner.items() if value is not None})
        asked = self.style.parse(match, beside)
        return asked if asked is None or tree is None else self.style.complete(match, asked, tree)

    def answer(self, node: str, request: Request, pairs: Pairs) -> list[tuple[str, bytes | None]]:
        """Return the written nodes in their order; None: removed."""
        steps = self.style.respond(self.match(node), request, pairs)
        assert not isinstance(steps, Fault), steps
        return shown(steps)

    def refusal(self, node: str, request: Request, pairs: Pairs) -> str:
        """Return the reason why the style cannot represent this answer."""
        fault = self.style.respond(self.match(node), request, pairs)
        assert isinstance(fault, Fault)
        return fault.message


def shown(steps: Sequence[WriteStep]) -> list[tuple[str, bytes | None]]:
    """Return steps as path and value; None: removed."""
    return [(step.path, None if isinstance(step, Remove) else step.value) for step in steps]


# The client of the style `tree`


class TreeClient:
    """One client with a connection of its own."""

    def __init__(self, store: XenstoreClient, root: str) -> None:
        self.store = store
        self._root = root

    async def call(self, function: str, key: str = "", **arguments: str) -> Mapping[str, str]:
        """Send one request and return its answer.

        When the store restarts before the answer is read, the same request is written again. Once the answer is read
        it never is: the request was executed, and the gateway forgets an answer whose request has been removed.
        """
        key = key or str(uuid.uuid4())
        request, response = (f"{self._root}/rpc/{kind}/{function}/{key}" for kind in ("request", "response"))
        async with asyncio.timeout(TIMEOUT):
            answer = await self._until_done(lambda: self._answer(request, response, arguments))
            await self._until_done(lambda: self._remove(request, response))
        return answer

    async def _until_done(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do the work, and do it again when the store went away or others changed the same nodes too often."""
        while True:
            try:
                await self.store.until_connected()
                return await work()
            except StoreLostError:
                continue
            except StoreError as error:
                if error.name != "EAGAIN":
                    raise

    async def _answer(self, request: str, response: str, arguments: Mapping[str, str]) -> Mapping[str, str]:
        """Write the request unless it is there, and wait for its answer."""
        watch = self.store.watch(response)
        try:
            await self.store.transaction(lambda nodes: _write(nodes, request, arguments))
            async for _ in watch:
                names = await self.store.list(response)
                if names is not None:
                    break
                if await self.store.read(request) is None:
                    raise StoreLostError("the store has forgotten the request", sent=False)
        finally:
            watch.close()
        values = {name: await self.store.read(f"{response}/{name}") for name in names or ()}
        if await self.store.read(response) is None:
            raise StoreLostError("the store has forgotten the answer", sent=False)
        return {name: (value or b"").decode() for name, value in values.items()}

    async def _remove(self, request: str, response: str) -> None:
        await self.store.remove(request)
        await self.store.remove(response)


async def _write(nodes: StoreOperations, request: str, arguments: Mapping[str, str]) -> None:
    await asyncio.gather(
        nodes.mkdir(request), *(nodes.write(f"{request}/{name}", value.encode()) for name, value in arguments.items())
    )
