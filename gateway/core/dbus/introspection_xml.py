"""Parser of D-Bus introspection XML (D-Bus specification, "Introspection Data Format"), with documentation annotations.

The parser never fetches anything outside the document. Entities that a DOCTYPE declares are short texts. A member that
the specification does not allow (a duplicate, an unknown type) is kept aside with its place: the rest of the file can
be used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from xml.parsers import expat

from msgspec import Struct, field

from gateway.core.dbus import names
from gateway.core.dbus.signature import MAX_LENGTH, Type, parse_one

# Annotations that document a member, in order of preference.
DOCUMENTATION = (
    "org.gtk.GDBus.DocString",
    "org.freedesktop.DBus.Documentation",
    "org.freedesktop.DBus.DocString",
    "org.gtk.GDBus.DocString.Short",
)
LEGACY_TYPE = "org.xen.xcp.Type"  # the legacy type of a property or argument: `datetime`, `VM record`


NO_REPLY = "org.freedesktop.DBus.Method.NoReply"
DEPRECATED = "org.freedesktop.DBus.Deprecated"
EMITS_CHANGED = "org.freedesktop.DBus.Property.EmitsChangedSignal"

MAX_ENTITIES = 256  # that a DOCTYPE declares
MAX_ENTITY = 1024  # characters of one; it must not contain another


class IdlError(Exception):
    """Invalid introspection XML at `line` and `column` (both from 1)."""

    def __init__(self, line: int, column: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.column = column


class OddMember(Struct, frozen=True):
    """A member that cannot be used, and why; its place in the file."""

    line: int
    column: int
    message: str


class Argument(Struct):
    """An argument of a method or signal. `legacy_type`: as in the annotation LEGACY_TYPE."""

    name: str
    type: Type
    documentation: str = ""
    legacy_type: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.type}"


class IdlMethod(Struct):
    """A method; `ins` and `outs` are its arguments of each direction, in order."""

    name: str
    ins: list[Argument] = field(default_factory=list)
    outs: list[Argument] = field(default_factory=list)
    documentation: str = ""
    deprecated: bool = False
    no_reply: bool = False  # the service sends no reply


class IdlProperty(Struct):
    """A property; `access` is read, write or readwrite. `legacy_type`: as in the annotation LEGACY_TYPE."""

    name: str
    type: Type
    access: str
    documentation: str = ""
    deprecated: bool = False
    emits: str = ""  # `EmitsChangedSignal`: true, invalidates, const, false; empty: that of the interface
    legacy_type: str = ""


class IdlSignal(Struct):
    """A signal."""

    name: str
    args: list[Argument] = field(default_factory=list)
    documentation: str = ""
    deprecated: bool = False


class Interface(Struct):
    """An interface; its members by name. `odd`: members that cannot be used, by kind and name: `method Start`."""

    name: str
    methods: dict[str, IdlMethod] = field(default_factory=dict)
    properties: dict[str, IdlProperty] = field(default_factory=dict)
    signals: dict[str, IdlSignal] = field(default_factory=dict)
    documentation: str = ""
    deprecated: bool = False
    emits: str = ""  # of properties that have no own
    odd: dict[str, OddMember] = field(default_factory=dict)


class Node(Struct, frozen=True):
    """An object: its interfaces, and the names of its direct child objects. `name`: of the root node, if it has one.

    `inner`: interfaces of the objects that the file describes inside this one. `odd`: duplicate interfaces.
    """

    interfaces: Mapping[str, Interface]
    children: tuple[str, ...]
    inner: Mapping[str, Interface] = field(default_factory=dict)
    odd: Mapping[str, OddMember] = field(default_factory=dict)
    name: str = ""

    def below(self, path: str) -> list[str]:
        """The object paths of the children, for the object at `path`. Names that make none are left out.

        Some services give absolute paths as the names of children.
        """
        paths = [child if child.startswith("/") else f"{path.rstrip('/')}/{child}" for child in self.children]
        return [each for each in paths if names.is_object_path(each) and each != path]


def parse(xml: bytes | str) -> Node:
    """Parse introspection XML; raises IdlError."""
    return _Reader().read(xml.encode("utf-8", "surrogatepass") if isinstance(xml, str) else xml)


def signature(arguments: list[Argument]) -> str:
    """The D-Bus signature of these arguments."""
    return "".join(str(argument.type) for argument in arguments)


class _Odd(Exception):  # noqa: N818 - it never leaves this module
    """The member that is being read is odd."""


class _Inner:
    """A node inside the root: another object."""


class _Reader:
    """Builds the node from expat's events; unknown elements are ignored, as the specification demands."""

    def __init__(self) -> None:
        self.interfaces: dict[str, Interface] = {}
        self.inner: dict[str, Interface] = {}
        self.children: list[str] = []
        self.odd: dict[str, OddMember] = {}
        self.name = ""
        self._entities = 0
        self._open: list[object] = []  # the object that each open element builds; None for an ignored one
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = lambda _tag: self._open.pop()
        self._parser.EntityDeclHandler = self._entity

    def read(self, xml: bytes) -> Node:
        try:
            self._parser.Parse(xml, True)  # noqa: FBT003 - expat's signature
        except expat.ExpatError as error:
            reason = expat.errors.messages.get(error.code, str(error))
            raise IdlError(error.lineno, error.offset + 1, f"invalid XML: {reason}") from error
        return Node(self.interfaces, tuple(self.children), self.inner, self.odd, self.name)

    def _fail(self, message: str) -> IdlError:
        return IdlError(self._parser.CurrentLineNumber, self._parser.CurrentColumnNumber + 1, message)

    def _entity(self, name: str, is_parameter: int, value: str | None, *_external: str | None) -> None:
        """Allow entities that are short texts. An external one has no value here, and is never fetched."""
        self._entities += 1
        if self._entities > MAX_ENTITIES:
            raise self._fail(f"the DOCTYPE declares more than {MAX_ENTITIES} entities")
        if value is not None and not is_parameter and (len(value) > MAX_ENTITY or "&" in value):
            raise self._fail(f"entity '{name}': expected a text of at most {MAX_ENTITY} characters without an entity")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if not self._open and tag not in ("node", "interface"):
            raise self._fail(f"expected the root element 'node', got '{tag}'")
        inside = self._open[-1] if self._open else self
        built: object = None
        try:
            if tag == "node":
                built = self._node(inside, attributes)
            elif tag == "interface" and (inside is self or isinstance(inside, _Inner)):
                built = self._interface(inside, attributes.get("name", ""))
            elif tag in ("method", "signal", "property") and isinstance(inside, Interface):
                built = self._member(tag, inside, attributes)
            elif tag == "arg" and isinstance(inside, IdlMethod | IdlSignal):
                built = self._argument(inside, attributes)
            elif tag == "annotation":
                self._annotation(inside, attributes)
        except _Odd:
            pass
        self._open.append(built)

    def _node(self, inside: object, attributes: dict[str, str]) -> object:
        if not self._open:
            self.name = attributes.get("name", "")
            return self
        if inside is self and "name" in attributes:
            self.children.append(attributes["name"])
        return _Inner() if inside is self or isinstance(inside, _Inner) else None

    def _interface(self, inside: object, name: str) -> object:
        """An interface of this object, or of one inside; there the first of a name is kept."""
        if not _fits(names.interface, name):
            return None
        interface = Interface(name)
        if inside is not self:
            self.inner.setdefault(name, interface)
        elif name in self.interfaces:
            self.odd[name] = self._place(f"duplicate interface '{name}'")
        else:
            self.interfaces[name] = interface
        return interface

    def _member(self, what: str, interface: Interface, attributes: dict[str, str]) -> object:
        """A member; raises _Odd for one that cannot be used, whose namesake is set aside too.

        The name of a property is any text: `scan-type`, `Rx Mode`.
        """
        name = attributes.get("name", "")
        member, known = f"{what} {name}", _members(interface, what)
        if member in interface.odd or name in known:
            raise self._set_aside(member, f"duplicate {what} '{name}'")
        if not _fits(names.property_name if what == "property" else names.member, name):
            raise _Odd
        if what == "property":
            access = attributes.get("access", "")
            if access not in ("read", "write", "readwrite"):
                raise self._set_aside(member, f"expected access read, write or readwrite, got '{access}'")
            known[name] = IdlProperty(name, self._type(member, attributes), access)
        else:
            known[name] = IdlMethod(name) if what == "method" else IdlSignal(name)
        return known[name]

    def _argument(self, inside: IdlMethod | IdlSignal, attributes: dict[str, str]) -> object:
        """An argument without a name is named by its index: arg0, arg1. One that is odd makes its member odd."""
        direction = attributes.get("direction")
        if isinstance(inside, IdlSignal):
            member, arguments = f"signal {inside.name}", inside.args
        else:
            member, arguments = f"method {inside.name}", inside.outs if direction == "out" else inside.ins
            if direction not in (None, "in", "out"):
                raise self._set_aside(member, f"expected direction in or out, got '{direction}'")
        name = attributes.get("name") or f"arg{len(arguments)}"
        if any(argument.name == name for argument in arguments):
            raise self._set_aside(member, f"duplicate argument '{name}'")
        arguments.append(Argument(name, self._type(member, attributes, f"'{name}': ")))
        if sum(len(str(argument.type)) for argument in arguments) > MAX_LENGTH:
            text = f"the signature of the arguments is longer than {MAX_LENGTH} characters"
            raise self._set_aside(member, text)
        return arguments[-1]

    def _annotation(self, inside: object, attributes: dict[str, str]) -> None:
        name, value = attributes.get("name", ""), attributes.get("value", "")
        if name in DOCUMENTATION and isinstance(inside, Interface | IdlMethod | IdlSignal | IdlProperty | Argument):
            inside.documentation = inside.documentation or " ".join(value.split())
        elif name == DEPRECATED and isinstance(inside, Interface | IdlMethod | IdlSignal | IdlProperty):
            inside.deprecated = value == "true"
        elif name == NO_REPLY and isinstance(inside, IdlMethod):
            inside.no_reply = value == "true"
        elif name == EMITS_CHANGED and isinstance(inside, Interface | IdlProperty):
            inside.emits = value
        elif name == LEGACY_TYPE and isinstance(inside, IdlProperty | Argument):
            inside.legacy_type = " ".join(value.split())

    def _set_aside(self, member: str, message: str) -> _Odd:
        """Make the member `method Start` of the open interface odd."""
        interface = next(each for each in reversed(self._open) if isinstance(each, Interface))
        what, _, name = member.partition(" ")
        interface.odd.setdefault(member, self._place(message))
        _members(interface, what).pop(name, None)
        return _Odd()

    def _place(self, message: str) -> OddMember:
        return OddMember(self._parser.CurrentLineNumber, self._parser.CurrentColumnNumber + 1, message)

    def _type(self, member: str, attributes: dict[str, str], where: str = "") -> Type:
        try:
            return parse_one(attributes.get("type", ""))
        except ValueError as error:
            raise self._set_aside(member, f"{where}{error}") from error


def _members(interface: Interface, what: str) -> dict[str, Any]:
    kinds: Mapping[str, dict[str, Any]] = {
        "method": interface.methods,
        "signal": interface.signals,
        "property": interface.properties,
    }
    return kinds[what]


def _fits(check: Callable[[str], str], name: str) -> bool:
    try:
        return bool(check(name))
    except ValueError:
        return False
