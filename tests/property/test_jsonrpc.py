"""JSON-RPC against bytes of every kind, and against the standard library as a second opinion."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.codecs.json_reader import JsonError, read
from adapters.codecs.jsonrpc import Codec
from gateway.core.rpc.model import Call, MessageLimits
from tests.kit.values import exactly

MANY = settings(max_examples=200)

TOKENS = st.sampled_from(
    [
        *'{}[],: "',
        *('"a"', '"b"', '"\\u0061"', '"\\ud83d\\ude00"', '"\\ud800"', '"x:y"', '"\\":"', '"\\\\"', '"\\u003a"'),
        *("0", "-1", "1.0", "1e400", "1e5", "9007199254740993", "NaN", "true", "null"),
    ]
)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def is_read(text: str) -> bool:
    """Whether a strict reader takes it."""
    try:
        read(text.encode(), MessageLimits())
    except JsonError:
        return False
    return True


@MANY
@given(JSON, st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_what_the_standard_library_writes_is_read_the_same(
    value: Any, ascii_only: bool, indent: int | str | None
) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert exactly(read(text.encode(), MessageLimits())) == exactly(value)


@MANY
@given(st.lists(TOKENS, max_size=12).map("".join) | st.text(max_size=12))
def test_what_is_read_is_what_the_standard_library_reads(text: str) -> None:
    body = text.encode(errors="surrogatepass")
    with suppress(JsonError):
        assert exactly(read(body, MessageLimits())) == exactly(json.loads(body.decode()))


@MANY
@given(st.lists(st.tuples(st.sampled_from(["a", "b", ":", '"', "\\"]), JSON), min_size=1, max_size=4), st.booleans())
def test_a_member_twice_is_always_found_and_nothing_else_is(pairs: list[tuple[str, Any]], ascii_only: bool) -> None:
    members = ",".join(json.dumps(name) + ":" + json.dumps(value, ensure_ascii=ascii_only) for name, value in pairs)
    names = [name for name, _ in pairs]
    assert is_read("{" + members + "}") == is_read('[{"x":{' + members + "}}]") == (len(set(names)) == len(names))


@MANY
@given(st.text(min_size=1, max_size=8), st.lists(JSON, max_size=3), st.dictionaries(st.text(max_size=3), JSON))
def test_a_call_comes_back_with_its_parameters_in_either_form(
    method: str, params: list[Any], named: dict[str, Any]
) -> None:
    codec = Codec()
    for call in (Call(method, tuple(params)), Call(method, named=named), Call(method, tuple(params), oneway=True)):
        assert exactly(codec.decode(codec.encode_call(call)).entries) == exactly((call,))
