"""Elements to values; what is refused stands in hostile_xmlrpc.py."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from xml.etree.ElementTree import fromstring

import pytest

from adapters.codecs.xmlrpc_reader import value
from gateway.core.model import Value
from tests.kit.exactly import exactly

EX = 'xmlns:p="http://ws.apache.org/xmlrpc/namespaces/extensions"'
NOON = datetime(2026, 1, 31, 12)  # noqa: DTZ001 - old servers name no zone


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
        (
            "<dateTime.iso8601>20260131T12:00:00-09:30</dateTime.iso8601>",
            NOON.replace(tzinfo=timezone(-timedelta(hours=9, minutes=30))),
        ),
        ("<struct/>", {}),
        ("<struct> <member> <name>a</name> <value/> </member> </struct>", {"a": ""}),
        ("<array><data/></array>", []),
        ("<array> <data> <value> <nil/> </value> </data> </array>", [None]),
    ],
)
def test_a_value_is_read_as_it_was_meant(text: str, expected: Value) -> None:
    assert exactly(value(fromstring(f"<value>{text}</value>"), room=2)) == exactly(expected)


def test_a_date_keeps_the_zone_it_had() -> None:
    read = value(fromstring("<value><dateTime.iso8601>20260131T12:00:00+05:30</dateTime.iso8601></value>"), room=0)
    assert isinstance(read, datetime)
    assert read.utcoffset() == timedelta(hours=5, minutes=30)
