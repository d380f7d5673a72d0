"""Bodies that must not be believed, each with the fault it must get, by what is wrong with them; knows no gateway."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator

from gateway.core.rpc.model import FaultCode, MessageLimits

PARSE, REQUEST, PARAMS, LARGE = (
    FaultCode.PARSE_ERROR,
    FaultCode.INVALID_REQUEST,
    FaultCode.INVALID_PARAMS,
    FaultCode.TOO_LARGE,
)

LIMITS = MessageLimits(body=64 * 1024, depth=20, elements=1000, batch=5)

Hostile = tuple[str, bytes, FaultCode, str]  # title, body, code, what the message must hold
Group = tuple[FaultCode, str, tuple[str | bytes, ...]]  # code, what the message must hold, the texts


def rows(where: str, build: Callable[[str | bytes], bytes], groups: tuple[Group, ...]) -> Iterator[Hostile]:
    """The bodies that have these texts at one place."""
    for code, words, texts in groups:
        for text in texts:
            shown = text.decode("latin-1") if isinstance(text, bytes) else text
            yield f"{shown if len(shown) < 40 else shown[:40] + '...'!a} {where}", build(text), code, words


def whole(text: str | bytes) -> bytes:
    """The text as the message."""
    return text.encode() if isinstance(text, str) else text


_HEAD = '<?xml version="1.0"?>'


def call(value: str, head: str = _HEAD) -> bytes:
    """A call with one parameter."""
    params = f"<params><param>{value}</param></params>"
    return f"{head}<methodCall><methodName>m</methodName>{params}</methodCall>".encode()


def _valued(inside: str | bytes) -> bytes:
    return call("<value>@</value>").replace(b"@", whole(inside))


def _typed(kind: str) -> Callable[[str | bytes], bytes]:
    return lambda text: _valued(f"<{kind}>{text!s}</{kind}>")


def _declared(encoding: str | bytes) -> bytes:
    return call("<value/>", f'<?xml version="1.0" encoding="{encoding!s}"?>')


def _named(name: str | bytes) -> bytes:
    return f"{_HEAD}<methodCall><methodName>{name!s}</methodName></methodCall>".encode()


def _multicall(items: str | bytes) -> bytes:
    return call(f"<value><array><data>{items!s}</data></array></value>").replace(b">m<", b">system.multicall<")


_LAUGHS = '<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "ha">' + "".join(
    f'<!ENTITY {chr(98 + at)} "{f"&{chr(97 + at)};" * 10}">' for at in range(9)
)
_MEMBER = "<member><name>a</name><value>1</value></member>"
_GOOD = call("<value/>").decode()
_DOCTYPE = call("<value/>", "<!DOCTYPE m>").decode()
_MARK = b"\xef\xbb\xbf"

# What stands before a call.
HEADS: tuple[Group, ...] = (
    (
        PARSE,
        "document type",
        (
            *('<!DOCTYPE m SYSTEM "http://x/m.dtd">', "<!DOCTYPE methodCall>"),
            *('<!DOCTYPE m [<!ENTITY % a SYSTEM "http://x/">%a;]>', '<!DOCTYPE m [<!ATTLIST value a CDATA "x">]>'),
        ),
    ),
    (PARSE, "line 3", ('<?xml version="1.0"?>\n\n  <!DOCTYPE m>',)),
    (PARSE, "line 1, column 30", ("<!-- <!DOCTYPE --><!DOCTYPE m>",)),
    (PARSE, "encoding: expected utf-8", ('<?xml version="1.0" encoding="utf-7"?>',)),
    (PARSE, "'klingon'", ("<?xml version='1.0' encoding = 'klingon'?>",)),
    (PARSE, "a malformed XML declaration", ('<?xml encoding="utf-8"?>',)),
    (PARSE, "not at the very start", (_HEAD * 2,)),
)
ENCODINGS: tuple[Group, ...] = (
    (PARSE, "'zlib'", ("zlib",)),
    (PARSE, "encoding: expected", ("", "utf-16", "cp037", "unicode_escape", "idna", "punycode", "utf_32")),
)

# What may not stand in a value's text or markup.
VALUES: tuple[Group, ...] = (
    (
        PARSE,
        "a character",
        (
            *("a & b", "&lt", "&#;", "&#xG;", "a < b", "]]>", "\x1b[2J", "<int a=b>1</int>", '<int>1</int a="">'),
            *("<!-- -- -->", "<!ENTITY a 'b'>", "\ufffe", b"\xe9", b"\xc0\xaf", b"\xed\xa0\x80", "&amp" * 10_000),
        ),
    ),
    (PARSE, "line 1, column 83", ("a\x01b",)),
    (PARSE, "zero byte", ("a\0b",)),
    (PARSE, "an entity that XML itself does not define", ("&nbsp;",)),
    (PARSE, "a reference", ("&#0;", "&#27;", "&#xD83D;&#xDE00;", "&#xFFFF;", "&#x110000;", f"&#{'9' * 5000};")),
    (PARSE, "a closing tag", ("<int>1</Int>",)),
    (PARSE, "a tag is not closed", ("<?php echo 1", "<!-- ")),
    (PARSE, "an XML declaration", ("<?xml version='1.0'?>",)),
    (PARSE, "a CDATA section", ("<![CDATA[x",)),
    (PARAMS, "got <q:nil>", ("<q:nil/>",)),
    (PARAMS, "got <e:nil>", ('<e:nil xmlns:e="urn:x"/>',)),
    (PARAMS, "got <x>", ("<x>" * 500 + "</x>" * 500,)),
    (PARAMS, "no text in <value>, got 'x'", ("x<int>1</int>",)),
    (PARAMS, "no text in <value>", ("<int>1</int>x",)),
    (PARAMS, "expected <int> in <value>, got <int>, <int>", ("<int>1</int><int>2</int>",)),
    (PARAMS, "expected no text in <array>", ("<array>x</array>",)),
    (PARAMS, "expected <data> in <array>", ("<array><data/><data/></array>",)),
    (PARAMS, "expected <value> in <data>", ("<array><data><int>1</int></data></array>",)),
    (PARAMS, "no text in <data>", ("<array><data>x<value/></data></array>", "<array><data>x</data></array>")),
    (
        PARAMS,
        "$.params[0].a[1]: expected an integer in digits, got 'x'",
        (
            f"<struct>{_MEMBER}</struct>".replace(
                "1", "<array><data><value/><value><int>x</int></value></data></array>"
            ),
        ),
    ),
    (LARGE, "at most 65536 bytes", ("x" * 70_000,)),
    (LARGE, "at most 1000 values", (f"<array><data>{'<value/>' * 1000}</data></array>",)),
    (LARGE, "values", (f"<struct>{'<b/>' * 15_000}</struct>",)),
    (LARGE, ".a.a.a: nested", ("<struct><member><name>a</name><value>" * 21 + "</value></member></struct>" * 21,)),
    (LARGE, "deeper than is allowed (line 1", ("<array><data><value>" * 1000 + "</value></data></array>" * 1000,)),
    (
        LARGE,
        "$.params[0]" + "[0]" * 20 + ": nested",
        ("<array><data><value>" * 21 + "<int>1</int>" + "</value></data></array>" * 21,),
    ),
)

# Texts that are no value of their type, and what was expected; those of tests/wire/reports/ are not repeated here.
TEXTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("int", "expected an integer in digits", ("5_0", "0x10", "\u0665", "\u00b2", "+-5", "5 0", "0" * 60_000 + "x")),
    ("int", "expected text in <int>, got <b>", ("<b/>5",)),
    ("i8", "expected an integer of at most 1000 digits", ("9" * 1001, "-" + "9" * 5000)),
    ("i8", "expected an integer of at most 1000 digits, got 60000", ("9" * 60_000,)),
    ("boolean", "expected a boolean, 0 or 1", ("true", "2", "", "01", "\u0661")),
    ("double", "expected a decimal number", ("1_0.5", ".", "e5", "0x1p3", "\u0661.5", "1e", "1" * 60_000 + "x")),
    ("double", "expected a number that fits a double", ("1e400", "9" * 60_000, "-1e309", "1e" + "9" * 5000)),
    ("base64", "expected base64", ("!!", "QQ==QUJD", "_-8=", "QUJD\u2003QUJD", "A", "QU=D", "\u00e4", "=QUJD")),
    (
        "dateTime.iso8601",
        "expected a date such as",
        ("yesterday", "2026-0131T00:00:00Z", "\u0662\u0660260131T00:00:00"),
    ),
    ("dateTime.iso8601", "expected a date that exists", ("20260631T00:00:00Z", "20260131T00:00:00+24:00")),
    ("nil", "expected <nil/> to be empty", ("null",)),
    ("string", "expected text in <string>, got <b>", ("a<b/>c",)),
    ("number", "expected a type of XML-RPC, got <number>", ("1.0",)),
    ("INT", "expected a type of XML-RPC, got <INT>", ("1",)),
    ("bigdecimal", "expected a number that a double holds", ("0.1234567890123456789",)),
)

STRUCTS: tuple[Group, ...] = (
    (PARAMS, "$.params[0]: expected each member once, got 'a' twice", (_MEMBER * 2,)),
    (
        PARAMS,
        " twice",  # however the name is spelled, and wherever the struct is
        (
            _MEMBER + _MEMBER.replace(">a<", ">&#97;<"),
            _MEMBER + _MEMBER.replace(">a<", "><![CDATA[a]]><"),
            _MEMBER + _MEMBER.replace(">a<", ">b<") + _MEMBER,
            _MEMBER.replace("1", f"<array><data><value><struct>{_MEMBER * 2}</struct></value></data></array>"),
        ),
    ),
    (
        PARAMS,
        "expected <name>, <value>",
        (
            *("<member><value>1</value></member>", "<member><name>a</name></member>"),
            *("<member><value/><name>a</name></member>", "<member><name/><value/><value/></member>"),
        ),
    ),
    (PARAMS, "got nothing", ("<member/>", "<member/>" * 5000)),
    (PARAMS, "expected <member> in <struct>, got <value>", ("<value/>",)),
    (PARAMS, "no text in <struct>", ("x" + _MEMBER, _MEMBER + "x", "x")),
    (PARAMS, "no text in <member>", (_MEMBER.replace("</name>", "</name>x"),)),
    (PARAMS, "expected text in <name>", (_MEMBER.replace(">a<", ">a<b/><"),)),
)

# Method names that go into no log and no bus.
NAMES: tuple[Group, ...] = (
    (REQUEST, "methodName", ("", "\nm", "a\x7f", "a\u0085", "a&#13;b", "<![CDATA[\n]]>")),
    (REQUEST, "got <b>", ("m<b/>",)),
    (PARSE, "", ("a\0", "a\x1b[2J", "&#0;", "&file;", "a\ufffe")),
)

PARAMETERS: tuple[Group, ...] = (
    (REQUEST, "expected <value> in <param>, got nothing", ("",)),
    (REQUEST, "expected <value> in <param>", ("<value/><value/>",)),
    (REQUEST, "expected <value> in <param>, got <aaa", (f"<{'a' * 60_000}/>",)),
    (REQUEST, "got <a:value>", ('<a:value xmlns:a="urn:x"><int>1</int></a:value>',)),
    (PARSE, "an attribute twice", ("<value " + " ".join(f'a{at}=""' for at in range(1000)) + ' a0=""/>',)),
    (LARGE, "more markup", ("<!---->" * 8000,)),
    (LARGE, "at most 1000 values", ("<value/></param><param>" * 1001 + "<value/>",)),
    (LARGE, "[1][1][1]: nested", ("<value><array><data><value/>" * 21 + "</data></array></value>" * 21,)),
)

MULTICALLS: tuple[Group, ...] = (
    (LARGE, "at most 5 calls, got 6", ("<value/>" * 6,)),
    (REQUEST, "$.params[0]: expected no text in <data>", ("x",)),
)

MESSAGES: tuple[Group, ...] = (
    (
        PARSE,
        "document type",
        (
            call("<value>&j;</value>", _LAUGHS + "]>"),
            call("<value>&a;</value>", '<!DOCTYPE m [<!ENTITY a SYSTEM "file:///etc/passwd">]>'),
            *(_DOCTYPE.encode("utf-16"), _MARK + _DOCTYPE.encode()),
        ),
    ),
    (
        PARSE,
        "zero byte",
        (_DOCTYPE.encode("utf-16-le"), _GOOD.encode("utf-32"), _GOOD + "\0", gzip.compress(_GOOD.encode(), mtime=0)),
    ),
    (
        PARSE,
        "expected cp1252",
        (call("<value>@</value>", '<?xml version="1.0" encoding="windows-1252"?>').replace(b"@", b"\x81"),),
    ),
    (PARSE, "expected utf-16", (_declared("utf-8").decode().encode("utf-16"),)),
    (PARSE, "expected utf-8", (_MARK + _declared("us-ascii"),)),
    (PARSE, "expected UTF-16", (_GOOD.encode("utf-16") + b"\x00", bytes(range(255, 127, -1)))),
    (
        PARSE,
        "character",
        (
            call("<value>\u00e9</value>", '<?xml version="1.0" encoding="us-ascii"?>').decode().encode("latin-1"),
            *(b"</methodCall>", _MARK * 2 + _GOOD.encode()),
        ),
    ),
    (PARSE, "ends", ("", " \r\n", _MARK, b"\xff\xfe")),
    (PARSE, "line 1, column 1", ("GET / HTTP/1.1\r\n\r\n", '{"jsonrpc": "2.0", "method": "m", "id": 1}')),
    (PARSE, "after the end", (_GOOD + "x", call("<value/>", "") * 2)),
    (PARSE, "very start", (" " + _GOOD,)),
    (PARSE, "closing tag", ("<methodCall><methodName>m</methodCall></methodName>",)),
    (PARSE, "a tag is not closed", ("<" + "a" * 60_000,)),
    (REQUEST, "expected <methodCall>, got <html>", ("<html><body>hello</body></html>",)),
    (REQUEST, "got <methodResponse>", ("<methodResponse><params/></methodResponse>",)),
    (REQUEST, "got <x:methodCall>", ('<x:methodCall xmlns:x="urn:x"><x:methodName/></x:methodCall>',)),
    (REQUEST, "expected <methodName>", ("<methodCall><params/></methodCall>",)),
    (REQUEST, "got nothing", ("<methodCall/>",)),
    (
        REQUEST,
        "expected <methodName>, <params>",
        ("<methodCall><methodName>m</methodName><params/><params/></methodCall>",),
    ),
    (REQUEST, "no text in <methodCall>", ("<methodCall>x<methodName>m</methodName></methodCall>",)),
    (REQUEST, "no text in <params>", (_GOOD.replace("<params>", "<params>x"),)),
    (REQUEST, "expected <param> in <params>", (_GOOD.replace("param>", "value>"),)),
    (REQUEST, "one array of calls, got 0", (_named("system.multicall"),)),
    (REQUEST, "$.params[0]: expected", (_valued("x").replace(b">m<", b">system.multicall<"),)),
    (LARGE, "values", ("<a>" * 9000 + "</a>" * 9000,)),
    (LARGE, "more markup", ("<" * 60_000,)),
)

REFUSED: tuple[Hostile, ...] = (
    *rows("before a call", lambda head: call("<value/>", str(head)), HEADS),
    *rows("as encoding", _declared, ENCODINGS),
    *rows("in a value", _valued, VALUES),
    *rows("in a struct", lambda members: call(f"<value><struct>{members!s}</struct></value>"), STRUCTS),
    *rows("as a method", _named, NAMES),
    *rows("in a parameter", lambda inside: call(str(inside)), PARAMETERS),
    *rows("in a multicall", _multicall, MULTICALLS),
    *rows("as a message", whole, MESSAGES),
    *(
        row
        for kind, words, texts in TEXTS
        for row in rows(f"in {kind}", _typed(kind), ((PARAMS, f"$.params[0]: {words}", texts),))
    ),
)
