"""Other modes into the text of a mapping file: only what says a mode is touched, all else stays as it was written.

Nothing is written in one's own layout: places are read off the nodes, and the text is mended there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from gateway.core.migration.modes import Mode, Setting, Side, percent


class RewriteError(Exception):
    """The file says it in a way that cannot be mended without a person; the text says which and why."""


@dataclass(frozen=True, slots=True)
class WantedMode:
    """A method's setting: what the file makes of it now, and what it is to make of it."""

    now: Setting
    then: Setting
    has_key: bool  # a canary of it has something to divide


@dataclass(frozen=True, slots=True)
class _Edit:
    start: int
    end: int
    text: str


def rewrite(text: str, wanted: Mapping[str, WantedMode]) -> str:
    """The text of a file with other settings for some of its methods; raises RewriteError."""
    root = YAML(typ="safe", pure=True).compose(text)
    methods = _entries(_entries(root)["methods"])
    shared = _shared(root)
    default_key = _default_key(root)
    edits: list[_Edit] = []
    for name, each in wanted.items():
        entry = methods[name]
        if id(entry) in shared:
            raise RewriteError(f"{name} is written once for several methods (an anchor): give it lines of its own")
        edits += _Method(text, name, entry, each, default_key if each.has_key else None).edits()
    return _mended(text, edits)


def _mended(text: str, edits: list[_Edit]) -> str:
    for edit in sorted(edits, key=lambda edit: edit.start, reverse=True):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text


def _entries(node: Node) -> dict[str, Node]:
    return {str(key.value): value for key, value in node.value} if isinstance(node, MappingNode) else {}


def _shared(root: Node) -> set[int]:
    """Nodes that stand for several places: anchors with their aliases."""
    seen: set[int] = set()
    twice: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            twice.add(id(node))
            continue
        seen.add(id(node))
        if not isinstance(node, ScalarNode):
            waiting += [each for item in node.value for each in (item if isinstance(item, tuple) else (item,))]
    return twice


def _default_key(root: Node) -> str | None:
    """What `defaults` say a canary divides, in a place that a method with a mode of its own does not see."""
    mode = _entries(_entries(root).get("defaults", root)).get("mode")
    key = _entries(mode).get("key") if mode is not None else None
    return str(key.value) if key is not None else None


class _Method:
    """One method's entry."""

    def __init__(self, text: str, name: str, entry: Node, wanted: WantedMode, default_key: str | None) -> None:
        self._text = text
        self._name = name
        self._entry = entry
        self._said = _entries(entry)
        self._wanted = wanted
        self._default_key = default_key

    def edits(self) -> Iterator[_Edit]:
        """What is to be mended."""
        missing: dict[str, str] = {}
        for key, value in self._values():
            if key in self._said:
                yield self._replaced(key, value)
            else:
                missing[key] = value
        if missing:
            yield self._added(missing)

    def _values(self) -> Iterator[tuple[str, str]]:
        """Keys of the entry that must say something else, or that must be there."""
        now, then = self._wanted.now, self._wanted.then
        if _mode(now) != _mode(then):
            yield "mode", _mode(then)
            yield from self._kept_key()
        for key in ("observe", "noise"):
            if getattr(now, key) is not getattr(then, key):
                yield key, "true" if getattr(then, key) else "false"

    def _kept_key(self) -> Iterator[tuple[str, str]]:
        """A key that stands inside the mode that goes away."""
        mode = self._said.get("mode")
        key = _entries(mode).get("key") if mode is not None else None
        if key is not None and not self._keeps_split():
            yield "key", str(self._text[key.start_mark.index : _end(self._text, key)])
        elif mode is None and "key" not in self._said and self._default_key is not None:
            yield "key", self._default_key

    def _keeps_split(self) -> bool:
        """Whether a canary becomes another canary: then only its share is another."""
        return self._wanted.then.mode is Mode.CANARY and "canary" in _entries(self._said.get("mode", self._entry))

    def _replaced(self, key: str, value: str) -> _Edit:
        node = self._said[key]
        if node.start_mark.index < self._entry.start_mark.index:
            raise RewriteError(f"{self._name}.{key} is written elsewhere (an alias): say it here")
        if key == "mode" and self._keeps_split():
            node, value = _entries(node)["canary"], percent(self._wanted.then.buckets)
        return _Edit(node.start_mark.index, _end(self._text, node), value)

    def _added(self, missing: Mapping[str, str]) -> _Edit:
        if not isinstance(self._entry, MappingNode) or not self._entry.value:
            raise RewriteError(f"{self._name} has no keys of its own")
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
    """Where a node's own text ends; the mark of a block stands at what follows it, comments and all.

    `after`: where its text begins at the earliest. A node from before that is an alias, and stands where its anchor is.
    """
    if node.start_mark.index < after:
        return _ALIAS.search(text, after).end()  # type: ignore[union-attr] # it is there, or the file would not be
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
    """As a mapping file says it."""
    if setting.mode is Mode.CANARY:
        return f"{{canary: {percent(setting.buckets)}}}"
    if setting.mode is Mode.SHADOW and setting.control is Side.DBUS:
        return "{shadow: dbus}"
    return str(setting.mode.value)
