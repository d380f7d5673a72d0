"""A caller in a word that stays the same from one connection to the next. Knows no socket."""

from __future__ import annotations

from gateway.core.model import Peer


def caller(peer: Peer) -> str:
    """ "domid 5" by the store, "uid 1000" over a Unix socket, else the address without its port."""
    if peer.domid is not None:
        return f"domid {peer.domid}"
    if peer.uid is not None:
        return f"uid {peer.uid}"
    return peer.address.rpartition(":")[0] if peer.address.startswith("tcp:") else peer.address
