"""Sets modes in the text of a mapping file, and leaves everything else in it as it is: layout, comments, order, line
ends.

The file is not written anew from its data. ruamel.yaml gives the position of each node, and the text is edited there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct
from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from gateway.core.migration.modes import Mode, Setting, Side, percent


class RewriteError(Exception):
    """The file cannot be edited automatically; the message names the method and the reason."""


class WantedMode(Struct, frozen=True):
    """The setting of a method in the file, and the one that the file shall have."""

    now: Setting
    then: Setting
    has_key: bool  # the method has a key for a canary


class TextEdit(Struct, frozen=True):
    """A part of a text, from `start` to `end`, and what replaces it."""

    start: int
    end: int
    text: str


def rewrite(text: str, wanted: Mapping[str, WantedMode]) -> str:
    """The text of a file with other settings for these methods (by name); raises RewriteError."""
    root = YAML(typ="safe", pure=True).compose(text)
    methods = entries_of(entries_of(root)["methods"])
    shared = shared_nodes(root)
    edits: list[TextEdit] = []
    derived: dict[str, dict[str, WantedMode]] = {}  # class -> message without an entry of its own
    for name, each in wanted.items():
        legacy_class, _, message = name.partition(".")
        stanza = entries_of(entries_of(root).get("classes", root)).get(legacy_class, root)
        entry = methods.get(name) or entries_of(entries_of(stanza).get("messages", root)).get(message)
        if entry is None:
            derived.setdefault(legacy_class, {})[message] = each
            continue
        if id(entry) in shared:
            raise RewriteError(f"{name} shares its entry with other methods (a YAML anchor): write an entry of its own")
        default_key = _default_key(stanza) or _default_key(root) if name not in methods else _default_key(root)
        edits += _Method(text, name, entry, each, default_key if each.has_key else None).edits()
    for legacy_class, messages in derived.items():
        edits.append(_new_messages(text, root, legacy_class, messages, shared))
    return apply_edits(text, edits)


def apply_edits(text: str, edits: Iterable[TextEdit]) -> str:
    """The text after these edits, which must not overlap."""
    for edit in sorted(edits, key=lambda edit: edit.start, reverse=True):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text


def _new_messages(
    text: str, root: Node, legacy_class: str, wanted: Mapping[str, WantedMode], shared: set[int]
) -> TextEdit:
    """The edit that adds entries to `messages` of a class, for methods that follow from it."""
    stanza = entries_of(entries_of(root)["classes"])[legacy_class]
    messages = entries_of(stanza).get("messages")
    default_key = _default_key(stanza) or _default_key(root)
    made = {}
    for message, each in wanted.items():
        empty = MappingNode("", [], None, None)
        values = _Method(text, message, empty, each, default_key if each.has_key else None).values()
        made[message] = "{" + ", ".join(f"{key}: {value}" for key, value in values) + "}"
    if id(stanza) in shared or (messages is not None and id(messages) in shared):
        raise RewriteError(f"classes.{legacy_class} shares its entries (a YAML anchor): write entries of its own")
    if messages is not None:
        return _Method(text, f"classes.{legacy_class}.messages", messages, None, None).add(made)
    entries = ", ".join(f"{message}: {value}" for message, value in made.items())
    return _Method(text, f"classes.{legacy_class}", stanza, None, None).add({"messages": "{" + entries + "}"})


def entries_of(node: Node) -> dict[str, Node]:
    """The values of a mapping node by key; none for another node."""
    return {str(key.value): value for key, value in node.value} if isinstance(node, MappingNode) else {}


def shared_nodes(root: Node) -> set[int]:
    """The ids of the nodes that several places share: anchors with aliases."""
    seen: set[int] = set()
    shared: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            shared.add(id(node))
            continue
        seen.add(id(node))
        if not isinstance(node, ScalarNode):
            waiting += [each for item in node.value for each in (item if isinstance(item, tuple) else (item,))]
    return shared


def _default_key(root: Node) -> str | None:
    """The key inside `defaults.mode`, which a method with a mode of its own would lose."""
    mode = entries_of(entries_of(root).get("defaults", root)).get("mode")
    key = entries_of(mode).get("key") if mode is not None else None
    return str(key.value) if key is not None else None


UNCHANGED = WantedMode(Setting(), Setting(), has_key=False)


class _Method:
    """The edits of one method entry, or of the mapping around it (then there is no wanted mode)."""

    def __init__(self, text: str, name: str, entry: Node, wanted: WantedMode | None, default_key: str | None) -> None:
        self._text = text
        self._name = name
        self._entry = entry
        self._keys = entries_of(entry)
        self._wanted = wanted or UNCHANGED
        self._default_key = default_key

    def edits(self) -> Iterator[TextEdit]:
        """The edits; raises RewriteError."""
        missing: dict[str, str] = {}
        for key, value in self.values():
            if key in self._keys:
                yield self._replace(key, value)
            else:
                missing[key] = value
        if missing:
            yield self.add(missing)

    def values(self) -> Iterator[tuple[str, str]]:
        """The keys of the entry that change or must be added, with their values as YAML."""
        now, then = self._wanted.now, self._wanted.then
        if _mode(now) != _mode(then):
            yield "mode", _mode(then)
            yield from self._canary_key()
        for key in ("observe", "noise"):
            if getattr(now, key) is not getattr(then, key):
                yield key, "true" if getattr(then, key) else "false"

    def _canary_key(self) -> Iterator[tuple[str, str]]:
        """The key inside the `mode` that is replaced, which the method must keep."""
        mode = self._keys.get("mode")
        key = entries_of(mode).get("key") if mode is not None else None
        if key is not None and not self._stays_canary():
            yield "key", str(self._text[key.start_mark.index : end_of(self._text, key)])
        elif mode is None and "key" not in self._keys and self._default_key is not None:
            yield "key", self._default_key

    def _stays_canary(self) -> bool:
        """Whether a canary becomes another canary: only its share is replaced."""
        return self._wanted.then.mode is Mode.CANARY and "canary" in entries_of(self._keys.get("mode", self._entry))

    def _replace(self, key: str, value: str) -> TextEdit:
        node = self._keys[key]
        if node.start_mark.index < self._entry.start_mark.index:
            raise RewriteError(f"{self._name}.{key} is a YAML alias: write its value here")
        if key == "mode" and self._stays_canary():
            node, value = entries_of(node)["canary"], percent(self._wanted.then.buckets)
        return TextEdit(node.start_mark.index, end_of(self._text, node), value)

    def add(self, missing: Mapping[str, str]) -> TextEdit:
        """Adds keys after the last one of the entry."""
        return add_keys(self._text, self._name, self._entry, missing)


def add_keys(text: str, name: str, entry: Node, missing: Mapping[str, str]) -> TextEdit:
    """The edit that adds keys after the last one of a mapping node, called `name`; raises RewriteError."""
    if not isinstance(entry, MappingNode) or not entry.value:
        raise RewriteError(f"{name} is an empty entry")
    key, value = entry.value[-1]
    last = end_of(text, value, key.end_mark.index)
    if is_flow(entry):
        return TextEdit(last, last, "".join(f", {key}: {value}" for key, value in missing.items()))
    indent = " " * entry.start_mark.column
    newline = line_end(text)
    at = text.find("\n", last)
    if at < 0:
        return TextEdit(len(text), len(text), "".join(f"{newline}{indent}{k}: {v}" for k, v in missing.items()))
    return TextEdit(at + 1, at + 1, "".join(f"{indent}{key}: {value}{newline}" for key, value in missing.items()))


def line_end(text: str) -> str:
    """The line end that a text has."""
    return "\r\n" if "\r\n" in text else "\n"


def end_of(text: str, node: Node, after: int = 0) -> int:
    """The index where the text of a node ends. The end mark of a block includes the comments after it.

    `after`: the first index where its text may begin. A node that begins before it is an alias, whose marks are its
    anchor's.
    """
    if node.start_mark.index < after:
        return _ALIAS.search(text, after).end()  # type: ignore[union-attr] # a node of another place is an alias here
    if isinstance(node, ScalarNode) or is_flow(node) or not node.value:
        return int(node.end_mark.index)
    end = int(node.start_mark.index)
    for item in node.value:
        end = end_of(text, item[1], item[0].end_mark.index) if isinstance(item, tuple) else end_of(text, item, end)
    return end


_ALIAS = re.compile(r"\*[^\s,\[\]{}]+")


def is_flow(node: Node) -> bool:
    """Whether a node is written in braces or brackets."""
    return bool(getattr(node, "flow_style", False))


def _mode(setting: Setting) -> str:
    """The value of `mode` as YAML."""
    if setting.mode is Mode.CANARY:
        return f"{{canary: {percent(setting.buckets)}}}"
    if setting.mode is Mode.SHADOW and setting.control is Side.DBUS:
        return "{shadow: dbus}"
    return str(setting.mode.value)
