"""Values to bytes, and the place of what cannot be written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from enum import IntEnum
from typing import Any

import pytest

from adapters.codecs.xmlrpc_writer import Unwritable, visible, write
from gateway.core.rpc.model import Value


class Level(IntEnum):
    HIGH = 3


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("", ""),
        (True, "<boolean>1</boolean>"),
        (2**31 - 1, "<int>2147483647</int>"),
        (2**31, "<i8>2147483648</i8>"),
        (-(2**63), "<i8>-9223372036854775808</i8>"),
        (Level.HIGH, "<int>3</int>"),
        (1e16, "<double>10000000000000000</double>"),
        (5e-324, f"<double>0.{'0' * 323}5</double>"),
        (1 / 3, "<double>0.3333333333333333</double>"),
        (b"", "<base64></base64>"),
        (datetime(1, 2, 3, 4, 5, 6, 7, tzinfo=UTC), "<dateTime.iso8601>00010203T04:05:06.000007Z</dateTime.iso8601>"),
        ("a\r\n\t\x7f\x85\u2028\U0001fffe", "a&#13;\n\t\x7f\x85\u2028\U0001fffe"),
        ({"a b<": ""}, "<struct><member><name>a b&lt;</name><value></value></member></struct>"),
    ],
)
def test_a_value_is_written_so(value: Value, text: str) -> None:
    assert write(value).decode() == f"<value>{text}</value>"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (2**63, "$: expected an integer of 64 bits, got one of 65"),
        (-(2**63) - 1, "$: expected an integer of 64 bits, got one of 65"),
        (float("nan"), "$: expected a finite number, got nan"),
        ([1, float("-inf")], "$[1]: expected a finite number, got -inf"),
        ({"a": ["\x0b"]}, "$.a[0]: expected characters that XML can carry, got U+000B"),
        (["\u00e9", "\ud800"], "$[1]: expected characters that XML can carry, got U+D800"),
        ("\u00e9\uffff", "$: expected characters that XML can carry, got U+FFFF"),
        ({"\x01": 1}, "$: name of a member: expected characters that XML can carry, got U+0001"),
        ({1: 1}, "$: name of a member: expected text, got int"),
        ([(1, 2)], "$[0]: expected a value that XML-RPC has a type for, got tuple"),
        (
            datetime(1890, 1, 1, tzinfo=timezone(timedelta(minutes=19, seconds=32))),
            "$: expected an offset of whole minutes from UTC, got +00:19:32",
        ),
    ],
)
def test_what_cannot_be_written_is_refused_with_its_place(value: Any, message: str) -> None:
    with pytest.raises(Unwritable) as caught:
        write(value)
    assert str(caught.value) == message


def test_a_list_that_holds_itself_is_refused() -> None:
    endless: list[Value] = []
    endless.append(endless)
    with pytest.raises(Unwritable, match=r"^\$: nested too deeply$"):
        write(endless)


@pytest.mark.parametrize("depth", range(100, 1000, 50))
def test_any_depth_is_written_or_refused(depth: int) -> None:
    value: Value = "\0"
    for _ in range(depth):
        value = [value]
    with pytest.raises(Unwritable, match=r"U\+0000|nested too deeply"):
        write(value)


def test_a_message_shows_what_it_cannot_carry() -> None:
    assert visible("a\x00\ud800\nb") == "a\\u0000\\ud800\nb"
