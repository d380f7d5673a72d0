"""What all parts of the demo agree on: how a call is shown, and what is right. Knows no client."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Protocol

GATEWAY, OLD = "gateway", "old xapi"  # what the bus monitor calls the two sides of a method
SIDES = frozenset((GATEWAY, OLD))

Right = Callable[[Any], bool]


class Printed(str):
    """What a command printed, colours and all: an answer that is shown as it is."""

    __slots__ = ()


class Show(Protocol):
    """How a call is made and shown."""

    def __call__(
        self,
        client: str,
        call: str,
        target: str,
        ask: Callable[[], Any],
        right: Right,
        by: Collection[str] = (),
    ) -> Any:
        """Make a call, show it with its target and answer, remember whether both were right; returns the answer.

        `target`: how the wanted method call ends; empty: none may be made. `by`: those of SIDES that make method calls.
        """


def is_(expected: object) -> Right:
    """The answer is exactly this, type and all."""
    return lambda answer: type(answer) is type(expected) and answer == expected
