"""XML-RPC values: the parser, the reader, the writer."""

from __future__ import annotations

import gc
import tracemalloc
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from enum import IntEnum
from typing import Any
from xml.etree.ElementTree import Element

import pytest

from adapters.codecs.xmlrpc_parser import XmlError, tree
from adapters.codecs.xmlrpc_reader import value
from adapters.codecs.xmlrpc_writer import Unwritable, write
from gateway.core.rpc.model import FaultCode, MessageLimits, Value
from tests.kit.cases import each_case
from tests.kit.values import exactly

# Parser


LIMITS = MessageLimits()


@each_case(
    ("body", "text"),
    [
        ("<a>\u00e9</a>".encode("utf-8-sig"), "\u00e9"),
        ("<a>\u00e9</a>".encode("utf-16"), "\u00e9"),
        (b"\xfe\xff" + "<a>\u00e9</a>".encode("utf-16-be"), "\u00e9"),
        ('<?xml version="1.0" encoding="UTF-8"?><a>\u00e9</a>'.encode("utf-8-sig"), "\u00e9"),
        ('<?xml version="1.0"\n encoding="utf-16"?><a>\u00e9</a>'.encode("utf-16"), "\u00e9"),
        (b"<?xml version='1.0' encoding = 'ISO-8859-1' standalone='yes'?><a>\xe9</a>", "\u00e9"),
        (b'<?xml version="1.0" encoding="US-ASCII"?><a>&#233;</a>', "\u00e9"),
        (b"<a>x<!-- <!DOCTYPE -->&lt;!DOCTYPE <?p i?>z</a>", "x<!DOCTYPE z"),
        (b"<a>\r\n\r&#13;</a>", "\n\n\r"),
        (b"<a><![CDATA[" + b"<value/>" * 500 + b"]]></a>", "<value/>" * 500),
    ],
)
def test_text_arrives_in_every_encoding_that_is_allowed_and_as_xml_has_it(body: bytes, text: str) -> None:
    assert tree(body, MessageLimits(elements=100)).text == text


@each_case(
    ("names", "text"),
    [
        ("windows-1252 CP1252 ISO-8859-15 utf8", "\u20ac"),
        ("Windows-1251 koi8-r", "\u0416"),
        ("latin1", "\u00e9"),
        ("Shift_JIS", "\u8868"),
        ("GB18030", "\u4e2d"),
    ],
)
def test_tables_of_characters_may_be_declared_here_or_in_the_content_type(names: str, text: str) -> None:
    for name in names.split():
        declared = f'<?xml version="1.0" encoding="{name}"?><a>{text}</a>'
        assert tree(declared.encode(name), LIMITS).text == text
        assert tree(f"<a>{text}</a>".encode(name), LIMITS, name).text == text


def test_elements_that_nobody_knows_are_kept_for_a_message_and_end_it_when_there_are_many() -> None:
    assert len(tree(b"<a>" + b"<b/>" * 998 + b" " * 40_000 + b"</a>", LIMITS)) == 998
    with pytest.raises(XmlError, match=r"more than 1000 others, such as <b> \(line 1, column 4000\)") as caught:
        tree(b"<a>" + b"<b/>" * 10_000 + b"</a>", LIMITS)
    assert caught.value.code is FaultCode.TOO_LARGE


@each_case("end", [b"</a>", b"", b"<!DOCTYPE", b"<b/>" * 2000])
def test_nothing_stays_of_a_message_once_it_is_read(end: bytes) -> None:
    def elements() -> int:
        return sum(isinstance(each, Element) for each in gc.get_objects())

    gc.collect()
    before = elements()
    gc.disable()
    try:
        with suppress(XmlError):
            tree(b"<a>" + b"<value/>" * 5000 + end, LIMITS)
        assert elements() == before
    finally:
        gc.enable()


def test_what_is_open_all_at_once_is_bounded() -> None:
    deep = b"<value>" * 10_000 + b"</value>" * 10_000
    with pytest.raises(XmlError, match="nested deeper than is allowed"):
        tree(deep, LIMITS)
    assert len(tree(deep, MessageLimits(depth=10_000))) == 1
    assert len(tree(b"<data>" + b"<value><array></array></value>" * 5000 + b"</data>", LIMITS)) == 5000


@each_case("long", [b'<value a="%b"/>', b"<value><!--%b--></value>", b"<value><?a %b?></value>", b"<a%b/>"])
def test_a_tag_is_not_read_without_end(long: bytes) -> None:
    with pytest.raises(XmlError, match="a tag or comment of more than 65536 bytes"):
        tree(b"<a>" + long % (b"x" * 200_000) + b"</a>", LIMITS)


@each_case("kind", [b"%b", b"<![CDATA[%b]]>"])
def test_a_text_may_be_as_long_as_the_message(kind: bytes) -> None:
    assert tree(b"<a>" + kind % (b"x" * 200_000) + b"</a>", LIMITS).text == "x" * 200_000


def test_what_the_message_says_itself_goes_before_what_its_content_type_says() -> None:
    declared = '<?xml version="1.0" encoding="utf-8"?><a>\u00e9</a>'
    assert tree(declared.encode(), LIMITS, "iso-8859-1").text == "\u00e9"
    assert tree("<a>\u00e9</a>".encode("utf-8-sig"), LIMITS, "iso-8859-1").text == "\u00e9"
    assert tree("<a>\u00e9</a>".encode("utf-16"), LIMITS, "utf-8").text == "\u00e9"
    for name in ("zlib", "utf-7", "idna", "punycode", "unicode_escape", "iso-2022-jp", "cp037", "mbcs"):
        assert tree("<a>\u00e9</a>".encode(), LIMITS, name).text == "\u00e9"  # no other codec of Python is reached


def test_limits_are_met_exactly() -> None:
    body = b"<a>" + b"<value/>" * 100 + b"</a>"
    assert len(tree(body, MessageLimits(body=len(body), elements=100))) == 100
    for limits in (MessageLimits(body=len(body) - 1), MessageLimits(elements=99)):
        with pytest.raises(XmlError) as caught:
            tree(body, limits)
        assert caught.value.code is FaultCode.TOO_LARGE


# Reader


NOON = datetime(2026, 1, 31, 12)  # noqa: DTZ001 - legacy servers name no zone


@each_case(
    ("text", "expected"),
    [
        ("\n <int>5</int>\t", 5),
        ("<i4>+0000000000000000000000005</i4>", 5),
        ("<i4>-0</i4>", 0),
        ("<nil> </nil>", None),
        ("<boolean> 1 </boolean>", True),
        ("<double>-.5</double>", -0.5),
        ("<double>-0</double>", -0.0),
        ("<double>1.5E+3</double>", 1500.0),
        ("<base64>\n QU\r\nJD </base64>", b"ABC"),
        ("<dateTime.iso8601>2026-01-31 12:00:00z</dateTime.iso8601>", NOON.replace(tzinfo=UTC)),
        ("<dateTime.iso8601>20260131T120000,5+00</dateTime.iso8601>", NOON.replace(microsecond=500_000, tzinfo=UTC)),
        (
            "<dateTime.iso8601>20260131T12:00:00-09:30</dateTime.iso8601>",
            NOON.replace(tzinfo=timezone(-timedelta(hours=9, minutes=30))),
        ),
        ("<struct> <member> <name>a</name> <value/> </member> </struct>", {"a": ""}),
        ("<array> </array>", []),
        ("<array> <data> <value> <nil/> </value> </data> </array>", [None]),
    ],
)
def test_what_writers_do_beside_the_reports_is_read_as_it_was_meant(text: str, expected: Value) -> None:
    """The usual forms are in tests/wire/reports/xmlrpc_values.yaml."""
    assert exactly(read(text)) == exactly(expected)


def read(text: str) -> Value:
    return value(tree(f"<value>{text}</value>".encode(), MessageLimits()), 2)


# Writer


class Level(IntEnum):
    HIGH = 3


@each_case(
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


@each_case(
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


@each_case("depth", range(100, 1000, 50))
def test_any_depth_is_written_or_refused(depth: int) -> None:
    endless: list[Value] = []
    endless.append(endless)
    with pytest.raises(Unwritable, match=r"^\$: nested too deeply$"):
        write(endless)
    value: Value = "\0"
    for _ in range(depth):
        value = [value]
    with pytest.raises(Unwritable, match=r"U\+0000|nested too deeply"):
        write(value)


def test_records_of_one_class_are_each_written_with_their_own_values() -> None:
    names = ["plain", "per%cent", "a<b", *(f"field_{at}" for at in range(20))]
    first: dict[str, Value] = dict.fromkeys(names, "text")
    others: list[dict[str, Value]] = [
        {**first, "plain": "100%s & <more>\r"},
        {**first, "plain": 7},
        {
            **first,
            "per%cent": {"inner": ["<"]},
            "field_3": None,
            "field_4": True,
            "field_5": datetime(2026, 1, 31, tzinfo=UTC),
        },
        {name: first[name] for name in reversed(names)},
    ]
    for record in (first, *others, first):
        assert exactly(value(tree(write(record), LIMITS), 9)) == exactly(record)
    odd_name: dict[Any, Value] = {**first, 7: ""}
    for wrong, message in (({**first, "field_7": "\0"}, r"\$\.field_7: .*U\+0000"), (odd_name, "name of a member")):
        with pytest.raises(Unwritable, match=message):
            write(wrong)


def test_a_long_value_is_the_same_in_pieces() -> None:
    text = "<é>" * 1000
    records: dict[str, Value] = {f"ref {at}": {"text": text, "number": at, "none": []} for at in range(600)}
    answer: Value = {"Status": "Success", "Value": {"events": [*records.values()], "all": records, "token": "1"}}
    written = write(answer, before=b"(", after=b")")
    assert written.startswith(b"(<value><struct>")
    assert written.endswith(b"</struct></value>)")
    assert exactly(value(tree(written[1:-1], MessageLimits(64 * 1024**2, elements=10**6)), 9)) == exactly(answer)
    with pytest.raises(Unwritable, match=r"\$\.Value\.all\.ref 7\.text: "):
        write({"Value": {"all": {**records, "ref 7": {"text": "\ud800"}}}})


def test_the_text_of_a_long_value_never_stands_whole_beside_its_bytes() -> None:
    records: dict[str, Value] = {f"ref {at}": {"text": "x" * 4000} for at in range(4000)}
    tracemalloc.start()
    written = write(records)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.5 * len(written)
