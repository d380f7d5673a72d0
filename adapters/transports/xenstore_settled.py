"""Which content of a doorbell's node is settled: rung already, or published by us. Rings no bell itself.

`/tool/xcp-gateway/settled/PATH` holds the digest of the content. It is in the store itself: a gateway that comes back
rings for what was changed meanwhile and for nothing else, and what it writes itself rings no bell. `?NEW OLD`: NEW is
being rung.
"""

from __future__ import annotations

from typing import NamedTuple

from adapters.transports.xenstore_nodes import Nodes

ROOT = "/tool/xcp-gateway/settled"
RINGING = "?"


class Settled(NamedTuple):
    """What is known of a node's content."""

    digest: str = ""  # of the content that is settled; empty when none is
    ringing: str = ""  # of what is being rung by a method that must not be called twice


def record(path: str) -> str:
    """Where it is written down."""
    return ROOT + path


async def settled(nodes: Nodes, path: str) -> Settled:
    """What is settled, and what is being rung."""
    written = (await nodes.read(record(path)) or b"").decode("ascii", "replace")
    if not written.startswith(RINGING):
        return Settled(written)
    ringing, _, digest = written.removeprefix(RINGING).partition(" ")
    return Settled(digest, ringing)


async def settle(nodes: Nodes, path: str, digest: str) -> None:
    """From now on this content is nothing new; without a digest nothing is settled."""
    if digest:
        await nodes.write(record(path), digest.encode())
    else:
        await forget(nodes, path)


async def begin(nodes: Nodes, path: str, before: Settled, digest: str) -> None:
    """It is being rung, and must not be twice."""
    await nodes.write(record(path), f"{RINGING}{digest} {before.digest}".encode())


async def forget(nodes: Nodes, path: str) -> None:
    """The node is gone, and with it whatever was written down only for its sake."""
    written = record(path)
    while written != ROOT and await nodes.list(written) == []:
        await nodes.remove(written)
        written = written.rpartition("/")[0]
