"""Values across the border to D-Bus and back: what is accepted, what it becomes, and the words of a refusal."""

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
from gateway.core.dbus.marshal import MarshalError, Variant, VariantTypes, body_size, from_dbus, known_variants, to_dbus
from gateway.core.dbus.scalars import quoted, render
from gateway.core.dbus.signature import BASIC, INTEGER_RANGES, parse_one
from gateway.core.dbus.target import Coerce, Variants
from gateway.core.rpc.model import Value
from tests.kit.cases import each_case

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
    *((code, whole, 5) for code in INTEGER_RANGES for whole in ("5", 5.0)),
    ("x", -0.0, 0),
    ("x", 2.0**53, 2**53),
]
COERCIONS: tuple[Coerce, ...] = ("strict", "legacy")


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


@each_case(("signature", "value", "body"), BOTH_WAYS)
@each_case("coerce", COERCIONS)
def test_a_value_becomes_its_type_and_comes_back(signature: str, value: Value, body: object, coerce: Coerce) -> None:
    kind = parse_one(signature)
    sent = to_dbus(kind, coerce=coerce)(value)
    assert repr(sent) == repr(body)
    assert repr(from_dbus(kind)(sent)) == repr(value)


def test_each_kind_of_value_has_a_row_in_the_tables_above() -> None:
    assert {signature for signature, _, _ in BOTH_WAYS} >= set(BASIC) - {"h"}
    assert set(marshal.PLAIN) == {type(value) for value, _ in INFERRED}
    rows = [line for line in DOCS.read_text().partition("## Refusals")[2].splitlines() if line.startswith("| `")]
    assert len(rows) == len(documented_refusals()) > 50


@each_case(("value", "variant"), INFERRED)
def test_the_type_of_a_plain_variant_is_inferred(value: Value, variant: Variant) -> None:
    assert to_dbus(parse_one("v"))(value) == variant
    assert repr(from_dbus(parse_one("v"))(variant)) == repr(value)


@each_case(("signature", "value", "body"), COERCED)
def test_legacy_coercion_accepts_text_that_strictly_is_refused(signature: str, value: Value, body: object) -> None:
    assert repr(to_dbus(parse_one(signature), coerce="legacy")(value)) == repr(body)
    assert refused(signature, value).startswith("$")


NO_INTEGERS = ["+1", "01", "1 ", "1.0", "1_0", "", "-", "-0", "\u0661", "1" * 5000, "0x1", "1\n", "5.0", "1e3"]
NO_NUMBERS = ["", " 1.5", ".5", "5.", "1e", "0x1p3", "infinity", "NaN", "1_0.0", "1.5\n", "1e-999"]
NOT_WHOLE = [0.5, 2.0**53 + 2, -(2.0**63), 1e300, math.inf, math.nan]  # or it stands for several
NO_BASE64 = ["YR==", "YQ==\n", "YQ", "YQ===", "Y-Q=", "é", "====", "YWJj YWJj"]
TOO_PRECISE = [2**53 + 1, 10**400, -(10**400)]


@each_case(
    ("code", "values", "expected"),
    [
        *((code, [*NO_INTEGERS, *NOT_WHOLE, True, None, "9" * 20], code) for code in INTEGER_RANGES),
        ("d", NO_NUMBERS, "d"),
        ("d", TOO_PRECISE, "d, or an integer that a double holds exactly"),
        ("ay", NO_BASE64, "ay as canonical base64"),
    ],
)
def test_what_only_resembles_a_value_is_refused_even_of_an_old_client(
    code: str, values: list[Value], expected: str
) -> None:
    for value in values:
        assert refused(code, value, coerce="legacy").startswith(f"$: expected {expected}"), value


@each_case(("code", "low", "high"), [(c, *r) for c, r in INTEGER_RANGES.items()])
def test_one_past_the_range_of_an_integer_is_refused(code: str, low: int, high: int) -> None:
    for coerce in COERCIONS:
        assert refused(code, low - 1, coerce=coerce) == f"$: expected {code}, got {low - 1}"
        values: Value = {"a": low, "b": high, "c": high + 1}
        assert refused(f"a{{s{code}}}", values, coerce=coerce) == f"$.c: expected {code}, got {high + 1}"
    assert refused(code, str(high + 1), coerce="legacy") == f'$: expected {code}, got "{high + 1}"'
    if high < 2**53:
        assert refused(code, float(high + 1), coerce="legacy") == f"$: expected {code}, got {float(high + 1)}"
    assert to_dbus(parse_one(f"({code}{code})"))([low, high]) == (low, high)


@each_case(
    ("code", "bad"),
    [
        *(("s", bad) for bad in (1, None, b"a", ["a"], "\0", "a\ud800")),
        *(("b", bad) for bad in (1, None, "true")),
        *(("d", bad) for bad in (None, "0.5")),
        *((code, bad) for code in INTEGER_RANGES for bad in (True, None, 1.0, "1")),
    ],
)
def test_one_bad_value_among_good_ones_is_named(code: str, bad: Value) -> None:
    good = cast("Value", {"s": "a", "b": True, "d": 0.5}.get(code, 1))
    assert refused(f"a{{s{code}}}", {"a": good, "c": bad}).startswith(f"$.c: expected {code}")
    if code != "y":  # of which an array is bytes
        assert refused(f"a{code}", [good] * 1000 + [bad]).startswith(f"$[1000]: expected {code}")
        assert refused(f"a{code}", [bad, good]).startswith(f"$[0]: expected {code}")


@each_case("number", [2**53, -(2**53), 2**60, 10**22, math.nan])
def test_what_a_double_holds_exactly_is_one(number: float) -> None:
    assert repr(to_dbus(parse_one("d"))(number)) == repr(float(number))


def test_base64_text_becomes_bytes() -> None:
    assert to_dbus(parse_one("ay"))("AP8=") == b"\x00\xff"
    assert to_dbus(parse_one("ay"))("") == b""


@each_case("code", INTEGER_RANGES)
def test_a_key_has_one_text_only(code: str) -> None:
    assert to_dbus(parse_one(f"a{{{code}s}}"))({"5": ""}) == {5: ""}
    for coerce in COERCIONS:
        assert refused(f"a{{{code}s}}", {"5.0": ""}, coerce=coerce).startswith(f'$["5.0"]: expected {code} as a key')


def test_a_file_descriptor_is_refused_both_ways() -> None:
    message = "$: expected anything but h (file descriptors cannot be carried), got 3"
    assert refused("h", 3, to_bus=False) == message
    assert refused("a{sh}", {"a": 3}, to_bus=False) == message.replace("$", "$.a")
    reply = {"a": SimpleNamespace(signature="(sh)", value=("b", 3))}
    with pytest.raises(MarshalError, match=r"^\$\.a\[1\]: expected anything but h"):
        from_dbus(parse_one("a{sv}"))(reply)
    with pytest.raises(MarshalError, match=r"^\$\.a\.value\[1\]: expected anything but h"):
        from_dbus(parse_one("a{sv}"), variants="typed")(reply)


def test_typed_variants_say_their_signature_and_a_variant_of_any_class_comes_back() -> None:
    value: Value = {"signature": "av", "value": [{"signature": "(u)", "value": [5]}]}
    sent = to_dbus(parse_one("v"), variants="typed")(value)
    assert sent == Variant("av", [Variant("(u)", (5,))])
    assert from_dbus(parse_one("v"), variants="typed")(sent) == value
    text: Value = {"signature": "x", "value": "5"}
    assert to_dbus(parse_one("v"), coerce="legacy", variants="typed")(text) == Variant("x", 5)
    variant = SimpleNamespace(signature="a{u(sv)}", value={1: ("a", SimpleNamespace(signature="ay", value=b"x"))})
    assert from_dbus(parse_one("v"))(variant) == {"1": ["a", b"x"]}


def test_the_type_of_a_known_variant_is_that_of_its_key_before_that_of_a_pattern() -> None:
    known = VariantTypes({"*.mtu": "u", "eth.mtu": "q"})
    sent = known_variants(parse_one("a{sa{sv}}"), known, "", coerce="strict", variants="plain")
    assert sent({"eth": {"mtu": 1, "x": 2}, "br": {"mtu": 1}}) == {
        "eth": {"mtu": Variant("q", 1), "x": Variant("x", 2)},
        "br": {"mtu": Variant("u", 1)},
    }


@each_case("signature", [5, None, [], "", "uu", "k", "a", "u" * 256, "\0"])
def test_a_typed_variant_needs_the_signature_of_one_type(signature: Value) -> None:
    message = refused("v", {"signature": signature, "value": 5}, variants="typed")
    assert message.startswith("$.signature: expected the signature of one complete type, got ")


def within(value: Value, arrays: int) -> Value:
    for _ in range(arrays):
        value = [value]
    return value


TYPED: Value = {"signature": "s", "value": "a"}


def within_typed_dicts(value: Value, dicts: int) -> Value:
    for _ in range(dicts):
        value = {"signature": "a{sv}", "value": {"a": value}}
    return value


WRAPPED = "a" * 32 + "(" * 30 + "v" + ")" * 30


@each_case(
    ("signature", "variants", "fits", "deeper", "got"),
    [
        ("v", "plain", within("a", 31), within([], 31), "an array of 0"),  # each level is a variant and an array
        (WRAPPED, "plain", within("a", 62), within([], 62), "an array of 0"),  # those around a variant count
        # a signature may have more depth than a value may use
        ("a" * 32 + "(" * 31 + "v" + ")" * 31, "plain", [], within("a", 63), '"a"'),
        # a dictionary is two containers, an array and an entry
        ("v", "typed", within_typed_dicts(TYPED, 20), within_typed_dicts(TYPED, 21), "a struct of 2"),
    ],
)
def test_sixty_three_containers_may_be_nested_and_no_more(
    signature: str, variants: Variants, fits: Value, deeper: Value, got: str
) -> None:
    kind = parse_one(signature)
    assert from_dbus(kind, variants=variants)(to_dbus(kind, variants=variants)(fits)) == fits
    message = refused(signature, deeper, variants=variants)
    assert message.endswith(f": expected at most 63 nested containers, got {got}")


def test_what_needs_no_change_is_not_copied_and_what_does_is_left_as_it_is() -> None:
    values: list[tuple[str, Value]] = [("as", ["a"]), ("au", [1]), ("ab", [True]), ("ad", [0.5]), ("a{ss}", {"a": "b"})]
    for signature, value in values:
        assert to_dbus(parse_one(signature))(value) is value
    changed: Value = {"a": [1, {"b": [True]}]}
    before = repr(changed)
    to_dbus(parse_one("a{sv}"))(changed)
    assert repr(changed) == before


def test_surrogates_in_two_neighbours_do_not_make_one_character() -> None:
    assert refused("as", ["\ud83d", "\ude00"]).startswith("$[0]: expected s without lone surrogates")
    assert refused("a{ss}", {"a": "b", "\0": "c"}) == '$["\\u0000"]: expected s as a key, got "\\u0000"'


@each_case(("signature", "coerce", "variants", "value", "message"), documented_refusals())
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


# Refusals


def test_the_message_for_a_log_does_not_have_the_value() -> None:
    assert MarshalError("u", -1).at("vcpus").bare == "$.vcpus: expected u"


@each_case(
    ("path", "text"),
    [
        (("",), '$[""]'),
        (("a.b",), '$["a.b"]'),
        (("7",), '$["7"]'),
        (("é",), '$["\\u00e9"]'),
        (("\ud800\n",), '$["\\ud800\\n"]'),
        (("k" * 41,), f'$["{"k" * 40}..."]'),
    ],
)
def test_a_place_is_ascii_on_one_line(path: tuple[str | int, ...], text: str) -> None:
    assert render(path) == text


@each_case(
    ("value", "text"),
    [
        (2**64, "18446744073709551616"),
        (10**5000, "an integer of 16610 bits"),
        (math.nan, "nan"),
        ('"\0\ud800é', '"\\"\\u0000\\ud800\\u00e9"'),
        ("a" * 1_000_000, f'"{"a" * 40}..."'),
        ([0] * 1_000_000, "an array of 1000000"),
        (object, "a value of no known type"),
    ],
)
def test_a_value_is_shown_shortly_and_safely(value: object, text: str) -> None:
    assert quoted(value) == text
