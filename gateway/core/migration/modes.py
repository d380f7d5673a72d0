"""The terms for moving one method from its legacy service to D-Bus: sides, modes, settings, keys."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Literal

from msgspec import Struct

from gateway.core.comparison.redaction import NO_REDACTION, RedactionRules
from gateway.core.comparison.rules import EVERY_CALL, NO_RULES, Rules, Sampling
from gateway.core.rpc.model import Call

BUCKETS = 100_000  # into which a canary divides its keys; a thousandth of a per cent is the least share


class Side(Enum):
    """Who can answer a call."""

    LEGACY = "legacy"
    DBUS = "dbus"

    @property
    def other(self) -> Side:
        """The side that this one is compared with."""
        return Side.DBUS if self is Side.LEGACY else Side.LEGACY


class Mode(Enum):
    """Who answers."""

    LEGACY = "legacy"
    SHADOW = "shadow"  # the control; the other side is asked afterwards and compared
    CANARY = "canary"  # D-Bus for a share of the keys, the legacy service for the rest
    DBUS = "dbus"
    OFF = "off"  # no side: a fault


class Setting(Struct, frozen=True):
    """A mode and what belongs to it."""

    mode: Mode = Mode.DBUS
    buckets: int = 0  # canary: how many of BUCKETS D-Bus answers
    control: Side = Side.LEGACY  # shadow: who answers
    observe: bool = False  # canary, dbus, legacy: the side that does not answer is asked too, afterwards
    noise: bool = False  # while observing, the control is asked a second time: what it contradicts itself in is noise

    def __str__(self) -> str:
        words = [self.mode.value]
        if self.mode is Mode.CANARY:
            words.append(percent(self.buckets))
        if self.mode is Mode.SHADOW and self.control is Side.DBUS:
            words.append("of dbus")
        if self.observe:
            words.append("observed")
        if self.noise:
            words.append("noise")
        return " ".join(words)


class Key(Struct, frozen=True):
    """What a canary divides. `take` returns None when a call does not have it."""

    name: str  # "session", "user", "peer", "domid" or a parameter's name
    take: Callable[[Call], str | None]


class Migration(Struct, frozen=True):
    """What a mapping says of moving a method. Everything but the setting stays as it is until the mapping changes."""

    setting: Setting = Setting()
    upstream: str | None = None  # who answers for the side legacy: an upstream of the config
    key: Key | None = None
    group: str = ""  # methods that share state move together: one setting, one hash
    always: frozenset[str] = frozenset()  # keys that a canary sends to D-Bus whatever its share
    never: frozenset[str] = frozenset()  # keys that it never does
    may_shadow: bool = False  # running a call twice does no harm: the mapping says so
    fallback: bool = False  # a call that D-Bus certainly did not execute goes to the legacy service
    tasks: Literal["task", "reject", "legacy"] = "task"  # calls that ask for a task, where the mode says D-Bus
    client_errors: frozenset[str] = frozenset()  # codes of faults that are the client's: no side has failed
    compare: Rules = NO_RULES  # where the answers of both sides may differ and still agree
    sampling: Sampling = EVERY_CALL  # which of the calls that may be observed are
    redact: RedactionRules = NO_REDACTION  # what of calls and outcomes is never kept


UNMOVED = Migration()  # a method of which the mapping says nothing: D-Bus answers


def percent(buckets: int) -> str:
    """A share as people write it: 12500 -> "12.5%"."""
    return f"{buckets * 100 / BUCKETS:.3f}".rstrip("0").rstrip(".") + "%"


def share(text: str | float) -> int:
    """A share in buckets: "12.5%", "12.5" or 12.5 -> 12500; raises ValueError saying what a share is."""
    digits = str(text).strip().removesuffix("%").strip()
    try:
        buckets = float(digits) * BUCKETS / 100
    except ValueError:
        buckets = -1.0
    if not 0 <= buckets <= BUCKETS or abs(buckets - round(buckets)) > 1e-6 or not digits:
        raise ValueError(f"expected a share from 0% to 100% with at most three decimals, got {str(text)!r}")
    return round(buckets)
