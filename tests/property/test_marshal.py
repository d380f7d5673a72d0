"""The laws of the type gate: out and back is equal, junk is refused in words, and a library takes what passed."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from dbus_fast import Message
from dbus_fast import Variant as LibraryVariant
from dbus_fast._private.marshaller import Marshaller
from dbus_fast._private.unmarshaller import Unmarshaller
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from gateway.core.dbus.marshal import Encode, MarshalError, Variant, body_size, from_dbus, to_dbus
from gateway.core.dbus.signature import Type
from gateway.core.dbus.target import Coerce, Variants
from gateway.core.rpc.model import Value
from tests.kit.cases import each_case, present
from tests.kit.values import anything, fitting, types

VARIANTS = st.sampled_from(("plain", "typed"))
COERCE = st.sampled_from(("strict", "legacy"))
LAW = settings(max_examples=100, deadline=None)


def same(left: Value, right: Value) -> bool:
    """Equal, and of the same classes all the way down; NaN is like NaN, 0.0 is not like -0.0."""
    return repr(left) == repr(right)


def refusal(convert: Encode, value: Value) -> str | None:
    """Why it was refused. Any exception but MarshalError fails the test."""
    try:
        convert(value)
    except MarshalError as error:
        return str(error)
    return None


def for_library(value: object) -> Any:
    """Our variants as the library's class, which checks them once more on the way."""
    match value:
        case Variant(signature=signature, value=inner):
            return LibraryVariant(signature, for_library(inner))
        case dict():
            return {key: for_library(item) for key, item in value.items()}
        case list():
            return [for_library(item) for item in value]
        case tuple():
            return tuple(for_library(item) for item in value)
        case _:
            return value


def through_library(signature: str, body: Sequence[object]) -> list[Any]:
    """Marshal a method call with this body and unmarshal it again, in memory."""
    arguments = [for_library(value) for value in body]
    message = Message(path="/", member="Echo", signature=signature, body=arguments, serial=1)
    message.signature_tree.verify(arguments)
    stream: Any = io.BytesIO(message._marshall(False))  # all that is asked of it is to be read
    received = present(Unmarshaller(stream).unmarshall())
    return received.body


def marshalled_length(signature: str, body: Sequence[object]) -> int:
    return len(Marshaller(signature, [for_library(value) for value in body]).marshall())


@LAW
@given(st.data(), types(), VARIANTS, COERCE)
def test_a_fitting_value_comes_back_equal(data: DataObject, kind: Type, variants: Variants, coerce: Coerce) -> None:
    value = data.draw(fitting(kind, variants))
    body = to_dbus(kind, coerce=coerce, variants=variants)(value)
    assert same(from_dbus(kind, variants=variants)(body), value)


@LAW
@given(st.data(), types(), VARIANTS, COERCE)
def test_what_is_accepted_at_all_passes_through_the_library_unchanged(
    data: DataObject, kind: Type, variants: Variants, coerce: Coerce
) -> None:
    value = data.draw(fitting(kind, variants, nearly=True))
    convert = to_dbus(kind, coerce=coerce, variants=variants)
    if refusal(convert, value) is None:
        body = convert(value)
        [received] = through_library(str(kind), [body])
        decode = from_dbus(kind, variants=variants)
        assert same(decode(received), decode(body))


@LAW
@given(types(), anything(), VARIANTS, COERCE)
def test_any_value_against_any_type_is_accepted_or_refused_in_one_short_line(
    kind: Type, value: Value, variants: Variants, coerce: Coerce
) -> None:
    convert = to_dbus(kind, coerce=coerce, variants=variants)
    message = refusal(convert, value)
    if message is None:
        through_library(str(kind), [convert(value)])
    else:
        assert message.startswith("$")
        assert message.isascii()
        assert message.isprintable()
        assert len(message) < 2000


@LAW
@given(st.data(), types(), VARIANTS)
def test_a_null_anywhere_is_refused(data: DataObject, kind: Type, variants: Variants) -> None:
    value = data.draw(fitting(kind, variants))
    many = to_dbus(Type("a", (kind,)), variants=variants)
    struct = to_dbus(Type("(", (kind, kind)), variants=variants)
    named = to_dbus(Type("a", (Type("{", (Type("s"), kind)),)), variants=variants)
    assert refusal(to_dbus(kind, variants=variants), None)
    assert refusal(many, [value, None])
    assert refusal(struct, [None, value])
    assert refusal(named, {"a": value, "b": None})


@each_case("variants", ["plain", "typed"])
def test_the_deepest_value_passes_through_the_library(variants: Variants) -> None:
    deepest: Value = "a" if variants == "plain" else {"signature": "s", "value": "a"}
    for _ in range(31):
        deepest = [deepest] if variants == "plain" else {"signature": "av", "value": [deepest]}
    [received] = through_library("v", [to_dbus(Type("v"), variants=variants)(deepest)])
    assert from_dbus(Type("v"), variants=variants)(received) == deepest


@LAW
@given(st.data(), st.lists(types(leaves=4), min_size=1, max_size=4), VARIANTS)
def test_the_size_of_a_body_is_exact(data: DataObject, kinds: list[Type], variants: Variants) -> None:
    signature = "".join(map(str, kinds))
    body = [to_dbus(kind, variants=variants)(data.draw(fitting(kind, variants))) for kind in kinds]
    assert body_size(signature, body) == marshalled_length(signature, body)
