"""Hostile and broken clients: hostile bodies, half requests, answers that are not read."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from itertools import cycle

from adapters.codecs.jsonrpc import FROM_ERROR_CODE
from adapters.codecs.xmlrpc import FROM_FAULT_CODE
from gateway.core.rpc.model import FaultCode
from tests.kit.clients import Wire, connect, post
from tests.soak.story import Ledger
from tests.soak.world import CALM
from tests.unit.codecs import hostile_jsonrpc, hostile_xmlrpc

PATIENCE = 45.0  # seconds; the listener of these clients has limits of 2 s
BETWEEN = (0.02, 0.2)  # seconds between two of one kind
LARGE = 50_000  # characters of each answer that is not read

Hostile = tuple[str, bytes, FaultCode, str]


def _xml_code(body: bytes) -> FaultCode | None:
    found = re.findall(rb"faultCode</name><value><(?:int|i4)>(-?\d+)<", body)
    return FROM_FAULT_CODE.get(int(found[0])) if len(found) == 1 else None


def _json_code(body: bytes) -> FaultCode | None:
    answer = json.loads(body)
    (one,) = answer if isinstance(answer, list) else (answer,)
    return FROM_ERROR_CODE.get(one["error"]["code"])


CORPORA: Mapping[str, tuple[Sequence[Hostile], Callable[[bytes], FaultCode | None]]] = {
    "/RPC2": (hostile_xmlrpc.REFUSED, _xml_code),
    "/jsonrpc": (hostile_jsonrpc.HOSTILE, _json_code),
}


TOO_LATE = "HTTP 408"


@dataclass
class Nuisance:
    """All of them, on a listener of their own."""

    address: str
    ledger: Ledger
    seed: str

    async def run(self, over: asyncio.Event) -> None:
        """Run until the end."""
        async with asyncio.TaskGroup() as group:
            for path in CORPORA:
                group.create_task(self._hostile(path, over))
            for kind in STALLS:
                group.create_task(self._stall(kind, over))

    async def _hostile(self, path: str, over: asyncio.Event) -> None:
        """The whole corpus, round after round: each body gets its one fault."""
        chance = random.Random(f"{self.seed} {path}")
        corpus, code_in = CORPORA[path]
        for title, body, code, _ in cycle(corpus):
            if over.is_set():
                return
            got = await self._one_hostile(path, body, code_in)
            self.ledger.other[f"hostile {path}"] += 1
            if got == TOO_LATE:  # this machine stood still for the two seconds that the listener waits
                self.ledger.other[f"hostile {path}, too late"] += 1
            elif got != code:
                self.ledger.offences.append(f"hostile body '{title}' at {path}: expected {code}, got {got}")
            await asyncio.sleep(chance.uniform(*BETWEEN))

    async def _one_hostile(
        self, path: str, body: bytes, code_in: Callable[[bytes], FaultCode | None]
    ) -> FaultCode | str:
        try:
            async with connect(self.address) as wire:
                await wire.send(post(body, path))
                reply = await wire.reply(PATIENCE)
                if reply.status == HTTPStatus.REQUEST_TIMEOUT:
                    return TOO_LATE
                code = code_in(reply.body)
                return f"HTTP {reply.status}: {reply.body[:200]!r}" if code is None else code
        except (OSError, EOFError, TimeoutError, ValueError, LookupError, TypeError) as error:
            return repr(error)

    async def _stall(self, kind: str, over: asyncio.Event) -> None:
        """Stall until the gateway closes the connection."""
        chance = random.Random(f"{self.seed} {kind}")
        while not over.is_set():
            try:
                async with asyncio.timeout(PATIENCE), connect(self.address) as wire:
                    await STALLS[kind](wire)
                self.ledger.other[f"cut off: {kind}"] += 1
            except TimeoutError:
                self.ledger.offences.append(f"not cut off within {PATIENCE:g} s: {kind}")
            await asyncio.sleep(chance.uniform(*BETWEEN))


async def _half_a_head(wire: Wire) -> None:
    await wire.send(post(b"", "/RPC2")[:20])
    await _end(wire)


async def _half_a_body(wire: Wire) -> None:
    await wire.send(post(hostile_jsonrpc.call("[1]"), "/jsonrpc")[:-5])
    await _end(wire)


async def _end(wire: Wire) -> None:
    """Read until the other side closes."""
    while True:
        with suppress(TimeoutError):
            await wire.rest()
            return


async def _unread(wire: Wire) -> None:
    """Send requests and read nothing, until the answers fill every buffer."""
    body = json.dumps({"jsonrpc": "2.0", "method": f"{CALM}.read", "params": ["x" * LARGE], "id": 1}).encode()
    try:
        while True:
            await wire.send(post(body, "/jsonrpc"))
    except ConnectionError:
        return


STALLS: Mapping[str, Callable[[Wire], Awaitable[None]]] = {
    "half a head": _half_a_head,
    "half a body": _half_a_body,
    "answers that nobody reads": _unread,
}
