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


def quoted(text: str) -> str:
    """A text as a YAML scalar in a flow mapping."""
    if _PLAIN.fullmatch(text) and text.lower() not in _NOT_TEXT:
        return text
    letters = (each if each.isprintable() else f"\\U{ord(each):08x}" for each in text)
    return '"' + "".join(f"\\{each}" if each in '"\\' else each for each in letters) + '"'


def flow(value: Any) -> str:
    """A JSON value as YAML in a flow mapping."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{quoted(str(key))}: {flow(each)}' for key, each in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(flow, value))}]"
    return quoted(value) if isinstance(value, str) else json.dumps(value)


def mapping_text(service: Description, settings: Settings) -> str:
    """The whole mapping file."""
    made = sections(service, settings)
    dbus = {"bus_name": service.bus_name}
    sites = Counter(
        (keys["object_path"], keys["interface"])
        for section in made
        if section.interface != OBJECT_MANAGER
        for keys in (dict(entry.keys) for entry in section.entries)
        if "object_path" in keys and "managed_objects" not in keys
    )
    if sites:  # the object and interface that most entries have
        dbus["object_path"], dbus["interface"] = sites.most_common(1)[0][0]
    dbus["idl"] = quoted(settings.idl)
    both = ((f"/{settings.service}", "xmlrpc"), (f"/{settings.service}/jsonrpc", "jsonrpc"))
    lines = [
        f"# Written by `{printable(settings.command)}`.",
        "# After the service has changed, run it again with --update: what you write here stays.",
        f"# A comment that begins with `{DECIDE}` marks a guess: remove it when you have decided.",
        "mapping: 1",
        f"service: {quoted(settings.service)}",
        "dbus:",
        *(f"  {key}: {value}" for key, value in dbus.items()),
        "expose:",
    ]
    for path, codec in settings.endpoints or both:
        lines.append(f"  - {{listener: {quoted(settings.listener)}, path: {quoted(path)}, codec: {codec}}}")
    if settings.upstream:
        lines += [f"legacy: {{upstream: {quoted(settings.upstream)}}}", "defaults: {mode: legacy}"]
    lines.append("methods:")
    for section in made:
        lines += ["", f"  # {section.interface}", *(f"  # {printable(each)}" for each in section.comments)]
        for entry in section.entries:
            lines += entry.within(dbus).lines()
    return "\n".join(lines) + "\n"


def sections(service: Description, settings: Settings) -> list[Section]:
    """The sections of a service: object managers first, then the interfaces by name; no method name twice."""
    made = []
    if service.managers:
        managers = Section(OBJECT_MANAGER)
        for path in sorted(service.managers):
            known = identity(OBJECT_MANAGER, "member", "GetManagedObjects", path)
            keys = (("member", "GetManagedObjects"), ("interface", OBJECT_MANAGER), ("object_path", path))
            managers.entries.append(Entry(f"{settings.service}.managed_objects", known, (*keys, ("effect", "read"))))
        made.append(managers)
    starts = prefixes([*service.interfaces], service.bus_name)
    found = {name: places(name, service.objects.get(name, ()), service.base) for name in service.interfaces}
    subtrees = {name: next((each.subtrees for each in at if each.subtrees), ()) for name, at in found.items()}
    for name, interface in sorted(service.interfaces.items()):
        made.append(_Maker(service, settings, interface, starts[name], subtrees).section(found[name]))
    taken: set[str] = set()
    for section in made:
        named = [replace(entry, name=own_name(entry.name, taken)) for entry in section.entries]
        section.entries = [entry for entry in named if entry.name not in settings.left_out]
        left_out = [entry.name for entry in named if entry.name in settings.left_out]
        section.comments += [f"Left out: {name}: {settings.left_out[name]}" for name in left_out]
    return [section for section in made if section.entries or section.comments]


def own_name(name: str, taken: set[str]) -> str:
    """The name, with a number where it is taken; it is taken then."""
    own, number = name, 2
    while own in taken:
        own, number = f"{name}_{number}", number + 1
    taken.add(own)
    return own


class _Maker:
    """Makes the section of one interface.

    `start`: what its legacy methods begin with; `subtrees`: where the objects of each interface are.
    """

    def __init__(
        self,
        service: Description,
        settings: Settings,
        interface: Interface,
        start: str,
        subtrees: Mapping[str, tuple[str, ...]],
    ) -> None:
        self._service = service
        self._settings = settings
        self._interface = interface
        self._start = start
        self._subtrees = subtrees
        self._by_name: PathByName | None = None  # makes the object paths of the entries

    def section(self, found: list[Place]) -> Section:
        """The entries at each place where the interface is."""
        name = self._interface.name
        section = Section(name)
        if not found and self._settings.object_path:
            found = [Place(self._settings.object_path)]
        elif not found:
            section.comments.append(f"{DECIDE} which objects have this interface; their subtree is a guess")
            found = [Place(subtrees=(self._service.base,))]
        if found[-1].subtrees:
            objects = [path for path in self._service.objects.get(name, ()) if path != "/"]
            by_name = path_by_name({path: self._service.values.get(path, {}).get(name, {}) for path in objects})
            if by_name is not None:  # the form that is not taken is a comment
                by_path = {"params": f"[{self._object_parameter((), found[-1])}]"}
                keys = by_path if self._settings.by_name else dict(_named_keys(by_name, by_name.parameter))
                forms = ["by the object path", "by name"]
                if self._settings.by_name:
                    forms.reverse()
                section.comments.append(f"{DECIDE} {forms[0]}, as here, or {forms[1]}:")
                section.comments.append(f"  {', '.join(f'{key}: {value}' for key, value in keys.items())}")
                self._by_name = by_name if self._settings.by_name else None
        for place in found:
            start = f"{self._start}.root" if place.path == "/" and len(found) > 1 else self._start
            methods = [*self._methods(place, start)]
            section.entries += [*methods, *self._properties(place, start, {entry.name for entry in methods})]
        section.comments += self._left_out()
        return section

    def _left_out(self) -> Iterator[str]:
        """The members that cannot be mapped, and why."""
        for kind, members in (("method", self._interface.methods), ("property", self._interface.properties)):
            if listed := [name for name, each in members.items() if _has_file_descriptor(each)]:
                yield f"Left out, since no legacy protocol has file descriptors: {kind} {', '.join(listed)}"
        for name, odd in self._interface.odd.items():
            if not name.startswith("signal "):
                yield f"Left out: {name}: {odd.message}"

    def _methods(self, place: Place, start: str) -> Iterator[Entry]:
        for method in self._interface.methods.values():
            if _has_file_descriptor(method):
                continue
            variants = [each.name for each in method.ins if each.type.has_variant]
            decide = [f"types of the variants in {', '.join(variants)}"] if variants else []
            params = [self._argument(each, decide) for each in method.ins]
            keys: list[tuple[str, str]] = []
            if reads(method.name):
                keys.append(("effect", "read"))
                decide.append("effect by its name")
            name = f"{start}.{snake(method.name)}"
            legacy = self._service.legacy.get((self._interface.name, method.name))
            if legacy is not None:
                name, params = legacy.name, list(legacy.params)
                keys += legacy.keys
                decide += legacy.decide
            names = [each.name for each in method.ins]
            yield self._entry(name, place, "member", method.name, params=params, names=names, keys=keys, decide=decide)

    def _argument(self, argument: Argument, decide: list[str]) -> str:
        """A parameter for an argument. An object path is checked where the name ends as that of one interface."""
        found: list[tuple[str, ...]] = []
        if str(argument.type) in ("o", "ao"):
            word = snake(argument.name).removesuffix("s")
            kinds = {name: snake(re.sub(r"[0-9]+$", "", name.rpartition(".")[2])) for name in self._subtrees}
            found = [subtrees for name, subtrees in self._subtrees.items() if subtrees and kinds[name] == word]
        if len(found) != 1:
            return quoted(argument.name)
        decide.append(f"objects of '{argument.name}' by its name")
        return f"{{name: {quoted(argument.name)}, object: {_subtree_text(found[0])}}}"

    def _properties(self, place: Place, start: str, taken: set[str]) -> Iterator[Entry]:
        """Entries that read and set each property, read all, and list all objects that an object manager lists."""

        def free(name: str, other: str) -> str:
            found = f"{start}.{other if f'{start}.{name}' in taken else name}"
            taken.add(found)
            return found

        properties = [each for each in self._interface.properties.values() if not _has_file_descriptor(each)]
        for known in properties:
            word = snake(known.name)
            if known.access != "write":
                yield self._entry(free(word, f"property_{word}"), place, "property", known.name)
            if known.access != "read":
                decide = ["types of the variants"] if known.type.has_variant else []
                name = free(f"set_{word}", f"set_property_{word}")
                given = ["value"]
                yield self._entry(name, place, "set_property", known.name, params=given, names=given, decide=decide)
        complete = len(properties) == len(self._interface.properties)
        if not complete or all(known.access == "write" for known in properties):
            return
        yield self._entry(free("record", "all_properties"), place, "all_properties", "", value="true")
        interface = self._interface.name
        managers = [path for path, listed in self._service.managers.items() if interface in listed]
        if managers and not place.path:
            keys = {"managed_objects": "{key: path}", "interface": interface, "object_path": min(managers, key=len)}
            known_as = identity(interface, "managed_objects", "", "")
            yield Entry(free("records", "all_records"), known_as, tuple(keys.items()))

    def _entry(
        self,
        name: str,
        place: Place,
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
        at = [(kind, value or quoted(member)), ("interface", self._interface.name)]
        listed = [*params]
        if place.path:
            at.append(("object_path", place.path))
        elif self._by_name is not None:
            own = self._by_name.parameter if self._by_name.parameter not in names else "object_name"
            at += [each for each in _named_keys(self._by_name, own) if each[0] != "params"]
            listed.insert(0, own)
        else:
            listed.insert(0, self._object_parameter(names, place))
        more = [("params", f"[{', '.join(listed)}]")] if listed else []
        known = identity(self._interface.name, kind, member, place.path)
        return Entry(name, known, (*at, *more, *keys), tuple(decide))

    def _object_parameter(self, names: Collection[str], place: Place) -> str:
        """The parameter with the object: its name must be none of the others."""
        own = snake(self._start.rpartition(".")[2])
        name = own if own not in names else "object_path"
        return f"{{name: {name}, object: {_subtree_text(place.subtrees)}}}"


def _named_keys(by_name: PathByName, parameter: str) -> list[tuple[str, str]]:
    template = by_name.template.replace("{" + by_name.parameter + "}", "{" + parameter + "}")
    escape = [("escape", by_name.escape)] if by_name.escape != "systemd" else []
    return [("object_path", quoted(template)), ("params", f"[{parameter}]"), *escape]


def _subtree_text(subtrees: Sequence[str]) -> str:
    return subtrees[0] if len(subtrees) == 1 else f"[{', '.join(subtrees)}]"


def _has_file_descriptor(member: IdlMethod | IdlProperty) -> bool:
    types = [member.type] if isinstance(member, IdlProperty) else [each.type for each in (*member.ins, *member.outs)]
    return any(kind.has_file_descriptor for kind in types)
