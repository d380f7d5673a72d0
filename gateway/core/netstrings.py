"""A list of byte strings as one, and back: `4:echo,0:,` (https://cr.yp.to/proto/netstrings.txt). Knows no meaning."""

from __future__ import annotations

from collections.abc import Iterable

_DIGITS = 9  # of a length


def pack(items: Iterable[bytes]) -> bytes:
    """One after the other."""
    return b"".join([b"%d:%b," % (len(item), item) for item in items])


def unpack(packed: bytes) -> list[bytes]:
    """The inverse; ValueError says at which byte it is no such list."""
    items: list[bytes] = []
    at = 0
    while at < len(packed):
        colon = packed.find(b":", at, at + _DIGITS + 1)
        digits = packed[at:colon] if colon > 0 else b""
        if not digits.isdigit() or (digits.startswith(b"0") and digits != b"0"):
            raise ValueError(f"expected a length and a colon at byte {at}")
        end = colon + 1 + int(digits)
        if packed[end : end + 1] != b",":
            raise ValueError(f"expected a comma at byte {end}")
        items.append(packed[colon + 1 : end])
        at = end + 1
    return items
