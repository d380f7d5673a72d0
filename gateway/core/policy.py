"""Who answers one call, who is only observed, and why: a pure function of setting and call."""

from __future__ import annotations

from hashlib import blake2b

from gateway.core.frozen import value
from gateway.core.migration import BUCKETS, Migration, Mode, Setting, Side, percent
from gateway.core.model import Call


@value
class Plan:
    """`answer` None: nobody. `candidate` is asked once the answer has left. `why` is for people."""

    answer: Side | None
    candidate: Side | None = None
    why: str = ""


# The plans that need no look at the call.
_LEGACY = Plan(Side.LEGACY, None, "mode legacy")
_DBUS = Plan(Side.DBUS, None, "mode dbus")
_OFF = Plan(None, None, "mode off")


def bucket(subject: str, key: str) -> int:
    """From 0 to BUCKETS - 1; the same on every host for the same subject (a method or a group) and key."""
    digest = blake2b(f"{subject}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % BUCKETS


def plan(method: str, migration: Migration, setting: Setting, call: Call, forced: Side | None = None) -> Plan:
    """Who answers `call`. `forced`: the side that the client asked for, where its listener lets it."""
    if setting.mode is Mode.OFF:
        return _OFF
    if forced is not None:
        return Plan(forced, None, f"the client asked for {forced.value}")
    match setting.mode:
        case Mode.LEGACY:
            chosen = _LEGACY
        case Mode.DBUS:
            chosen = _DBUS
        case Mode.SHADOW:
            chosen = Plan(setting.control, None, f"mode {setting}")
        case Mode.CANARY:
            chosen = _canary(migration.group or method, migration, setting, call)
    return _observed(chosen, migration, setting)


def _observed(chosen: Plan, migration: Migration, setting: Setting) -> Plan:
    wanted = setting.observe or setting.mode is Mode.SHADOW
    if not wanted or chosen.answer is None or migration.upstream is None or not migration.may_shadow:
        return chosen  # what may not run twice never does, whatever was set
    return Plan(chosen.answer, chosen.answer.other, chosen.why)


def _canary(subject: str, migration: Migration, setting: Setting, call: Call) -> Plan:
    key = migration.key.take(call) if migration.key is not None else None
    if key is not None and migration.key is not None:
        listed = _listed(migration, migration.key.name, key)
        if listed is not None:
            return listed
    if setting.buckets in (0, BUCKETS):  # all or nothing needs no key
        side = Side.DBUS if setting.buckets else Side.LEGACY
        return Plan(side, None, f"canary at {percent(setting.buckets)}")
    if key is None or migration.key is None:
        name = migration.key.name if migration.key is not None else "key"
        return Plan(Side.LEGACY, None, f"canary at {percent(setting.buckets)}: the call has no {name}")
    place = bucket(subject, key)
    side, sign = (Side.DBUS, "<") if place < setting.buckets else (Side.LEGACY, ">=")
    why = f"canary at {percent(setting.buckets)}: {migration.key.name} is in bucket {place} {sign} {setting.buckets}"
    return Plan(side, None, why)


def _listed(migration: Migration, name: str, key: str) -> Plan | None:
    if key in migration.never:
        return Plan(Side.LEGACY, None, f"canary: this {name} is on the list that D-Bus never answers")
    if key in migration.always:
        return Plan(Side.DBUS, None, f"canary: this {name} is on the list that D-Bus always answers")
    return None
