"""Elements to values; what is refused stands in hostile_xmlrpc.py."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from adapters.codecs.xmlrpc_parser import XmlError, tree
from adapters.codecs.xmlrpc_reader import value
from gateway.core.rpc.model import MessageLimits, Value
from tests.kit.values import exactly

EX = 'xmlns:p="http://ws.apache.org/xmlrpc/namespaces/extensions"'
NOON = datetime(2026, 1, 31, 12)  # noqa: DTZ001 - legacy servers name no zone


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        (" x ", " x "),
        ("<string/>", ""),
        ("<string> \n</string>", " \n"),
        ("\n <int>5</int>\t", 5),
        ("<int>\n-5\n</int>", -5),
        ("<i4>+0000000000000000000000005</i4>", 5),
        ("<i4>-0</i4>", 0),
        ("<int>-2147483648</int>", -(2**31)),
        ("<i8>9223372036854775807</i8>", 2**63 - 1),
        ("<int>17179869184</int>", 2**34),
        ("<i4>-9223372036854775808</i4>", -(2**63)),
        ("<i8>18446744073709551615</i8>", 2**64 - 1),
        ("<i1>1</i1>", 1),
        ("<ex:i2>-1</ex:i2>", -1),
        ("<biginteger>1208925819614629174706176</biginteger>", 2**80),
        ("<float>1.5</float>", 1.5),
        ("<ex:bigdecimal>0.1</ex:bigdecimal>", 0.1),
        ("<bigdecimal>12345678901234567890</bigdecimal>", 12345678901234567890),
        ("<ex:dateTime>2026-01-31T12:00:00.000Z</ex:dateTime>", NOON.replace(tzinfo=UTC)),
        ("<ex:nil/>", None),
        (f"<p:i8 {EX}>1</p:i8>", 1),
        (f"<p:nil {EX}/>", None),
        ("<nil> </nil>", None),
        ("<boolean> 1 </boolean>", True),
        ("<boolean>0</boolean>", False),
        ("<double>1</double>", 1.0),
        ("<double>-.5</double>", -0.5),
        ("<double>5.</double>", 5.0),
        ("<double>-0</double>", -0.0),
        ("<double>1.5E+3</double>", 1500.0),
        ("<base64/>", b""),
        ("<base64>\n QU\r\nJD </base64>", b"ABC"),
        ("<dateTime.iso8601>20260131T12:00:00</dateTime.iso8601>", NOON),
        ("<dateTime.iso8601>2026-01-31T12:00:00Z</dateTime.iso8601>", NOON.replace(tzinfo=UTC)),
        ("<dateTime.iso8601>20260131T12:00:00.000001</dateTime.iso8601>", NOON.replace(microsecond=1)),
        ("<dateTime.iso8601>20260131T120000</dateTime.iso8601>", NOON),
        ("<dateTime.iso8601>2026-01-31 12:00:00z</dateTime.iso8601>", NOON.replace(tzinfo=UTC)),
        ("<dateTime.iso8601>20260131T120000,5+00</dateTime.iso8601>", NOON.replace(microsecond=500_000, tzinfo=UTC)),
        (
            "<dateTime.iso8601>20260131T12:00:00.999999999Z</dateTime.iso8601>",
            NOON.replace(microsecond=999_999, tzinfo=UTC),
        ),
        (
            "<dateTime.iso8601>20260131T12:00:00-09:30</dateTime.iso8601>",
            NOON.replace(tzinfo=timezone(-timedelta(hours=9, minutes=30))),
        ),
        ("<struct/>", {}),
        ("<struct> <member> <name>a</name> <value/> </member> </struct>", {"a": ""}),
        ("<array><data/></array>", []),
        ("<array/>", []),
        ("<array> </array>", []),
        ("<array> <data> <value> <nil/> </value> </data> </array>", [None]),
    ],
)
def test_a_value_is_read_as_it_was_meant(text: str, expected: Value) -> None:
    assert exactly(read(text)) == exactly(expected)


def read(text: str, *, last_wins: bool = False) -> Value:
    return value(tree(f"<value>{text}</value>".encode(), MessageLimits()), 2, last_wins=last_wins)


def test_of_a_member_that_is_there_twice_the_last_one_counts_where_that_is_asked_for() -> None:
    member = "<member><name>a</name><value>{}</value></member>"
    twice = f"<struct>{member.format(1)}{member.format(2)}</struct>"
    within = f"<array><data><value>{twice}</value></data></array>"
    assert read(within, last_wins=True) == [{"a": "2"}]
    with pytest.raises(XmlError, match="expected each member once, got 'a' twice"):
        read(within)


def test_a_date_keeps_the_zone_it_had() -> None:
    moment = read("<dateTime.iso8601>20260131T12:00:00+05:30</dateTime.iso8601>")
    assert isinstance(moment, datetime)
    assert moment.utcoffset() == timedelta(hours=5, minutes=30)
