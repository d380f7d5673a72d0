"""Parser of D-Bus introspection XML (D-Bus specification, "Introspection Data Format"), with documentation annotations.

The parser never fetches anything outside the document, and it rejects a document that declares entities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from xml.parsers import expat

from gateway.core.dbus import names
from gateway.core.dbus.signature import MAX_LENGTH, Type, parse_one

# Annotations that document a member, in order of preference.
DOCUMENTATION = (
    "org.gtk.GDBus.DocString",
    "org.freedesktop.DBus.Documentation",
    "org.freedesktop.DBus.DocString",
    "org.gtk.GDBus.DocString.Short",
)


class IdlError(Exception):
    """Invalid introspection XML at `line` and `column` (both from 1)."""

    def __init__(self, line: int, column: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.column = column


@dataclass(slots=True)
class Argument:
    """An argument of a method or signal."""

    name: str
    type: Type
    documentation: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.type}"


@dataclass(slots=True)
class IdlMethod:
    """A method; `ins` and `outs` are its arguments of each direction, in order."""

    name: str
    ins: list[Argument] = field(default_factory=list)
    outs: list[Argument] = field(default_factory=list)
    documentation: str = ""


@dataclass(slots=True)
class IdlProperty:
    """A property; `access` is read, write or readwrite."""

    name: str
    type: Type
    access: str
    documentation: str = ""


@dataclass(slots=True)
class IdlSignal:
    """A signal."""

    name: str
    args: list[Argument] = field(default_factory=list)
    documentation: str = ""


@dataclass(slots=True)
class Interface:
    """An interface; its members by name."""

    name: str
    methods: dict[str, IdlMethod] = field(default_factory=dict)
    properties: dict[str, IdlProperty] = field(default_factory=dict)
    signals: dict[str, IdlSignal] = field(default_factory=dict)
    documentation: str = ""


@dataclass(frozen=True, slots=True)
class Node:
    """An object: its interfaces, and the names of its direct child objects."""

    interfaces: Mapping[str, Interface]
    children: tuple[str, ...]


def parse(xml: bytes | str) -> Node:
    """Parse introspection XML; raises IdlError."""
    return _Reader().read(xml.encode("utf-8", "surrogatepass") if isinstance(xml, str) else xml)


def signature(arguments: list[Argument]) -> str:
    """The D-Bus signature of these arguments."""
    return "".join(str(argument.type) for argument in arguments)


class _Reader:
    """Builds the node from expat's events; unknown elements are ignored, as the specification demands."""

    def __init__(self) -> None:
        self.interfaces: dict[str, Interface] = {}
        self.children: list[str] = []
        self._open: list[object] = []  # the object that each open element builds; None for an ignored one
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.StartDoctypeDeclHandler = self._doctype
        self._elements: Mapping[str, Callable[[object, dict[str, str]], object]] = {
            "node": self._node,
            "interface": self._interface,
            "method": self._method,
            "signal": self._signal,
            "property": self._property,
            "arg": self._argument,
            "annotation": self._annotation,
        }

    def read(self, xml: bytes) -> Node:
        try:
            self._parser.Parse(xml, True)  # noqa: FBT003 - expat's signature
        except expat.ExpatError as error:
            reason = expat.errors.messages.get(error.code, str(error))
            raise IdlError(error.lineno, error.offset + 1, f"invalid XML: {reason}") from error
        return Node(self.interfaces, tuple(self.children))

    def _fail(self, message: str) -> IdlError:
        return IdlError(self._parser.CurrentLineNumber, self._parser.CurrentColumnNumber + 1, message)

    def _doctype(self, name: str, _system: str | None, _public: str | None, has_internal_subset: int) -> None:
        if name != "node" or has_internal_subset:
            raise self._fail("unsupported DOCTYPE; expected that of D-Bus, without an internal subset")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if not self._open and tag != "node":
            raise self._fail(f"expected the root element 'node', got '{tag}'")
        inside = self._open[-1] if self._open else None
        build = self._elements.get(tag)
        self._open.append(build(inside, attributes) if build is not None else None)

    def _end(self, _tag: str) -> None:
        self._open.pop()

    def _node(self, inside: object, attributes: dict[str, str]) -> object:
        if not self._open:
            return self
        if inside is self and "name" in attributes:
            self.children.append(attributes["name"])
        return None

    def _interface(self, inside: object, attributes: dict[str, str]) -> object:
        if inside is not self:
            return None
        name = self._name("interface", attributes, names.interface)
        self._once("interface", name, self.interfaces)
        return self.interfaces.setdefault(name, Interface(name))

    def _method(self, inside: object, attributes: dict[str, str]) -> object:
        if not isinstance(inside, Interface):
            return None
        name = self._name("method", attributes, names.member)
        self._once("method", name, inside.methods)
        return inside.methods.setdefault(name, IdlMethod(name))

    def _signal(self, inside: object, attributes: dict[str, str]) -> object:
        if not isinstance(inside, Interface):
            return None
        name = self._name("signal", attributes, names.member)
        self._once("signal", name, inside.signals)
        return inside.signals.setdefault(name, IdlSignal(name))

    def _property(self, inside: object, attributes: dict[str, str]) -> object:
        if not isinstance(inside, Interface):
            return None
        name = self._name("property", attributes, names.member)
        self._once("property", name, inside.properties)
        access = attributes.get("access", "")
        if access not in ("read", "write", "readwrite"):
            raise self._fail(f"property '{name}': expected access read, write or readwrite, got '{access}'")
        return inside.properties.setdefault(name, IdlProperty(name, self._type(name, attributes), access))

    def _argument(self, inside: object, attributes: dict[str, str]) -> object:
        """An argument without a name is named by its index: arg0, arg1."""
        if not isinstance(inside, IdlMethod | IdlSignal):
            return None
        arguments = self._arguments(inside, attributes.get("direction"))
        name = attributes.get("name") or f"arg{len(arguments)}"
        if any(argument.name == name for argument in arguments):
            raise self._fail(f"'{inside.name}': duplicate argument '{name}'")
        arguments.append(Argument(name, self._type(name, attributes)))
        length = sum(len(str(argument.type)) for argument in arguments)
        if length > MAX_LENGTH:
            raise self._fail(f"'{inside.name}': the signature of the arguments is longer than {MAX_LENGTH} characters")
        return arguments[-1]

    def _arguments(self, inside: IdlMethod | IdlSignal, direction: str | None) -> list[Argument]:
        if isinstance(inside, IdlSignal):
            return inside.args
        if direction not in (None, "in", "out"):
            raise self._fail(f"'{inside.name}': expected direction in or out, got '{direction}'")
        return inside.outs if direction == "out" else inside.ins

    def _annotation(self, inside: object, attributes: dict[str, str]) -> None:
        if attributes.get("name") not in DOCUMENTATION:
            return
        if isinstance(inside, Interface | IdlMethod | IdlSignal | IdlProperty | Argument):
            inside.documentation = inside.documentation or " ".join(attributes.get("value", "").split())

    def _name(self, what: str, attributes: dict[str, str], check: Callable[[str], str]) -> str:
        try:
            return check(attributes.get("name", ""))
        except ValueError as error:
            raise self._fail(f"{what}: {error}") from error

    def _once(self, what: str, name: str, known: Mapping[str, object]) -> None:
        if name in known:
            raise self._fail(f"duplicate {what} '{name}'")

    def _type(self, name: str, attributes: dict[str, str]) -> Type:
        try:
            return parse_one(attributes.get("type", ""))
        except ValueError as error:
            raise self._fail(f"'{name}': {error}") from error
