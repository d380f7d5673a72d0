"""Sets modes in the text of a mapping file, and leaves everything else in it as it is: layout, comments, order, line
ends.

The file is not written anew from its data. ruamel.yaml gives the position of each node, and the text is edited there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from gateway.core.migration.modes import Mode, Setting, Side, percent


class RewriteError(Exception):
    """The file cannot be edited automatically; the message names the method and the reason."""


@dataclass(frozen=True, slots=True)
class WantedMode:
    """The setting of a method in the file, and the one that the file shall have."""

    now: Setting
    then: Setting
    has_key: bool  # the method has a key for a canary


@dataclass(frozen=True, slots=True)
class _Edit:
    start: int
    end: int
    text: str


def rewrite(text: str, wanted: Mapping[str, WantedMode]) -> str:
    """The text of a file with other settings for these methods (by name); raises RewriteError."""
    root = YAML(typ="safe", pure=True).compose(text)
    methods = _entries(_entries(root)["methods"])
    shared = _shared(root)
    default_key = _default_key(root)
    edits: list[_Edit] = []
    for name, each in wanted.items():
        entry = methods[name]
        if id(entry) in shared:
            raise RewriteError(f"{name} shares its entry with other methods (a YAML anchor): write an entry of its own")
        edits += _Method(text, name, entry, each, default_key if each.has_key else None).edits()
    for edit in sorted(edits, key=lambda edit: edit.start, reverse=True):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text


def _entries(node: Node) -> dict[str, Node]:
    return {str(key.value): value for key, value in node.value} if isinstance(node, MappingNode) else {}


def _shared(root: Node) -> set[int]:
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
    mode = _entries(_entries(root).get("defaults", root)).get("mode")
    key = _entries(mode).get("key") if mode is not None else None
    return str(key.value) if key is not None else None


class _Method:
    """The edits of one method entry."""

    def __init__(self, text: str, name: str, entry: Node, wanted: WantedMode, default_key: str | None) -> None:
        self._text = text
        self._name = name
        self._entry = entry
        self._keys = _entries(entry)
        self._wanted = wanted
        self._default_key = default_key

    def edits(self) -> Iterator[_Edit]:
        """The edits; raises RewriteError."""
        missing: dict[str, str] = {}
        for key, value in self._values():
            if key in self._keys:
                yield self._replace(key, value)
            else:
                missing[key] = value
        if missing:
            yield self._add(missing)

    def _values(self) -> Iterator[tuple[str, str]]:
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
        key = _entries(mode).get("key") if mode is not None else None
        if key is not None and not self._stays_canary():
            yield "key", str(self._text[key.start_mark.index : _end(self._text, key)])
        elif mode is None and "key" not in self._keys and self._default_key is not None:
            yield "key", self._default_key

    def _stays_canary(self) -> bool:
        """Whether a canary becomes another canary: only its share is replaced."""
        return self._wanted.then.mode is Mode.CANARY and "canary" in _entries(self._keys.get("mode", self._entry))

    def _replace(self, key: str, value: str) -> _Edit:
        node = self._keys[key]
        if node.start_mark.index < self._entry.start_mark.index:
            raise RewriteError(f"{self._name}.{key} is a YAML alias: write its value here")
        if key == "mode" and self._stays_canary():
            node, value = _entries(node)["canary"], percent(self._wanted.then.buckets)
        return _Edit(node.start_mark.index, _end(self._text, node), value)

    def _add(self, missing: Mapping[str, str]) -> _Edit:
        """Adds keys after the last one of the entry."""
        if not isinstance(self._entry, MappingNode) or not self._entry.value:
            raise RewriteError(f"{self._name} is an empty entry")
        key, value = self._entry.value[-1]
        last = _end(self._text, value, key.end_mark.index)
        if _is_flow(self._entry):
            return _Edit(last, last, "".join(f", {key}: {value}" for key, value in missing.items()))
        indent = " " * self._entry.start_mark.column
        newline = "\r\n" if "\r\n" in self._text else "\n"
        at = self._text.find("\n", last)
        if at < 0:
            return _Edit(
                len(self._text), len(self._text), "".join(f"{newline}{indent}{k}: {v}" for k, v in missing.items())
            )
        return _Edit(at + 1, at + 1, "".join(f"{indent}{key}: {value}{newline}" for key, value in missing.items()))


def _end(text: str, node: Node, after: int = 0) -> int:
    """The index where the text of a node ends. The end mark of a block includes the comments after it.

    `after`: the first index where its text may begin. A node that begins before it is an alias, whose marks are its
    anchor's.
    """
    if node.start_mark.index < after:
        return _ALIAS.search(text, after).end()  # type: ignore[union-attr] # a node of another place is an alias here
    if isinstance(node, ScalarNode) or _is_flow(node) or not node.value:
        return int(node.end_mark.index)
    end = int(node.start_mark.index)
    for item in node.value:
        end = _end(text, item[1], item[0].end_mark.index) if isinstance(item, tuple) else _end(text, item, end)
    return end


_ALIAS = re.compile(r"\*[^\s,\[\]{}]+")


def _is_flow(node: Node) -> bool:
    return bool(getattr(node, "flow_style", False))


def _mode(setting: Setting) -> str:
    """The value of `mode` as YAML."""
    if setting.mode is Mode.CANARY:
        return f"{{canary: {percent(setting.buckets)}}}"
    if setting.mode is Mode.SHADOW and setting.control is Side.DBUS:
        return "{shadow: dbus}"
    return str(setting.mode.value)
