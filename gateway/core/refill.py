"""What is given in place of what was masked in a recorded call, and what is still missing. Knows no mapping.

A place is a parameter's name and what leads into it: "session", "config.password". It is given by that name, or for
one method alone by "SR.create:config.password".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from gateway.core import paths
from gateway.core.mask import HIDDEN, MASKED
from gateway.core.model import Call, Value
from gateway.core.paths import Place
from gateway.core.portable import read
from gateway.core.recording import Recorded

TEXT = "text"  # what a secret was, as its marker says it


def filled(one: Recorded, parameters: Sequence[str], given: Mapping[str, str]) -> tuple[Call, tuple[str, ...]]:
    """The call, and the places for which nothing is given. `parameters`: the names of those that come by position."""
    filling = _Filling(one.method, given)
    free = [name for name in parameters if name not in one.named]
    names = [*free, *(f"params[{index}]" for index in range(len(free), len(one.params)))]
    params = tuple(filling.at(name, (), value) for name, value in zip(names, one.params, strict=False))
    named = {name: filling.at(name, (), value) for name, value in one.named.items()}
    return Call(one.method, params, named), tuple(filling.missing)


class _Filling:
    def __init__(self, method: str, given: Mapping[str, str]) -> None:
        self._method = method
        self._given = given
        self.missing: list[str] = []

    def at(self, name: str, place: Place, value: Value) -> Value:
        """The value with nothing masked in it, as far as something is given."""
        kind = _masked(value)
        if kind is not None:
            return self._instead(paths.show(place, name), kind, value)
        if isinstance(value, list):
            return [self.at(name, (*place, index), item) for index, item in enumerate(value)]
        if isinstance(value, dict):
            return {key: self.at(name, (*place, key), item) for key, item in value.items()}
        return value

    def _instead(self, where: str, kind: str, value: Value) -> Value:
        text = self._given.get(f"{self._method}:{where}", self._given.get(where))
        if text is None:
            self.missing.append(where)
            return value
        return text if kind == TEXT else _given_value(text)


def _masked(value: Value) -> str | None:
    """Of what kind the secret was that is missing here, or None."""
    if isinstance(value, str):
        return TEXT if HIDDEN in value else None
    if not isinstance(value, dict):
        return None
    if len(value) == 1 and isinstance(value.get(MASKED), str):
        return str(value[MASKED])
    return "struct" if any(HIDDEN in name for name in value) else None


def _given_value(text: str) -> Value:
    """JSON, as `portable` writes it, or else the text itself."""
    try:
        return read(json.loads(text))
    except (ValueError, RecursionError):
        return text
