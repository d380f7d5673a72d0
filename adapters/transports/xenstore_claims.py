"""Claims: what is written before a write is executed, so that nobody executes it again after a crash; knows no style.

A claim stands in a subtree that is domain 0's alone and is named after the request's node. It is removed in the very
transaction that writes the answer. There are many folders, since whoever changes one gets in the way of all
transactions that do.
"""

from __future__ import annotations

import asyncio
import hashlib

from adapters.transports.xenstore_nodes import Nodes
from adapters.transports.xenstore_packets import Permissions
from adapters.transports.xenstore_store import Store

OURS = "/tool/xcp-gateway"
CLAIMS = f"{OURS}/claims"


def claim_of(node: str) -> str:
    """Where the claim on a request stands: of one length, whatever the request is called."""
    name = hashlib.sha256(node.encode()).hexdigest()[:40]
    return f"{CLAIMS}/{name[:2]}/{name[2:]}"


async def prepare(store: Store) -> None:
    """Make the subtree, and let nobody but domain 0 see it."""

    async def work(nodes: Nodes) -> None:
        await nodes.mkdir(OURS)
        await nodes.set_permissions(OURS, Permissions(0, "n"))
        await nodes.mkdir(CLAIMS)
        await nodes.set_permissions(CLAIMS, Permissions(0, "n"))

    await store.transaction(work)


async def claimed(store: Store) -> list[str]:
    """The nodes of all requests that are claimed."""
    folders = [f"{CLAIMS}/{name}" for name in await store.list(CLAIMS) or ()]
    lists = await asyncio.gather(*map(store.list, folders))
    paths = [f"{folder}/{name}" for folder, names in zip(folders, lists, strict=True) for name in names or ()]
    values = await asyncio.gather(*map(store.read, paths))
    return [value.decode("latin-1") for value in values if value]
