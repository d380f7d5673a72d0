"""Object paths that are built from the values of a call: templates, rules of escaping, and subtrees.

A template is an object path with parameters in braces. A parameter is (part of) one element, escaped by a rule, or the
whole object path at the beginning of the template, which must be below a declared subtree. No value makes a path that
is outside the template.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

from msgspec import Struct

from gateway.core.dbus.names import decoded_path_element, escape_path_element, is_object_path
from gateway.core.dbus.scalars import MarshalError
from gateway.core.rpc.model import Value

Escape: TypeAlias = Literal["systemd", "none", "dashes"]
Slots: TypeAlias = Sequence[Value]  # the parameters in their order, then the members of those taken apart
EncodePath: TypeAlias = Callable[[Slots], str]  # MarshalErrors say the slot as the first step of their path

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_ELEMENT = re.compile(r"[A-Za-z0-9_]+")
_DASHES = str.maketrans("-:", "__")


def placeholders(template: str) -> list[str]:
    """Return the parameters that an object path names."""
    return _PLACEHOLDER.findall(template)


# Parameters that are (part of) one element


def escape_value(text: str, rule: Escape, *, begins: bool = True) -> str:
    """Return a text as (part of) one element; raises MarshalError where the rule has no form of it.

    `begins`: nothing of the element precedes it. Only there does the rule `systemd` escape a digit.
    """
    if rule == "systemd":
        return escape_path_element(text) if begins else escape_path_element("e" + text)[1:] or "_"
    element = text.translate(_DASHES) if rule == "dashes" else text
    if _ELEMENT.fullmatch(element) is None:
        more = ", - and :" if rule == "dashes" else ""
        raise MarshalError(f"text of A-Z, a-z, 0-9, _{more} for the object path (escape: {rule})", text)
    return element


# Parameters that are object paths


def below_text(subtrees: Sequence[str]) -> str:
    """Return the subtrees for a message: `an object path below /a or /b`."""
    return f"an object path below {' or '.join(subtrees)}"


def object_below(subtrees: Sequence[str]) -> Callable[[Value], str]:
    """Return the check of an object path; it raises MarshalError for one that is not below one of the subtrees.

    With one subtree, the value may also be the part of the path below it: text without a leading `/`, or a number.
    """
    prefixes = tuple(subtree.rstrip("/") + "/" for subtree in subtrees)
    expected = below_text(subtrees)
    tail_of = prefixes[0] if len(prefixes) == 1 else ""

    def check(value: Value) -> str:
        path = str(value) if type(value) is int else value
        if type(path) is str:
            if tail_of and not path.startswith("/"):
                path = tail_of + path
            if path.startswith(prefixes) and path not in prefixes and is_object_path(path):
                return path
        raise MarshalError(expected, value)

    return check


def whole_path(subtrees: Sequence[str]) -> Callable[[Value], Value]:
    """Return a function that makes the part below a subtree the whole path; it leaves any other value unchanged.

    The key of a canary is then the same for both forms of an object.
    """
    check = object_below(subtrees)

    def whole(value: Value) -> Value:
        try:
            return check(value)
        except MarshalError:
            return value

    return whole


# Templates


class PathTemplate(Struct, frozen=True):
    """An object path with parameters in braces. `objects`: those that are object paths, with their subtrees."""

    text: str
    escapes: Mapping[str, Escape]  # the rule of each other parameter; `systemd` where it has none
    objects: Mapping[str, tuple[str, ...]]

    @property
    def roots(self) -> tuple[str, ...]:
        """Return the objects below which all objects of the template are."""
        fixed, brace, _ = self.text.partition("{")
        if not brace:
            return (self.text,)
        names = placeholders(self.text)
        return ((fixed.rpartition("/")[0] or "/"),) if fixed else self.objects.get(names[0], ("/",))

    @property
    def levels(self) -> int | None:
        """Return the levels below the roots where an object may be; None for all of them."""
        fixed, _, rest = self.text.partition("{")
        return 1 + rest.count("/") if fixed else None

    def encoder(self, names: Sequence[str]) -> EncodePath:
        """Return the function that builds the object path from the slots of a call."""
        pieces = _PLACEHOLDER.split(self.text)  # text, name, text, name, ..., text
        if len(pieces) == 1:
            return lambda _slots: self.text
        start = pieces[0]
        steps = tuple(
            (names.index(name), self._convert(name, before), after)
            for before, name, after in zip(pieces[0::2], pieces[1::2], pieces[2::2], strict=False)
        )

        def path(slots: Slots) -> str:
            made = start
            for slot, convert, after in steps:
                try:
                    made += convert(slots[slot]) + after
                except MarshalError as error:
                    error.at(slot)
                    raise
            return made

        return path

    def _convert(self, name: str, before: str) -> Callable[[Value], str]:
        if name in self.objects:
            return object_below(self.objects[name])
        rule, begins = self.escapes.get(name, "systemd"), before.endswith("/")

        def element(value: Value) -> str:
            if type(value) is str:
                return escape_value(value, rule, begins=begins)
            if isinstance(value, int):
                return escape_value(str(int(value)), rule, begins=begins)
            raise MarshalError("text or a whole number, for the object path", value)

        return element

    def reaches(self, path: str) -> bool:
        """Return whether some values of the parameters make this object path."""
        pieces = _PLACEHOLDER.split(self.text)
        pattern = re.escape(pieces[0])
        for name, after in zip(pieces[1::2], pieces[2::2], strict=True):
            prefixes = "|".join(re.escape(subtree.rstrip("/")) for subtree in self.objects.get(name, ()))
            value = f"(?:{prefixes})(?:/[A-Za-z0-9_]+)+" if name in self.objects else "[A-Za-z0-9_]+"
            pattern += f"({value}){re.escape(after)}"
        found = re.fullmatch(pattern, path)
        if found is None:
            return False
        for before, name, element in zip(pieces[0::2], pieces[1::2], found.groups(), strict=False):
            if name not in self.objects and self.escapes.get(name, "systemd") == "systemd":
                text = decoded_path_element(element)
                if text is None or escape_value(text, "systemd", begins=before.endswith("/")) != element:
                    return False
        return True
