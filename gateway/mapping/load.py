"""Files and directories -> documents that remember file, line and column. YAML 1.2; knows no key but `methods`."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from gateway.core.dbus.scalars import MarshalError
from gateway.mapping import problem
from gateway.mapping.problem import Level, Problem

Data: TypeAlias = "bool | int | float | str | list[Data] | dict[str, Data] | None"
Mark: TypeAlias = tuple[int, int]  # line and column, from 1

SUFFIXES = (".yaml", ".yml")
MAX_DEPTH = 64  # of nested nodes
MAX_SIZE = 8 * 1024**2  # bytes of one file
MAX_NODES = 100_000  # in one file, aliases written out


@dataclass(frozen=True, slots=True)
class MappingDocument:
    """A mapping file as plain data, and where each node of it stands."""

    path: Path
    content: bytes
    data: Data
    values: Mapping[problem.Path, Mark]
    keys: Mapping[problem.Path, Mark]
    complete: bool = True  # no method has been left out

    @property
    def file(self) -> str:
        """The file as the caller named it."""
        return str(self.path)

    def without_methods(self, names: Collection[object]) -> MappingDocument | None:
        """The same file without some of its methods; None when no other is left."""
        assert isinstance(self.data, dict)
        methods = self.data["methods"]
        assert isinstance(methods, dict)
        left: Data = {name: method for name, method in methods.items() if name not in names}
        return replace(self, data={**self.data, "methods": left}, complete=False) if left else None

    def line(self, path: problem.Path) -> int:
        """The line where an entry begins."""
        return self.keys.get(path, (1, 1))[0]

    def problem(self, path: problem.Path, message: str, *, level: Level = "schema", key: bool = False) -> Problem:
        """Something wrong with the node at `path` (with its key), or with the nearest node around it."""
        marks = self.keys if key else self.values
        around = (path[:length] for length in range(len(path), -1, -1))
        line, column = next((marks[start] for start in around if start in marks), (1, 1))
        return Problem(self.file, line, column, problem.place(path), message, level)


def find(paths: Sequence[Path], *, may_be_empty: bool = False) -> tuple[list[Path], list[Problem]]:
    """The mapping files that these files and directories are or hold, in order, each once."""
    found: dict[Path, None] = {}
    problems = []
    for path in paths:
        try:
            files = _mapping_files(path) if path.is_dir() else [path]
        except (OSError, ValueError) as error:
            problems.append(Problem(str(path), 1, 1, "", f"cannot be read: {_reason(error)}", "schema"))
            continue
        if not files and not may_be_empty:
            message = f"the directory holds no mapping file ({' or '.join(SUFFIXES)})"
            problems.append(Problem(str(path), 1, 1, "", message, "schema"))
        found.update(dict.fromkeys(files))
    return list(found), problems


def _mapping_files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if path.suffix in SUFFIXES and path.is_file())


def read_regular(path: Path) -> bytes:
    """The bytes of a regular file of bounded size; raises OSError for anything else, and never waits for a fifo."""
    opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with os.fdopen(opened, "rb") as file:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise OSError(errno.EINVAL, "is no regular file")
        content = file.read(MAX_SIZE + 1)
    if len(content) > MAX_SIZE:
        raise OSError(errno.EFBIG, f"is larger than {MAX_SIZE} bytes")
    return content


def outside(path: Path, roots: Collection[Path]) -> bool:
    """Whether a file lies outside these directories: what is wrong with it is told without a word of its content."""
    return not any(path.resolve().is_relative_to(root.resolve()) for root in roots)


def read(path: Path) -> tuple[MappingDocument | None, list[Problem]]:
    """One file as a document; None and the reasons when it is no YAML or says a key twice."""
    try:
        return parse(path, read_regular(path))
    except (OSError, ValueError) as error:
        return None, [Problem(str(path), 1, 1, "", f"cannot be read: {_reason(error)}", "schema")]


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def parse(path: Path, content: bytes) -> tuple[MappingDocument | None, list[Problem]]:
    """The bytes of a file as a document; see `read`."""
    reader = _Reader(str(path))
    try:
        data = reader.read(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        before = content[: error.start]
        column = error.start - before.rfind(b"\n")
        reader.note((before.count(b"\n") + 1, column), (), "is no UTF-8")
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reader.note((mark.line + 1, mark.column + 1) if mark else (1, 1), (), f"is no YAML: {error.problem}")
    except YAMLError as error:
        reader.note((1, 1), (), f"is no YAML: {' '.join(str(error).split())}")
    except RecursionError:
        reader.note((1, 1), (), f"nests more than {MAX_DEPTH} levels")
    if reader.problems:
        return None, reader.problems
    return MappingDocument(path, content, data, reader.values, reader.keys), []


def _integer(text: str) -> int:
    digits = text.replace("_", "")
    bare = digits.lstrip("+-")
    base = {"0o": 8, "0x": 16, "0b": 2}.get(bare[:2].lower(), 10)
    return int(digits, base)


def _float(text: str) -> float:
    return float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))


def _boolean(text: str) -> bool:
    return {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}[text.lower()]


_TAG = "tag:yaml.org,2002:"
# Dates, `<<` and `=` are text in YAML 1.2's core schema.
_SCALARS: Mapping[str, Callable[[str], Data]] = {
    **dict.fromkeys((f"{_TAG}str", f"{_TAG}timestamp", f"{_TAG}merge", f"{_TAG}value"), str),
    f"{_TAG}null": lambda _text: None,
    f"{_TAG}bool": _boolean,
    f"{_TAG}int": _integer,
    f"{_TAG}float": _float,
}


@dataclass(slots=True)
class _Reader:
    """Turns nodes into plain data and writes down their places."""

    file: str
    problems: list[Problem] = field(default_factory=list)
    values: dict[problem.Path, Mark] = field(default_factory=dict)
    keys: dict[problem.Path, Mark] = field(default_factory=dict)

    def note(self, mark: Mark, path: problem.Path, message: str) -> None:
        self.problems.append(Problem(self.file, *mark, problem.place(path), message, "schema"))

    def read(self, text: str) -> Data:
        yaml = YAML(typ="safe", pure=True)
        yaml.composer.warn_double_anchors = False
        node = yaml.compose(text)
        if node is None:
            self.note((1, 1), (), "the file is empty")
            return None
        return self._data(node, ())

    def _data(self, node: Node, path: problem.Path) -> Data:
        mark = _mark(node)
        self.values[path] = mark
        if len(path) > MAX_DEPTH:
            self.note(mark, (), f"nests more than {MAX_DEPTH} levels")
        elif len(self.values) > MAX_NODES:
            if not self.problems:
                self.note(mark, (), f"holds more than {MAX_NODES} nodes")
        elif isinstance(node, MappingNode) and node.tag == f"{_TAG}map":
            return {key: self._data(item, (*path, key)) for key, item in self._entries(node, path)}
        elif isinstance(node, SequenceNode) and node.tag == f"{_TAG}seq":
            return [self._data(item, (*path, index)) for index, item in enumerate(node.value)]
        elif isinstance(node, ScalarNode) and str(node.tag) in _SCALARS:
            return self._scalar(node, path)
        else:
            self.note(mark, path, f"the tag '{node.tag}' is not used in mapping files")
        return None

    def _entries(self, node: MappingNode, path: problem.Path) -> Iterator[tuple[str, Node]]:
        """Keys are taken as they are written; a key that is no scalar, or is there already, is passed over."""
        for key, item in node.value:
            if not isinstance(key, ScalarNode):
                self.note(_mark(key), path, "a key must be text")
                continue
            name = str(key.value)
            first = self.keys.get((*path, name))
            if first is not None and (*path, name) in self.values:
                self.note(_mark(key), (*path, name), f"this key is there twice, first in line {first[0]}")
                continue
            self.keys[(*path, name)] = _mark(key)
            yield name, item

    def _scalar(self, node: ScalarNode, path: problem.Path) -> Data:
        try:
            return _SCALARS[str(node.tag)](str(node.value))
        except (ValueError, KeyError):
            self.note(_mark(node), path, f"the value is no {str(node.tag).removeprefix(_TAG)}")
            return None


def _mark(node: Node) -> Mark:
    return node.start_mark.line + 1, node.start_mark.column + 1


# Where the compiler stands: a node of a document, and the problems found so far. Knows no key of the format.


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Scope:
    """One node. Its data has the shape that the schema asks for."""

    document: MappingDocument
    problems: dict[Problem, None]  # in the order they were found, each once
    path: problem.Path = ()
    data: Any = None

    def at(self, *steps: str | int) -> Scope:
        """A node further in; its data is None where the document does not have it."""
        data = self.data
        for step in steps:
            inside = isinstance(data, Mapping) and step in data
            data = data[step] if inside or (isinstance(data, list) and isinstance(step, int)) else None
        return Scope(self.document, self.problems, (*self.path, *steps), data)

    def says(self, key: str) -> bool:
        """Whether this node is a struct that has the key."""
        return isinstance(self.data, Mapping) and key in self.data

    def fail(self, message: str, *, level: Level = "idl", key: bool = False) -> None:
        """Note a problem with this node (with its key)."""
        self.problems[self.document.problem(self.path, message, level=level, key=key)] = None

    def attempt(self, check: Callable[..., T], *args: Any, level: Level = "idl") -> T | None:
        """The result of a check that raises ValueError or MarshalError; None when it did."""
        try:
            return check(*args)
        except MarshalError as error:
            where = str(error).partition(":")[0].removeprefix("$").removeprefix(".")
            self.fail(f"{where + ': ' if where else ''}expected {error.expected}, got {error.got}", level=level)
        except ValueError as error:
            self.fail(str(error), level=level)
        return None
