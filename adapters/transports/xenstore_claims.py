"""What is written down about requests in a subtree that is domain 0's alone; knows no style.

Claims: what is written before a write is executed, so that nobody executes it again after a crash.

A claim is named after the request's node. It is removed in the very transaction that writes the answer. There are many
folders, since whoever changes one gets in the way of all transactions that do.

Answers: which nodes an answer has left among those of others, so that the next one replaces it whole.
"""

from __future__ import annotations

import asyncio
import hashlib

from adapters.transports.xenstore_nodes import Nodes
from adapters.transports.xenstore_packets import Permissions
from adapters.transports.xenstore_store import Store

OURS = "/tool/xcp-gateway"
CLAIMS = f"{OURS}/claims"
ANSWERS = f"{OURS}/answers"


def claim_of(node: str) -> str:
    """Where the claim on a request stands: of one length, whatever the request is called."""
    return _record(CLAIMS, node)


def answer_of(node: str) -> str:
    """Where it is written down which nodes the last answer to this one has left beside it."""
    return _record(ANSWERS, node)


def _record(root: str, node: str) -> str:
    name = hashlib.sha256(node.encode()).hexdigest()[:40]
    return f"{root}/{name[:2]}/{name[2:]}"


async def prepare(store: Store) -> None:
    """Make the subtree, and let nobody but domain 0 see it."""

    async def work(nodes: Nodes) -> None:
        for path in (OURS, CLAIMS, ANSWERS):
            await nodes.mkdir(path)
            await nodes.set_permissions(path, Permissions(0, "n"))

    await store.transaction(work)


async def claimed(store: Store) -> list[str]:
    """The nodes of all requests that are claimed."""
    folders = [f"{CLAIMS}/{name}" for name in await store.list(CLAIMS) or ()]
    lists = await asyncio.gather(*map(store.list, folders))
    paths = [f"{folder}/{name}" for folder, names in zip(folders, lists, strict=True) for name in names or ()]
    values = await asyncio.gather(*map(store.read, paths))
    return [value.decode("latin-1") for value in values if value]
