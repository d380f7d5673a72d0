"""Who called: the kernel's words for it read, and a caller in a word that stays the same. Opens no socket."""

from __future__ import annotations

import ipaddress
import struct

from gateway.core.model import Peer

_CREDENTIALS = struct.Struct("iII")  # struct ucred of unix(7), SO_PEERCRED: pid, and uid and gid without a sign
CREDENTIALS_SIZE = _CREDENTIALS.size
_NETWORK = 64  # bits of an IPv6 address that one host cannot choose (RFC 4291 section 2.5.4)


def credentials(told: bytes) -> tuple[int, int, int]:
    """pid, uid and gid of what the kernel tells for SO_PEERCRED."""
    pid, uid, gid = _CREDENTIALS.unpack(told)
    return pid, uid, gid


def caller(peer: Peer) -> str:
    """ "domid 5" by the store, "uid 1000" over a Unix socket, else the address without its port."""
    if peer.domid is not None:
        return f"domid {peer.domid}"
    if peer.uid is not None:
        return f"uid {peer.uid}"
    return peer.address.rpartition(":")[0] if peer.address.startswith("tcp:") else peer.address


def share_owner(peer: Peer) -> str:
    """Who shares one quota: a user of this host, an IPv4 address, or the /64 network of an IPv6 address."""
    name = caller(peer)
    address = _address(name)
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return f"tcp:{address.ipv4_mapped}"
        if not address.is_loopback:
            return f"tcp:[{ipaddress.IPv6Network((int(address), _NETWORK), strict=False)}]"
    return name


def is_loopback(peer: Peer) -> bool:
    """Whether it came over TCP from this host: then its address tells nothing of who it is."""
    address = _address(caller(peer))
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address is not None and address.is_loopback


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    if not name.startswith("tcp:"):
        return None
    try:
        return ipaddress.ip_address(name.removeprefix("tcp:").strip("[]").partition("%")[0])
    except ValueError:
        return None
