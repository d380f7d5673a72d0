"""Further bodies that must not be believed, by the dozen: many texts for each thing that can be wrong with them."""

from __future__ import annotations

import gzip

from gateway.core.rpc.model import FaultCode
from tests.unit.codecs.hostile_jsonrpc import LARGE, PARSE, REQUEST, Hostile, call

_GOOD = call("[1]")
_JSON = "expected JSON"


def _value(text: str) -> bytes:
    return call(f"[{text}]")


def _title(text: str, where: str) -> str:
    return f"{text if len(text) < 40 else text[:40] + '...'!a} {where}"


# What is not JSON value, though some reader or other takes it for one.
_NO_VALUE = (
    *("`a`", "/a/", "'a'", '"a" "b"', '"a"+"b"', "new Date()", "1 /* x */", "u'a'", 'b"a"', "<a/>", "()", "(1)", "$1"),
    *("None", "nil", "yes", "TRUE", "Null", "nullx", "truefalse", "inf", "-NaN", "1.#INF", "+Infinity", "\u221e"),
    *(
        "++1",
        "--1",
        "1-",
        "1e+",
        "1e1.5",
        "1.e1",
        "1.5.5",
        "-.5",
        "-01",
        "00",
        "1 000",
        "0b1",
        "0o7",
        "1n",
        "1L",
        "1.0f",
    ),
    *("\u00bd", "\u22121", "\uff11", "1,,2", ",", "{,}", '{"a"::1}', '{"a" 1}', '{"a",1}', '{"a":1,}', "{[1]:1}"),
    *("{true:1}", "{undefined:1}", '{"a":}', "{'a':1}", '{"a":1 "b":2}', "[1", "[1]]", "{", "}", "]", '"', '"\\"'),
    *("1" * 60_000 + "x", "0" * 60_000, "1,\u2028" + "2", "\ufeff1", "1\x0b", "\xa01"),
)

# Escapes and characters that JSON has not within a text.
_NO_TEXT = (
    *(
        r"\a",
        r"\'",
        r"\0",
        r"\x41",
        r"\u{41}",
        r"\U00000041",
        r"\u 041",
        r"\u-041",
        r"\u+041",
        r"\ud83d\u",
        r"\N{DIGIT ONE}",
    ),
    *("\x00", "\x1b[2J", "\r", "\x1f", "\x0c", r"\u00", r"\u004", "\\\n"),
)

# No UTF-8, or no Unicode.
_NO_UTF8 = (
    *(b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80", b"\xfe", b"\x80", b"\xed\xa0\xbd\xed\xb8\x80", b"\xc0\x80"),
    *(
        b"\xe0\x80\xaf",
        b"\xf0\x80\x80\xaf",
        b"\xf5\x80\x80\x80",
        "\u4e2d".encode("gb18030"),
        "\u8868".encode("shift-jis"),
    ),
)
_HALF_PAIRS = (r"\ud83d\ud83d", r"\ud83d\ude00\ude00", r"\udfff\ud800", r"\ud83d\u0041", r"\ud83d \ude00")

# Members of one name, however it is spelled.
_TWICE = (
    *('{"__proto__":1,"__proto__":2}', '{"\u00e9":1,"\u00e9":2}', r'{"a/":1,"a\/":2}', r'{"\t":1,"\u0009":2}'),
    *(r'{"\ud83d\ude00":1,"\ud83d\uDE00":2}', '{"a":1,"a":1}', '{"a":null,"a":null}', '{"a":{},"b":{"c":1,"c":2}}'),
)

# Whole messages that are no message.
_NO_MESSAGE: tuple[tuple[bytes, FaultCode, str], ...] = (
    (_GOOD.decode().encode("utf-16-be"), PARSE, _JSON),
    (b"\xff\xfe" + _GOOD.decode().encode("utf-16-le"), PARSE, "UTF-8"),
    (b"+AHs-", PARSE, _JSON),
    (b"\xef\xbb\xbf" * 2 + _GOOD, PARSE, "byte order mark"),
    (b"\xef\xbb\xbf", PARSE, "byte order mark"),
    (_GOOD + b"\xef\xbb\xbf", PARSE, _JSON),
    (_GOOD + b"\xff", PARSE, "UTF-8"),
    (gzip.compress(_GOOD, mtime=0), PARSE, "UTF-8"),
    (b"\x81\xa6method\xa1m", PARSE, "UTF-8"),
    (b"\x16\0\0\0\2method\0\2\0\0\0m\0\0", PARSE, _JSON),
    (b"GET / HTTP/1.1\r\n\r\n", PARSE, _JSON),
    (b"<html></html>", PARSE, _JSON),
    (b"jsonrpc: '2.0'\nmethod: m\n", PARSE, _JSON),
    (b"\x1e" + _GOOD, PARSE, _JSON),
    (b"f(" + _GOOD + b")", PARSE, _JSON),
    (b")]}'\n" + _GOOD, PARSE, _JSON),
    (b"# x\n" + _GOOD, PARSE, _JSON),
    (_GOOD + b";", PARSE, _JSON),
    (_GOOD[1:], PARSE, _JSON),
    (b"}{", PARSE, _JSON),
    (b'"a"', REQUEST, "$: expected an object"),
    (b"true", REQUEST, "$: expected an object"),
    (b"-0", REQUEST, "$: expected an object"),
    (b"1e400", REQUEST, "$: expected a number within"),
    (b"[[[]]]", REQUEST, "$: expected an object"),
    (b"[null]", REQUEST, "$: expected an object"),
    (b"[[" + _GOOD + b"]]", REQUEST, "$: expected an object"),
    (b"[{}]", REQUEST, '$.jsonrpc: expected "2.0"'),
    (b"[" + _GOOD + b",]", PARSE, _JSON),
    (b"[" + _GOOD, PARSE, _JSON),
    (b'{"jsonrpc":"2.0","error":{"code":1,"message":"x"},"id":1}', REQUEST, "$.method: expected text"),
)

# Members of a request that may not be so.
_NO_REQUEST: tuple[tuple[str, FaultCode, str], ...] = (
    ('"method":["m"],"id":1', REQUEST, "$.method: expected text"),
    ('"method":{},"id":1', REQUEST, "$.method: expected text"),
    ('"method":true,"id":1', REQUEST, "$.method: expected text"),
    ('"Method":"m","id":1', REQUEST, "$.method: expected text"),
    ('"method ":"m","id":1', REQUEST, "$.method: expected text"),
    (r'"method":"m","m\u0065thod":"n","id":1', REQUEST, "$.method: expected one member"),
    (r'"method":"m","id":1,"\u0069d":2', REQUEST, "$.id: expected one member"),
    ('"method":"m","x":1,"x":2,"id":1', REQUEST, "$.x: expected one member"),
    ('"method":"m","params":true,"id":1', REQUEST, "$.params: expected an array or an object"),
    ('"method":"m","params":"","id":1', REQUEST, "$.params: expected an array or an object"),
    ('"method":"m","id":{"a":1,"a":2}', REQUEST, "$.id.a: expected one member"),
    ('"method":"m","id":1e400', REQUEST, "$.id: expected a number"),
    ('"method":"m","id":NaN', PARSE, "$.id: expected JSON, got NaN"),
    ('"method":"m","id":-Infinity', PARSE, "$.id: expected JSON, got -Infinity"),
    ('"method":"m","id":false', REQUEST, "$.id: expected text, a number or null"),
    ('"method":"m","id":' + "[" * 25 + "]" * 25, LARGE, "at most 20 nested"),
    ('"method":"m","id":' + "9" * 60_000, LARGE, "$.id: expected an integer of reasonable length"),
)
_VERSIONS = ("3.0", "2", "2.00", " 2.0", "2.0 ", "v2.0", "\uff12.0", "")

# Bytes that cost much and say little.
_BOMBS: tuple[tuple[bytes, FaultCode, str], ...] = (
    (b"]" * 60_000, PARSE, _JSON),
    (b'"' * 60_000, PARSE, _JSON),
    (b'"' + b"\\" * 60_000, PARSE, _JSON),
    (b":" * 60_000, PARSE, _JSON),
    (b"," * 60_000, LARGE, "at most 1000 values"),
    (b"[" + b"," * 60_000 + b"]", LARGE, "at most 1000 values"),
    (b" " * 60_000, PARSE, _JSON),
    (b"-" * 60_000, PARSE, _JSON),
    (b"1" + b"e" * 60_000, PARSE, _JSON),
    (_value('"' + r"\u0061" * 9000), PARSE, _JSON),
    (_value("1e" + "9" * 60_000), REQUEST, "$.params[0]: expected a number within"),
    (_value("9" * 400 + ".0"), REQUEST, "$.params[0]: expected a number within"),
    (_value("[[[[[[[]]]]]]]" + ",[[[[[[[]]]]]]]" * 300), LARGE, "at most 1000 values"),
    (_value("{" + ",".join(f'"{at * 2**61}":1' for at in range(1001)) + "}"), LARGE, "at most 1000 values"),
    (b'[{"a":' * 9000, LARGE, "at most 20 nested"),
    (_value('"' + "[" * 100 + '",' + "[" * 19 + "]" * 19), LARGE, "at most 20 nested"),
)

HOSTILE: tuple[Hostile, ...] = (
    *((_title(text, "as a value"), _value(text), PARSE, "") for text in _NO_VALUE),
    *((_title(text, "in a text"), _value(f'"{text}"'), PARSE, _JSON) for text in _NO_TEXT),
    *((f"{text!a} in a text", call('["@"]').replace(b"@", text), PARSE, "UTF-8") for text in _NO_UTF8),
    *((f"{text!a} in a text", _value(f'"{text}"'), REQUEST, "half of a surrogate pair") for text in _HALF_PAIRS),
    *((_title(text, "as a value"), _value(text), REQUEST, "expected one member of this name") for text in _TWICE),
    *((_title(body.decode("latin-1"), "as a message"), body, code, words) for body, code, words in _NO_MESSAGE),
    *(
        (_title(text, "as a request"), f'{{"jsonrpc":"2.0",{text}}}'.encode(), code, words)
        for text, code, words in _NO_REQUEST
    ),
    *(
        (f"{text!a} as version", _GOOD.replace(b"2.0", text.encode()), REQUEST, "$.jsonrpc: expected")
        for text in _VERSIONS
    ),
    *((_title(body.decode("latin-1"), f"of {len(body)} bytes"), body, code, words) for body, code, words in _BOMBS),
)
