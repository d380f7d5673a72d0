"""Equality that tells 1, 1.0 and True apart, as a wire does and Python does not."""

from __future__ import annotations

from dataclasses import fields, is_dataclass


def exactly(value: object) -> object:
    """The same value with the type beside each leaf: compare two of these."""
    if isinstance(value, dict):
        return {name: exactly(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return type(value).__name__, [exactly(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return type(value).__name__, [exactly(getattr(value, field.name)) for field in fields(value)]
    if isinstance(value, float):
        return "float", repr(value)  # -0.0 is not 0.0
    return type(value).__name__, value
