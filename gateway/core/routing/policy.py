"""Plans one call: the side that answers, the side that is only observed, and why. Pure."""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from gateway.core.migration.modes import BUCKETS, Migration, Mode, Setting, Side, percent
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call


class CallPlan(msgspec.Struct, frozen=True):
    """The side that answers a call (None: no side does), and what else happens to the call."""

    answer: Side | None
    candidate: Side | None = None  # the side that runs the call too, once the answer has left
    why: str = ""  # for people
    fallback: bool = False  # a call that D-Bus certainly did not execute goes to the legacy service
    noise: bool = False  # the legacy side runs the call a second time, to find what differs by itself


# Plans that do not depend on the call.
LOCAL = CallPlan(None, None, "the gateway answers itself")
_LEGACY = CallPlan(Side.LEGACY, None, "mode legacy")
_DBUS = CallPlan(Side.DBUS, None, "mode dbus")
_OFF = CallPlan(None, None, "mode off")


def bucket(subject: str, key: str) -> int:
    """The bucket of a key, 0 to BUCKETS - 1: the same on every host. `subject` is a method or a group."""
    digest = blake2b(f"{subject}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % BUCKETS


def plan_call(route: Route, setting: Setting, call: Call, forced: Side | None = None) -> CallPlan:
    """Plan `call`. `forced`: the side that the client asked for, where its listener allows that."""
    migration = route.migration
    if setting.mode is Mode.OFF:
        return _OFF
    if forced is not None:
        return CallPlan(forced, None, f"the client asked for {forced.value}")
    match setting.mode:
        case Mode.LEGACY:
            chosen = _LEGACY
        case Mode.DBUS:
            chosen = _DBUS
        case Mode.SHADOW:
            chosen = CallPlan(setting.control, None, f"mode {setting}")
        case Mode.CANARY:
            chosen = _canary(migration.group or f"{route.service}/{route.method}", migration, setting, call)
    if migration.upstream is None or chosen.answer is None:
        return chosen
    # A call that may not run twice has no candidate, whatever the setting says.
    observed = migration.may_shadow and (setting.observe or setting.mode is Mode.SHADOW)
    fallback = migration.fallback and chosen.answer is Side.DBUS
    if not (observed or fallback):
        return chosen
    candidate = chosen.answer.other if observed else None
    return CallPlan(chosen.answer, candidate, chosen.why, fallback, observed and setting.noise)


def standing_plan(route: Route, setting: Setting) -> CallPlan | None:
    """The plan of all calls of a route for which no side is asked; None: it depends on the call (canary)."""
    return None if setting.mode is Mode.CANARY else plan_call(route, setting, _ANY_CALL)


_ANY_CALL = Call("")


def task_plan(route: Route, chosen: CallPlan) -> CallPlan:
    """Plan a form of a call that returns a task. `chosen` is the plan of the call itself.

    A task is neither observed nor falls back, because the two sides' results differ.
    """
    if chosen.answer is Side.DBUS and route.migration.tasks == "legacy":
        return CallPlan(
            Side.LEGACY, None, f"{chosen.why}, which does not govern calls that return a task (async: legacy)"
        )
    if chosen.answer is Side.DBUS and route.migration.tasks == "reject":
        return CallPlan(None, None, f"{chosen.why}: D-Bus answers, and the method has no form that returns a task")
    return CallPlan(chosen.answer, None, chosen.why)


def _canary(subject: str, migration: Migration, setting: Setting, call: Call) -> CallPlan:
    name = migration.key.name if migration.key is not None else "key"
    key = migration.key.take(call) if migration.key is not None else None
    why = f"canary at {percent(setting.buckets)}"
    if key in migration.never:
        return CallPlan(Side.LEGACY, None, f"canary: this {name} is on the list that D-Bus never answers")
    if key in migration.always:
        return CallPlan(Side.DBUS, None, f"canary: this {name} is on the list that D-Bus always answers")
    if setting.buckets in (0, BUCKETS):  # 0 % and 100 % need no key
        return CallPlan(Side.DBUS if setting.buckets else Side.LEGACY, None, why)
    if key is None:
        return CallPlan(Side.LEGACY, None, f"{why}: the call has no {name}")
    place = bucket(subject, key)
    side, sign = (Side.DBUS, "<") if place < setting.buckets else (Side.LEGACY, ">=")
    return CallPlan(side, None, f"{why}: {name} is in bucket {place} {sign} {setting.buckets}")
