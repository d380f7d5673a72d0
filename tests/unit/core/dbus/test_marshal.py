from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from gateway.core.dbus import marshal
from gateway.core.dbus.marshal import MarshalError, Variant, body_size, from_dbus, to_dbus
from gateway.core.dbus.signature import BASIC, INTEGER_RANGES, parse_one
from gateway.core.dbus.target import Coerce, Variants
from gateway.core.rpc.model import Value
from tests.kit.cases import each_case, expect

DOCS = Path(__file__).parents[4] / "docs" / "types.md"
REFUSAL = re.compile(r"\| `(.+?)` \| ([a-z]+)(?:, ([a-z]+))? \| (?:`(.+?)`|(.+?)) \| `(.+)` \|")
IN_WORDS: dict[str, Value] = {"a dateTime": datetime(2026, 1, 31, tzinfo=UTC), "the bytes 1234": b"1234"}

# Signature, legacy value, D-Bus value. The way back gives the legacy value again.
BOTH_WAYS: list[tuple[str, Value, object]] = [
    ("y", 255, 255),
    ("b", True, True),
    ("n", -(2**15), -(2**15)),
    ("q", 2**16 - 1, 2**16 - 1),
    ("i", -(2**31), -(2**31)),
    ("u", 2**32 - 1, 2**32 - 1),
    ("x", -(2**63), -(2**63)),
    ("t", 2**64 - 1, 2**64 - 1),
    ("d", 0.1, 0.1),
    ("d", math.inf, math.inf),
    ("s", "grüß \U0001f600\ufffe", "grüß \U0001f600\ufffe"),
    ("o", "/", "/"),
    ("o", "/org/xen_1", "/org/xen_1"),
    ("g", "a{sv}(ii)", "a{sv}(ii)"),
    ("g", "", ""),
    ("ay", b"\x00\xff", b"\x00\xff"),
    ("as", [], []),
    ("aay", [b"a", b""], [b"a", b""]),
    ("(s(ub))", ["a", [1, True]], ("a", (1, True))),
    ("a(su)", [["a", 1], ["b", 2]], [("a", 1), ("b", 2)]),
    ("a{ss}", {"a": "b"}, {"a": "b"}),
    ("a{s(u)}", {"a": [1]}, {"a": (1,)}),
    ("a{oas}", {"/a": ["b"]}, {"/a": ["b"]}),
    ("a{gs}", {"ai": "b"}, {"ai": "b"}),
    ("a{ys}", {"0": "a", "255": "b"}, {0: "a", 255: "b"}),
    ("a{xs}", {"-9223372036854775808": "a"}, {-(2**63): "a"}),
    ("a{ts}", {"18446744073709551615": "a"}, {2**64 - 1: "a"}),
    ("a{bs}", {"true": "a", "false": "b"}, {True: "a", False: "b"}),
    ("a{ds}", {"0.5": "a", "1e+16": "b", "-0.0": "c", "inf": "d"}, {0.5: "a", 1e16: "b", -0.0: "c", math.inf: "d"}),
    ("a{ua{us}}", {"1": {"2": "a"}}, {1: {2: "a"}}),
]

# variants: plain. What is inferred for each value.
INFERRED: list[tuple[Value, Variant]] = [
    (True, Variant("b", True)),
    (5, Variant("x", 5)),
    (-(2**63), Variant("x", -(2**63))),
    (2**63, Variant("t", 2**63)),
    (0.5, Variant("d", 0.5)),
    ("a", Variant("s", "a")),
    (b"a", Variant("ay", b"a")),
    ([1, "a"], Variant("av", [Variant("x", 1), Variant("s", "a")])),
    ({"a": {}}, Variant("a{sv}", {"a": Variant("a{sv}", {})})),
]

# coerce: legacy. What is accepted beyond the strict rules, and what it becomes.
COERCED: list[tuple[str, Value, object]] = [
    ("y", "255", 255),
    ("x", "-9223372036854775808", -(2**63)),
    ("t", "18446744073709551615", 2**64 - 1),
    ("u", "0", 0),
    ("d", "30", 30.0),
    ("d", "0.5", 0.5),
    ("d", "1e+16", 1e16),
    ("d", "-0.0", -0.0),
    ("d", "0e5", 0.0),
    ("d", "-inf", -math.inf),
    ("b", "true", True),
    ("b", "false", False),
    ("b", "1", True),
    ("b", "0", False),
    ("b", 1, True),
    ("b", 0, False),
    ("au", [1, "2"], [1, 2]),
    ("a{sx}", {"a": "5", "b": 6}, {"a": 5, "b": 6}),
    ("(xb)", ["5", "1"], (5, True)),
]


def refused(
    signature: str, value: Value, *, coerce: Coerce = "strict", variants: Variants = "plain", to_bus: bool = True
) -> str:
    """The message of the refusal."""
    kind = parse_one(signature)
    with pytest.raises(MarshalError) as caught:
        (to_dbus(kind, coerce=coerce, variants=variants) if to_bus else from_dbus(kind, variants=variants))(value)
    return str(caught.value)


def documented_refusals() -> list[tuple[str, Coerce, Variants, Value, str]]:
    refusals: list[tuple[str, Coerce, Variants, Value, str]] = []
    for line in DOCS.read_text().partition("## Refusals")[2].splitlines():
        match = REFUSAL.fullmatch(line)
        if match is not None:
            signature, coerce, variants, literal, words, message = match.groups()
            value = IN_WORDS[words] if literal is None else json.loads(literal)
            how = cast("Coerce", coerce), cast("Variants", variants or "plain")
            refusals.append((signature, *how, value, message))
    return refusals


@each_case(("signature", "value", "body"), BOTH_WAYS, ids=str)
@each_case("coerce", ["strict", "legacy"])
def test_a_value_becomes_its_type_and_comes_back(signature: str, value: Value, body: object, coerce: Coerce) -> None:
    kind = parse_one(signature)
    sent = to_dbus(kind, coerce=coerce)(value)
    assert repr(sent) == repr(body)
    assert repr(from_dbus(kind)(sent)) == repr(value)


def test_every_type_but_a_file_descriptor_goes_both_ways() -> None:
    assert {signature for signature, _, _ in BOTH_WAYS} >= set(BASIC) - {"h"}


@each_case(("value", "variant"), INFERRED, ids=str)
def test_the_type_of_a_plain_variant_is_inferred(value: Value, variant: Variant) -> None:
    assert to_dbus(parse_one("v"))(value) == variant
    assert repr(from_dbus(parse_one("v"))(variant)) == repr(value)


def test_a_rule_of_inference_stands_for_each_class_that_a_variant_may_be_of() -> None:
    assert set(marshal.PLAIN) == {type(value) for value, _ in INFERRED}


@each_case(("signature", "value", "body"), COERCED, ids=str)
def test_legacy_coercion_accepts_text_that_strictly_is_refused(signature: str, value: Value, body: object) -> None:
    assert repr(to_dbus(parse_one(signature), coerce="legacy")(value)) == repr(body)
    assert refused(signature, value).startswith("$")


@each_case("text", ["+1", "01", "1 ", "1.0", "1_0", "", "-", "-0", "\u0661", "1" * 5000, "0x1", "1\n"])
@each_case("code", ["y", "n", "q", "i", "u", "x", "t"])
def test_text_that_is_no_canonical_integer_is_refused(code: str, text: str) -> None:
    assert refused(code, text, coerce="legacy").startswith(f"$: expected {code}, got ")


@each_case("text", ["", " 1.5", ".5", "5.", "1e", "0x1p3", "infinity", "NaN", "1_0.0", "1.5\n", "1e-999"])
def test_text_that_is_no_number_is_refused(text: str) -> None:
    assert refused("d", text, coerce="legacy").startswith("$: expected d")


@each_case(("code", "low", "high"), [(c, *r) for c, r in INTEGER_RANGES.items()])
def test_one_past_the_range_of_an_integer_is_refused(code: str, low: int, high: int) -> None:
    assert refused(code, low - 1) == f"$: expected {code}, got {low - 1}"
    assert refused(code, high + 1) == f"$: expected {code}, got {high + 1}"
    assert refused("a" + code, [high + 1]) != ""
    assert refused(code, str(high + 1), coerce="legacy") == f'$: expected {code}, got "{high + 1}"'


@each_case("number", [2**53, -(2**53), 2**60, 10**22])
def test_an_integer_that_a_double_holds_exactly_is_one(number: int) -> None:
    assert repr(to_dbus(parse_one("d"))(number)) == repr(float(number))


@each_case("number", [2**53 + 1, 10**400, -(10**400)])
def test_an_integer_that_a_double_does_not_hold_is_refused(number: int) -> None:
    assert refused("d", number).startswith("$: expected d, or an integer that a double holds exactly, got ")


def test_not_a_number_is_carried_for_dbus_carries_it() -> None:
    sent = expect(float, to_dbus(parse_one("d"))(math.nan))
    assert math.isnan(sent)


def test_base64_text_becomes_bytes() -> None:
    assert to_dbus(parse_one("ay"))("AP8=") == b"\x00\xff"
    assert to_dbus(parse_one("ay"))("") == b""


@each_case("text", ["YR==", "YQ==\n", "YQ", "YQ===", "Y-Q=", "é", "====", "YWJj YWJj"])
def test_base64_that_is_not_canonical_is_refused(text: str) -> None:
    assert refused("ay", text).startswith("$: expected ay as canonical base64, got ")


@each_case("code", [*BASIC, "ay", "as", "(s)", "a{ss}", "v"])
@each_case("variants", ["plain", "typed"])
def test_null_is_refused_for_every_type(code: str, variants: Variants) -> None:
    assert refused(code, None, variants=variants).endswith(", got null")


def test_a_file_descriptor_is_refused_both_ways() -> None:
    message = "$: expected anything but h (file descriptors cannot be carried), got 3"
    assert refused("h", 3) == message
    assert refused("h", 3, to_bus=False) == message
    assert refused("a{sh}", {"a": 3}, to_bus=False) == message.replace("$", "$.a")


def test_a_file_descriptor_in_a_variant_of_a_reply_is_refused_with_its_place() -> None:
    reply = {"a": SimpleNamespace(signature="(sh)", value=("b", 3))}
    with pytest.raises(MarshalError, match=r"^\$\.a\[1\]: expected anything but h"):
        from_dbus(parse_one("a{sv}"))(reply)
    with pytest.raises(MarshalError, match=r"^\$\.a\.value\[1\]: expected anything but h"):
        from_dbus(parse_one("a{sv}"), variants="typed")(reply)


def test_typed_variants_say_their_signature_at_every_level() -> None:
    value: Value = {"signature": "av", "value": [{"signature": "(u)", "value": [5]}]}
    sent = to_dbus(parse_one("v"), variants="typed")(value)
    assert sent == Variant("av", [Variant("(u)", (5,))])
    assert from_dbus(parse_one("v"), variants="typed")(sent) == value


@each_case("signature", [5, None, [], "", "uu", "k", "a", "u" * 256, "\0"])
def test_a_typed_variant_needs_the_signature_of_one_type(signature: Value) -> None:
    message = refused("v", {"signature": signature, "value": 5}, variants="typed")
    assert message.startswith("$.signature: expected the signature of one complete type, got ")


def test_legacy_coercion_reaches_into_typed_variants() -> None:
    value: Value = {"signature": "x", "value": "5"}
    assert to_dbus(parse_one("v"), coerce="legacy", variants="typed")(value) == Variant("x", 5)


def test_a_variant_of_any_class_comes_back() -> None:
    variant = SimpleNamespace(signature="a{u(sv)}", value={1: ("a", SimpleNamespace(signature="ay", value=b"x"))})
    assert from_dbus(parse_one("v"))(variant) == {"1": ["a", b"x"]}


def within(value: Value, arrays: int) -> Value:
    for _ in range(arrays):
        value = [value]
    return value


def within_typed_dicts(value: Value, dicts: int) -> Value:
    for _ in range(dicts):
        value = {"signature": "a{sv}", "value": {"a": value}}
    return value


def test_sixty_three_containers_may_be_nested_and_no_more() -> None:
    """Each level here is a variant and an array; the text has a variant of its own."""
    deepest = within("a", 31)
    assert from_dbus(parse_one("v"))(to_dbus(parse_one("v"))(deepest)) == deepest
    assert (
        refused("v", within([], 31)) == "$" + "[0]" * 31 + ": expected at most 63 nested containers, got an array of 0"
    )


def test_the_containers_around_a_variant_count() -> None:
    signature = "a" * 32 + "(" * 30 + "v" + ")" * 30
    assert to_dbus(parse_one(signature))(within("a", 62))
    assert refused(signature, within([], 62)).endswith(": expected at most 63 nested containers, got an array of 0")


def test_a_signature_may_hold_more_depth_than_a_value_may_use() -> None:
    signature = "a" * 32 + "(" * 31 + "v" + ")" * 31
    assert to_dbus(parse_one(signature))([]) == []
    assert refused(signature, within("a", 63)).endswith(': expected at most 63 nested containers, got "a"')


def test_a_dict_is_two_containers() -> None:
    """Each level here is a variant, an array and a dict entry."""
    text: Value = {"signature": "s", "value": "a"}
    assert to_dbus(parse_one("v"), variants="typed")(within_typed_dicts(text, 20))
    message = refused("v", within_typed_dicts(text, 21), variants="typed")
    assert message.endswith(": expected at most 63 nested containers, got a struct of 2")


def test_what_needs_no_change_is_not_copied() -> None:
    values: list[tuple[str, Value]] = [("as", ["a"]), ("au", [1]), ("ab", [True]), ("ad", [0.5]), ("a{ss}", {"a": "b"})]
    for signature, value in values:
        assert to_dbus(parse_one(signature))(value) is value


@each_case("signature", [*"ybnqiuxtdsog", "as", "au", "aas", "a{ss}", "a{oas}", "aaa{st}"])
def test_the_way_back_is_known_to_be_nothing(signature: str) -> None:
    assert from_dbus(parse_one(signature)) is marshal.same


@each_case("signature", ["ay", "v", "(s)", "a(s)", "a{us}", "a{sv}", "h"])
def test_the_way_back_is_something(signature: str) -> None:
    assert from_dbus(parse_one(signature)) is not marshal.same


def test_the_values_of_the_client_are_left_as_they_are() -> None:
    value: Value = {"a": [1, {"b": [True]}]}
    before = repr(value)
    to_dbus(parse_one("a{sv}"))(value)
    assert repr(value) == before


def test_a_bad_item_after_many_good_ones_is_named() -> None:
    assert refused("as", [*map(str, range(1000)), "\ud800"]).startswith(
        "$[1000]: expected s without lone surrogates, got "
    )
    assert refused("ai", [*range(1000), 2**31]) == "$[1000]: expected i, got 2147483648"
    assert refused("a{ss}", {"a": "b", "c": 5}) == "$.c: expected s, got 5"
    assert refused("a{ss}", {"a": "b", "\0": "c"}) == '$["\\u0000"]: expected s as a key, got "\\u0000"'


def test_surrogates_in_two_neighbours_do_not_make_one_character() -> None:
    assert refused("as", ["\ud83d", "\ude00"]).startswith("$[0]: expected s without lone surrogates")


@each_case(("signature", "coerce", "variants", "value", "message"), documented_refusals(), ids=str)
def test_a_documented_refusal_is_the_real_one(
    signature: str, coerce: Coerce, variants: Variants, value: Value, message: str
) -> None:
    assert refused(signature, value, coerce=coerce, variants=variants).replace("$", "$.params[0]", 1) == message


def test_the_documented_messages_of_the_limits_are_the_real_ones() -> None:
    with pytest.raises(MarshalError) as array:
        body_size("at", [[0] * (2**23 + 1)])
    real = [refused("g", "y" * 256), refused("v", within([], 33)), str(array.value)]
    documented = re.findall(r"\| `(expected .+?)` \|", DOCS.read_text().partition("## Limits")[2])
    assert len(documented) == len(real)
    for message, start in zip(real, documented, strict=True):
        assert re.search(re.escape(start).replace(re.escape("..."), r"\d+") + r"\b", message)


def test_every_line_of_the_table_of_refusals_is_checked() -> None:
    rows = [line for line in DOCS.read_text().partition("## Refusals")[2].splitlines() if line.startswith("| `")]
    assert len(rows) == len(documented_refusals()) > 50
