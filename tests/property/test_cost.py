"""No message costs more than a small factor of its bytes, in memory and in work, even where nothing else limits it.

What Python's own objects take is the floor: an empty list is 3 bytes of JSON and 64 of memory, `[[[1]]]` a little more.
"""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.codecs import CODECS
from gateway.core.rpc.model import Call, Envelope, Fault, MessageLimits, Outcome
from gateway.core.xenstore.paths import pack
from tests.kit.cases import each_case

FACTOR = 40  # bytes of memory for each byte of a message, at most
CONSTANT = 256 * 1024  # bytes: tables of the parsers, pieces of the message, a tag
LONGEST_MESSAGE = 8 * 1024  # characters of a fault's message
SIZE = 48 * 1024  # bytes of a message whose memory is measured
SHORT = 12 * 1024
LARGE = 128 * 1024  # of one whose work is
STEEP = 10  # times the work for four times the bytes; what grows with the square of them does 16 times
NOT_MEASURED = 0.0015  # seconds
TRIES = 10

ANSWERS = MessageLimits(body=2**30, elements=2**30)  # as the gateway reads legacy services' answers

Build = Callable[[int], bytes]


def _filled(unit: str, size: int) -> str:
    """A unit again and again, each with a number of its own in place of `#`."""
    if "#" in unit:
        return "".join(unit.replace("#", str(at)) for at in range(size // (len(unit) + 4)))
    return unit * max(1, size // len(unit.encode()))


def xml(before: str, unit: str, after: str = "") -> Build:
    """A methodResponse, for `decode` too: it reads as much before it finds that this is no methodCall."""

    start = f'<?xml version="1.0"?><methodResponse><params><param><value>{before}'
    end = f"{after}</value></param></params></methodResponse>"
    return lambda size: f"{start}{_filled(unit, size)}{end}".encode()


def json(before: str, unit: str, after: str = "") -> Build:
    """A request and a response at once."""

    start = f'{{"jsonrpc":"2.0","id":1,"method":"m","params":[{before}'
    return lambda size: f"{start}{_filled(unit, size)}{after}]}}".encode()


def nodes(path: str, value: str = "") -> Build:
    """Nodes of a request and of an answer; `path` has a number in it or is as long as the message."""

    def build(size: int) -> bytes:
        count = size // (len(path) + len(value) + 10) if "#" in path else 1
        items = [path.replace("#", str(at)) if "#" in path else _filled(path, size) for at in range(count)]
        return pack([b"m", *(part for each in items for part in (each.encode(), value.encode()))])

    return build


def namespaces(size: int) -> bytes:
    """A long URI, and many names that stand for it."""
    uri = "u" * (size // 2)
    return f'<methodCall xmlns:a="{uri}">{_filled("<a:b#/>", size // 2)}</methodCall>'.encode()


ARRAY, DATA_END = "<array><data>", "</data></array>"
XMLRPC: Mapping[str, Build] = {
    "namespaces": namespaces,
    "namespaces within a piece": lambda size: namespaces(size).replace(b"u" * (size // 2), b"u" * 20_000),
    "namespaces of attributes": xml('<a xmlns:a="' + "u" * 20_000 + '">', '<b a:c#=""/>', "</a>"),
    "declarations": xml(ARRAY, '<value xmlns:a#="u"/>', DATA_END),
    "unknown elements": xml("", "<a/>"),
    "unknown elements, each another": xml("", "<a#/>"),
    "unknown elements inside each other": xml("", "<a>"),
    "arrays inside each other": xml("", "<array><data><value>"),
    "structs inside each other": xml("", "<struct><member><name>a</name><value>"),
    "empty values": xml(ARRAY, "<value/>", DATA_END),
    "short values": xml(ARRAY, "<value>ab</value>", DATA_END),
    "integers": xml(ARRAY, "<value><i4>1000</i4></value>", DATA_END),
    "doubles": xml(ARRAY, "<value><double>1.5</double></value>", DATA_END),
    "nothings": xml(ARRAY, "<value><nil/></value>", DATA_END),
    "dates": xml(ARRAY, "<value><dateTime.iso8601>20260131T09:05:00Z</dateTime.iso8601></value>", DATA_END),
    "empty arrays": xml(ARRAY, "<value><array/></value>", DATA_END),
    "empty structs": xml(ARRAY, "<value><struct/></value>", DATA_END),
    "members": xml("<struct>", "<member><name>#</name><value/></member>", "</struct>"),
    "a member again and again": xml("<struct>", "<member><name>a</name><value/></member>", "</struct>"),
    "long names": xml("<struct>", f"<member><name>#{'n' * 9000}</name><value/></member>", "</struct>"),
    "attributes in a tag": xml("<string ", 'a#="" ', "/>"),
    "attributes in tags": xml(ARRAY, '<value a#=""/>', DATA_END),
    "a long tag": xml("<", "a", "/>"),
    "a comment": xml("<!--", "x", "-->"),
    "comments": xml("", "ab<!---->"),
    "instructions": xml("", "ab<?a b?>"),
    "CDATA": xml("", "<![CDATA[ab]]>"),
    "empty CDATA": xml("", "<![CDATA[]]>"),
    "lines": xml("", "ab\n"),
    "carriage returns": xml("", "a\r"),
    "entities": xml("", "&lt;"),
    "references": xml("", "a&#956;"),
    "text": xml("", "x"),
    "text of another script": xml("", "\u4e2d"),
    "one character that takes four bytes": xml("\U0001f600", "x"),
    "ampersands": xml("", "&amp"),
    "beginnings of tags": xml("", "<"),
    "a document type": lambda size: b"<!DOCTYPE a [" + b'<!ENTITY a "b">' * (size // 16) + b"]><a/>",
    "digits": xml("<int>", "9", "</int>"),
    "zeroes": xml("<int>", "0", "</int>"),
    "signs": xml("<int>", "-", "</int>"),
    "numbers of a thousand digits": xml(ARRAY, f"<value><i8>{'9' * 1000}</i8></value>", DATA_END),
    "a double of digits": xml("<double>", "9", "</double>"),
    "a fraction of digits": xml("<double>0.", "9", "</double>"),
    "a bigdecimal of digits": xml("<bigdecimal>0.", "9", "</bigdecimal>"),
    "an exponent of digits": xml("<bigdecimal>1e", "9", "</bigdecimal>"),
    "a date with a long fraction": xml("<dateTime.iso8601>20260131T09:05:00.", "9", "</dateTime.iso8601>"),
    "white space in a number": xml("<int>", " ", "1</int>"),
    "base64": xml("<base64>", "QUJD", "</base64>"),
    "base64 in lines": xml("<base64>", "QUJD\r\n", "</base64>"),
    "base64 in single characters": xml("<base64>", "A ", "</base64>"),
    "UTF-16": lambda size: xml("", "x")(size // 2).decode().encode("utf-16"),
    "a table of characters": lambda size: b'<?xml version="1.0" encoding="cp1252"?><a>' + b"\x80" * size + b"</a>",
    "a table with two bytes each": lambda size: b'<?xml version="1.0" encoding="gb18030"?>' + b"\xb0\xa1" * (size // 2),
}
JSONRPC: Mapping[str, Build] = {
    **{
        f"{title}{trouble}": json("", f"{unit},", end)
        for title, unit in {
            "empty arrays": "[]",
            "empty objects": "{}",
            "objects": '{"a":1}',
            "arrays in arrays": "[[[1]]]",
            "objects in objects": '{"a":{"a":{"a":1}}}',
            "numbers": "1000",
            "doubles": "1.5",
            "exponents": "1e300",
            "texts": '"ab"',
            "escapes": '"\\u00e9"',
            "escaped colons": '"\\u003a"',
            "pairs": '"\\ud83d\\ude00"',
            "numbers of four thousand digits": "9" * 4000,
            "escaped backslashes": '"\\\\"',
        }.items()
        for trouble, end in {
            "": "1",
            ", then a number beyond doubles": "1e400",
            ", then half a pair": '"\\ud800"',
            ", then a member twice": '{"a":1,"a":2}',
            ", then an end": "",
        }.items()
    },
    "members": json('{"x":1', ',"#":1', "}"),
    "a member again and again": json('{"x":1', ',"a":1', "}"),
    "members, then half a pair": json('{"x":1', ',"#":1', ',"b":"\\ud800"}'),
    "half pairs": json('"', "\\ud800", '"'),
    "long names": json('{"x":1', f',"#{"n" * 9000}":1', "}"),
    "digits": json("", "9"),
    "a fraction": json("0.", "9"),
    "an exponent": json("1e", "9"),
    "text": json('"', "x", '"'),
    "beginnings of arrays": json("", "["),
    "beginnings of objects": json("", '{"a":'),
    "ends": json("", "]"),
    "quotation marks": json("", '"'),
    "white space": json("", " "),
    "requests": lambda size: b"[%b1]" % (b'{"jsonrpc":"2.0","method":"m","id":1},' * (size // 40)),
    "damaged requests": lambda size: b"[%b1]" % (b'{"jsonrpc":"2.0","method":1e400,"id":1.0},' * (size // 44)),
    "responses": lambda size: b"[%b1]" % (b'{"jsonrpc":"2.0","result":1,"id":1.0},' * (size // 40)),
}
XENSTORE: Mapping[str, Build] = {
    "nodes": nodes("p#"),
    "numbers": nodes("#", "v"),
    "levels": nodes("/".join(["#", *"a" * 60])),
    "few levels": nodes("#/a/b"),
    "one path": nodes("a/"),
    "a long name": nodes("a"),
    "escapes": nodes("@40"),
    "names with escapes": nodes("@40@40#"),
    "values": nodes("#", "x" * 4000),
    "lengths": lambda size: b"0:," * (size // 3),
    "digits": lambda size: b"9" * size,
    "colons": lambda size: b":" * size,
}
COSTLY = [
    pytest.param(codec, build, id=f"{codec}: {title}")
    for codec, builders in (("xmlrpc", XMLRPC), ("jsonrpc", JSONRPC), ("xenstore", XENSTORE))
    for title, build in builders.items()
]


def readers(codec: str) -> tuple[Callable[[bytes], Envelope | Outcome], ...]:
    """Each way in which bytes of a stranger are read."""
    client = CODECS[codec](ANSWERS)  # without limits but for the bytes
    batch = Envelope((Call("a"), Call("b")), batch=True)

    def in_batch(body: bytes) -> Outcome:
        return client.decode_answers(body, batch)[0]

    return (client.decode, client.decode_outcome, in_batch)[: 3 if codec == "jsonrpc" else 2]


def _assert_cheap(codec: str, body: bytes) -> None:
    for read in readers(codec):
        tracemalloc.start()
        try:
            told, (_, peak) = read(body), tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak <= FACTOR * len(body) + CONSTANT, f"{peak / len(body):.0f} bytes for each"
        for outcome in told.entries if isinstance(told, Envelope) else (told,):
            assert not isinstance(outcome, Fault) or len(outcome.message) <= LONGEST_MESSAGE


@each_case(("codec", "build"), COSTLY)
def test_a_message_takes_a_small_factor_of_its_bytes_in_memory(codec: str, build: Build) -> None:
    _assert_cheap(codec, build(SIZE))


XML_PIECES = st.sampled_from(
    [
        *("<value>", "</value>", "<value/>", "<array><data>", "</data></array>", "<struct>", "</struct>"),
        *("<int>1</int>", "<member><name>a</name>", "</member>", "<a:b/>", "<!---->", "&lt;", "ab", "<![CDATA[a]]>"),
        *('<b a="c"/>', "\n"),
    ]
)
JSON_PIECES = st.sampled_from(
    ["[", "]", "{", "}", "[],", "{},", '"a":', '"a",', "1,", "1e400,", '"\\ud800",', ",", ":", '"', "\\", " ", "NaN,"]
)
NODE_PIECES = st.sampled_from(["0:,", "1:a,", "3:a/b,", "3:@40,", "1:0,", "5:a/b/c,", "9:", ":", ","])


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["xmlrpc", "jsonrpc", "xenstore"]).flatmap(
        lambda codec: st.tuples(
            st.just(codec),
            st.lists(
                {"xmlrpc": XML_PIECES, "jsonrpc": JSON_PIECES, "xenstore": NODE_PIECES}[codec], min_size=1, max_size=4
            ),
            st.booleans(),
        )
    )
)
def test_whatever_is_repeated_takes_a_small_factor_of_its_bytes(case: tuple[str, list[str], bool]) -> None:
    codec, pieces, bare = case
    unit = "".join(pieces)
    if bare or codec == "xenstore":
        body = _filled(unit, SHORT).encode()
    else:
        body = (xml("", unit) if codec == "xmlrpc" else json("", unit, "1"))(SHORT)
    _assert_cheap(codec, body)


def _seconds(read: Callable[[bytes], object], body: bytes) -> float:
    """Of the processor, for this thread alone."""
    started = time.thread_time()
    read(body)
    return time.thread_time() - started


@each_case(("codec", "build"), COSTLY)
def test_four_times_the_bytes_are_about_four_times_the_work(codec: str, build: Build) -> None:
    """The best of several tries: a busy machine makes a reader slow, but never one that is too slow quick."""
    small, large = build(LARGE // 4), build(LARGE)
    gc.disable()  # it looks at all that this process has ever made
    try:
        for read in readers(codec)[: 2 if codec == "jsonrpc" else 1]:
            seconds = _seconds(read, large)
            tries = 1
            while seconds > max(NOT_MEASURED, STEEP * _seconds(read, small)):
                seconds = min(seconds, _seconds(read, large))
                tries += 1
                assert tries <= TRIES, f"{seconds} seconds"
    finally:
        gc.enable()
