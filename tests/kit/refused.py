"""Values that no D-Bus message may carry, with the words of their refusal; knows no protocol and no bus."""

from __future__ import annotations

from gateway.core.dbus.marshal import MAX_DEPTH
from gateway.core.dbus.target import Variants
from gateway.core.rpc.model import Value


def nested(times: int, value: Value) -> Value:
    """That many arrays around a value."""
    for _ in range(times):
        value = [value]
    return value


def typed_variants(times: int) -> Value:
    """That many variants inside each other."""
    value: Value = {"signature": "y", "value": 1}
    for _ in range(times - 1):
        value = {"signature": "v", "value": value}
    return value


# One step further: each is refused in words before a library or a broker sees it.
REFUSED: list[tuple[str, Variants, Value, str]] = [
    ("v", "plain", nested(MAX_DEPTH // 2, []), "at most 63 nested containers"),
    ("a" * 32 + "(" * 32 + "y" + ")" * 32, "plain", nested(64, 1), "at most 63 nested containers"),
    ("v", "plain", nested(40, []), "at most 63 nested containers"),
    ("v", "typed", typed_variants(MAX_DEPTH + 1), "at most 63 nested containers"),
    ("v", "typed", {"signature": "a" * 33 + "y", "value": nested(33, 1)}, "the signature of one complete type"),
    ("v", "typed", {"signature": "(" * 33 + "y" + ")" * 33, "value": 1}, "the signature of one complete type"),
    ("v", "typed", {"signature": "()", "value": []}, "the signature of one complete type"),
    ("v", "typed", {"signature": "a{vs}", "value": {}}, "the signature of one complete type"),
    ("v", "typed", {"signature": "h", "value": 0}, "anything but h"),
    ("v", "typed", {"signature": "y" * 255, "value": 0}, "the signature of one complete type"),
    ("v", "typed", {"signature": "v", "value": None}, 'v as {"signature": ..., "value": ...}, got null'),
    ("v", "plain", None, "expected v, got null"),
    ("v", "plain", 2**64, "expected t, got 18446744073709551616"),
    ("v", "plain", 10**400, "expected t, got an integer of 1329 bits"),
    ("av", "plain", [1, None], "$[1]: expected v, got null"),
    ("a{sv}", "plain", {"a": {"b": [None]}}, "$.a.b[0]: expected v, got null"),
    ("a{sv}", "plain", {"a\0": 1}, "expected s as a key"),
    ("a{sv}", "plain", {"\udc00": 1}, "expected s as a key"),
    ("s", "plain", "a\0", "expected s without NUL"),
    ("s", "plain", "\ud800", "expected s without lone surrogates"),
    ("as", "plain", ["\ud83d", "\ude00"], "expected s without lone surrogates"),
    ("s", "plain", None, "expected s, got null"),
    ("t", "plain", 2**64, "expected t"),
    ("at", "plain", [0, 2**64], "$[1]: expected t"),
    ("ai", "plain", [True], "$[0]: expected i, got true"),
    ("ay", "plain", [256], "expected ay, got an array"),
    ("o", "plain", "", "expected o"),
    ("o", "plain", "//", "expected o"),
    ("o", "plain", "/a/", "expected o"),
    ("o", "plain", "/a\n", "expected o"),
    ("o", "plain", "/\u0661", "expected o"),
    ("o", "plain", "/a/../b", "expected o"),
    ("g", "plain", "y" * 256, "expected g"),
    ("g", "plain", "a", "expected g"),
    ("g", "plain", "(y", "expected g"),
    ("g", "plain", "y\n", "expected g"),
    ("(ss)", "plain", ["a"], "expected (ss), got an array of 1"),
    ("(ss)", "plain", ["a", "b", "c"], "expected (ss), got an array of 3"),
    ("(s)", "plain", [None], "$[0]: expected s, got null"),
    ("a{ds}", "plain", {"0.0": "a", "-0.0": "b"}, "expected keys that stay different"),
    ("a{us}", "plain", {"1": "a", "01": "b"}, "expected u as a key (in decimal)"),
    ("a{us}", "plain", {"\u0661": "a"}, "expected u as a key (in decimal)"),
    ("a{gs}", "plain", {"a": "x"}, "expected g as a key"),
    ("a{sh}", "plain", {"a": 1}, "$.a: expected anything but h"),
]
