"""An operator's wishes and what they come to, as bodies of D-Bus messages and back. Knows no connection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from dbus_fast import Variant

from gateway.core.kept import Refused
from gateway.core.model import Value
from gateway.core.steering import Changed, Explanation, Wish

INVALID = "org.freedesktop.DBus.Error.InvalidArgs"
REFUSED = "org.xen.xcp.Error.Refused"


@dataclass(frozen=True, slots=True)
class Error:
    """A D-Bus error with one text."""

    name: str
    text: str


Answer = list[Any] | Error

_OPTIONS: Mapping[str, tuple[type, ...]] = {
    "percent": (str, int, float), "control": (str,), "observe": (bool,), "noise": (bool,), "seconds": (int, float)
}  # fmt: skip


def wish(pattern: str, mode: str, options: Mapping[str, Variant], why: str) -> Wish | Error:
    """A mode that is wanted, or which of the options makes no sense."""
    values = {name: variant.value for name, variant in options.items()}
    for name, value in values.items():
        if name not in _OPTIONS:
            return Error(INVALID, f"unknown option '{name}' (there are: {', '.join(_OPTIONS)})")
        if not isinstance(value, _OPTIONS[name]) or (isinstance(value, bool) and bool not in _OPTIONS[name]):
            return Error(INVALID, f"option '{name}': unexpected type '{options[name].signature}'")
    return Wish(pattern, mode, why=why, **values)


def moved(changed: Changed | Refused) -> list[Any] | Error:
    """What a change came to."""
    if isinstance(changed, Refused):
        return Error(REFUSED, changed.why)
    return [[[each.service, each.method, each.before, each.after, each.stays] for each in changed.methods]]


_SIGNATURES: Mapping[type, str] = {bool: "b", int: "i", str: "s"}


def explained(told: Explanation) -> dict[str, Variant]:
    """A call explained; what is None is an empty text, or -1 for a number."""
    values = {field.name: getattr(told, field.name) for field in fields(told)}
    values["bucket"] = -1 if told.bucket is None else told.bucket
    plain = {name: "" if value is None else value for name, value in values.items()}
    return {name: Variant(_SIGNATURES[type(value)], value) for name, value in plain.items()}


def plain(value: Any) -> Value:
    """What a variant holds, as a legacy value."""
    if isinstance(value, Variant):
        return plain(value.value)
    if isinstance(value, dict):
        return {str(name): plain(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    as_it_is: Value = value
    return as_it_is
