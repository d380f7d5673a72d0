"""Who is at the other end of the admin socket, and whom the config lets in. Knows users and groups, no operation."""

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
_LONGEST = 1024  # bytes that Python lets one ask for


def rights(settings: Config) -> AccessRules:
    """The lists of the config with its names looked up; raises ConfigError that names the place."""
    own = _own(settings.user)
    lists = {name: getattr(settings.admin, name) for name in ("read", "change")}
    found = {name: _allowed(entries, f"{settings.file}: $.admin.{name}") for name, entries in lists.items()}
    return AccessRules(own, found["read"], found["change"])


def caller(request: web.Request) -> Caller:
    """Who has connected, as the kernel says."""
    assert request.transport is not None
    connection = request.transport.get_extra_info("socket")
    uid, gid = user(connection)
    return Caller(uid, frozenset({gid, *_groups(connection, uid, gid)}), user_name(uid))


def user(connection: socket.socket) -> tuple[int, int]:
    """The user and the group at the other end of a Unix socket."""
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, model.CREDENTIALS_SIZE)
    _, uid, gid = model.credentials(told)
    return uid, gid


def _groups(connection: socket.socket, uid: int, gid: int) -> Iterable[int]:
    """The peer's other groups; of one in more than the kernel can tell here, those that it would get at a login."""
    try:
        told = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _LONGEST)
    except OSError:
        return os.getgrouplist(user_name(uid), gid)
    return (each for (each,) in _GROUP.iter_unpack(told))


def group(settings: Config) -> int | None:
    """The group that may open the admin socket; raises ConfigError that names the place. None: its owner's."""
    name = settings.admin.group
    if name is None:
        return None
    kind, _, rest = name.rpartition(":")
    return (_number if kind == "gid" else _gid)(rest, f"{settings.file}: $.admin.group")


def user_name(uid: int) -> str:
    """ "alice", or nothing where the number has no name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


def check(request: web.Request, rights: AccessRules, right: Right) -> Caller:
    """Who asks; raises HTTPForbidden in words when that one may not."""
    asks = caller(request)
    if not rights.have(asks, right):
        raise web.HTTPForbidden(reason=denial(asks, right))
    return asks


def _own(user: str | None) -> int:
    """Who the gateway will be; a user that is not there is told by `privileges`, which must become it."""
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
        raise ConfigError(f"{place}: there is no user '{name}'") from None


def _gid(name: str, place: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(f"{place}: there is no group '{name}'") from None


def _number(digits: str, _place: str) -> int:
    return int(digits)


# How an entry of a list begins -> what is looked up. The config has checked that there is nothing else.
_KINDS: dict[str, Callable[[str, str], int]] = {
    "": _uid,
    "user": _uid,
    "uid": _number,
    "group": _gid,
    "gid": _number,
}
