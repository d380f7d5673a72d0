"""The mapping file of a described service: an entry for each property and method, and comments where a person decides.

Each interface is a section. Where it is on one object, its entries have that object path; where it is on several, they
have a parameter that is the path of one. Effects are guessed from names, and only a guessed `read` is written: without
it a method is a write, which the gateway never executes twice.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from msgspec import Struct, field
from msgspec.structs import replace

from gateway.core.dbus.introspection_xml import Argument, IdlMethod, IdlProperty, Interface
from gateway.core.dbus.names import printable
from gateway.mapping.targets import OBJECT_MANAGER
from gateway.scaffold.description import Description
from gateway.scaffold.guesses import PathByName, Place, path_by_name, places, prefixes, reads, snake

WIDTH = 120  # columns of a line
DECIDE = "decide:"  # begins every comment that asks a person

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*|/[A-Za-z0-9_/]*")
_NOT_TEXT = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


class Settings(Struct, frozen=True):
    """What a person chooses: the name of the service, its endpoints, and the command that the file names."""

    service: str
    idl: str  # the IDL file, relative to the mapping file
    command: str
    listener: str = "rpc"
    object_path: str = ""  # of interfaces whose objects are not known
    by_name: bool = False  # object paths are made from a property, where one makes them all
    upstream: str = ""  # the legacy service that answers all methods at first
    endpoints: tuple[tuple[str, str], ...] = ()  # path and codec; default: both protocols at the name of the service
    left_out: Mapping[str, str] = field(default_factory=dict)  # methods that cannot be mapped, each with the reason


Identity: TypeAlias = tuple[str, str, str, str]  # interface, kind, member, and the object path where that matters


def identity(interface: str, kind: str, member: str, object_path: str) -> Identity:
    """What an entry maps, whatever its name is.

    An interface may be mapped at `/` and at the objects below a subtree, and there may be several object managers.
    """
    own = interface == OBJECT_MANAGER or (object_path == "/" and kind != "managed_objects")
    return interface, kind, member, object_path if own else ""


class Entry(Struct, frozen=True):
    """One method of the mapping file. `keys`: its keys as YAML; `decide`: what a person must decide."""

    name: str
    identity: Identity
    keys: tuple[tuple[str, str], ...]
    decide: tuple[str, ...] = ()

    def within(self, dbus: Mapping[str, str]) -> Entry:
        """The entry without the keys that `dbus` of the file gives it."""
        return replace(self, keys=tuple((key, value) for key, value in self.keys if dbus.get(key) != value))

    def lines(self, indent: str = "  ") -> Iterator[str]:
        """The entry as lines of YAML, with its comments."""
        name = quoted(self.name)
        flow = f"{indent}{name}: {{{', '.join(f'{key}: {value}' for key, value in self.keys)}}}"
        comment = printable(f"{DECIDE} {'; '.join(self.decide)}") if self.decide else ""
        if len(flow) + len(comment) + 4 <= WIDTH or (not comment and len(flow) <= WIDTH):
            yield f"{flow}  # {comment}" if comment else flow
            return
        if comment:
            yield f"{indent}# {comment}"
        if len(flow) <= WIDTH:
            yield flow
            return
        yield f"{indent}{name}:"
        yield from (f"{indent}  {key}: {value}" for key, value in self.keys)


class Section(Struct):
    """The entries of an interface, with comments about all of them."""

    interface: str
    comments: list[str] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)

    def lines(self, dbus: Mapping[str, str]) -> Iterator[str]:
        """The section with its heading; `dbus` is that of the file."""
        yield f"  # {self.interface}"
        yield from (f"  # {printable(comment)}" for comment in self.comments)
        for entry in self.entries:
            yield from entry.within(dbus).lines()


def quoted(text: str) -> str:
    """A text as a YAML scalar in a flow mapping."""
    if _PLAIN.fullmatch(text) and text.lower() not in _NOT_TEXT:
        return text
    return '"' + "".join(_escaped(letter) for letter in text) + '"'


def flow(value: Any) -> str:
    """A JSON value as YAML in a flow mapping."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{quoted(str(key))}: {flow(each)}' for key, each in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(flow, value))}]"
    return quoted(value) if isinstance(value, str) else json.dumps(value)


def _escaped(letter: str) -> str:
    if letter in '"\\':
        return "\\" + letter
    return letter if letter.isprintable() else f"\\U{ord(letter):08x}"


def mapping_text(service: Description, settings: Settings) -> str:
    """The whole mapping file."""
    return "\n".join(_file(service, settings)) + "\n"


def _file(service: Description, settings: Settings) -> Iterator[str]:
    made = sections(service, settings)
    dbus = {"bus_name": service.bus_name, **_common(made), "idl": quoted(settings.idl)}
    yield f"# Written by `{printable(settings.command)}`."
    yield "# After the service has changed, run it again with --update: what you write here stays."
    yield f"# A comment that begins with `{DECIDE}` marks a guess: remove it when you have decided."
    yield "mapping: 1"
    yield f"service: {quoted(settings.service)}"
    yield "dbus:"
    yield from (f"  {key}: {value}" for key, value in dbus.items())
    yield "expose:"
    both = ((f"/{settings.service}", "xmlrpc"), (f"/{settings.service}/jsonrpc", "jsonrpc"))
    for path, codec in settings.endpoints or both:
        yield f"  - {{listener: {quoted(settings.listener)}, path: {quoted(path)}, codec: {codec}}}"
    if settings.upstream:
        yield f"legacy: {{upstream: {quoted(settings.upstream)}}}"
        yield "defaults: {mode: legacy}"
    yield "methods:"
    for section in made:
        yield ""
        yield from section.lines(dbus)


def _common(made: Sequence[Section]) -> dict[str, str]:
    """The object and interface that most entries have, for `dbus`."""
    sites = Counter(
        (keys["object_path"], keys["interface"])
        for section in made
        if section.interface != OBJECT_MANAGER
        for keys in (dict(entry.keys) for entry in section.entries)
        if "object_path" in keys and "managed_objects" not in keys
    )
    return dict(zip(("object_path", "interface"), sites.most_common(1)[0][0], strict=True)) if sites else {}


def sections(service: Description, settings: Settings) -> list[Section]:
    """The sections of a service: object managers first, then the interfaces by name; no method name twice."""
    made = [_managers(service, settings)] if service.managers else []
    starts = prefixes([*service.interfaces], service.bus_name)
    subtrees = {name: _subtrees(service, name) for name in service.interfaces}
    for name, interface in sorted(service.interfaces.items()):
        made.append(_Maker(service, settings, interface, starts[name], subtrees).section())
    taken: set[str] = set()
    for section in made:
        named = [_with_own_name(entry, taken) for entry in section.entries]
        section.entries = [entry for entry in named if entry.name not in settings.left_out]
        left_out = [entry.name for entry in named if entry.name in settings.left_out]
        section.comments += [f"Left out: {name}: {settings.left_out[name]}" for name in left_out]
    return [section for section in made if section.entries or section.comments]


def _with_own_name(entry: Entry, taken: set[str]) -> Entry:
    name, number = entry.name, 2
    while name in taken:
        name = f"{entry.name}_{number}"
        number += 1
    taken.add(name)
    return replace(entry, name=name)


def _managers(service: Description, settings: Settings) -> Section:
    section = Section(OBJECT_MANAGER)
    for number, path in enumerate(sorted(service.managers)):
        keys = (("member", "GetManagedObjects"), ("interface", OBJECT_MANAGER), ("object_path", path))
        name = (
            f"{settings.service}.managed_objects" if number == 0 else f"{settings.service}.managed_objects_{number + 1}"
        )
        known = identity(OBJECT_MANAGER, "member", "GetManagedObjects", path)
        section.entries.append(Entry(name, known, (*keys, ("effect", "read"))))
    return section


def _subtrees(service: Description, interface: str) -> tuple[str, ...]:
    found = places(interface, service.objects.get(interface, ()), service.base)
    return next((place.subtrees for place in found if place.subtrees), ())


class _At(Struct, frozen=True):
    """Where the entries of an interface are; `by_name`: and a property makes the object path."""

    place: Place
    by_name: PathByName | None = None


def _named_keys(by_name: PathByName, parameter: str) -> list[tuple[str, str]]:
    template = by_name.template.replace("{" + by_name.parameter + "}", "{" + parameter + "}")
    escape = [("escape", by_name.escape)] if by_name.escape != "systemd" else []
    return [("object_path", quoted(template)), ("params", f"[{parameter}]"), *escape]


class _Maker(Struct):
    """Makes the section of one interface."""

    service: Description
    settings: Settings
    interface: Interface
    start: str  # what its legacy methods begin with
    subtrees: Mapping[str, tuple[str, ...]]  # of all interfaces

    def section(self) -> Section:
        section = Section(self.interface.name)
        objects = self.service.objects.get(self.interface.name, [])
        found = places(self.interface.name, objects, self.service.base)
        if not found:
            found = [self._unknown(section)]
        by_name = self._path_by_name(found)
        if by_name is not None:
            section.comments += self._choice(by_name, found[-1])
        for place in found:
            start = f"{self.start}.root" if place.path == "/" and len(found) > 1 else self.start
            section.entries += self._entries(_At(place, by_name if self.settings.by_name else None), start)
        section.comments += self._left_out()
        return section

    def _unknown(self, section: Section) -> Place:
        """Where an interface is that no object was seen to have."""
        if self.settings.object_path:
            return Place(self.settings.object_path)
        section.comments.append(f"{DECIDE} which objects have this interface; their subtree is a guess")
        return Place(subtrees=(self.service.base,))

    def _path_by_name(self, found: Sequence[Place]) -> PathByName | None:
        """The form by which a property makes the paths of all objects."""
        if not found[-1].subtrees:
            return None
        objects = [path for path in self.service.objects.get(self.interface.name, ()) if path != "/"]
        return path_by_name({path: self.service.values.get(path, {}).get(self.interface.name, {}) for path in objects})

    def _choice(self, by_name: PathByName, place: Place) -> Iterator[str]:
        """The comment with the form that is not taken."""
        if self.settings.by_name:
            yield f"{DECIDE} by name, as here, or by the object path:"
            yield f"  params: [{{name: {self._object_name(())}, object: {_subtree_text(place.subtrees)}}}]"
        else:
            yield f"{DECIDE} by the object path, as here, or by name:"
            yield f"  {', '.join(f'{key}: {value}' for key, value in _named_keys(by_name, by_name.parameter))}"

    def _object_name(self, names: Collection[str]) -> str:
        """The parameter with the object: its name must be none of the others."""
        own = snake(self.start.rpartition(".")[2])
        return own if own not in names else "object_path"

    def _left_out(self) -> Iterator[str]:
        """The members that cannot be mapped, and why."""
        for kind, members in (("method", self.interface.methods), ("property", self.interface.properties)):
            listed = [name for name, each in members.items() if _has_file_descriptor(each)]
            if listed:
                yield f"Left out, since no legacy protocol has file descriptors: {kind} {', '.join(listed)}"
        for name, odd in self.interface.odd.items():
            if not name.startswith("signal "):
                yield f"Left out: {name}: {odd.message}"

    def _entries(self, place: _At, start: str) -> Iterator[Entry]:
        entries = [*self._methods(place, start)]
        taken = {entry.name for entry in entries}
        properties = {n: p for n, p in self.interface.properties.items() if not _has_file_descriptor(p)}
        for known in properties.values():
            if known.access != "write":
                name = _free(f"{start}.{snake(known.name)}", f"{start}.property_{snake(known.name)}", taken)
                entries.append(self._entry(name, place, "property", known.name))
            if known.access != "read":
                name = _free(f"{start}.set_{snake(known.name)}", f"{start}.set_property_{snake(known.name)}", taken)
                entries.append(self._setter(name, place, known))
        complete = len(properties) == len(self.interface.properties)
        if complete and any(known.access != "write" for known in properties.values()):
            name = _free(f"{start}.record", f"{start}.all_properties", taken)
            entries.append(self._entry(name, place, "all_properties", "", value="true"))
            if not place.place.path:
                entries += self._records(start, taken)
        return iter(entries)

    def _records(self, start: str, taken: set[str]) -> Iterator[Entry]:
        """All objects of the interface that an object manager lists."""
        managers = [path for path, listed in self.service.managers.items() if self.interface.name in listed]
        if managers:
            name = _free(f"{start}.records", f"{start}.all_records", taken)
            at = (("object_path", min(managers, key=len)),)
            known = identity(self.interface.name, "managed_objects", "", "")
            yield Entry(name, known, (("managed_objects", "{key: path}"), ("interface", self.interface.name), *at))

    def _methods(self, place: _At, start: str) -> Iterator[Entry]:
        for method in self.interface.methods.values():
            if _has_file_descriptor(method):
                continue
            decide = [*_about_variants(method.ins)]
            keys: list[tuple[str, str]] = []
            params = [self._argument(each, decide) for each in method.ins]
            if reads(method.name):
                keys.append(("effect", "read"))
                decide.append("effect by its name")
            names = [each.name for each in method.ins]
            name = f"{start}.{snake(method.name)}"
            legacy = self.service.legacy.get((self.interface.name, method.name))
            if legacy is not None:
                name, params = legacy.name, list(legacy.params)
                keys += legacy.keys
                decide += legacy.decide
            yield self._entry(name, place, "member", method.name, params=params, names=names, keys=keys, decide=decide)

    def _argument(self, argument: Argument, decide: list[str]) -> str:
        """A parameter for an argument. One that is an object path is checked where its name says of which kind."""
        if str(argument.type) not in ("o", "ao"):
            return quoted(argument.name)
        subtrees = self._kind_of(argument.name)
        if not subtrees:
            return quoted(argument.name)
        decide.append(f"objects of '{argument.name}' by its name")
        return f"{{name: {quoted(argument.name)}, object: {_subtree_text(subtrees)}}}"

    def _kind_of(self, argument: str) -> tuple[str, ...]:
        """The subtrees of the interface whose name ends as the argument is called."""
        word = snake(argument).removesuffix("s")
        found = [
            subtrees
            for name, subtrees in self.subtrees.items()
            if subtrees and snake(re.sub(r"[0-9]+$", "", name.rpartition(".")[2])) == word
        ]
        return found[0] if len(found) == 1 else ()

    def _setter(self, name: str, place: _At, known: IdlProperty) -> Entry:
        decide = ["types of the variants"] if known.type.has_variant else []
        return self._entry(name, place, "set_property", known.name, params=["value"], names=["value"], decide=decide)

    def _entry(
        self,
        name: str,
        place: _At,
        kind: str,
        member: str,
        *,
        value: str = "",
        params: Sequence[str] = (),
        names: Sequence[str] = (),
        keys: Sequence[tuple[str, str]] = (),
        decide: Sequence[str] = (),
    ) -> Entry:
        """An entry at a place: its object path, or a parameter for it before the others."""
        at = [(kind, value or quoted(member)), ("interface", self.interface.name)]
        listed = [*params]
        if place.place.path:
            at.append(("object_path", place.place.path))
        elif place.by_name is not None:
            own = place.by_name.parameter if place.by_name.parameter not in names else "object_name"
            at += [each for each in _named_keys(place.by_name, own) if each[0] != "params"]
            listed.insert(0, own)
        else:
            listed.insert(0, f"{{name: {self._object_name(names)}, object: {_subtree_text(place.place.subtrees)}}}")
        more = [("params", f"[{', '.join(listed)}]")] if listed else []
        known = identity(self.interface.name, kind, member, place.place.path)
        return Entry(name, known, (*at, *more, *keys), tuple(decide))


def _free(name: str, other: str, taken: set[str]) -> str:
    """The first of two names that is not taken; it is then."""
    free = other if name in taken else name
    taken.add(free)
    return free


def _subtree_text(subtrees: Sequence[str]) -> str:
    return subtrees[0] if len(subtrees) == 1 else f"[{', '.join(subtrees)}]"


def _has_file_descriptor(member: IdlMethod | IdlProperty) -> bool:
    types = [member.type] if isinstance(member, IdlProperty) else [each.type for each in (*member.ins, *member.outs)]
    return any(kind.has_file_descriptor for kind in types)


def _about_variants(arguments: Sequence[Argument]) -> Iterator[str]:
    listed = [each.name for each in arguments if each.type.has_variant]
    if listed:
        yield f"types of the variants in {', '.join(listed)}"
