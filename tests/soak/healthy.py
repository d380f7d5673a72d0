"""A correct client beside the nuisances, which measures the time of each of its calls.

Started as `python -m tests.soak.healthy KIND WHERE REPORT SLACK`, a process of its own, so that it measures the gateway
and not the soak; SIGTERM ends it after its last answer. Each call is a line in the report.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from http import HTTPStatus
from itertools import count
from pathlib import Path
from typing import TypeAlias

from adapters.xenstore.client.client import XenstoreClient
from adapters.xenstore.client.wire import StoreError
from tests.kit.clients import connect, post
from tests.kit.xenstore_clients import TreeClient

NAME = "healthy"  # of the service that it calls, and of itself
PATIENCE = 30.0  # seconds until a call counts as unanswered, times the slack
BETWEEN = 0.05  # seconds between two calls
NO_ANSWER = (OSError, EOFError, TimeoutError, ValueError, StoreError)
SILENT = "no answer"

Ask: TypeAlias = Callable[[str, str], Awaitable[object]]  # method, token -> the result


@dataclass(frozen=True, slots=True)
class Asked:
    """One call, as the report has it. `said`: "right", or the wrong answer; `took`: seconds."""

    token: str
    method: str
    took: float
    said: str


@asynccontextmanager
async def over_http(where: str, patience: float) -> AsyncIterator[Ask]:
    """JSON-RPC at an address; each call opens a connection, so that exhausted quotas are noticed."""

    async def ask(method: str, token: str) -> object:
        params = [token, 0] if method == "write" else [token]
        body = {"jsonrpc": "2.0", "id": 1, "method": f"{NAME}.{method}", "params": params}
        async with connect(where) as wire:
            await wire.send(post(json.dumps(body).encode(), "/jsonrpc", f"User-Agent: {NAME}-client"))
            reply = await wire.reply(patience)
        if reply.status != HTTPStatus.OK:
            return f"HTTP {reply.status}"
        answer = json.loads(reply.body)
        return _only(answer.get("result", answer.get("error")))

    yield ask


@asynccontextmanager
async def over_store(where: str, _patience: float) -> AsyncIterator[Ask]:
    """Style tree; `where` is SOCKET:ROOT."""
    path, _, root = where.rpartition(":")
    async with XenstoreClient(path) as store:
        client = TreeClient(store, root)

        async def ask(method: str, token: str) -> object:
            arguments = {"text": token} if method == "read" else {"token": token, "pause": "0"}
            return _only(await client.call(f"{NAME}@2e{method}", token, **arguments))

        yield ask


def _only(answer: object) -> object:
    """The one member of a result."""
    return next(iter(answer.values())) if isinstance(answer, Mapping) and len(answer) == 1 else answer


RIGHT: Mapping[str, Callable[[str], str]] = {"read": f"{NAME}:{{}}".format, "write": "done:{}".format}
KINDS = {"http": over_http, "guests": over_store}


async def run(kind: str, where: str, report: Path, patience: float) -> None:
    """Call until SIGTERM: a read, a write, and so on."""
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    with report.open("a", encoding="utf-8") as lines:
        async with KINDS[kind](where, patience) as ask:
            await _said(ask, "read", f"{report.stem}-0", patience)  # a connection, and all that is made once
            for number in count(1):
                token, method = f"{report.stem}-{number}", ("read", "write")[number % 2]
                began = time.monotonic()
                said = await _said(ask, method, token, patience)
                one = Asked(token, method, time.monotonic() - began, said)
                lines.write(json.dumps(asdict(one)) + "\n")
                lines.flush()
                if over.is_set():
                    return
                await asyncio.sleep(BETWEEN)


async def _said(ask: Ask, method: str, token: str, patience: float) -> str:
    try:
        async with asyncio.timeout(patience):
            told = await ask(method, token)
    except NO_ANSWER as error:
        return f"{SILENT}: {error!r}"
    return "right" if told == RIGHT[method](token) else json.dumps(told)


def read(report: Path) -> Sequence[Asked]:
    return [Asked(**json.loads(line)) for line in report.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], sys.argv[2], Path(sys.argv[3]), PATIENCE * float(sys.argv[4])))
