"""The type of a fuzz target, and the checks of messages that all targets share."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Check = Callable[[bytes], str]

MESSAGE = 4000  # characters of the longest message: a path of 63 steps


@dataclass(frozen=True)
class Target:
    """`check` must not be slow for any input of the size that a run makes."""

    seeds: Sequence[bytes]
    tokens: Sequence[bytes]
    check: Check


def told(message: str) -> str:
    """Check a message for a client or an operator; see `said`."""
    assert len(message) < MESSAGE
    return said(message)


def said(message: str) -> str:
    """A message without what the input itself put into it; one line."""
    assert message.isprintable()
    return re.sub(r"[0-9]+|'.*'|\".*\"|<[^>]*>|\.\w+", "#", message)


def words(text: str) -> tuple[bytes, ...]:
    """Tokens, as one writes them."""
    return tuple(text.encode().split())


def in_pieces(body: bytes, least: int, most: int = 20) -> list[bytes]:
    """The bytes in at most so many pieces, of at least so many bytes."""
    size = max(least, len(body) // most)
    return [body[at : at + size] for at in range(0, len(body), size)]


class DeadWire(asyncio.Transport):
    """A transport without a peer: it takes all that is written, and all data has arrived."""

    is_closed = False

    def write(self, data: Any) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.close()

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading
