"""Bodies that must not be believed, each with the fault it must get, by what is wrong with them; knows no gateway."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator

from gateway.core.rpc.model import FaultCode, MessageLimits

PARSE, REQUEST, LARGE = FaultCode.PARSE_ERROR, FaultCode.INVALID_REQUEST, FaultCode.TOO_LARGE

LIMITS = MessageLimits(body=64 * 1024, depth=20, elements=1000, batch=5)

Hostile = tuple[str, bytes, FaultCode, str]  # title, body, code, what the message must hold
Group = tuple[FaultCode, str, tuple[str | bytes, ...]]  # code, what the message must hold, the texts


def call(params: str, more: str = "") -> bytes:
    """A request with these parameters."""
    return f'{{"jsonrpc":"2.0","method":"m","params":{params}{more},"id":1}}'.encode("utf-8", "surrogatepass")


def _value(text: str | bytes) -> bytes:
    """A request with this one value."""
    return call("[@]").replace(b"@", text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)


def _request(members: str | bytes) -> bytes:
    return f'{{"jsonrpc":"2.0",{members!s}}}'.encode()


def _whole(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


_GOOD = call("[1]")
_TEXT = _GOOD.decode()
_JSON = "expected JSON"

# Single values; the place is $.params[0].
VALUES: tuple[Group, ...] = (
    (
        PARSE,
        _JSON,  # some reader or other takes them for JSON
        (
            *("1,", ",1", "1 2", '"a":1', '{"a"}', "{a:1}", "{1:1}", "{null:1}", "'a'", "[1}", "True", "undefined"),
            "tru",
            *("`a`", "/a/", '"a" "b"', '"a"+"b"', "new Date()", "1 /* x */", "u'a'", 'b"a"', "<a/>", "()", "(1)", "$1"),
            *("None", "nil", "yes", "TRUE", "Null", "nullx", "truefalse", "inf", "nan", "-NaN", "1.#INF", "+Infinity"),
            *("007", "+1", ".5", "5.", "-", "1e", "0x10", "1_000", "\u0661\u0662", "\u221e", "\u00bd", "\u22121"),
            "\uff11",
            *("++1", "--1", "1-", "1e+", "1e1.5", "1.e1", "1.5.5", "-.5", "-01", "00", "1 000", "0b1", "0o7", "1n"),
            "1L",
            *("1.0f", "1,,2", ",", "{,}", '{"a"::1}', '{"a" 1}', '{"a",1}', '{"a":1,}', "{[1]:1}", "{true:1}"),
            *("{undefined:1}", '{"a":}', "{'a':1}", '{"a":1 "b":2}', "[1", "[1]]", "{", "}", "]", '"', '"\\"', '"a'),
            *("1" * 60_000 + "x", "0" * 60_000, "1,\u2028" + "2", "\ufeff1", "1\x0b", "\xa01", '"' + r"\u0061" * 9000),
            *('"a\nb"', '"a\0b"', '"a\tb"', '"\x00"', '"\x1b[2J"', '"\r"', '"\x1f"', '"\x0c"'),
            *(r'"\x41"', r'"\u12"', r'"\u12G4"', r'"\a"', r'"\'"', r'"\0"', r'"\u{41}"', r'"\U00000041"', r'"\u 041"'),
            *(r'"\u-041"', r'"\u+041"', r'"\ud83d\u"', r'"\N{DIGIT ONE}"', r'"\u00"', r'"\u004"', '"\\\n"'),
        ),
    ),
    (PARSE, "$.params[0]: expected JSON, got NaN", ("NaN",)),
    (PARSE, "$.params[0]: expected JSON, got Infinity", ("Infinity",)),
    (PARSE, "$.params[0]: expected JSON, got -Infinity", ("-Infinity",)),
    (
        REQUEST,
        "$.params[0]: expected a number within",
        ("1e400", "1e99999999999", "1e" + "9" * 60_000, "9" * 400 + ".0"),
    ),
    (REQUEST, "$.params[0].x: expected a number", ('{"x":-1e400}',)),
    (LARGE, "$.params[0]: expected an integer of reasonable length, got 5000", ("1" * 5000,)),
    (LARGE, "$.params[0]: expected an integer of reasonable length", ("-" + "1" * 5000, "9" * 60_000)),
    (PARSE, "UTF-8, got the byte 0xff at 41", (b'"\xff"',)),
    (
        PARSE,
        "UTF-8",
        (
            *(b'"\xe2\x82"', b'"\xc0\xaf"', b'"\xf4\x90\x80\x80"', b'"\xed\xa0\x80"', b'"\xe9"', b'{"\xff":1}'),
            *(b'"\xf8\x88\x80\x80\x80"', b'"\xfc\x84\x80\x80\x80\x80"', b'"\xfe"', b'"\x80"', b'"\xc0\x80"'),
            *(b'"\xed\xa0\xbd\xed\xb8\x80"', b'"\xe0\x80\xaf"', b'"\xf0\x80\x80\xaf"', b'"\xf5\x80\x80\x80"'),
            *('"\u4e2d"'.encode("gb18030"), '"\u8868"'.encode("shift-jis")),
        ),
    ),
    (
        REQUEST,
        "$.params[0]: expected Unicode text, got half of a surrogate pair",
        (
            *(r'"\ud800"', r'"abc\udfff"', r'"\ud83d\n"', r'"\ude00\ud83d"', r'"\ud83d\ud83d"'),
            r'"\ud83d\ude00\ude00"',
            *(r'"\udfff\ud800"', r'"\ud83d\u0041"', r'"\ud83d \ude00"'),
        ),
    ),
    (REQUEST, "$.params[0].a[0]: expected Unicode", (r'{"a":["\ud83dabcdefgh"]}',)),
    (REQUEST, r'$.params[0]["\ud800"]: expected Unicode text', (r'{"\ud800":1}',)),
    (
        REQUEST,
        "$.params[0].a: expected one member of this name, got two",
        (
            *('{"a":1,"a":1}', '{"a":1,"b":2,"a":1,"a":3}', r'{"a":1,"\u0061":2}', '{"a":null,"a":null}'),
            *(r'{"a":"\u003a","a":2}', r'{"a":"\u003A","b":1,"a":2}', r'{"a":1,"a":"\u003a"}'),  # a hidden colon
            *('{"a" : 1, "a"\t:\n2}', '{"a":"x:y","a":"\\":"}'),
        ),
    ),
    (REQUEST, "$.params[0][0].x.y[1].b: expected one member", ('[{"x":{"y":[{"a":1},{"b":1,"b":2}]}}]',)),
    (REQUEST, '$.params[0][""]: expected one member', ('{"":1,"":2}',)),
    (
        REQUEST,
        "expected one member of this name",
        (
            *('{"__proto__":1,"__proto__":2}', '{"\u00e9":1,"\u00e9":2}', r'{"a/":1,"a\/":2}', r'{"\t":1,"\u0009":2}'),
            *(r'{"\ud83d\ude00":1,"\ud83d\uDE00":2}', '{"a":{},"b":{"c":1,"c":2}}'),
        ),
    ),
    (
        LARGE,
        "at most 20 nested",
        (
            *("[" * 19 + "]" * 19, '{"a":' * 19 + "1" + "}" * 19, '[{"a":' * 10 + "1" + "}]" * 10),
            *("[]," * 30 + "[" * 30 + "]" * 30 + ",[]" * 30, r'"\"[\\","\\",' + "[" * 19 + "]" * 19),
            '"' + "[" * 100 + '",' + "[" * 19 + "]" * 19,
        ),
    ),
    (
        LARGE,
        "at most 1000 values",
        (
            *(",".join("1" * 1001), ",".join(["[]"] * 1001), ",".join(['""'] * 1001)),
            "{" + ",".join(f'"{at}":1' for at in range(1001)) + "}",
            "{" + ",".join(f'"{at * 2**61}":1' for at in range(1001)) + "}",
            "[[[[[[[]]]]]]]" + ",[[[[[[[]]]]]]]" * 300,
        ),
    ),
    (LARGE, "at most 65536 bytes", ('"' + "x" * 64 * 1024 + '"',)),
)

# Members of a request, beside its version.
REQUESTS: tuple[Group, ...] = (
    (
        REQUEST,
        "$.method: expected text",
        (
            *('"id":1', '"method":1,"id":1', '"method":null,"id":1', '"method":["m"],"id":1', '"method":{},"id":1'),
            *('"method":true,"id":1', '"Method":"m","id":1', '"method ":"m","id":1', '"result":1,"id":1'),
            '"error":{"code":1,"message":"x"},"id":1',
        ),
    ),
    (REQUEST, "$.method: expected Unicode", (r'"method":"\ud800"',)),
    (
        REQUEST,
        "$.params: expected an array or an object",
        tuple(f'"method":"m","params":{params},"id":1' for params in ('"x"', '""', "0", "false", "true")),
    ),
    (
        REQUEST,
        "$.id: expected text, a number or null",
        tuple(f'"method":"m","id":{tag}' for tag in ("true", "false", "[1]", "{}")),
    ),
    (REQUEST, "$.id: expected Unicode", (r'"method":"m","id":"\ud800"',)),
    (REQUEST, "$.id: expected a number", ('"method":"m","id":1e400',)),
    (REQUEST, "$.id.a: expected one member", ('"method":"m","id":{"a":1,"a":2}',)),
    (PARSE, "$.id: expected JSON, got NaN", ('"method":"m","id":NaN',)),
    (PARSE, "$.id: expected JSON, got -Infinity", ('"method":"m","id":-Infinity',)),
    (LARGE, "at most 20 nested", ('"method":"m","id":' + "[" * 25 + "]" * 25,)),
    (
        LARGE,
        "$.id: expected an integer of reasonable length",
        ('"method":"m","id":' + "9" * 60_000, '"method":"m","id":' + "7" * 5000),
    ),
    (
        REQUEST,
        "$.method: expected one member of this name",
        ('"method":"m","params":[],"method":"n","id":1', r'"method":"m","m\u0065thod":"n","id":1'),
    ),
    (REQUEST, "$.id: expected one member", ('"method":"m","id":2,"id":1', r'"method":"m","id":1,"\u0069d":2')),
    (REQUEST, "$.jsonrpc: expected one member", ('"method":"m","jsonrpc":"2.0","id":1',)),
    (REQUEST, "$.params: expected one member", ('"method":"m","params":[],"params":[1],"id":1',)),
    (REQUEST, "$.x: expected one member", ('"method":"m","x":1,"x":2,"id":1',)),
    (PARSE, _JSON, ('"method":"m","params":[1],"x":1,,"id":1',)),
)

# Whole messages.
MESSAGES: tuple[Group, ...] = (
    (PARSE, "character 0 of 0", (b"",)),
    (PARSE, "character 0", (b'<?xml version="1.0"?><methodCall/>', b"\0" * 16)),
    (
        PARSE,
        _JSON,
        (
            *(b" \r\n\t ", b"method=m&params=1", b"/* x */" + _GOOD, _GOOD + b"//", _GOOD + _GOOD),
            _GOOD + b"\n" + _GOOD,
            *(_GOOD + b"]", _GOOD + b"\0", b"\x0c" + _GOOD, b"\xc2\xa0" + _GOOD, b"0000000000000053" + _GOOD),
            *(_TEXT.encode("utf-16-le"), _TEXT.encode("utf-16-be"), b"+AHs-", _GOOD + b"\xef\xbb\xbf"),
            b"<html></html>",
            *(b"\x16\0\0\0\2method\0\2\0\0\0m\0\0", b"GET / HTTP/1.1\r\n\r\n", b"jsonrpc: '2.0'\nmethod: m\n"),
            *(b"\x1e" + _GOOD, b"f(" + _GOOD + b")", b")]}'\n" + _GOOD, b"# x\n" + _GOOD, _GOOD + b";", _GOOD[1:]),
            b"}{",
            *(b"[" + _GOOD + b",]", b"[" + _GOOD, b"]" * 60_000, b'"' * 60_000, b'"' + b"\\" * 60_000, b":" * 60_000),
            *(b" " * 60_000, b"-" * 60_000, b"1" + b"e" * 60_000),
        ),
    ),
    (
        PARSE,
        "UTF-8",
        (
            *(bytes(range(255, 127, -1)), _TEXT.encode("utf-16"), _TEXT.encode("utf-32"), _GOOD + b"\xff"),
            *(b"\xff\xfe" + _TEXT.encode("utf-16-le"), gzip.compress(_GOOD, mtime=0), b"\x81\xa6method\xa1m"),
        ),
    ),
    (PARSE, "byte order mark", (b"\xef\xbb\xbf" + _GOOD, b"\xef\xbb\xbf" * 2 + _GOOD, b"\xef\xbb\xbf")),
    (
        REQUEST,
        "$: expected an object",
        (
            *(b"1", b"null", b'"system.listMethods"', b'"a"', b"true", b"-0", b"[[[]]]", b"[null]"),
            b"[[" + _GOOD + b"]]",
        ),
    ),
    (REQUEST, "$: expected a number within", (b"1e400",)),
    (REQUEST, "at least one request", (b"[]",)),
    (REQUEST, "$.params[0].a: expected one member", (b"[" + _value('{"a":1,"a":1}') + b"]",)),
    (
        REQUEST,
        '$.jsonrpc: expected "2.0"',
        (
            *(b"[{}]", b'{"jsonrpc":2.0,"method":"m","id":1}', b'{"jsonrpc":null,"method":"m","params":[],"id":1}'),
            *(b'{"jsonrpc":["2.0"],"method":"m","id":1}', _GOOD.replace(b"2.0", b"1.0"), _GOOD.replace(b"2.0", b"")),
            *(_GOOD.replace(b"2.0", text) for text in (b"3.0", b"2", b"2.00", b" 2.0", b"2.0 ", b"v2.0")),
            _GOOD.replace(b"2.0", "\uff12.0".encode()),
        ),
    ),
    (REQUEST, "$.method: expected text", (b"{}", b'{"params":[],"id":1}')),
    (
        REQUEST,
        "$.params: expected an array",
        (b'{"method":"m","id":1}', b'{"method":"m","params":null,"id":1}', b'{"method":"m","params":{},"id":1}'),
    ),
    (REQUEST, "$.id: expected one", (b'{"method":"m","params":[]}',)),
    (
        LARGE,
        "at most 20 nested",
        (b"[" * 60_000, b'{"a":' * 12_000, b"[" * 30_000 + b"]" * 30_000, b'[{"a":' * 9000),
    ),
    (LARGE, "at most 5 requests", (b"[1,1,1,1,1,1]",)),
    (LARGE, "at most 1000 values", (b"," * 60_000, b"[" + b"," * 60_000 + b"]")),
)


def _rows(what: str, build: Callable[[str | bytes], bytes], groups: tuple[Group, ...]) -> Iterator[Hostile]:
    for code, words, texts in groups:
        for text in texts:
            shown = text.decode("latin-1") if isinstance(text, bytes) else text
            yield f"{shown if len(shown) < 40 else shown[:40] + '...'!a} as {what}", build(text), code, words


HOSTILE: tuple[Hostile, ...] = (
    *_rows("a value", _value, VALUES),
    *_rows("a request", _request, REQUESTS),
    *_rows("a message", _whole, MESSAGES),
)
