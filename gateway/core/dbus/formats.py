"""Formats of moments, numbers and references: conversion between legacy protocols and D-Bus services."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TypeAlias
from uuid import NAMESPACE_OID, UUID, uuid5

from gateway.core.dbus.marshal import Encode
from gateway.core.dbus.scalars import MarshalError
from gateway.core.dbus.signature import INTEGER_RANGES, Type
from gateway.core.rpc.model import Value

Show: TypeAlias = Callable[[Value], Value]  # a legacy value in another form

MOMENTS = "xtuids"  # D-Bus types that can say a moment: Unix seconds, or ISO 8601 text
NUMBERS = "".join(INTEGER_RANGES) + "d"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)


def moment_encoder(kind: Type, convert: Encode) -> Encode:
    """Return an encoder of datetimes and ISO 8601 texts as type `kind`, then `convert`. No zone means UTC."""

    def encode(value: Value) -> object:
        moment = _moment(value)
        if kind.code == "s":
            return convert(moment.isoformat().replace("+00:00", "Z"))
        if kind.code == "d":
            return convert(moment.timestamp())
        if moment.microsecond:
            raise MarshalError("a dateTime in whole seconds", moment.isoformat())
        return convert((moment - _EPOCH) // _SECOND)

    return encode


def _moment(value: Value) -> datetime:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        moment = None
    if not isinstance(moment, datetime):
        raise MarshalError("a dateTime or ISO 8601 text", value)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _everywhere(convert: Show) -> Show:
    """Convert a value, or each one inside arrays and structs."""

    def show(value: Value) -> Value:
        if isinstance(value, list):
            return [show(item) for item in value]
        if isinstance(value, dict):
            return {key: show(item) for key, item in value.items()}
        return convert(value)

    return show


def _to_moment(value: Value) -> datetime:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return _EPOCH + timedelta(seconds=value)
        except (OverflowError, ValueError):
            raise MarshalError("Unix seconds within the years 1 to 9999", value) from None
    return _moment(value)


# Unix seconds or ISO 8601 text as a datetime in UTC.
show_moment = _everywhere(_to_moment)
# Without the zone, for clients of servers that write none: strict readers refuse the Z of UTC.
show_moment_without_zone = _everywhere(lambda value: _to_moment(value).astimezone(UTC).replace(tzinfo=None))
# Numbers as text, bytes as base64 text; other values are unchanged.
show_text = _everywhere(
    lambda value: repr(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
)
show_base64 = _everywhere(lambda value: b64encode(value).decode() if isinstance(value, bytes) else value)


_UUID = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_VERSION_AND_VARIANT = 0xF000 << 64 | 0xC0 << 56  # RFC 9562 section 4: these bits stay, so that a UUID is one again


def of_class(name: str) -> Show:
    """Convert references and UUIDs of an object to those of a legacy class of this name, and back.

    One D-Bus object may be several legacy classes, each with its own reference and UUID: the UUID in the text is XORed
    with uuid5(NAMESPACE_OID, name). Text without a UUID ("OpaqueRef:NULL") is unchanged.
    """
    redact = uuid5(NAMESPACE_OID, name).int & ~_VERSION_AND_VARIANT

    def other(found: re.Match[str]) -> str:
        return str(UUID(int=UUID(found[0]).int ^ redact))

    return _everywhere(lambda value: _UUID.sub(other, value, count=1) if isinstance(value, str) else value)


def identity_of_class(name: str) -> Show:
    """Convert a service's value likewise, where the result must be unique to the class."""
    convert = of_class(name)

    def show(value: Value) -> Value:
        if isinstance(value, str) and value and not value.endswith("NULL") and _UUID.search(value) is None:
            raise MarshalError(f"a reference with a UUID in it, to make that of {name}", value)
        return convert(value)

    return show


# Formats by their names in mapping files: the conversion of a result, and the D-Bus types that it accepts.
SHOWN: Mapping[str, tuple[Show, str]] = {
    "datetime": (show_moment, MOMENTS),
    "datetime_without_zone": (show_moment_without_zone, MOMENTS),
    "text": (show_text, NUMBERS),
    "base64": (show_base64, "y"),
}
