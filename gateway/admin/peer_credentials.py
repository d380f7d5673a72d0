"""Access to the admin socket: the peer's user and groups by SO_PEERCRED, and the lists of the config."""

from __future__ import annotations

import grp
import os
import pwd
import socket
import struct
from collections.abc import Callable, Iterable, Sequence

from aiohttp import web

from gateway.config import Config, ConfigError
from gateway.core.admin.access import AccessRules, Caller, Principals, Right, denial
from gateway.core.rpc import model

_SO_PEERGROUPS = 59  # linux/socket.h; Python has no name for it
_GROUP = struct.Struct("I")
_MAX_OPTION = 1024  # bytes; Python's limit for getsockopt


def rights(settings: Config) -> AccessRules:
    """Look up the names in the lists of the config; raise ConfigError that names the place."""
    own = _own(settings.user)
    lists = {name: getattr(settings.admin, name) for name in ("read", "change")}
    found = {name: _allowed(entries, f"{settings.file}: $.admin.{name}") for name, entries in lists.items()}
    return AccessRules(own, found["read"], found["change"])


def caller(request: web.Request) -> Caller:
    """The peer of a connection, as the kernel reports it."""
    assert request.transport is not None
    connection = request.transport.get_extra_info("socket")
    uid, gid = user(connection)
    return Caller(uid, frozenset({gid, *_groups(connection, uid, gid)}), user_name(uid))


def user(connection: socket.socket) -> tuple[int, int]:
    """The uid and gid of the peer of a Unix socket."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, model.CREDENTIALS_SIZE)
    _, uid, gid = model.credentials(found)
    return uid, gid


def _groups(connection: socket.socket, uid: int, gid: int) -> Iterable[int]:
    """The supplementary groups of the peer. If they are too many for the socket option, those of its user's login."""
    try:
        found = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MAX_OPTION)
    except OSError:
        return os.getgrouplist(user_name(uid), gid)
    return (each for (each,) in _GROUP.iter_unpack(found))


def group(settings: Config) -> int | None:
    """The group of the admin socket; None: the group of its owner. Raise ConfigError that names the place."""
    name = settings.admin.group
    if name is None:
        return None
    kind, _, rest = name.rpartition(":")
    return (_number if kind == "gid" else _gid)(rest, f"{settings.file}: $.admin.group")


def user_name(uid: int) -> str:
    """The name of a user, or "" if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


def check(request: web.Request, rights: AccessRules, right: Right) -> Caller:
    """The caller of a request; raise HTTPForbidden unless it has the right."""
    found = caller(request)
    if not rights.have(found, right):
        raise web.HTTPForbidden(reason=denial(found, right))
    return found


def _own(user: str | None) -> int:
    """The uid of the gateway. An unknown user is reported later, by `ops.process.become`."""
    try:
        return os.geteuid() if user is None else pwd.getpwnam(user).pw_uid
    except KeyError:
        return os.geteuid()


def _allowed(entries: Sequence[str], place: str) -> Principals:
    uids: set[int] = set()
    gids: set[int] = set()
    for number, entry in enumerate(entries):
        kind, _, name = entry.rpartition(":")
        found = _KINDS[kind](name, f"{place}[{number}]")
        (gids if kind in ("group", "gid") else uids).add(found)
    return Principals(frozenset(uids), frozenset(gids))


def _uid(name: str, place: str) -> int:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise ConfigError(f"{place}: unknown user '{name}'") from None


def _gid(name: str, place: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(f"{place}: unknown group '{name}'") from None


def _number(digits: str, _place: str) -> int:
    return int(digits)


# Prefix of an entry -> its lookup. The config has checked the prefixes.
_KINDS: dict[str, Callable[[str, str], int]] = {
    "": _uid,
    "user": _uid,
    "uid": _number,
    "group": _gid,
    "gid": _number,
}
