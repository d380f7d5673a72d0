"""One value as the text of a node, whoever writes it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from gateway.core.dbus.scalars import MarshalError
from gateway.core.xenstore.paths import node_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("zoë", "zoë".encode()),
        ("", b""),
        (True, b"1"),
        (-(2**63), b"-9223372036854775808"),
        (2**64 - 1, b"18446744073709551615"),
        (0.1, b"0.1"),
        (1e300, b"1e+300"),
        (b"\0", b"AA=="),
        (datetime(2026, 1, 31, 9, 5, tzinfo=UTC), b"20260131T09:05:00Z"),
    ],
)
def test_a_value_has_one_text(value: object, text: bytes) -> None:
    assert node_text(value) == text


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, "cannot hold nil"),
        ([], "which a node can hold"),
        ({"a": 1}, "which a node can hold"),
        ("a\0", "without NUL"),
        ("\ud800", "without lone surrogates"),
        (float("-inf"), "a finite number"),
        (2**64, "an integer of 64 bits"),
        (datetime(2026, 1, 1, tzinfo=timezone(timedelta(seconds=1))), "whole minutes"),
    ],
)
def test_what_a_node_cannot_say_is_refused(value: object, why: str) -> None:
    with pytest.raises(MarshalError, match=why):
        node_text(value)
