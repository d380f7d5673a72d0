"""The pieces of a body that is read whole, gathered so that many small ones cost no more than their bytes."""

from __future__ import annotations

from typing import TypeAlias

MOST_PIECES = 256  # each an object of its own; a body in chunks of a byte or two would cost many times its bytes

Pieces: TypeAlias = "list[bytes | bytearray]"


def add_piece(pieces: Pieces, data: bytes) -> None:
    """Add a piece."""
    if len(pieces) < MOST_PIECES:
        pieces.append(data)
        return
    if len(pieces) == MOST_PIECES:
        pieces.append(bytearray())
    pieces[MOST_PIECES] += data


def joined(pieces: Pieces) -> bytes:
    """The pieces as one."""
    return bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)
