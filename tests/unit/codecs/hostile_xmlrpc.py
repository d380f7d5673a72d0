"""Bodies that must not be believed, each with the fault it must get; test_xmlrpc.py runs them."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.core.rpc.model import FaultCode, MessageLimits

PARSE, REQUEST, PARAMS, LARGE = (
    FaultCode.PARSE_ERROR,
    FaultCode.INVALID_REQUEST,
    FaultCode.INVALID_PARAMS,
    FaultCode.TOO_LARGE,
)

LIMITS = MessageLimits(body=64 * 1024, depth=20, elements=1000, batch=5)

Hostile = tuple[str, bytes, FaultCode, str]  # title, body, code, what the message must hold


def call(value: str, head: str = '<?xml version="1.0"?>') -> bytes:
    """A call with one parameter."""
    params = f"<params><param>{value}</param></params>"
    return f"{head}<methodCall><methodName>m</methodName>{params}</methodCall>".encode()


def _typed(kind: str, text: str) -> bytes:
    return call(f"<value><{kind}>{text}</{kind}></value>")


def _nested(depth: int) -> bytes:
    return call("<value><array><data>" * depth + "<value><int>1</int></value>" + "</data></array></value>" * depth)


def _multicall(items: str) -> bytes:
    return call(f"<value><array><data>{items}</data></array></value>").replace(b">m<", b">system.multicall<")


_LAUGHS = '<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "ha">' + "".join(
    f'<!ENTITY {chr(98 + at)} "{f"&{chr(97 + at)};" * 10}">' for at in range(9)
)

DOCTYPES: tuple[Hostile, ...] = (
    ("billion laughs", call("<value>&j;</value>", _LAUGHS + "]>"), PARSE, "document type"),
    ("small entities", call("<value>&a;</value>", '<!DOCTYPE m [<!ENTITY a "x">]>'), PARSE, "document type"),
    (
        "external entity",
        call("<value>&a;</value>", '<!DOCTYPE m [<!ENTITY a SYSTEM "file:///etc/passwd">]>'),
        PARSE,
        "doc",
    ),
    (
        "parameter entity",
        call("<value/>", '<!DOCTYPE m [<!ENTITY % a SYSTEM "http://x/">%a;]>'),
        PARSE,
        "document type",
    ),
    ("external document type", call("<value/>", '<!DOCTYPE m SYSTEM "http://x/m.dtd">'), PARSE, "document type"),
    ("public document type", call("<value/>", '<!DOCTYPE m PUBLIC "-//x//" "http://x/">'), PARSE, "document type"),
    ("bare document type", call("<value/>", "<!DOCTYPE methodCall>"), PARSE, "document type"),
    ("document type on a later line", call("<value/>", '<?xml version="1.0"?>\n\n  <!DOCTYPE m>'), PARSE, "line 3"),
    ("document type after a comment", call("<value/>", "<!-- <!DOCTYPE --><!DOCTYPE m>"), PARSE, "line 1, column 30"),
    ("default attributes", call("<value/>", '<!DOCTYPE m [<!ATTLIST value a CDATA "x">]>'), PARSE, "document type"),
    ("document type in UTF-16", call("<value/>", "<!DOCTYPE m>").decode().encode("utf-16"), PARSE, "document type"),
    (
        "document type in UTF-16 without a mark",
        call("<value/>", "<!DOCTYPE m>").decode().encode("utf-16-le"),
        PARSE,
        "zero",
    ),
    ("document type behind a mark", b"\xef\xbb\xbf" + call("<value/>", "<!DOCTYPE m>"), PARSE, "document type"),
    ("document type in lower case", call("<value/>", "<!doctype m>"), PARSE, "line 1"),
    ("undeclared entity", call("<value>&nbsp;</value>"), PARSE, "entity"),
)

ENCODINGS: tuple[Hostile, ...] = (
    ("UTF-7", call("<value/>", '<?xml version="1.0" encoding="utf-7"?>'), PARSE, "encoding: expected utf-8"),
    (
        "a byte that windows-1252 has not",
        call("<value>@</value>", '<?xml version="1.0" encoding="windows-1252"?>').replace(b"@", b"\x81"),
        PARSE,
        "expected cp1252",
    ),
    ("EBCDIC", call("<value/>", '<?xml version="1.0" encoding="cp037"?>'), PARSE, "'cp037'"),
    ("an unknown encoding", call("<value/>", "<?xml version='1.0' encoding = 'klingon'?>"), PARSE, "'klingon'"),
    ("a codec that is not an encoding", call("<value/>", '<?xml version="1.0" encoding="zlib"?>'), PARSE, "'zlib'"),
    ("an empty encoding", call("<value/>", '<?xml version="1.0" encoding=""?>'), PARSE, "encoding"),
    ("UTF-16 declared, UTF-8 sent", call("<value/>", '<?xml version="1.0" encoding="utf-16"?>'), PARSE, "utf-16"),
    (
        "UTF-8 declared, UTF-16 sent",
        call("<value/>", '<?xml version="1.0" encoding="utf-8"?>').decode().encode("utf-16"),
        PARSE,
        "expected utf-16",
    ),
    ("UTF-32", call("<value/>").decode().encode("utf-32"), PARSE, "zero byte"),
    ("half a UTF-16 unit", call("<value/>").decode().encode("utf-16") + b"\x00", PARSE, "UTF-16"),
    ("latin-1 sent as UTF-8", call("<value>\u00e9</value>").decode().encode("latin-1"), PARSE, "character"),
    (
        "latin-1 sent as us-ascii",
        call("<value>\u00e9</value>", '<?xml version="1.0" encoding="us-ascii"?>').decode().encode("latin-1"),
        PARSE,
        "character",
    ),
    ("overlong UTF-8", call("<value>@</value>").replace(b"@", b"\xc0\xaf"), PARSE, "character"),
    ("a surrogate in UTF-8", call("<value>@</value>").replace(b"@", b"\xed\xa0\x80"), PARSE, "character"),
    ("past the last character", call("<value>@</value>").replace(b"@", b"\xf4\x90\x80\x80"), PARSE, "character"),
)

CHARACTERS: tuple[Hostile, ...] = (
    ("a zero byte", call("<value>a\0b</value>"), PARSE, "zero byte"),
    ("a zero byte at the end", call("<value/>") + b"\0", PARSE, "zero byte"),
    ("a control character", call("<value>a\x01b</value>"), PARSE, "line 1, column 83"),
    ("an escape character", call("<value>\x1b[2J</value>"), PARSE, "character"),
    ("U+FFFE", call("<value>\ufffe</value>"), PARSE, "character"),
    ("a reference to U+0000", call("<value>&#0;</value>"), PARSE, "reference"),
    ("a reference to U+0008", call("<value>&#8;</value>"), PARSE, "reference"),
    ("a reference to a surrogate", call("<value>&#xD800;</value>"), PARSE, "reference"),
    ("a reference past Unicode", call("<value>&#x110000;</value>"), PARSE, "reference"),
    ("a reference with a huge number", call(f"<value>&#{'9' * 5000};</value>"), PARSE, "reference"),
)

FORMS: tuple[Hostile, ...] = (
    ("nothing", b"", PARSE, "ends"),
    ("white space", b" \r\n", PARSE, "ends"),
    ("no XML", b"GET / HTTP/1.1\r\n\r\n", PARSE, "line 1"),
    ("JSON", b'{"jsonrpc": "2.0", "method": "m", "id": 1}', PARSE, "line 1"),
    ("HTML", b"<html><body>hello</body></html>", REQUEST, "expected <methodCall>, got <html>"),
    ("a response", b"<methodResponse><params/></methodResponse>", REQUEST, "got <methodResponse>"),
    ("a prefix", b'<x:methodCall xmlns:x="urn:x"><x:methodName/></x:methodCall>', REQUEST, "got <x:methodCall>"),
    ("trailing text", call("<value/>") + b"x", PARSE, "after the end"),
    ("trailing message", call("<value/>", "") * 2, PARSE, "after the end"),
    ("an indented XML declaration", b" " + call("<value/>"), PARSE, "very start"),
    ("tags that cross", b"<methodCall><methodName>m</methodCall></methodName>", PARSE, "closing tag"),
    ("an attribute twice", b'<methodCall a="" a=""/>', PARSE, "attribute"),
    ("an undeclared prefix", call("<value><q:nil/></value>"), PARAMS, "got <q:nil>"),
    ("no methodName", b"<methodCall><params/></methodCall>", REQUEST, "expected <methodName>"),
    ("nothing in methodCall", b"<methodCall/>", REQUEST, "got nothing"),
    ("an empty methodName", b"<methodCall><methodName/></methodCall>", REQUEST, "methodName"),
    ("a line in methodName", b"<methodCall><methodName>\nm</methodName></methodCall>", REQUEST, "methodName"),
    ("an element in methodName", b"<methodCall><methodName>m<b/></methodName></methodCall>", REQUEST, "got <b>"),
    (
        "two methodNames",
        b"<methodCall><methodName>m</methodName><methodName>n</methodName></methodCall>",
        REQUEST,
        "<params>",
    ),
    ("params first", b"<methodCall><params/><methodName>m</methodName></methodCall>", REQUEST, "expected <methodName>"),
    ("two params", b"<methodCall><methodName>m</methodName><params/><params/></methodCall>", REQUEST, "expected"),
    ("text in methodCall", b"<methodCall>x<methodName>m</methodName></methodCall>", REQUEST, "no text in <methodCall>"),
    ("text in params", call("<value/>").replace(b"<params>", b"<params>x"), REQUEST, "no text in <params>"),
    ("text after param", call("<value/>").replace(b"</params>", b"x</params>"), REQUEST, "no text in <params>"),
    (
        "a value that is not a param",
        call("<value/>").replace(b"param>", b"value>"),
        REQUEST,
        "expected <param> in <params>",
    ),
    ("an empty param", call(""), REQUEST, "expected <value> in <param>, got nothing"),
    ("two values in a param", call("<value/><value/>"), REQUEST, "expected <value> in <param>"),
)

SCALARS: tuple[Hostile, ...] = (
    (
        "1,001 digits in int",
        _typed("int", "1" * 1001),
        PARAMS,
        "$.params[0]: expected an integer of at most 1000 digits",
    ),
    ("60,000 digits in i8", _typed("i8", "9" * 60_000), PARAMS, "digits, got 60000"),
    ("underscores", _typed("int", "5_0"), PARAMS, "expected an integer in digits, got '5_0'"),
    ("hexadecimal", _typed("int", "0x10"), PARAMS, "in digits"),
    ("digits of another script", _typed("int", "\u0665"), PARAMS, "in digits"),
    ("superscript digits", _typed("int", "\u00b2"), PARAMS, "in digits"),
    ("a sign alone", _typed("int", "-"), PARAMS, "in digits"),
    ("two signs", _typed("int", "+-5"), PARAMS, "in digits"),
    ("space inside an int", _typed("int", "5 0"), PARAMS, "in digits"),
    ("a no-break space around an int", _typed("int", "\u00a05"), PARAMS, "in digits"),
    ("a fraction in int", _typed("int", "1.0"), PARAMS, "in digits"),
    ("an empty int", _typed("int", ""), PARAMS, "in digits"),
    ("a word in boolean", _typed("boolean", "true"), PARAMS, "0 or 1"),
    ("2 in boolean", _typed("boolean", "2"), PARAMS, "0 or 1"),
    ("an empty boolean", _typed("boolean", ""), PARAMS, "0 or 1"),
    ("NaN", _typed("double", "nan"), PARAMS, "expected a decimal number, got 'nan'"),
    ("infinity", _typed("double", "-inf"), PARAMS, "decimal number"),
    ("1e400", _typed("double", "1e400"), PARAMS, "fits a double"),
    ("underscores in double", _typed("double", "1_0.5"), PARAMS, "decimal number"),
    ("60,000 digits that are no number", _typed("double", "1" * 60_000 + "x"), PARAMS, "decimal number"),
    ("60,000 digits", _typed("double", "9" * 60_000), PARAMS, "fits a double"),
    ("60,000 zeroes that are no number", _typed("int", "0" * 60_000 + "x"), PARAMS, "in digits"),
    ("a comma in double", _typed("double", "1,5"), PARAMS, "decimal number"),
    ("an empty double", _typed("double", ""), PARAMS, "decimal number"),
    ("exclamation marks in base64", _typed("base64", "!!"), PARAMS, "expected base64, got '!!'"),
    ("base64 cut short", _typed("base64", "QUJ"), PARAMS, "base64"),
    ("base64 after its end", _typed("base64", "QQ==QUJD"), PARAMS, "base64"),
    ("base64 for URLs", _typed("base64", "_-8="), PARAMS, "base64"),
    ("padding alone", _typed("base64", "===="), PARAMS, "base64"),
    ("wide space in base64", _typed("base64", "QUJD\u2003QUJD"), PARAMS, "base64"),
    ("no date", _typed("dateTime.iso8601", "yesterday"), PARAMS, "expected a date such as"),
    ("the 31st of June", _typed("dateTime.iso8601", "20260631T00:00:00Z"), PARAMS, "a date that exists"),
    ("the year 0", _typed("dateTime.iso8601", "00000101T00:00:00Z"), PARAMS, "a date that exists"),
    ("hour 24", _typed("dateTime.iso8601", "20260131T24:00:00Z"), PARAMS, "a date that exists"),
    ("a leap second", _typed("dateTime.iso8601", "20161231T23:59:60Z"), PARAMS, "a date that exists"),
    ("an offset of 24 hours", _typed("dateTime.iso8601", "20260131T00:00:00+24:00"), PARAMS, "a date that exists"),
    ("a point without a fraction", _typed("dateTime.iso8601", "20260131T00:00:00.Z"), PARAMS, "a date such as"),
    ("half the dashes", _typed("dateTime.iso8601", "2026-0131T00:00:00Z"), PARAMS, "a date such as"),
    ("text in nil", _typed("nil", "null"), PARAMS, "<nil/> to be empty"),
    ("an element in an int", _typed("int", "<b/>5"), PARAMS, "expected text in <int>, got <b>"),
    ("an element in a string", _typed("string", "a<b/>c"), PARAMS, "expected text in <string>, got <b>"),
    ("an unknown type", _typed("number", "1.0"), PARAMS, "expected a type of XML-RPC, got <number>"),
    ("more digits than a double has", _typed("bigdecimal", "0.1234567890123456789"), PARAMS, "that a double holds"),
    ("a type in capitals", _typed("INT", "1"), PARAMS, "got <INT>"),
    ("nil of another namespace", call('<value><e:nil xmlns:e="urn:x"/></value>'), PARAMS, "got <e:nil>"),
    ("text before a type", call("<value>x<int>1</int></value>"), PARAMS, "no text in <value>, got 'x'"),
    ("text after a type", call("<value><int>1</int>x</value>"), PARAMS, "no text in <value>"),
    (
        "two types",
        call("<value><int>1</int><int>2</int></value>"),
        PARAMS,
        "expected <int> in <value>, got <int>, <int>",
    ),
)

_MEMBER = "<member><name>a</name><value>1</value></member>"

CONTAINERS: tuple[Hostile, ...] = (
    ("a member twice", _typed("struct", _MEMBER * 2), PARAMS, "$.params[0]: expected each member once, got 'a' twice"),
    (
        "a member without a name",
        _typed("struct", "<member><value>1</value></member>"),
        PARAMS,
        "expected <name>, <value>",
    ),
    (
        "a member without a value",
        _typed("struct", "<member><name>a</name></member>"),
        PARAMS,
        "expected <name>, <value>",
    ),
    (
        "a member the other way round",
        _typed("struct", "<member><value/><name>a</name></member>"),
        PARAMS,
        "expected <name>",
    ),
    (
        "a member with two values",
        _typed("struct", "<member><name/><value/><value/></member>"),
        PARAMS,
        "expected <name>",
    ),
    ("an empty member", _typed("struct", "<member/>"), PARAMS, "got nothing"),
    ("a value in a struct", _typed("struct", "<value/>"), PARAMS, "expected <member> in <struct>, got <value>"),
    ("text in a struct", _typed("struct", "x" + _MEMBER), PARAMS, "no text in <struct>"),
    ("text after a member", _typed("struct", _MEMBER + "x"), PARAMS, "no text in <struct>"),
    ("text in an empty struct", _typed("struct", "x"), PARAMS, "no text in <struct>"),
    ("text in a member", _typed("struct", _MEMBER.replace("</name>", "</name>x")), PARAMS, "no text in <member>"),
    ("an element in a name", _typed("struct", _MEMBER.replace(">a<", ">a<b/><")), PARAMS, "expected text in <name>"),
    ("text in an empty array", _typed("array", "x"), PARAMS, "expected no text in <array>"),
    ("two data", _typed("array", "<data/><data/>"), PARAMS, "expected <data> in <array>"),
    ("a bare type in data", _typed("array", "<data><int>1</int></data>"), PARAMS, "expected <value> in <data>"),
    ("text in data", _typed("array", "<data>x<value/></data>"), PARAMS, "no text in <data>"),
    ("text in empty data", _typed("array", "<data>x</data>"), PARAMS, "no text in <data>"),
    (
        "deep inside",
        _typed("struct", _MEMBER.replace("1", "<array><data><value/><value><int>x</int></value></data></array>")),
        PARAMS,
        "$.params[0].a[1]: expected an integer in digits, got 'x'",
    ),
)

SIZES: tuple[Hostile, ...] = (
    ("a body over the limit", call(f"<value>{'x' * 70_000}</value>"), LARGE, "at most 65536 bytes"),
    ("one level too many", _nested(21), LARGE, "$.params[0]" + "[0]" * 20 + ": nested"),
    ("a thousand levels", _nested(1000), LARGE, "nested deeper than is allowed (line 1"),
    ("nine thousand elements deep", b"<a>" * 9000 + b"</a>" * 9000, LARGE, "values"),
    ("ten thousand elements never closed", b"<a>" * 10_000, LARGE, "values"),
    ("a value too many", _typed("array", f"<data>{'<value/>' * 1000}</data>"), LARGE, "at most 1000 values"),
    ("members without end", _typed("struct", "<member/>" * 5000), PARAMS, "got nothing"),
    ("markup without end", _typed("struct", "<b/>" * 15_000), LARGE, "values"),
)

MULTICALLS: tuple[Hostile, ...] = (
    (
        "multicall without parameters",
        call("<value/>")
        .replace(b">m<", b">system.multicall<")
        .replace(b"<params><param><value/></param></params>", b""),
        REQUEST,
        "one array of calls, got 0",
    ),
    (
        "multicall of a string",
        call("<value>x</value>").replace(b">m<", b">system.multicall<"),
        REQUEST,
        "$.params[0]: expected",
    ),
    ("too many calls", _multicall("<value/>" * 6), LARGE, "at most 5 calls, got 6"),
    ("text between calls", _multicall("x"), REQUEST, "$.params[0]: expected no text in <data>"),
)

REFUSED = (*DOCTYPES, *ENCODINGS, *CHARACTERS, *FORMS, *SCALARS, *CONTAINERS, *SIZES, *MULTICALLS)


def truncations(body: bytes) -> Iterator[bytes]:
    """Every proper beginning of a message."""
    return (body[:end] for end in range(len(body)))
