"""Further bodies that must not be believed, by the dozen: many texts for each thing that can be wrong with them."""

from __future__ import annotations

import gzip

from gateway.core.rpc.model import FaultCode
from tests.unit.codecs.hostile_xmlrpc import LARGE, PARAMS, PARSE, REQUEST, Hostile, call

_HEAD = '<?xml version="1.0"?>'
_MEMBER = "<member><name>a</name><value>1</value></member>"


def _named(name: str) -> bytes:
    return f"{_HEAD}<methodCall><methodName>{name}</methodName></methodCall>".encode()


def _declared(encoding: str) -> bytes:
    return call("<value/>", f'<?xml version="1.0" encoding="{encoding}"?>')


def _title(text: str, where: str) -> str:
    return f"{text if len(text) < 40 else text[:40] + '...'!a} {where}"


def _valued(inside: str) -> bytes:
    return call(f"<value>{inside}</value>")


# What may not stand in a value's text or markup, and what is said of it.
_MARKUP: tuple[tuple[str, str], ...] = (
    ("a & b", "a character"),
    ("&lt", "a character"),
    ("&;", "a character"),
    ("&#;", "a character"),
    ("&#x;", "a character"),
    ("&#xG;", "a character"),
    ("&#-1;", "a character"),
    ("&#27;", "a reference"),
    ("&#xFFFE;", "a reference"),
    ("&#xFFFF;", "a reference"),
    ("&#xD83D;&#xDE00;", "a reference"),
    ("a < b", "a character"),
    ("]]>", "a character"),
    ("<>", "a character"),
    ("< int/>", "a character"),
    ("<1/>", "a character"),
    ("<int a=b>1</int>", "a character"),
    ("<int a>1</int>", "a character"),
    ('<int a="<">1</int>', "a character"),
    ('<int a="1>1</int>', "a character"),
    ('<int>1</int a="">', "a character"),
    ("<&#105;nt>1</int>", "a character"),
    ("<int>1</Int>", "a closing tag"),
    ("<?php echo 1", "a tag is not closed"),
    ("<?xml version='1.0'?>", "an XML declaration"),
    ("<!-- ", "a tag is not closed"),
    ("<!-- -- -->", "a character"),
    ("<![CDATA[x", "a CDATA section"),
    ("<![INCLUDE[x]]>", "a character"),
    ("<!ELEMENT a ANY>", "a character"),
    ("<!ENTITY a 'b'>", "a character"),
    ("&amp" * 10_000, "a character"),
)

# Texts that are no value of their type, and what was expected.
_TEXTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "int",
        "an integer in digits",
        ("1e3", "inf", "1,000", "\uff15", "0b1", "0o7", "\u2167", "--1", "\u22125", "true"),
    ),
    ("i8", "an integer of at most 1000 digits", ("9" * 1001, "-" + "9" * 5000)),
    (
        "double",
        "a decimal number",
        (".", "e5", "0x1p3", "\u0661.5", "Infinity", "nan(1)", "++1.0", "1. 5", "1.0d", "1e"),
    ),
    ("double", "a number that fits a double", ("1e309", "-1e309", "1e" + "9" * 5000)),
    ("boolean", "a boolean, 0 or 1", ("01", "-1", "t", "\u0661", "1.0", "True", "11")),
    ("base64", "base64", ("A", "QU=D", "Q===", "\u00e4", "QUJD*", "=QUJD")),
    ("dateTime.iso8601", "a date such as", ("", "2026013lT00:00:00", "2026-W01-1", "20260131", "100000131T00:00:00")),
    ("dateTime.iso8601", "a date such as", ("-0010131T00:00:00", "20260131T00:00:00ZZ", "\u0662\u0660260131T00:00:00")),
    ("dateTime.iso8601", "a date that exists", ("20261301T00:00:00", "20250229T00:00:00", "20260131T00:60:00")),
)

# Members of one name, however it is spelled.
_TWICE = (
    _MEMBER + _MEMBER.replace(">a<", ">&#97;<"),
    _MEMBER + _MEMBER.replace(">a<", "><![CDATA[a]]><"),
    _MEMBER + _MEMBER.replace(">a<", "><!-- -->a<"),
    _MEMBER.replace(">a<", "><") * 2,
    _MEMBER + _MEMBER.replace(">a<", ">b<") + _MEMBER,
    _MEMBER.replace("1", f"<struct>{_MEMBER * 2}</struct>"),
    _MEMBER.replace("1", f"<array><data><value><struct>{_MEMBER * 2}</struct></value></data></array>"),
)

# Method names that go into no log and no bus.
_NAMES: tuple[tuple[str, FaultCode], ...] = (
    ("a\tb", REQUEST),
    ("a\x7f", REQUEST),
    ("a\u0085", REQUEST),
    ("a&#13;b", REQUEST),
    ("<![CDATA[\n]]>", REQUEST),
    ("<methodName>x</methodName>", REQUEST),
    ("a\0", PARSE),
    ("a\x1b[2J", PARSE),
    ("&#0;", PARSE),
    ("&file;", PARSE),
    ("a\ufffe", PARSE),
)

_ENCODINGS = ("ucs-4", "unicode_escape", "idna", "hex", "punycode", "utf-8-sig", "utf_32", "raw_unicode_escape")

_WHOLE: tuple[Hostile, ...] = (
    ("a version that is none", call("<value/>", '<?xml encoding="utf-8"?>'), PARSE, "a malformed XML declaration"),
    ("a standalone that is none", call("<value/>", '<?xml version="1.0" standalone="x"?>'), PARSE, "malformed"),
    ("two declarations", call("<value/>", _HEAD * 2), PARSE, "not at the very start"),
    ("CDATA around it", b"<![CDATA[x]]>" + call("<value/>", ""), PARSE, "line 1, column 1"),
    ("a closing tag alone", b"</methodCall>", PARSE, "a character"),
    ("a mark twice", b"\xef\xbb\xbf" * 2 + call("<value/>"), PARSE, "a character"),
    ("a mark after the declaration", call("<value/>", _HEAD + "\ufeff"), PARSE, "a character"),
    ("the mark of UTF-8 alone", b"\xef\xbb\xbf", PARSE, "ends too early"),
    ("the mark of UTF-16 alone", b"\xff\xfe", PARSE, "ends too early"),
    ("the other mark of UTF-16 alone", b"\xfe\xff", PARSE, "ends too early"),
    ("random bytes", bytes(range(255, 127, -1)), PARSE, "expected UTF-16"),
    ("compressed", gzip.compress(call("<value/>"), mtime=0), PARSE, "a zero byte"),
    ("a tag without end", b"<" + b"a" * 60_000, PARSE, "a tag is not closed"),
    (
        "an element with a name without end",
        call(f"<{'a' * 60_000}/>"),
        REQUEST,
        "expected <value> in <param>, got <aaa",
    ),
    ("60,000 beginnings", b"<" * 60_000, LARGE, "more markup"),
    ("8,000 comments", call("<!---->" * 8000), LARGE, "more markup"),
    (
        "a thousand attributes, one twice",
        call("<value " + " ".join(f'a{at}=""' for at in range(1000)) + ' a0=""/>'),
        PARSE,
        "an attribute twice",
    ),
    ("another prefix inside", call('<a:value xmlns:a="urn:x"><int>1</int></a:value>'), REQUEST, "got <a:value>"),
    ("a thousand parameters", call("<value/></param><param>" * 1001 + "<value/>"), LARGE, "at most 1000 values"),
    (
        "structs too deep",
        _valued("<struct><member><name>a</name><value>" * 21 + "</value></member></struct>" * 21),
        LARGE,
        ".a.a.a: nested deeper",
    ),
    (
        "deep in the second items",
        call("<value><array><data><value/>" * 21 + "</data></array></value>" * 21),
        LARGE,
        "[1][1][1]: nested deeper",
    ),
    ("500 unknown elements", _valued("<x>" * 500 + "</x>" * 500), PARAMS, "got <x>"),
    ("latin-1 declared, UTF-16 sent", _declared("iso-8859-1").decode().encode("utf-16"), PARSE, "expected utf-16"),
    ("us-ascii declared after a mark", b"\xef\xbb\xbf" + _declared("us-ascii"), PARSE, "expected utf-8"),
    (
        "half a pair in UTF-16",
        b"\xff\xfe" + _valued("@").decode().encode("utf-16-le").replace(b"@\0", b"\0\xd8"),
        PARSE,
        "expected UTF-16",
    ),
)

REFUSED: tuple[Hostile, ...] = (
    *_WHOLE,
    *((_title(inside, "in a value"), _valued(inside), PARSE, words) for inside, words in _MARKUP),
    *(
        (_title(text, f"in {kind}"), _valued(f"<{kind}>{text}</{kind}>"), PARAMS, f"$.params[0]: expected {words}")
        for kind, words, texts in _TEXTS
        for text in texts
    ),
    *((_title(members, "in a struct"), _valued(f"<struct>{members}</struct>"), PARAMS, " twice") for members in _TWICE),
    *((_title(name, "as a method"), _named(name), code, "") for name, code in _NAMES),
    *((_title(name, "as encoding"), _declared(name), PARSE, "encoding: expected") for name in _ENCODINGS),
)
