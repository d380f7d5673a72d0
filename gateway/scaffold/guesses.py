"""What names tell about a service: effects of methods, legacy names, and which objects a parameter may name.

A guess is a start. The mapping file says where one was made, so that a person can decide.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import takewhile

from msgspec import Struct

from gateway.core.dbus.object_paths import Escape, escape_value
from gateway.core.dbus.scalars import MarshalError

TELLING = 3  # characters of a value that is hardly part of a path by chance
MOST_SUBTREES = 4  # of a parameter; for more their common beginning is used

# Methods that read by their first word, unless a later one says that they do more. All others are taken as writes,
# which the gateway never executes twice.
_FIRST = "get|list|enumerate|find|lookup|query|describe|is|has|can|count"
_READS = re.compile(
    rf"(?:{_FIRST}|{_FIRST.title().replace('Lookup', 'Look[Uu]p')})(?=[A-Z0-9_]|$)|(?:[A-Z][a-z]+)+LookupBy[A-Z]|Ping$"
)
_MORE = re.compile(r"And[A-Z]|OrCreate|Reset|Clear|Remove|Delete|Pop|Next|Lock|Acquire|Create|Open")
_WORDS = re.compile(r"[A-Z]{2,}s(?![a-z])|[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+[0-9]*|[A-Z]+[0-9]*|[0-9]+")


def reads(method: str) -> bool:
    """Whether the name of a D-Bus method says that it only reads."""
    return _READS.match(method) is not None and _MORE.search(method) is None


def snake(name: str) -> str:
    """The legacy form of a name: `HwAddress` is hw_address, `IP4Config` ip4_config, `Rx Mode` rx_mode."""
    return "_".join(word.lower() for word in _WORDS.findall(name)) or "unnamed"


def prefixes(interfaces: Collection[str], bus_name: str) -> Mapping[str, str]:
    """What the legacy methods of each interface begin with: the end of its name, without a version.

    `org.bluez.Device1` of org.bluez is `device`. Where that is not unique, a longer end is taken: first with the
    version, then the whole name.
    """
    whole = {name: ".".join(map(snake, name.split("."))) for name in interfaces}
    ends = {
        name: name.removeprefix(bus_name + ".") if name.startswith(bus_name + ".") else name.rpartition(".")[2]
        for name in interfaces
    }
    versioned = {name: ".".join(map(snake, end.split("."))) for name, end in ends.items()}
    named = {name: re.sub(r"_?[0-9]+$", "", text) or text for name, text in versioned.items()}
    for longer in (versioned, whole):
        times = Counter(named.values())
        named = {name: short if times[short] == 1 else longer[name] for name, short in named.items()}
    return named


# Objects


class Place(Struct, frozen=True):
    """Where an interface is: on one object (`path`), or on the objects below subtrees."""

    path: str = ""
    subtrees: tuple[str, ...] = ()


def places(interface: str, objects: Sequence[str], base: str) -> list[Place]:
    """Where an interface is, by the objects that have it: `/` needs a place of its own, since it is below nothing."""
    inner = [path for path in objects if path != "/"]
    found = [Place("/")] if "/" in objects else []
    if len(inner) == 1 and not _is_one_of_many(interface, inner[0], base):
        return [*found, Place(inner[0])]
    if inner:
        found.append(Place(subtrees=_reduced([_subtree(path, base) for path in inner])))
    return found


def _is_one_of_many(interface: str, path: str, base: str) -> bool:
    """Whether an object looks like one of several: a number in its path, or a parent named after the interface."""
    if path.rpartition("/")[2].lower() == interface.rpartition(".")[2].lower():
        return False  # /org/freedesktop/LogControl1
    elements = path.split("/")
    if any(map(_is_instance, elements[len(common_start([elements, base.split("/")])) :])):
        return True
    kind = re.sub(r"[0-9]+$", "", interface.rpartition(".")[2]).lower()
    return elements[-2].lower() in (kind, f"{kind}s") and path != base and not base.endswith(path)


def _is_instance(element: str) -> bool:
    return any(letter.isdigit() for letter in element)


def common_start(split: Sequence[Sequence[str]]) -> list[str]:
    """What all of these begin with."""
    return [found[0] for found in takewhile(lambda each: len(set(each)) == 1, zip(*split, strict=False))]


def _subtree(path: str, base: str) -> str:
    """The longest path above an object whose elements look the same for all objects of the kind."""
    elements = path.split("/")
    fixed = len(common_start([elements, base.split("/")]))  # by the bus name
    numbered = (at for at, element in enumerate(elements) if at >= fixed and _is_instance(element))
    return "/".join(elements[: min(next(numbered, len(elements)), len(elements) - 1)]) or "/"


def _reduced(subtrees: Iterable[str]) -> tuple[str, ...]:
    """Without those that are below others, and at most MOST_SUBTREES."""
    kept: list[str] = []
    for each in sorted(set(subtrees)):
        if not any(each == other or other == "/" or each.startswith(other + "/") for other in kept):
            kept.append(each)
    return (
        tuple(kept)
        if len(kept) <= MOST_SUBTREES
        else ("/".join(common_start([each.split("/") for each in kept])) or "/",)
    )


class PathByName(Struct, frozen=True):
    """A template that makes the paths of all objects of an interface from a property of each: `dev_{address}`."""

    template: str
    parameter: str
    escape: Escape


def path_by_name(values: Mapping[str, Mapping[str, object]]) -> PathByName | None:
    """The template, where one property and one rule make the path of each of these objects (path -> its properties)."""
    if not values:
        return None
    parents = {path.rpartition("/")[0] for path in values}
    first = next(iter(values.values()))
    for name in first if len(parents) == 1 else ():
        texts = {path: _key_text(properties.get(name)) for path, properties in values.items()}
        telling = len(texts) > 1 or len(min(texts.values())) >= TELLING
        if all(texts.values()) and len(set(texts.values())) == len(texts) and telling:
            for rule in ("none", "systemd", "dashes"):
                front = _front({path.rpartition("/")[2]: text for path, text in texts.items()}, rule)
                if front is not None:
                    return PathByName(f"{next(iter(parents))}/{front}{{{snake(name)}}}", snake(name), rule)
    return None


def _key_text(value: object) -> str:
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    return text if len(text) > 1 or text.isdigit() else ""


def _front(elements: Mapping[str, str], rule: Escape) -> str | None:
    """What precedes the escaped text in each element; None where it is not the same, or the rule gives another text."""
    fronts = set()
    for element, text in elements.items():
        made = None
        for begins in (True, False):
            try:
                made = escape_value(text, rule, begins=begins)
            except MarshalError:
                return None
            front = element.removesuffix(made)
            if element.endswith(made) and begins == (front == ""):
                fronts.add(front)
                break
        else:
            return None
    return fronts.pop() if len(fronts) == 1 else None
