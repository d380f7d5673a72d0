"""Access to the admin socket: the peer's user and groups by SO_PEERCRED, and the lists of the config."""

from __future__ import annotations

import grp
import os
import pwd
import socket
import struct
from collections.abc import Callable, Iterator, Sequence

from gateway.config import Config, Finding
from gateway.core.admin.access import AccessRules, Caller, Principals
from gateway.core.rpc import model

_SO_PEERGROUPS = 59  # linux/socket.h; Python has no name for it
_GROUP = struct.Struct("I")
_MAX_OPTION = 1024  # bytes; Python's limit for getsockopt


def rights(settings: Config) -> AccessRules:
    """The lists of the config, in which `unknown_names` has found nothing, as rules."""
    own = None if settings.user is None else _uid(settings.user)  # `ops.process.become` reports an unknown user
    return AccessRules(
        os.geteuid() if own is None else own, _allowed(settings.admin.read), _allowed(settings.admin.change)
    )


def unknown_names(settings: Config) -> Iterator[Finding]:
    """Each user and group of the config that this host does not have."""
    lists: dict[str, Sequence[str]] = {"read": settings.admin.read, "change": settings.admin.change}
    for key, entries in lists.items():
        for number, entry in enumerate(entries):
            if _lookup(entry) is None:
                kind, _, name = entry.rpartition(":")
                yield ("admin", key, number), f"unknown {kind or 'user'} '{name}'"
    if settings.admin.group is not None and group(settings) is None:
        yield ("admin", "group"), f"unknown group '{settings.admin.group.rpartition(':')[2]}'"
    if settings.user is not None and _uid(settings.user) is None:
        yield ("user",), f"unknown user '{settings.user}'"


def caller(connection: socket.socket) -> Caller:
    """The peer of a connection, as the kernel reports it.

    Its supplementary groups are those of the socket; if they are too many for its option, those of its user's login.
    """
    uid, gid = user(connection)
    try:
        found = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MAX_OPTION)
        groups = [each for (each,) in _GROUP.iter_unpack(found)]
    except OSError:
        groups = os.getgrouplist(user_name(uid), gid)
    return Caller(uid, frozenset({gid, *groups}), user_name(uid))


def user(connection: socket.socket) -> tuple[int, int]:
    """The uid and gid of the peer of a Unix socket."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, model.CREDENTIALS_SIZE)
    _, uid, gid = model.credentials(found)
    return uid, gid


def group(settings: Config) -> int | None:
    """The group of the admin socket; None: the group of its owner."""
    kind, _, name = (settings.admin.group or "").rpartition(":")
    return (int(name) if kind == "gid" else _gid(name)) if name else None


def user_name(uid: int) -> str:
    """The name of a user, or "" if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


def _allowed(entries: Sequence[str]) -> Principals:
    found = [(entry.startswith(("group:", "gid:")), _lookup(entry)) for entry in entries]
    uids, gids = (
        frozenset(each for is_group, each in found if each is not None and is_group is wanted)
        for wanted in (False, True)
    )
    return Principals(uids, gids)


def _lookup(entry: str) -> int | None:
    """The uid or gid of an entry; None: this host does not have it."""
    kind, _, name = entry.rpartition(":")
    return _KINDS[kind](name)


def _uid(name: str) -> int | None:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def _gid(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


# Prefix of an entry -> its lookup. The config has checked the prefixes.
_KINDS: dict[str, Callable[[str], int | None]] = {
    "": _uid,
    "user": _uid,
    "uid": int,
    "group": _gid,
    "gid": int,
}
