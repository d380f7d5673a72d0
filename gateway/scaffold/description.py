"""What is known of a D-Bus service: its interfaces, and the objects that have them; and that as introspection XML.

A description is put together from pieces: the introspection data of each object, the properties whose values were read,
XML files. An interface that several objects have is the union of what each of them tells.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar
from xml.sax.saxutils import quoteattr

from msgspec import Struct, field
from msgspec.structs import replace

from gateway.core.dbus import names
from gateway.core.dbus.introspection_xml import (
    DEPRECATED,
    DOCUMENTATION,
    EMITS_CHANGED,
    LEGACY_TYPE,
    NO_REPLY,
    Argument,
    IdlError,
    IdlMethod,
    IdlProperty,
    IdlSignal,
    Interface,
    Node,
    parse,
)
from gateway.core.dbus.names import printable
from gateway.core.dbus.signature import parse_one
from gateway.mapping.load import read_regular
from gateway.mapping.targets import STANDARD
from gateway.scaffold import SourceError
from gateway.scaffold.guesses import common_start


class LegacyEntry(Struct, frozen=True):
    """The entry of a member that stands for a legacy method. `params`, `keys`: YAML; `decide`: what is not certain."""

    name: str
    params: tuple[str, ...]
    keys: tuple[tuple[str, str], ...] = ()
    decide: tuple[str, ...] = ()


class Description(Struct):
    """A service. The interfaces of the D-Bus specification are left out: they need no IDL.

    `objects`: interface -> its objects, none where they are not known; `managers`: object managers, each with the
    interfaces of the objects that it lists; `values`: object -> interface -> property -> a value that was read.
    """

    bus_name: str
    interfaces: dict[str, Interface] = field(default_factory=dict)
    objects: dict[str, list[str]] = field(default_factory=dict)
    managers: dict[str, set[str]] = field(default_factory=dict)
    values: dict[str, dict[str, dict[str, object]]] = field(default_factory=dict)
    legacy: dict[tuple[str, str], LegacyEntry] = field(default_factory=dict)  # by interface and member
    notes: dict[str, None] = field(default_factory=dict)  # what could not be seen

    @property
    def base(self) -> str:
        """The object path that the bus name makes: /org/example/Shelf for org.example.Shelf."""
        return "/" + self.bus_name.replace(".", "/").replace("-", "_")

    def add(self, path: str | None, node: Node) -> None:
        """Add an object, or with None interfaces whose objects are not known."""
        for name, interface in {**node.inner, **node.interfaces}.items():
            if name in STANDARD:
                continue
            known = self.interfaces.setdefault(name, Interface(name))
            _merge(known, interface)
            objects = self.objects.setdefault(name, [])
            if path is not None and name in node.interfaces and path not in objects:
                objects.append(path)

    def add_values(self, path: str, interface: str, values: Mapping[str, tuple[str, object]]) -> None:
        """Add the properties of an object that were read, each with its signature.

        One that the introspection data does not list counts as one that can only be read.
        """
        if interface in STANDARD or not _fits(names.interface, interface):
            return
        known = self.interfaces.setdefault(interface, Interface(interface))
        objects = self.objects.setdefault(interface, [])
        if path not in objects:
            objects.append(path)
        for name, (signature, value) in values.items():
            is_new = name not in known.properties and f"property {name}" not in known.odd
            if is_new and _fits(names.property_name, name):
                known.properties[name] = IdlProperty(name, parse_one(signature), "read")
            self.values.setdefault(path, {}).setdefault(interface, {})[name] = value


def _fits(check: Callable[[str], str], name: str) -> bool:
    """Whether a name that a service tells is valid; the bus does not check text in a body."""
    try:
        return bool(check(name))
    except ValueError:
        return False


def _merge(known: Interface, more: Interface) -> None:
    """Add what another object, or file, tells of an interface. Of two forms of a member the first stays."""
    known.documentation = known.documentation or more.documentation
    known.deprecated = known.deprecated or more.deprecated
    known.emits = known.emits or more.emits
    known.methods.update({name: each for name, each in more.methods.items() if name not in known.methods})
    known.properties.update({name: each for name, each in more.properties.items() if name not in known.properties})
    known.signals.update({name: each for name, each in more.signals.items() if name not in known.signals})
    known.odd.update(more.odd)


def following(found: Description, before: Mapping[str, Interface], *, complete: bool) -> Description:
    """The description as the successor of an older IDL: what a person wrote there stays.

    Arguments that the service does not name keep their names, and members their documentation. Unless the description
    is `complete`, interfaces that no object has at the moment are kept.
    """
    interfaces = {
        name: _following(each, before[name]) if name in before else each for name, each in found.interfaces.items()
    }
    kept = {} if complete else {name: each for name, each in before.items() if name not in interfaces}
    objects = {**found.objects, **{name: [] for name in kept}}
    return replace(found, interfaces={**interfaces, **kept}, objects=objects)


def _following(new: Interface, old: Interface) -> Interface:
    methods = dict(new.methods)
    for name in new.methods.keys() & old.methods.keys():
        now, then = new.methods[name], old.methods[name]
        methods[name] = replace(_noted(now, then), ins=_named(now.ins, then.ins), outs=_named(now.outs, then.outs))
    properties = {
        name: _noted(each, old.properties[name]) if name in old.properties else each
        for name, each in new.properties.items()
    }
    return replace(_noted(new, old), methods=methods, properties=properties)


_Noted = TypeVar("_Noted", Interface, IdlMethod, IdlProperty, Argument)


def _noted(now: _Noted, then: _Noted) -> _Noted:
    """What a service tells now, with the notes of the IDL where it tells none."""
    kept = [name for name in ("documentation", "legacy_type") if hasattr(now, name) and not getattr(now, name)]
    return replace(now, **{name: getattr(then, name) for name in kept})


def _named(new: Sequence[Argument], old: Sequence[Argument]) -> list[Argument]:
    """The arguments, with the old names of those that the service does not name, where no type has changed."""
    if [str(each.type) for each in new] != [str(each.type) for each in old]:
        return list(new)
    return [
        replace(_noted(now, then), name=then.name if _UNNAMED.fullmatch(now.name) else now.name)
        for now, then in zip(new, old, strict=True)
    ]


_UNNAMED = re.compile("arg_?[0-9]+")


# Introspection XML


def idl_text(service: Description, command: str) -> str:
    """The IDL file: every interface, in the order of their names."""
    about = printable(f"Interfaces of {service.bus_name}, written by `{command}`.").replace("--", "- -")
    return "\n".join(idl_lines(about, [each for _, each in sorted(service.interfaces.items())])) + "\n"


_NO_MORE: Mapping[str, Mapping[str, str]] = {}


def idl_lines(
    about: str, interfaces: Iterable[Interface], node: str = "<node>", more: Mapping[str, Mapping[str, str]] = _NO_MORE
) -> Iterator[str]:
    """The lines of introspection XML. `more`: further annotations of interfaces, by the name of the interface."""
    yield f"<!-- {about} -->"
    yield node
    for each in interfaces:
        annotations = _notes(4, each, {EMITS_CHANGED: each.emits, **more.get(each.name, {})})
        yield from _element(2, f"interface name={quoteattr(each.name)}", [*annotations, *_members(each)], empty=False)
    yield "</node>"


def _members(interface: Interface) -> Iterator[str]:
    for method in interface.methods.values():
        notes = _notes(6, method, {NO_REPLY: "true" if method.no_reply else ""})
        arguments = [*_arguments(method.ins, ' direction="in"'), *_arguments(method.outs, ' direction="out"')]
        yield from _element(4, f"method name={quoteattr(method.name)}", [*notes, *arguments])
    for signal in interface.signals.values():
        inside = [*_notes(6, signal, {}), *_arguments(signal.args, "")]
        yield from _element(4, f"signal name={quoteattr(signal.name)}", inside)
    for known in interface.properties.values():
        attributes = f'name={quoteattr(known.name)} type="{known.type}" access="{known.access}"'
        notes = _notes(6, known, {EMITS_CHANGED: known.emits, LEGACY_TYPE: known.legacy_type})
        yield from _element(4, f"property {attributes}", notes)


def _arguments(arguments: list[Argument], direction: str) -> Iterator[str]:
    for each in arguments:
        notes = _notes(8, each, {LEGACY_TYPE: each.legacy_type})
        yield from _element(6, f'arg name={quoteattr(each.name)} type="{each.type}"{direction}', notes)


def _element(indent: int, start: str, inside: list[str], *, empty: bool = True) -> Iterator[str]:
    """An element; `empty`: one without content ends in its start."""
    is_empty = empty and not inside
    yield f"{' ' * indent}<{start}{'/>' if is_empty else '>'}"
    yield from inside
    if not is_empty:
        yield f"{' ' * indent}</{start.partition(' ')[0]}>"


def _notes(
    indent: int, what: Interface | IdlMethod | IdlSignal | IdlProperty | Argument, more: Mapping[str, str]
) -> list[str]:
    deprecated = "" if isinstance(what, Argument) or not what.deprecated else "true"
    values = {DOCUMENTATION[0]: what.documentation, DEPRECATED: deprecated, **more}
    return [
        f"{' ' * indent}<annotation name={quoteattr(name)} value={quoteattr(value)}/>"
        for name, value in values.items()
        if value
    ]


# From files


def from_files(files: Sequence[Path], bus_name: str = "") -> Description:
    """Describe the interfaces of introspection files; raises SourceError or OSError.

    The name of a root node is the object that has its interfaces. Without a bus name, the name of a file is taken where
    half of the interfaces or more begin with it, else what all begin with.
    """
    found = Description(bus_name)
    for path in files:
        content = read_regular(path)
        try:
            node = parse(content)
        except IdlError as error:
            raise SourceError(f"{path}:{error.line}:{error.column}: {error}") from error
        found.add(node.name if names.is_object_path(node.name) else None, node)
    if not found.interfaces:
        raise SourceError(
            f"{', '.join(map(str, files))}: expected an interface that is none of the D-Bus specification's"
        )
    if not bus_name:
        interfaces = [*found.interfaces]
        stems = [_unversioned(path.name.removesuffix(".xml")) for path in files]
        begun = {
            stem: sum(_unversioned(each) == stem or each.startswith(f"{stem}.") for each in interfaces)
            for stem in stems
        }
        fitting = [stem for stem in stems if _fits(names.bus_name, stem) and 2 * begun[stem] >= len(interfaces)]
        found.bus_name = max(fitting, key=len, default="") or _common_beginning(interfaces)
        source = f"the {'name of the file' if fitting else 'interfaces'}"
        found.notes[f"the bus name {found.bus_name} is a guess from {source}: --bus-name sets it"] = None
    return found


def _common_beginning(interfaces: Sequence[str]) -> str:
    """`org.example.Shelf` for org.example.Shelf1 alone, or with org.example.Shelf.Book1."""
    split = [name.split(".") for name in interfaces]
    return _unversioned(".".join(common_start(split) if len(common_start(split)) >= 2 else split[0]))


def _unversioned(name: str) -> str:
    """`org.example.Shelf` for org.example.Shelf1."""
    return re.sub(r"(?<=[^.])_?[0-9]+$", "", name)
