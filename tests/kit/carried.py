"""What a protocol brings back of a value, where that is not the value itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.core.rpc.model import FaultCode, Value


class UncarriedError(Exception):
    """This protocol has no way to say the value, and must refuse it."""


def _text(value: Value) -> Value:
    """xenstore knows text, arrays and structs; an empty one of these is an empty node, and nil there is none."""
    if value is None:
        raise UncarriedError
    if isinstance(value, list):
        return [_text(item) for item in value] or ""
    if isinstance(value, dict):
        return {name: _text(item) for name, item in value.items()} or ""
    if isinstance(value, bool):
        return "1" if value else "0"
    return value if isinstance(value, str) else repr(value)


_IN_CALLS: Mapping[str, Callable[[Value], Value]] = {"xenstore": _text}


def in_call(protocol: str, value: Value) -> Value:
    """A parameter, as the server reads it; raises UncarriedError."""
    return _IN_CALLS[protocol](value) if protocol in _IN_CALLS else value


def in_reply(protocol: str, value: Value) -> Value:
    """A reply's value, as the client reads it; raises UncarriedError."""
    if protocol == "xenstore" and value in (None, [], {}):
        return None
    return in_call(protocol, value)


# Faults of which a protocol tells the method or the parameter instead of a message.
OWN_WORDS: Mapping[tuple[str, FaultCode], str] = {("xenstore", FaultCode.UNKNOWN_METHOD): "ping"}
