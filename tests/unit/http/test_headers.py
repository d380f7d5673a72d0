from __future__ import annotations

import pytest

from adapters.http.headers import HOP_BY_HOP, end_to_end, first, has, lines, without

PLAIN = ((b"Host", b"xen"), (b"X-Odd", b"\xff"), (b"x-odd", b""))


def test_headers_of_the_message_stay_in_their_order_and_spelling() -> None:
    assert end_to_end(PLAIN) == PLAIN


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP))
def test_headers_of_the_connection_do_not_go_on(name: bytes) -> None:
    assert end_to_end(((name.title(), b"x"), *PLAIN)) == PLAIN


def test_a_header_that_connection_names_does_not_go_on() -> None:
    assert end_to_end(((b"Connection", b"close, X-ODD"), *PLAIN)) == PLAIN[:1]


def test_what_a_message_needs_goes_on_whatever_connection_names() -> None:
    assert end_to_end(((b"Connection", b"host"), *PLAIN)) == PLAIN


def test_a_header_is_found_whatever_its_spelling() -> None:
    assert has(PLAIN, b"x-odd")
    assert first(PLAIN, b"x-odd") == b"\xff"
    assert first(PLAIN, b"cookie") is None
    assert without(PLAIN, b"x-odd") == PLAIN[:1]


def test_lines_are_as_they_are_sent() -> None:
    assert lines(PLAIN) == b"Host: xen\r\nX-Odd: \xff\r\nx-odd: \r\n"
