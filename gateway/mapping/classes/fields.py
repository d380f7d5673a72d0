"""Names and fields of a legacy class, and the converters of its records.

`name_label` is the member `NameLabel`: the first letter of each part becomes upper case, and they are joined. Back,
a part that has several capitals is an acronym (`SR`, `VBDs`) and stays; any other part becomes lower case.

A field is a property of the class's interface, or it has a default only: then every record has the default. The entry
of a field in the stanza says where it deviates from the rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from gateway.core.dbus.arguments import record_encoder
from gateway.core.dbus.formats import SHOWN, Show, identity_of_class, moment_encoder, show_moment
from gateway.core.dbus.introspection_xml import IdlProperty, Interface
from gateway.core.dbus.marshal import Encode, from_dbus, to_dbus
from gateway.core.dbus.results import Record, picked_record, property_decoder, then
from gateway.core.dbus.signature import Type, parse_one
from gateway.core.dbus.target import Coerce, Variants
from gateway.core.rpc.model import Value
from gateway.mapping.encoding import innermost
from gateway.mapping.load import Scope
from gateway.mapping.problem import did_you_mean, one_of, unknown

DATETIME = "datetime"  # a `type` of fields, and the value of an annotation of the IDL
RECORD = " record"  # ends the annotation of a dictionary with fields of a class: "VM record"

_PARTS = re.compile(r"[A-Z]{2,}s(?![a-z])|[A-Z]+(?![a-z])|[A-Z][a-z0-9]*|[a-z0-9]+")


def member_name(name: str) -> str:
    """The D-Bus member of a field or message: `name_label` -> `NameLabel`, `VCPUs_max` -> `VCPUsMax`."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def legacy_name(member: str) -> str:
    """The field or message of a D-Bus member: `NameLabel` -> `name_label`, `DefaultSR` -> `default_SR`."""
    parts = _PARTS.findall(member) or [member]
    return "_".join(part if sum(map(str.isupper, part)) > 1 else part.lower() for part in parts)


class ClassField(Struct, frozen=True):
    """A field. `known`: its property; None: the service does not have it, and it always has the default."""

    name: str
    known: IdlProperty | None
    format: str = ""  # as in `result`, "datetime" or "text"
    legacy_class: str = ""  # the value is the reference or UUID of the object as this class
    default: Value = None
    has_default: bool = False
    type: Type | None = None  # of a field that the service does not have

    @property
    def form(self) -> dict[str, Any]:
        """The keys of the field in `params` and `result`."""
        if self.legacy_class:
            return {"format": {"class": self.legacy_class}}
        return {"format": self.format} if self.format else {}


class LegacyClass(Struct, eq=False):
    """A class with its fields by name. `key`: the property with the reference of an object, or ""."""

    name: str
    interface: Interface
    fields: Mapping[str, ClassField] = field(default_factory=dict)
    key: str = ""
    _records: dict[Variants, Record] = field(default_factory=dict)

    def record(self, variants: Variants) -> Record:
        """The converter from the properties of an object to a record with every field; made once."""
        if variants not in self._records:
            members = {
                each.name: (each.known.name, then(property_decoder(each.known.type, variants), _show(each)))
                for each in self.fields.values()
                if each.known is not None
            }
            self._records[variants] = Record(members, defaults=self._defaults())
        return self._records[variants]

    def _defaults(self) -> Mapping[str, Value]:
        return {each.name: each.default for each in self.fields.values() if each.has_default}

    def shown(self, kind: Type) -> Show:
        """The converter of a dictionary of properties, or of several in an array or dictionary, to records."""
        members = {each.name: (each.known.name, _show(each)) for each in self.fields.values() if each.known}
        return picked_record(kind, members, self._defaults())

    def encoder(self, coerce: Coerce, variants: Variants, around: int) -> Encode:
        """The converter of a client's record to a dictionary of properties; it ignores members that are none."""
        members = {}
        for each in self.fields.values():
            known = each.known
            if known is not None and known.name != self.key and not each.legacy_class:
                convert = to_dbus(known.type, coerce=coerce, variants=variants, around=around + 3)
                if each.format == DATETIME:
                    convert = moment_encoder(known.type, convert)
                members[each.name] = (known.name, str(known.type), convert)
        return record_encoder(members)


Classes = Mapping[str, LegacyClass]  # of a file, by name


def known_class(scope: Scope, classes: Classes) -> LegacyClass | None:
    """The class that `record` names; None, with the problem reported, when the file does not have it."""
    found = classes.get(scope.data)
    if found is None:
        scope.fail(unknown("class", str(scope.data), classes))
    return found


def _show(each: ClassField) -> Show | None:
    if each.legacy_class:
        return identity_of_class(each.legacy_class)
    return SHOWN[each.format][0] if each.format else None


def form_of(legacy_type: str) -> dict[str, Any]:
    """The keys in `params` and `result` of a property or argument with this annotation."""
    if legacy_type == DATETIME:
        return {"format": DATETIME}
    return {"record": legacy_type.removesuffix(RECORD)} if legacy_type.endswith(RECORD) else {}


# `fields` of a stanza


def read_fields(stanza: Scope, interface: Interface, key: str, *, listed_only: bool) -> dict[str, ClassField]:
    """The fields of a class, in the order of the IDL, then those with a default only; problems are reported.

    `key`: the property with the reference, which is a field only if it is listed. `listed_only`: no field follows from
    the IDL alone.
    """
    readable = {name: known for name, known in interface.properties.items() if known.access != "write"}
    entries = [(entry, *_name_and_property(entry)) for entry in stanza.at("fields").items()]
    taken = {*(source for *_, source in entries), *(stanza.at("ignore").data or ()), key}
    found = {
        legacy_name(name): _field(legacy_name(name), known)
        for name, known in readable.items()
        if name not in taken and not listed_only
    }
    for entry, name, source in entries:
        known = readable.get(source)
        if known is None and source:
            text = f"field '{name}' has no D-Bus side: there is no readable property '{source}'"
            hint = f"{did_you_mean(source, readable)}; give its `type` and `default` if the service lacks it"
            entry.fail(f"{text}{hint}")
            continue
        made = _absent(entry, name) if known is None else _deviating(entry, name, known)
        if made is not None:
            found[name] = made
    return found


def _name_and_property(entry: Scope) -> tuple[str, str]:
    """A field, and the property that its entry names, or that the rule gives; "" where it says that there is none."""
    name, data = str(entry.path[-1]), entry.data
    if isinstance(data, str):
        return name, data
    given = data.get("from")
    return name, str(given) if given is not None else "" if "type" in data else member_name(name)


def _field(name: str, known: IdlProperty) -> ClassField:
    return ClassField(name, known, str(form_of(known.legacy_type).get("format", "")))


def _deviating(entry: Scope, name: str, known: IdlProperty) -> ClassField | None:
    data: Mapping[str, Any] = entry.data if isinstance(entry.data, Mapping) else {}
    form = data.get("format", "")
    made = _field(name, known)
    if isinstance(form, Mapping):
        made = replace(made, legacy_class=form["class"], format="")
    elif form:
        made = replace(made, format=form)
    codes = "s" if made.legacy_class else SHOWN[made.format][1] if made.format else ""
    if codes and innermost(known.type).code not in codes:
        text = f"this format needs a property of type {', '.join(codes)}; {known.name} is {known.type}"
        entry.at("format").fail(text)
        return None
    if "type" in data:
        text = f"'type' is for a field without a property; the type of {known.name} is {known.type}"
        entry.at("type").fail(text, key=True)
    if "default" not in data:
        return made
    return replace(made, default=_default(entry, known.type, made.format), has_default=True)


def _absent(entry: Scope, name: str) -> ClassField | None:
    """A field that the service does not have."""
    if entry.has("format"):
        entry.at("format").fail(f"'format' is for a field with a property: use `type: {DATETIME}`", key=True)
    if not entry.has("default"):
        entry.fail(f"'default' is missing: the value of '{name}' in every record", level="schema", key=True)
        return None
    form = DATETIME if entry.data["type"] == DATETIME else ""
    kind = parse_one("s") if form else entry.at("type").attempt(parse_one, entry.data["type"], level="schema")
    if kind is None:
        return None
    return ClassField(name, None, default=_default(entry, kind, form), has_default=True, type=kind)


def _default(entry: Scope, kind: Type, form: str) -> Value:
    """A default as the value of its type; a problem is reported."""

    def check(value: Value) -> Value:
        if form == DATETIME:
            moment_encoder(parse_one("s"), lambda moment: moment)(value)
            return show_moment(value)
        return from_dbus(kind)(to_dbus(kind)(value))

    return entry.at("default").attempt(check, entry.data["default"])


def describe_gaps(legacy_class: LegacyClass, unmapped: list[str]) -> Iterator[str]:
    """What of a class has no D-Bus side, in words for `check`."""
    absent = [each.name for each in legacy_class.fields.values() if each.known is None]
    for kind, what, names in (
        ("field", "with a default only", absent),
        ("message", "without a D-Bus side", unmapped),
    ):
        if names:
            plural = "" if len(names) == 1 else "s"
            yield f"class {legacy_class.name}: {len(names)} {kind}{plural} {what}: {one_of(names)}"
