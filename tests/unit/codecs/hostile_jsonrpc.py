"""Bodies that must not be believed, each with the fault it must get, by what is wrong with them; knows no gateway.

What is no JSON at all has a few rows: the standard library is asked about the rest (tests/property/test_jsonrpc.py).
"""

from __future__ import annotations

import gzip

from tests.unit.codecs.hostile_xmlrpc import LARGE, LIMITS, PARSE, REQUEST, Group, Hostile, rows, whole

__all__ = ["HOSTILE", "LIMITS", "call"]


def call(params: str) -> bytes:
    """A request with these parameters."""
    return f'{{"jsonrpc":"2.0","method":"m","params":{params},"id":1}}'.encode("utf-8", "surrogatepass")


def _value(text: str | bytes) -> bytes:
    """A request with this one value."""
    return call("[@]").replace(b"@", text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)


def _request(members: str | bytes) -> bytes:
    return f'{{"jsonrpc":"2.0",{members!s}}}'.encode()


_GOOD = call("[1]")
_TEXT = _GOOD.decode()
_JSON = "expected JSON"

# Single values; the place is $.params[0].
VALUES: tuple[Group, ...] = (
    (
        PARSE,
        _JSON,
        (
            *("1,", "1 2", '{"a"}', "{a:1}", "'a'", "[1}", "[1", "True", "007", "+1", ".5", "1e", "0x10", '{"a":1,}'),
            *("1 /* x */", "\u0661", "\ufeff1", "\xa01", '"a\nb"', '"a\0b"', r'"\x41"', r'"\u12G4"', r'"\U00000041"'),
            *("1" * 60_000 + "x", "0" * 60_000, '"' + r"\u0061" * 9000),
        ),
    ),
    (PARSE, "$.params[0]: expected JSON, got NaN", ("NaN",)),
    (PARSE, "$.params[0]: expected JSON, got -Infinity", ("-Infinity",)),
    (REQUEST, "$.params[0]: expected a number within", ("1e400", "1e" + "9" * 60_000, "9" * 400 + ".0")),
    (REQUEST, "$.params[0].x: expected a number", ('{"x":-1e400}',)),
    (LARGE, "$.params[0]: expected an integer of reasonable length, got 5000", ("1" * 5000,)),
    (PARSE, "UTF-8, got the byte 0xff at 41", (b'"\xff"',)),
    (
        PARSE,
        "UTF-8",  # cut short, too long a form, beyond Unicode, half a pair, other encodings, in a name
        (b'"\xe2\x82"', b'"\xc0\xaf"', b'"\xf4\x90\x80\x80"', b'"\xed\xa0\x80"', b'"\xe9"', b'{"\xff":1}'),
    ),
    (
        REQUEST,
        "$.params[0]: expected Unicode text, got half of a surrogate pair",
        (r'"\ud800"', r'"\ud83d\n"', r'"\ude00\ud83d"', r'"\ud83d\ude00\ude00"', r'"\ud83d\u0041"'),
    ),
    (REQUEST, "$.params[0].a[0]: expected Unicode", (r'{"a":["\ud83dabcdefgh"]}',)),
    (REQUEST, r'$.params[0]["\ud800"]: expected Unicode text', (r'{"\ud800":1}',)),
    (
        REQUEST,
        "$.params[0].a: expected one member of this name, got two",
        (
            *('{"a":1,"a":1}', '{"a":1,"b":2,"a":1,"a":3}', r'{"a":1,"\u0061":2}', '{"a" : 1, "a"\t:\n2}'),
            *(r'{"a":"\u003a","a":2}', r'{"a":"\u003A","b":1,"a":2}', '{"a":"x:y","a":"\\":"}'),  # hidden colons
            r'{"a":1,"a":"\u003a"}',
        ),
    ),
    (REQUEST, "$.params[0][0].x.y[1].b: expected one member", ('[{"x":{"y":[{"a":1},{"b":1,"b":2}]}}]',)),
    (REQUEST, '$.params[0][""]: expected one member', ('{"":1,"":2}',)),
    (
        LARGE,
        "at most 20 nested",
        (
            *("[" * 19 + "]" * 19, '{"a":' * 19 + "1" + "}" * 19, '[{"a":' * 10 + "1" + "}]" * 10),
            *(r'"\"[\\","\\",' + "[" * 19 + "]" * 19, '"' + "[" * 100 + '",' + "[" * 19 + "]" * 19),
        ),
    ),
    (
        LARGE,
        "at most 1000 values",
        (
            *(",".join("1" * 1001), ",".join(['""'] * 1001), "[[[[[[[]]]]]]]" + ",[[[[[[[]]]]]]]" * 300),
            "{" + ",".join(f'"{at}":1' for at in range(1001)) + "}",
        ),
    ),
    (LARGE, "at most 65536 bytes", ('"' + "x" * 64 * 1024 + '"',)),
)

# Members of a request, beside its version.
REQUESTS: tuple[Group, ...] = (
    (REQUEST, "$.method: expected text", ('"id":1', '"method":1,"id":1', '"method":null,"id":1', '"Method":"m"')),
    (REQUEST, "$.method: expected Unicode", (r'"method":"\ud800"',)),
    (
        REQUEST,
        "$.params: expected an array or an object",
        tuple(f'"method":"m","params":{params},"id":1' for params in ('"x"', '""', "0", "false")),
    ),
    (
        REQUEST,
        "$.id: expected text, a number or null",
        tuple(f'"method":"m","id":{tag}' for tag in ("true", "[1]", "{}")),
    ),
    (REQUEST, "$.id: expected Unicode", (r'"method":"m","id":"\ud800"',)),
    (REQUEST, "$.id: expected a number", ('"method":"m","id":1e400',)),
    (REQUEST, "$.id.a: expected one member", ('"method":"m","id":{"a":1,"a":2}',)),
    (PARSE, "$.id: expected JSON, got NaN", ('"method":"m","id":NaN',)),
    (LARGE, "at most 20 nested", ('"method":"m","id":' + "[" * 25 + "]" * 25,)),
    (LARGE, "$.id: expected an integer of reasonable length", ('"method":"m","id":' + "9" * 60_000,)),
    (
        REQUEST,
        "$.method: expected one member of this name",
        ('"method":"m","params":[],"method":"n","id":1', r'"method":"m","m\u0065thod":"n","id":1'),
    ),
    (REQUEST, "$.id: expected one member", ('"method":"m","id":2,"id":1', r'"method":"m","id":1,"\u0069d":2')),
    (REQUEST, "$.jsonrpc: expected one member", ('"method":"m","jsonrpc":"2.0","id":1',)),
    (REQUEST, "$.x: expected one member", ('"method":"m","x":1,"x":2,"id":1',)),
)

# Whole messages.
MESSAGES: tuple[Group, ...] = (
    (PARSE, "character 0 of 0", (b"",)),
    (PARSE, "character 0", (b'<?xml version="1.0"?><methodCall/>', b"\0" * 16)),
    (
        PARSE,
        _JSON,
        (
            *(b" \r\n\t ", b"method=m&params=1", _GOOD + _GOOD, _GOOD + b"\0", b"\xc2\xa0" + _GOOD, b"}{"),
            *(_TEXT.encode("utf-16-le"), b"0000000000000053" + _GOOD, b"GET / HTTP/1.1\r\n\r\n"),
            *(b"[" + _GOOD + b",]", b"[" + _GOOD, b"]" * 60_000, b'"' + b"\\" * 60_000, b":" * 60_000),
            *(b" " * 60_000, b"-" * 60_000, b"1" + b"e" * 60_000),
        ),
    ),
    (
        PARSE,
        "UTF-8",
        (bytes(range(255, 127, -1)), _TEXT.encode("utf-16"), _GOOD + b"\xff", gzip.compress(_GOOD, mtime=0)),
    ),
    (PARSE, "byte order mark", (b"\xef\xbb\xbf" + _GOOD, b"\xef\xbb\xbf")),
    (REQUEST, "$: expected an object", (b"1", b"null", b'"a"', b"[[[]]]", b"[null]", b"[[" + _GOOD + b"]]")),
    (REQUEST, "$: expected a number within", (b"1e400",)),
    (REQUEST, "at least one request", (b"[]",)),
    (REQUEST, "$.params[0].a: expected one member", (b"[" + _value('{"a":1,"a":1}') + b"]",)),
    (
        REQUEST,
        '$.jsonrpc: expected "2.0"',
        (
            *(b"[{}]", b'{"jsonrpc":2.0,"method":"m","id":1}', b'{"jsonrpc":null,"method":"m","params":[],"id":1}'),
            *(_GOOD.replace(b"2.0", text) for text in (b"3.0", b"2", b"2.0 ", b"")),
        ),
    ),
    (REQUEST, "$.method: expected text", (b"{}", b'{"params":[],"id":1}')),
    (
        REQUEST,
        "$.params: expected an array",
        (b'{"method":"m","id":1}', b'{"method":"m","params":null,"id":1}', b'{"method":"m","params":{},"id":1}'),
    ),
    (REQUEST, "$.id: expected one", (b'{"method":"m","params":[]}',)),
    (LARGE, "at most 20 nested", (b"[" * 60_000, b'{"a":' * 12_000, b"[" * 30_000 + b"]" * 30_000)),
    (LARGE, "at most 5 requests", (b"[1,1,1,1,1,1]",)),
    (LARGE, "at most 1000 values", (b"," * 60_000, b"[" + b"," * 60_000 + b"]")),
)

HOSTILE: tuple[Hostile, ...] = (
    *rows("as a value", _value, VALUES),
    *rows("as a request", _request, REQUESTS),
    *rows("as a message", whole, MESSAGES),
)
