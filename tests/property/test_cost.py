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


def _message(text: str, size: int) -> bytes:
    """The text, of which the part in double brackets is there again and again, each with its number in place of `#`."""
    before, _, rest = text.partition("«")
    unit, _, after = rest.partition("»")
    if "#" in unit:
        filled = "".join(unit.replace("#", str(at)) for at in range(size // (len(unit) + 4)))
    else:
        filled = unit * max(1, size // len(unit.encode()))
    return f"{before}{filled}{after}".encode()


def xml(value: str) -> Build:
    """A methodResponse, for `decode` too: it reads as much before it finds that this is no methodCall."""
    start, end = "<methodResponse><params><param><value>", "</value></param></params></methodResponse>"
    return lambda size: _message(f'<?xml version="1.0"?>{start}{value}{end}', size)


def json(params: str) -> Build:
    """A request and a response at once."""
    return lambda size: _message(f'{{"jsonrpc":"2.0","id":1,"method":"m","params":[{params}]}}', size)


def nodes(path: str, value: str = "") -> Build:
    """Nodes of a request and of an answer; `path` has a number in it or is as long as the message."""

    def build(size: int) -> bytes:
        count = size // (len(path) + len(value) + 10) if "#" in path else 1
        items = [
            path.replace("#", str(at)).encode() if "#" in path else _message(f"«{path}»", size) for at in range(count)
        ]
        return pack([b"m", *(part for each in items for part in (each, value.encode()))])

    return build


def namespaces(size: int) -> bytes:
    """A long URI, and many names that stand for it."""
    return _message(f'<methodCall xmlns:a="{"u" * (size // 2)}">«<a:b#/>»</methodCall>', size // 2)


XMLRPC: Mapping[str, Build] = {
    **{
        value[:40] + value[-20:]: xml(value)
        for value in (
            f'<a xmlns:a="{"u" * 20_000}">«<b a:c#=""/>»</a>',
            *("«<a/>»", "«<a#/>»", "«<a>»", "«<array><data><value>»", "«<struct><member><name>a</name><value>»"),
            *(
                f"<array><data>«{item}»</data></array>"
                for item in (
                    *('<value xmlns:a#="u"/>', "<value/>", "<value>ab</value>", "<value><i4>1000</i4></value>"),
                    *("<value><double>1.5</double></value>", "<value><nil/></value>", "<value><array/></value>"),
                    "<value><dateTime.iso8601>20260131T09:05:00Z</dateTime.iso8601></value>",
                    *("<value><struct/></value>", '<value a#=""/>', f"<value><i8>{'9' * 1000}</i8></value>"),
                )
            ),
            "<struct>«<member><name>#</name><value/></member>»</struct>",
            "<struct>«<member><name>a</name><value/></member>»</struct>",
            f"<struct>«<member><name>#{'n' * 9000}</name><value/></member>»</struct>",
            *('<string «a#="" »/>', "<«a»/>", "<!--«x»-->", "«ab<!---->»", "«ab<?a b?>»", "«<![CDATA[ab]]>»"),
            *(
                "«<![CDATA[]]>»",
                "«ab\n»",
                "«a\r»",
                "«&lt;»",
                "«a&#956;»",
                "«x»",
                "«\u4e2d»",
                "\U0001f600«x»",
                "«&amp»",
                "«<»",
            ),
            *("<int>«9»</int>", "<int>«0»</int>", "<int>«-»</int>", "<int>« »1</int>", "<double>«9»</double>"),
            *("<double>0.«9»</double>", "<bigdecimal>0.«9»</bigdecimal>", "<bigdecimal>1e«9»</bigdecimal>"),
            "<dateTime.iso8601>20260131T09:05:00.«9»</dateTime.iso8601>",
            *("<base64>«QUJD»</base64>", "<base64>«QUJD\r\n»</base64>", "<base64>«A »</base64>"),
        )
    },
    "namespaces": namespaces,
    "namespaces within a piece": lambda size: namespaces(size).replace(b"u" * (size // 2), b"u" * 20_000),
    "a document type": lambda size: b"<!DOCTYPE a [" + b'<!ENTITY a "b">' * (size // 16) + b"]><a/>",
    "UTF-16": lambda size: xml("«x»")(size // 2).decode().encode("utf-16"),
    "a table of characters": lambda size: b'<?xml version="1.0" encoding="cp1252"?><a>' + b"\x80" * size + b"</a>",
    "a table with two bytes each": lambda size: b'<?xml version="1.0" encoding="gb18030"?>' + b"\xb0\xa1" * (size // 2),
}
JSONRPC: Mapping[str, Build] = {
    **{
        params[:40] + params[-20:]: json(params)
        for params in (
            *(
                f"«{item},»{end}"
                for item in (
                    *("[]", "{}", '{"a":1}', "[[[1]]]", '{"a":{"a":{"a":1}}}', "1000", "1.5", "1e300", '"ab"'),
                    *('"\\u00e9"', '"\\u003a"', '"\\ud83d\\ude00"', '"\\\\"', "9" * 4000),
                )
                # at the end nothing wrong, a number beyond doubles, half a pair, a member twice, nothing
                for end in ("1", "1e400", '"\\ud800"', '{"a":1,"a":2}', "")
            ),
            *('{"x":1«,"#":1»}', '{"x":1«,"a":1»}', '{"x":1«,"#":1»,"b":"\\ud800"}', f'{{"x":1«,"#{"n" * 9000}":1»}}'),
            *('"«\\ud800»"', "«9»", "0.«9»", "1e«9»", '"«x»"', "«[»", '«{"a":»', "«]»", '«"»', "« »"),
        )
    },
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
    unit = f"«{''.join(pieces)}»"
    if bare or codec == "xenstore":
        body = _message(unit, SHORT)
    else:
        body = (xml(unit) if codec == "xmlrpc" else json(f"{unit}1"))(SHORT)
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
