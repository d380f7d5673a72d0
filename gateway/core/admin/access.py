"""Who may look and who may change, by user and group. Knows no socket and no name of a user."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

ROOT = 0


class Right(Enum):
    """What an operation needs."""

    READ = "read"
    CHANGE = "change"  # whoever has it may read too


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, as the kernel or the bus says."""

    uid: int
    gids: frozenset[int] = frozenset()
    name: str = ""  # for the audit

    def __str__(self) -> str:
        return self.name or f"uid {self.uid}"


@dataclass(frozen=True, slots=True)
class Principals:
    """Users and groups by number."""

    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()

    def __contains__(self, caller: Caller) -> bool:
        return caller.uid in self.uids or not self.gids.isdisjoint(caller.gids)

    def __bool__(self) -> bool:
        return bool(self.uids or self.gids)


@dataclass(frozen=True, slots=True)
class AccessRules:
    """Root and the gateway's own user have every right; the lists of the config add others."""

    own: int  # the gateway's uid
    read: Principals = Principals()
    change: Principals = Principals()

    def have(self, caller: Caller, right: Right) -> bool:
        """Whether a caller may do what needs this right."""
        if caller.uid in (ROOT, self.own) or caller in self.change:
            return True
        return right is Right.READ and caller in self.read

    @property
    def shared(self) -> bool:
        """Whether the config names anybody else."""
        return bool(self.read or self.change)


def denial(caller: Caller, right: Right) -> str:
    """In words, for the one who is refused."""
    what = "change anything here" if right is Right.CHANGE else "ask here"
    lists = "admin.change" if right is Right.CHANGE else "admin.read or admin.change"
    who = f"{caller.name} (uid {caller.uid})" if caller.name else str(caller)
    return f"{who} may not {what}: neither root, nor the gateway's user, nor in {lists}"
