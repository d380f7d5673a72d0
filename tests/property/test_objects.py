"""No value of a client leads to an object outside the template of its method."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import product

from gateway.core.dbus.names import is_object_path
from gateway.core.dbus.object_paths import Escape, PathTemplate
from gateway.core.dbus.scalars import MarshalError
from gateway.core.rpc.model import Value
from tests.kit.cases import each_case

HOSTILE = 10_000  # handles
SUBTREE = "/org/example/Devices"
_PIECES = [
    *("/", "//", ".", "..", "%2f", "\\", "\0", "\n", " ", "{", "}", "{a}", "*", "~", "-", ":", "_", "_2f", "_2e", "__"),
    *("org", "example", "Devices", "DevicesX", "Settings", "/org/example/Devices", "/org/example/Devices/", "/org"),
    *("0", "1", "a", "Z", "\u0661", "\uff0f", "\u2215", "\xe9", "e\u0301", "\ud800", "\U0001f600", "\x7f", "\u202e"),
]


def _text(chance: random.Random) -> str:
    pieces = [
        chance.choice(_PIECES) if chance.random() < 0.8 else chr(chance.randrange(0x110000))
        for _ in range(chance.randrange(8))
    ]
    return "".join(pieces)


def _value(chance: random.Random) -> Value:
    kind = chance.random()
    if kind < 0.45:
        return _text(chance)
    if kind < 0.9:
        return f"{SUBTREE}/{_text(chance)}"
    text = _text(chance)
    others: list[Value] = [chance.randrange(-(2**70), 2**70), True, None, 0.5, b"a", [text], {text: text}]
    return chance.choice(others)


def _values() -> Iterator[Value]:
    """The same 10,000 each time."""
    chance = random.Random(13)
    return (_value(chance) for _ in range(HOSTILE))


def _made(template: PathTemplate) -> list[str]:
    """The object paths that they become, all of which are valid; most values are refused, and not all."""
    encode: Callable[[list[Value]], str] = template.encoder(["x"])
    made: list[str] = []
    for value in _values():
        with suppress(MarshalError):
            made.append(encode([value]))
    assert made
    assert all(map(is_object_path, made))
    return made


def test_an_object_path_never_leaves_its_subtrees() -> None:
    template = PathTemplate("{x}", {}, {"x": (SUBTREE,)})
    made = _made(template)
    assert HOSTILE / 50 < len(made) < HOSTILE / 2
    for path in made:
        assert path.startswith(SUBTREE + "/")
        assert template.reaches(path)
    for path in _made(PathTemplate("{x}/sub", {}, {"x": (SUBTREE, "/org/example/Cards")})):
        assert path.startswith((SUBTREE + "/", "/org/example/Cards/"))
        assert path.endswith("/sub")


@each_case(("rule", "before"), product(("systemd", "none", "dashes"), ("", "dev_", "User")))
def test_an_element_stays_one_element(rule: Escape, before: str) -> None:
    template = PathTemplate(f"{SUBTREE}/{before}{{x}}/end", {"x": rule}, {})
    for path in _made(template):
        assert path.count("/") == template.text.count("/")
        assert path.startswith(f"{SUBTREE}/{before}")
        assert path.endswith("/end")
        assert template.reaches(path)


@each_case("before", ["", "dev_"])
def test_by_the_rule_systemd_two_texts_are_two_objects(before: str) -> None:
    encode = PathTemplate(f"{SUBTREE}/{before}{{x}}", {}, {}).encoder(["x"])
    texts = {value for value in _values() if isinstance(value, str)}
    assert len({encode([text]) for text in texts}) == len(texts)
