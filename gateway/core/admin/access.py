"""Rights of the admin API, by uid and gid."""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

ROOT = 0


class Right(Enum):
    """The right that an operation needs."""

    READ = "read"
    CHANGE = "change"  # includes READ


class Caller(Struct, frozen=True):
    """The caller of an operation, as the kernel or the bus reports it."""

    uid: int
    gids: frozenset[int] = frozenset()
    name: str = ""  # for the audit

    def __str__(self) -> str:
        return self.name or f"uid {self.uid}"


class Principals(Struct, frozen=True):
    """A set of uids and gids."""

    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()

    def __contains__(self, caller: Caller) -> bool:
        return caller.uid in self.uids or not self.gids.isdisjoint(caller.gids)

    def __bool__(self) -> bool:
        return bool(self.uids or self.gids)


class AccessRules(Struct, frozen=True):
    """Root and the gateway's user have every right; the lists of the config add others."""

    own: int  # the gateway's uid
    read: Principals = Principals()
    change: Principals = Principals()

    def have(self, caller: Caller, right: Right) -> bool:
        """Return whether a caller has a right."""
        if caller.uid in (ROOT, self.own) or caller in self.change:
            return True
        return right is Right.READ and caller in self.read

    @property
    def shared(self) -> bool:
        """Whether the config names other users or groups."""
        return bool(self.read or self.change)


def denial(caller: Caller, right: Right) -> str:
    """The error for a caller without a right."""
    action = "change anything here" if right is Right.CHANGE else "read here"
    lists = "admin.change" if right is Right.CHANGE else "admin.read or admin.change"
    who = f"{caller.name} (uid {caller.uid})" if caller.name else str(caller)
    return f"{who} may not {action}: neither root, nor the gateway's user, nor in {lists}"
