"""Bodies that must not be believed, each with the fault it must get; test_jsonrpc.py runs them."""

from __future__ import annotations

from gateway.core.rpc.model import FaultCode, MessageLimits

PARSE, REQUEST, LARGE = FaultCode.PARSE_ERROR, FaultCode.INVALID_REQUEST, FaultCode.TOO_LARGE

LIMITS = MessageLimits(body=64 * 1024, depth=20, elements=1000, batch=5)

Hostile = tuple[str, bytes, FaultCode, str]  # title, body, code, what the message must hold


def call(params: str, more: str = "") -> bytes:
    """A request with these parameters."""
    return f'{{"jsonrpc":"2.0","method":"m","params":{params}{more},"id":1}}'.encode("utf-8", "surrogatepass")


def _value(text: str) -> bytes:
    return call(f"[{text}]")


def _bytes(text: bytes) -> bytes:
    return call('["@"]').replace(b"@", text)


NOT_JSON: tuple[Hostile, ...] = (
    ("nothing", b"", PARSE, "character 0 of 0"),
    ("white space alone", b" \r\n\t ", PARSE, "expected JSON"),
    ("an XML-RPC call", b'<?xml version="1.0"?><methodCall/>', PARSE, "character 0"),
    ("zero bytes", b"\0" * 16, PARSE, "character 0"),
    ("random bytes", bytes(range(255, 127, -1)), PARSE, "UTF-8"),
    ("a form", b"method=m&params=1", PARSE, "expected JSON"),
    ("a comment", b"/* x */" + _value("1"), PARSE, "expected JSON"),
    ("a comment at the end", _value("1") + b"//", PARSE, "expected JSON"),
    ("two messages", _value("1") + _value("2"), PARSE, "expected JSON"),
    ("two messages on two lines", _value("1") + b"\n" + _value("2"), PARSE, "expected JSON"),
    ("a bracket too many", _value("1") + b"]", PARSE, "expected JSON"),
    ("a zero byte at the end", _value("1") + b"\0", PARSE, "expected JSON"),
    ("a form feed around", b"\x0c" + _value("1"), PARSE, "expected JSON"),
    ("a no-break space around", b"\xc2\xa0" + _value("1"), PARSE, "expected JSON"),
    ("a comma at the end of an array", _value("1,"), PARSE, "expected JSON"),
    ("a comma at the end of an object", call("[1]", ',"x":1,'), PARSE, "expected JSON"),
    ("a comma at the beginning", _value(",1"), PARSE, "expected JSON"),
    ("no comma", _value("1 2"), PARSE, "expected JSON"),
    ("a colon in an array", _value('"a":1'), PARSE, "expected JSON"),
    ("a member without a value", _value('{"a"}'), PARSE, "expected JSON"),
    ("a name without quotation marks", _value("{a:1}"), PARSE, "expected JSON"),
    ("a number as a name", _value("{1:1}"), PARSE, "expected JSON"),
    ("null as a name", _value("{null:1}"), PARSE, "expected JSON"),
    ("single quotation marks", _value("'a'"), PARSE, "expected JSON"),
    ("brackets that do not match", _value("[1}"), PARSE, "expected JSON"),
    ("Python's True", _value("True"), PARSE, "expected JSON"),
    ("undefined", _value("undefined"), PARSE, "expected JSON"),
    ("half a word", _value("tru"), PARSE, "expected JSON"),
    ("a length before it", b"0000000000000053" + _value("1"), PARSE, "expected JSON"),
)

NUMBERS: tuple[Hostile, ...] = (
    ("NaN", _value("NaN"), PARSE, "$.params[0]: expected JSON, got NaN"),
    ("nan", _value("nan"), PARSE, "expected JSON"),
    ("Infinity", _value("Infinity"), PARSE, "$.params[0]: expected JSON, got Infinity"),
    ("-Infinity", _value("-Infinity"), PARSE, "$.params[0]: expected JSON, got -Infinity"),
    ("1e400", _value("1e400"), REQUEST, "$.params[0]: expected a number"),
    ("-1e400", _value('{"x":-1e400}'), REQUEST, "$.params[0].x: expected a number"),
    ("a huge exponent", _value("1e99999999999"), REQUEST, "$.params[0]: expected a number"),
    ("5,000 digits", _value("1" * 5000), LARGE, "$.params[0]: expected an integer of reasonable length, got 5000"),
    ("5,000 digits below zero", _value("-" + "1" * 5000), LARGE, "$.params[0]: expected an integer"),
    ("60,000 digits", _value("9" * 60_000), LARGE, "$.params[0]: expected an integer of reasonable length"),
    ("5,000 digits as id", b'{"jsonrpc":"2.0","method":"m","id":' + b"7" * 5000 + b"}", LARGE, "$.id: expected"),
    ("a zero before", _value("007"), PARSE, "expected JSON"),
    ("a plus", _value("+1"), PARSE, "expected JSON"),
    ("no digit before the point", _value(".5"), PARSE, "expected JSON"),
    ("no digit after the point", _value("5."), PARSE, "expected JSON"),
    ("a minus alone", _value("-"), PARSE, "expected JSON"),
    ("an exponent without digits", _value("1e"), PARSE, "expected JSON"),
    ("a hexadecimal number", _value("0x10"), PARSE, "expected JSON"),
    ("digits in groups", _value("1_000"), PARSE, "expected JSON"),
    ("digits of another script", _value("\u0661\u0662"), PARSE, "expected JSON"),
)

TEXTS: tuple[Hostile, ...] = (
    ("a byte that is not UTF-8", _bytes(b"\xff"), PARSE, "UTF-8, got the byte 0xff at 41"),
    ("a character cut short", _bytes(b"\xe2\x82"), PARSE, "UTF-8"),
    ("an overlong form", _bytes(b"\xc0\xaf"), PARSE, "UTF-8"),
    ("beyond Unicode", _bytes(b"\xf4\x90\x80\x80"), PARSE, "UTF-8"),
    ("a surrogate in UTF-8", _bytes(b"\xed\xa0\x80"), PARSE, "UTF-8"),
    ("Latin-1", _bytes("é".encode("latin-1")), PARSE, "UTF-8"),
    ("bad UTF-8 in a name", call('[{"@":1}]').replace(b"@", b"\xff"), PARSE, "UTF-8"),
    ("a byte order mark", b"\xef\xbb\xbf" + _value("1"), PARSE, "byte order mark"),
    ("UTF-16 with a mark", _value("1").decode().encode("utf-16"), PARSE, "UTF-8"),
    ("UTF-16 without a mark", _value("1").decode().encode("utf-16-le"), PARSE, "expected JSON"),
    ("UTF-32", _value("1").decode().encode("utf-32"), PARSE, "UTF-8"),
    ("half a pair, high", _value(r'"\ud800"'), REQUEST, "$.params[0]: expected Unicode text"),
    ("half a pair, low", _value(r'"abc\udfff"'), REQUEST, "$.params[0]: expected Unicode text"),
    ("half a pair before text", _value(r'{"a":["\ud83dabcdefgh"]}'), REQUEST, "$.params[0].a[0]: expected Unicode"),
    ("half a pair before an escape", _value(r'"\ud83d\n"'), REQUEST, "$.params[0]: expected Unicode text"),
    ("a pair the wrong way round", _value(r'"\ude00\ud83d"'), REQUEST, "$.params[0]: expected Unicode text"),
    ("half a pair in a name", _value(r'{"\ud800":1}'), REQUEST, r'$.params[0]["\ud800"]: expected Unicode text'),
    ("half a pair as id", b'{"jsonrpc":"2.0","method":"m","id":"\\ud800"}', REQUEST, "$.id: expected Unicode"),
    ("half a pair as method", b'{"jsonrpc":"2.0","method":"\\ud800"}', REQUEST, "$.method: expected Unicode"),
    ("a line break in a text", _value('"a\nb"'), PARSE, "expected JSON"),
    ("a zero byte in a text", _value('"a\0b"'), PARSE, "expected JSON"),
    ("a tab in a text", _value('"a\tb"'), PARSE, "expected JSON"),
    ("an escape that JSON has not", _value(r'"\x41"'), PARSE, "expected JSON"),
    ("an escape cut short", _value(r'"\u12"'), PARSE, "expected JSON"),
    ("an escape that is not a number", _value(r'"\u12G4"'), PARSE, "expected JSON"),
    ("a text that is not closed", _value('"a'), PARSE, "expected JSON"),
)

MEMBERS_TWICE: tuple[Hostile, ...] = (
    ("a member twice", _value('{"a":1,"a":1}'), REQUEST, "$.params[0].a: expected one member of this name, got two"),
    ("a member thrice", _value('{"a":1,"b":2,"a":1,"a":3}'), REQUEST, "$.params[0].a: expected one member"),
    ("deep within", _value('[{"x":{"y":[{"a":1},{"b":1,"b":2}]}}]'), REQUEST, "$.params[0][0].x.y[1].b: expected one"),
    ("spelled with an escape", _value(r'{"a":1,"\u0061":2}'), REQUEST, "$.params[0].a: expected one member"),
    ("hidden by an escaped colon", _value(r'{"a":"\u003a","a":2}'), REQUEST, "$.params[0].a: expected one member"),
    ("hidden by capitals", _value(r'{"a":"\u003A","b":1,"a":2}'), REQUEST, "$.params[0].a: expected one member"),
    ("hidden in a later one", _value(r'{"a":1,"a":"\u003a"}'), REQUEST, "$.params[0].a: expected one member"),
    ("with white space", _value('{"a" : 1, "a"\t:\n2}'), REQUEST, "$.params[0].a: expected one member"),
    ("beside colons in texts", _value('{"a":"x:y","a":"\\":"}'), REQUEST, "$.params[0].a: expected one member"),
    ("an empty name twice", _value('{"":1,"":2}'), REQUEST, '$.params[0][""]: expected one member'),
    ("two methods", call("[]", ',"method":"n"'), REQUEST, "$.method: expected one member of this name"),
    ("two ids", call("[]", ',"id":2'), REQUEST, "$.id: expected one member of this name"),
    ("two versions", call("[]", ',"jsonrpc":"2.0"'), REQUEST, "$.jsonrpc: expected one member of this name"),
    ("two lists of parameters", call("[]", ',"params":[1]'), REQUEST, "$.params: expected one member of this name"),
    ("in a batch", b"[" + _value('{"a":1,"a":1}') + b"]", REQUEST, "$.params[0].a: expected one member"),
)

TOO_MUCH: tuple[Hostile, ...] = (
    ("too many bytes", _value('"' + "x" * 64 * 1024 + '"'), LARGE, "at most 65536 bytes"),
    ("arrays too deep", _value("[" * 19 + "]" * 19), LARGE, "at most 20 nested"),
    ("objects too deep", _value('{"a":' * 19 + "1" + "}" * 19), LARGE, "at most 20 nested"),
    ("both too deep", _value('[{"a":' * 10 + "1" + "}]" * 10), LARGE, "at most 20 nested"),
    ("deep in the middle", _value("[]," * 30 + "[" * 30 + "]" * 30 + ",[]" * 30), LARGE, "at most 20 nested"),
    ("deep after quotation marks", _value(r'"\"[\\","\\",' + "[" * 19 + "]" * 19), LARGE, "at most 20 nested"),
    ("60,000 arrays", b"[" * 60_000, LARGE, "at most 20 nested"),
    ("60,000 objects", b'{"a":' * 12_000, LARGE, "at most 20 nested"),
    ("60,000 arrays and their ends", b"[" * 30_000 + b"]" * 30_000, LARGE, "at most 20 nested"),
    ("too many numbers", _value(",".join("1" * 1001)), LARGE, "at most 1000 values"),
    ("too many empty arrays", _value(",".join(["[]"] * 1001)), LARGE, "at most 1000 values"),
    ("too many members", _value("{" + ",".join(f'"{at}":1' for at in range(1001)) + "}"), LARGE, "at most 1000"),
    ("too many empty texts", _value(",".join(['""'] * 1001)), LARGE, "at most 1000 values"),
    ("a batch too long", b"[" + b",".join([b"1"] * 6) + b"]", LARGE, "at most 5 requests"),
)

NO_CALL: tuple[Hostile, ...] = (
    ("an empty batch", b"[]", REQUEST, "at least one request"),
    ("a number", b"1", REQUEST, "$: expected an object"),
    ("null", b"null", REQUEST, "$: expected an object"),
    ("a text", b'"system.listMethods"', REQUEST, "$: expected an object"),
    ("an empty object", b"{}", REQUEST, "$.method: expected text"),
    ("version as a number", b'{"jsonrpc":2.0,"method":"m","id":1}', REQUEST, '$.jsonrpc: expected "2.0"'),
    ("version 1.0 by name", b'{"jsonrpc":"1.0","method":"m","params":[],"id":1}', REQUEST, "$.jsonrpc: expected"),
    ("version null", b'{"jsonrpc":null,"method":"m","params":[],"id":1}', REQUEST, "$.jsonrpc: expected"),
    ("version in a list", b'{"jsonrpc":["2.0"],"method":"m","id":1}', REQUEST, "$.jsonrpc: expected"),
    ("no method", b'{"jsonrpc":"2.0","id":1}', REQUEST, "$.method: expected text"),
    ("a number as method", b'{"jsonrpc":"2.0","method":1,"id":1}', REQUEST, "$.method: expected text"),
    ("null as method", b'{"jsonrpc":"2.0","method":null,"id":1}', REQUEST, "$.method: expected text"),
    ("text as parameters", call('"x"'), REQUEST, "$.params: expected an array or an object"),
    ("a number as parameters", call("0"), REQUEST, "$.params: expected an array or an object"),
    ("false as parameters", call("false"), REQUEST, "$.params: expected an array or an object"),
    ("true as id", b'{"jsonrpc":"2.0","method":"m","id":true}', REQUEST, "$.id: expected text, a number or null"),
    ("an array as id", b'{"jsonrpc":"2.0","method":"m","id":[1]}', REQUEST, "$.id: expected text, a number or null"),
    ("an object as id", b'{"jsonrpc":"2.0","method":"m","id":{}}', REQUEST, "$.id: expected text, a number or null"),
    ("1.0 without parameters", b'{"method":"m","id":1}', REQUEST, "$.params: expected an array"),
    ("1.0 with null for them", b'{"method":"m","params":null,"id":1}', REQUEST, "$.params: expected an array"),
    ("1.0 with named ones", b'{"method":"m","params":{},"id":1}', REQUEST, "$.params: expected an array"),
    ("1.0 without an id", b'{"method":"m","params":[]}', REQUEST, "$.id: expected one"),
    ("1.0 without a method", b'{"params":[],"id":1}', REQUEST, "$.method: expected text"),
    ("a response", b'{"jsonrpc":"2.0","result":1,"id":1}', REQUEST, "$.method: expected text"),
)

HOSTILE = (*NOT_JSON, *NUMBERS, *TEXTS, *MEMBERS_TWICE, *TOO_MUCH, *NO_CALL)
