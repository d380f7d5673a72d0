"""YAML files and directories -> documents whose nodes remember file, line and column.

The text is YAML 1.2 (core schema), composed to nodes by ruamel.yaml and converted to plain data here, with limits on
size, depth and number of nodes. Its parser in C reads seven times as fast and knows only YAML 1.1, so what the two
versions read differently, and every text with an error, is left to the parser in Python. The compiler works on a
`Scope`: one node of a document, and the problems that were reported so far.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from msgspec import Struct, field
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    Event,
    NodeEvent,
    ScalarEvent,
    SequenceStartEvent,
    StreamEndEvent,
)
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from gateway.core.dbus.scalars import MarshalError
from gateway.mapping import problem
from gateway.mapping.problem import Level, Problem, format_place

T = TypeVar("T")
Data: TypeAlias = "bool | int | float | str | list[Data] | dict[str, Data] | None"
Mark: TypeAlias = tuple[int, int]  # line and column, from 1
Steps: TypeAlias = problem.Path  # inside a document, whose method of the name `problem` hides the module

SUFFIXES = (".yaml", ".yml")
MAX_DEPTH = 64  # of nested nodes
MAX_SIZE = 8 * 1024**2  # bytes of one file
MAX_NODES = 100_000  # in one file, with aliases expanded
MAX_KEYS_AND_NODES = 2 * MAX_NODES  # a key is a node of the parser
TOO_MANY = f"more than {MAX_NODES} nodes, with aliases expanded"
TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"


class MappingDocument(Struct, frozen=True):
    """A mapping file as plain data, with the position of each node."""

    path: Path
    content: bytes
    data: Data
    values: Mapping[problem.Path, Mark]  # position of each value
    keys: Mapping[problem.Path, Mark]  # position of each key
    complete: bool = True  # false: methods with schema problems are left out
    origins: Mapping[problem.Path, problem.Path] = field(default_factory=dict)  # method -> its place in `classes`

    @property
    def file(self) -> str:
        """The path of the file as the caller gave it."""
        return str(self.path)

    def line(self, path: problem.Path) -> int:
        """The line where an entry begins, or the nearest one around it."""
        return self._nearest(self.keys, self.place(path))[0]

    def place(self, path: problem.Path) -> problem.Path:
        """The place of a node in the file: a method that follows from a class is in `classes`."""
        origin = self.origins.get(path[:2])
        return path if origin is None else (*origin, *path[2:])

    def problem(self, path: problem.Path, message: str, *, level: Level = "schema", key: bool = False) -> Problem:
        """A problem with the value at `path`, or its key; if it is missing, at the nearest node around it."""
        path = self.place(path)
        line, column = self._nearest(self.keys if key else self.values, path)
        return Problem(self.file, line, column, format_place(path), message, level)

    def _nearest(self, marks: Mapping[Steps, Mark], path: Steps) -> Mark:
        around = (path[:length] for length in range(len(path), -1, -1))
        return next((marks[start] for start in around if start in marks), (1, 1))


def find(paths: Sequence[Path], *, may_be_empty: bool = False) -> tuple[list[Path], list[Problem]]:
    """The mapping files among these files and in these directories, in order, each once."""
    found: dict[Path, None] = {}
    problems = []
    for path in paths:
        try:
            files = [path]
            if path.is_dir():
                files = sorted(each for each in path.iterdir() if each.suffix in SUFFIXES and each.is_file())
        except (OSError, ValueError) as error:
            problems.append(Problem(str(path), 1, 1, "", f"cannot be read: {_reason(error)}", "schema"))
            continue
        if not files and not may_be_empty:
            message = f"no mapping file ({' or '.join(SUFFIXES)}) in this directory"
            problems.append(Problem(str(path), 1, 1, "", message, "schema"))
        found.update(dict.fromkeys(files))
    return list(found), problems


def read_regular(path: Path) -> bytes:
    """The content of a regular file of at most MAX_SIZE bytes; raises OSError for others. Never blocks on a FIFO."""
    opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with os.fdopen(opened, "rb") as file:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        content = file.read(MAX_SIZE + 1)
    if len(content) > MAX_SIZE:
        raise OSError(errno.EFBIG, f"larger than {MAX_SIZE} bytes")
    return content


def is_outside(path: Path, roots: Collection[Path]) -> bool:
    """Whether a file is outside these directories. Messages must not quote such a file: it may be private."""
    return not any(path.resolve().is_relative_to(root.resolve()) for root in roots)


def read(path: Path) -> tuple[MappingDocument | None, list[Problem]]:
    """One file as a document; None and the problems when it is not valid YAML or has a duplicate key."""
    try:
        return parse(path, read_regular(path))
    except (OSError, ValueError) as error:
        return None, [Problem(str(path), 1, 1, "", f"cannot be read: {_reason(error)}", "schema")]


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def parse(path: Path, content: bytes) -> tuple[MappingDocument | None, list[Problem]]:
    """The bytes of a file as a document; None and the problems as in `read`."""
    reader = _Reader(str(path))
    try:
        text = content.decode("utf-8-sig")
        node = compose_quickly(text) or compose(text)
        data = None if node is None else reader.data(node, ())
        if node is None:
            reader.report((1, 1), (), "the file is empty")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        column = error.start - before.rfind(b"\n")
        reader.report((before.count(b"\n") + 1, column), (), "invalid UTF-8")
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reader.report((mark.line + 1, mark.column + 1) if mark else (1, 1), (), f"invalid YAML: {error.problem}")
    except YAMLError as error:
        reader.report((1, 1), (), f"invalid YAML: {' '.join(str(error).split())}")
    except TooManyNodesError as error:
        reader.report(error.mark, (), TOO_MANY)
    except RecursionError:
        reader.report((1, 1), (), TOO_DEEP)
    if reader.problems:
        return None, reader.problems
    return MappingDocument(path, content, data, reader.values, reader.keys), []


def _integer(text: str) -> int:
    digits = text.replace("_", "")
    base = {"0o": 8, "0x": 16, "0b": 2}.get(digits.lstrip("+-")[:2].lower(), 10)
    return int(digits, base)


_TAG = "tag:yaml.org,2002:"
_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
# Dates, `<<` and `=` are text in YAML 1.2's core schema.
_SCALARS: Mapping[str, Callable[[str], Data]] = {
    **dict.fromkeys((f"{_TAG}str", f"{_TAG}timestamp", f"{_TAG}merge", f"{_TAG}value"), str),
    f"{_TAG}null": lambda _text: None,
    f"{_TAG}bool": lambda text: _WORDS[text.lower()],
    f"{_TAG}int": _integer,
    f"{_TAG}float": lambda text: float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan")),
}


def compose(text: str) -> Node | None:
    """The root of a document; None where it is empty. Raises YAMLError, and RecursionError where it is too deep."""
    yaml = YAML(typ="safe", pure=True)
    yaml.composer.warn_double_anchors = False
    node: Node | None = yaml.compose(text)
    return node


# What the two versions read differently: `&a:`, `"a":b`, tabs, other ends of lines, directives, `? key`, block scalars.
_unusual = re.compile(
    r"[&*][\w-]+[^\s\w,\]}-]|[\]}\"']:(?! |$)|[\t\r\x85\u2028\u2029\ufeff%]|\?(?: |$)|[|>][-+0-9]* *(?:#.*)?$",
    re.MULTILINE,
).search
_resolve = YAML(typ="safe", pure=True).resolver.resolve


class TooManyNodesError(Exception):
    """A document has more nodes than a file may have."""

    def __init__(self, mark: Mark) -> None:
        super().__init__(TOO_MANY)
        self.mark = mark


class _LeftToPythonError(Exception):
    """The text is left to the parser in Python."""


def compose_quickly(text: str) -> Node | None:
    """The same by the parser in C; None: the text is left to the one in Python. Raises TooManyNodesError.

    Only its events are used: it composes nodes too, and overflows the stack of the process where they are deep.
    """
    if _unusual(text):
        return None
    try:
        events: Iterator[Event] = iter(YAML(typ="safe").parse(text))
        next(events)  # the stream begins
        if isinstance(next(events), StreamEndEvent):
            return None
        node = _EventComposer(events).node(next(events), 0)
        next(events)  # the document ends
        return node if isinstance(next(events), StreamEndEvent) else None
    except (YAMLError, _LeftToPythonError):
        return None


class _EventComposer:
    """Composes nodes of events. (YAML 1.2, "Processes and Models")"""

    def __init__(self, events: Iterator[Event]) -> None:
        self._events = events
        self._anchors: dict[str, Node] = {}
        self._count = 0  # of nodes

    def node(self, event: Event, depth: int) -> Node:
        """The node that begins with this event."""
        if isinstance(event, AliasEvent):
            if event.anchor not in self._anchors:
                raise _LeftToPythonError
            return self._anchors[event.anchor]
        assert isinstance(event, ScalarEvent | CollectionStartEvent)
        self._count += 1
        if self._count > MAX_KEYS_AND_NODES:
            raise TooManyNodesError(_mark(event))
        if event.tag == "!" or depth > MAX_DEPTH or event.anchor in self._anchors:
            raise _LeftToPythonError
        if isinstance(event, ScalarEvent):
            tag = event.tag or _resolve(ScalarNode, event.value, event.implicit)
            node: Node = ScalarNode(tag, event.value, event.start_mark)
        elif isinstance(event, SequenceStartEvent):
            node = SequenceNode(event.tag or f"{_TAG}seq", [], event.start_mark)
        else:
            node = MappingNode(event.tag or f"{_TAG}map", [], event.start_mark)
        if event.anchor is not None:  # aliases may mean it from now on
            self._anchors[event.anchor] = node
        if not isinstance(node, ScalarNode):
            while not isinstance(each := next(self._events), CollectionEndEvent):
                item = self.node(each, depth + 1)
                pair = isinstance(node, MappingNode)
                node.value.append((item, self.node(next(self._events), depth + 1)) if pair else item)
        return node


class _Reader(Struct):
    """Converts nodes to plain data and records their positions."""

    file: str
    problems: list[Problem] = field(default_factory=list)
    values: dict[problem.Path, Mark] = field(default_factory=dict)
    keys: dict[problem.Path, Mark] = field(default_factory=dict)

    def report(self, mark: Mark, path: problem.Path, message: str) -> None:
        self.problems.append(Problem(self.file, *mark, format_place(path), message, "schema"))

    def data(self, node: Node, path: problem.Path) -> Data:
        mark = _mark(node)
        self.values[path] = mark
        if len(path) > MAX_DEPTH:
            self.report(mark, (), TOO_DEEP)
        elif len(self.values) > MAX_NODES:
            if not self.problems:
                self.report(mark, (), TOO_MANY)
        elif isinstance(node, MappingNode) and node.tag == f"{_TAG}map":
            return {key: self.data(item, (*path, key)) for key, item in self._entries(node, path)}
        elif isinstance(node, SequenceNode) and node.tag == f"{_TAG}seq":
            return [self.data(item, (*path, index)) for index, item in enumerate(node.value)]
        elif isinstance(node, ScalarNode) and str(node.tag) in _SCALARS:
            try:
                return _SCALARS[str(node.tag)](str(node.value))
            except (ValueError, KeyError):
                self.report(mark, path, f"invalid value for the tag '{node.tag}'")
        else:
            self.report(mark, path, f"unsupported YAML tag '{node.tag}'")
        return None

    def _entries(self, node: MappingNode, path: problem.Path) -> Iterator[tuple[str, Node]]:
        """The entries of a mapping, keys as text. Duplicate and non-scalar keys are reported and skipped."""
        for key, item in node.value:
            if not isinstance(key, ScalarNode):
                self.report(_mark(key), path, "expected text as key, got a list or a mapping")
                continue
            name = str(key.value)
            first = self.keys.get((*path, name))
            if first is not None and (*path, name) in self.values:
                self.report(_mark(key), (*path, name), f"duplicate key; the first is in line {first[0]}")
                continue
            self.keys[(*path, name)] = _mark(key)
            yield name, item


def _mark(node: Node | NodeEvent) -> Mark:
    return node.start_mark.line + 1, node.start_mark.column + 1


class Scope(Struct, frozen=True):
    """One node of a document. Its data conforms to the schema; None where the document does not have it."""

    document: MappingDocument
    problems: dict[Problem, None]  # of all documents, an ordered set
    path: problem.Path = ()
    data: Any = None
    notes: dict[str, None] = field(default_factory=dict)  # of all documents: doubtful, and no problem

    def at(self, *steps: str | int) -> Scope:
        """The node that these keys and indexes lead to."""
        data = self.data
        for step in steps:
            inside = isinstance(data, dict) and step in data
            data = data[step] if inside or (isinstance(data, list) and isinstance(step, int)) else None
        return Scope(self.document, self.problems, (*self.path, *steps), data, self.notes)

    def items(self) -> list[Scope]:
        """The nodes of a list or mapping; none where there is neither."""
        return [self.at(step) for step in (self.data if isinstance(self.data, dict) else range(len(self.data or ())))]

    def has(self, key: str) -> bool:
        """Whether this node is a mapping with this key."""
        return isinstance(self.data, dict) and key in self.data

    @property
    def source(self) -> str:
        """The place of this node: `mappings/xenopsd.yaml:12`."""
        return f"{self.document.file}:{self.document.line(self.path)}"

    def where(self, *, key: bool = False) -> Problem:
        """The place of its value or its key, as a problem without a message."""
        return self.document.problem(self.path, "", key=key)

    def fail(self, message: str, *, level: Level = "idl", key: bool = False) -> None:
        """Report a problem with this node, at its value or its key."""
        self.problems[self.document.problem(self.path, message, level=level, key=key)] = None

    def note(self, message: str) -> None:
        """Tell something about this node that is not a problem."""
        self.notes[str(self.document.problem(self.path, message))] = None

    def attempt(self, check: Callable[..., T], *args: Any, level: Level = "idl") -> T | None:
        """The result of `check(*args)`; None, with the problem reported, when it raises ValueError or MarshalError."""
        try:
            return check(*args)
        except MarshalError as error:
            where = str(error).partition(":")[0].removeprefix("$").removeprefix(".")
            self.fail(f"{where + ': ' if where else ''}expected {error.expected}, got {error.got}", level=level)
        except ValueError as error:
            self.fail(str(error), level=level)
        return None
