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
    file = entries_of(root)
    methods, classes = entries_of(file["methods"]), entries_of(file.get("classes"))
    shared = shared_nodes(root)
    edits: list[TextEdit] = []
    added: dict[str, dict[str, str]] = {}  # class -> message without an entry of its own -> its entry
    for name, each in wanted.items():
        legacy_class, _, message = name.partition(".")
        stanza = entries_of(classes.get(legacy_class))
        messages = entries_of(stanza.get("messages"))
        default_key = (_default_key(stanza) if name not in methods else None) or _default_key(file)
        default_key = default_key if each.has_key else None
        entry = methods.get(name) or messages.get(message)
        if entry is None:
            values = ", ".join(f"{key}: {value}" for key, value in _values(text, {}, each, default_key))
            added.setdefault(legacy_class, {})[message] = f"{{{values}}}"
        elif id(entry) in shared:
            raise RewriteError(f"{name} shares its entry with other methods (a YAML anchor): write an entry of its own")
        else:
            edits += _edits(text, name, entry, each, default_key)
    for legacy_class, made in added.items():
        place, stanza_node = f"classes.{legacy_class}", classes[legacy_class]
        node = entries_of(stanza_node).get("messages")
        if id(stanza_node) in shared or (node is not None and id(node) in shared):
            raise RewriteError(f"{place} shares its entries (a YAML anchor): write entries of its own")
        if node is not None:
            edits.append(add_keys(text, f"{place}.messages", node, made))
        else:
            entries = ", ".join(f"{message}: {value}" for message, value in made.items())
            edits.append(add_keys(text, place, stanza_node, {"messages": f"{{{entries}}}"}))
    return apply_edits(text, edits)


def apply_edits(text: str, edits: Iterable[TextEdit]) -> str:
    """The text after these edits, which must not overlap."""
    for edit in sorted(edits, key=lambda edit: edit.start, reverse=True):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text


def entries_of(node: Node | None) -> dict[str, Node]:
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


def _default_key(around: Mapping[str, Node]) -> str | None:
    """The key inside `defaults.mode` of a file or class, which a method with a mode of its own would lose."""
    key = entries_of(entries_of(around.get("defaults")).get("mode")).get("key")
    return str(key.value) if key is not None else None


def _values(
    text: str, keys: Mapping[str, Node], wanted: WantedMode, default_key: str | None
) -> Iterator[tuple[str, str]]:
    """The keys of an entry that change or must be added, with their values as YAML."""
    now, then = wanted.now, wanted.then
    if _mode(now) != _mode(then):
        yield "mode", _mode(then)
        mode = keys.get("mode")
        inside = entries_of(mode)
        stays_canary = then.mode is Mode.CANARY and "canary" in inside
        if "key" in inside and not stays_canary:  # the mode is replaced, and the method must keep its key
            yield "key", str(text[inside["key"].start_mark.index : end_of(text, inside["key"])])
        elif mode is None and "key" not in keys and default_key is not None:
            yield "key", default_key
    for key in ("observe", "noise"):
        if getattr(now, key) is not getattr(then, key):
            yield key, "true" if getattr(then, key) else "false"


def _edits(text: str, name: str, entry: Node, wanted: WantedMode, default_key: str | None) -> Iterator[TextEdit]:
    """The edits of one method entry; raises RewriteError."""
    keys, missing = entries_of(entry), {}
    for key, value in _values(text, keys, wanted, default_key):
        node = keys.get(key)
        if node is None:
            missing[key] = value
            continue
        if node.start_mark.index < entry.start_mark.index:
            raise RewriteError(f"{name}.{key} is a YAML alias: write its value here")
        canary = entries_of(node).get("canary") if key == "mode" and wanted.then.mode is Mode.CANARY else None
        if canary is None:
            yield TextEdit(node.start_mark.index, end_of(text, node), value)
        else:  # only its share is replaced
            yield TextEdit(canary.start_mark.index, end_of(text, canary), percent(wanted.then.buckets))
    if missing:
        yield add_keys(text, name, entry, missing)


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
