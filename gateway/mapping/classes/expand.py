"""Expands `classes` of a mapping file to method entries, which are compiled like those that are written by hand.

Each stanza names an interface, its objects and their ObjectManager. Its methods follow from three sources, and a later
one has precedence: the fields (`get_FIELD`, `set_FIELD`, records), the methods of both interfaces, and `messages` of
the stanza, whose keys replace those that follow. An entry in `methods` of the file has precedence over all of them.
What follows from a field and is in `removed` of the file is left out: records keep fields that their API reads no more.

The document that results has the entries in `methods`; problems in them are reported at the stanza.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from msgspec import Struct, field
from msgspec.structs import replace

from gateway.core.dbus.introspection_xml import IdlMethod
from gateway.core.dbus.object_paths import placeholders
from gateway.core.dbus.signature import Type
from gateway.core.routing.route import ObjectClass, Route
from gateway.mapping.classes.fields import (
    LegacyClass,
    describe_gaps,
    form_of,
    legacy_name,
    member_name,
    read_fields,
)
from gateway.mapping.encoding import Directions, record_key
from gateway.mapping.load import Scope
from gateway.mapping.problem import Path, did_you_mean, unknown
from gateway.mapping.targets import KINDS, IdlLibrary, TargetObject, find_site

KEYS_OF_TARGET = ("bus_name", "object_path", "interface", "idl")

# What of the compiled result a method returns: all of it, the keys of the records, the default of a field that the
# service does not have, one member of a record; or the records that the client selects.
Returns = Literal["all", "keys", "default", "member", "where", "by_uuid", "by_name_label"]


class Derived(Struct, frozen=True):
    """A method entry that follows from a class. `field`: of "default" and "member".

    `site`: its object and interface; None where the stanza gives it another target. `plain`: the stanza says nothing
    about it, so it shares its settings with others of the class.
    """

    legacy_class: LegacyClass
    site: TargetObject | None
    returns: Returns = "all"
    field: str = ""
    has_task_form: bool = False
    plain: bool = True


class Expansion(Struct, frozen=True):
    """A document with the entries of its classes. `gaps`: what of the classes has no D-Bus side, in words."""

    root: Scope
    derived: Mapping[str, Derived] = field(default_factory=dict)  # by the name of the method
    classes: Mapping[str, LegacyClass] = field(default_factory=dict)
    gaps: tuple[str, ...] = ()


def expand(root: Scope, library: IdlLibrary) -> Expansion:
    """The document with the method entries of its classes; problems are reported, and their entries left out."""
    stanzas = [_Stanza(root, name, library) for name in root.at("classes").data or ()]
    if not stanzas:
        return Expansion(root)
    entries: dict[str, Any] = {}
    derived: dict[str, Derived] = {}
    origins: dict[Path, Path] = {}
    gaps: list[str] = []
    usable = [stanza for stanza in stanzas if stanza.resolve()]
    for stanza in usable:
        for message, (entry, about) in stanza.entries().items():
            name = f"{stanza.name}.{message}"
            entries[name], derived[name] = entry, about
            origins["methods", name] = ("classes", stanza.name, "messages", message)
        found = describe_gaps(stanza.legacy_class, stanza.scope.at("unmapped").data or [])
        gaps += [f"{stanza.scope.source}: {gap}" for gap in found]
    document = root.document
    data = {**root.data, "methods": {**root.data["methods"], **entries}}
    complete = document.complete and len(usable) == len(stanzas)
    made = replace(document, data=data, origins=origins, complete=complete)
    return Expansion(
        Scope(made, root.problems, (), data),
        derived,
        {stanza.name: stanza.legacy_class for stanza in usable},
        tuple(gaps),
    )


Made = tuple[dict[str, Any], Derived]
Where = Literal["object", "manager"]


class _Stanza:
    """One class. `resolve` finds its interfaces and fields; `entries` makes its method entries."""

    def __init__(self, root: Scope, name: str, library: IdlLibrary) -> None:
        self.name = name
        self.scope = root.at("classes", name)
        self._root = root
        self._library = library
        self._other = self.scope.at("same_object_as")  # the class with whose objects it shares references
        self._session: str | None = root.at("session", "parameter").data
        self._manager: TargetObject | None = None

    # The target

    def resolve(self) -> bool:
        """Whether the target can be used; problems are reported."""
        before, shared = len(self.scope.problems), self._other.data is not None
        common = self._object_of(self._root.at("dbus")) if shared else self._root.at("dbus")
        site = None if len(self.scope.problems) > before else find_site(self.scope, common, self._library)
        if site is None:
            return False
        named = placeholders(site.object_path)
        if len(named) != 1:
            has_path = self.scope.has("object_path")
            if has_path or not shared:  # else it is reported at the other class
                where = self.scope.at("object_path") if has_path else self.scope
                expected = "expected an object path with one parameter, the reference of the object"
                where.fail(f"{expected}, got '{site.object_path}'", level="schema")
            return False
        self._site = site
        self._self = named[0]
        self._target = {
            key: self.scope.data[key] if self.scope.has(key) else common.data[key]
            for key in KEYS_OF_TARGET
            if self.scope.has(key) or common.has(key)
        }
        manager = self.scope if self.scope.has("manager") or not shared else common
        fixed = site.object_path.partition("{")[0].rstrip("/") or "/"
        self._manager_path = str(manager.at("manager", "object_path").data or fixed)
        self._manager = self._find_manager(manager.at("manager"), common)
        objects = replace(site, object_path=self._manager_path)
        self._sites = {"object": site, "objects": objects, "manager": self._manager or objects}
        self._key = str(self.scope.data.get("key") or (shared and common.data.get("key")) or "element")
        is_property = self._key not in ("element", "path")
        self.legacy_class = LegacyClass(self.name, site.interface, key=self._key)
        if is_property and self._key not in site.interface.properties:
            if self.scope.has("key"):  # else it is reported at the other class
                text = unknown("property", self._key, site.interface.properties, owner=site.interface.name)
                self.scope.at("key").fail(text)
            return False
        if shared and not is_property:
            self._other.fail(f"'same_object_as' needs a text property as `key` of class '{self._other.data}'")
            return False
        fields = read_fields(self.scope, site.interface, self._key if is_property else "", listed_only=shared)
        uuid = fields.get("uuid")
        if shared and uuid is not None and not uuid.legacy_class:
            fields["uuid"] = replace(uuid, legacy_class=self.name)
        self.legacy_class.fields = fields
        return True

    def _object_of(self, common: Scope) -> Scope:
        """The stanza with the target of this class: the one whose objects it shares, over `dbus`."""
        classes = self._root.at("classes")
        known = [name for name in classes.data if name != self.name and "same_object_as" not in classes.data[name]]
        if self._other.data not in known:
            self._other.fail(unknown("class", self._other.data, known), level="schema")
            return common
        other = classes.at(self._other.data)
        own = {key: other.data[key] for key in (*KEYS_OF_TARGET, "manager", "key") if other.has(key)}
        return replace(other, data={**(common.data or {}), **own})

    def _find_manager(self, manager: Scope, common: Scope) -> TargetObject | None:
        """The manager with its messages; None where it has no interface of its own."""
        if not manager.has("interface"):
            return None
        data = {**{key: self.scope.data[key] for key in ("bus_name", "idl") if self.scope.has(key)}, **manager.data}
        data["object_path"] = self._manager_path
        site = find_site(replace(manager, data=data), common, self._library)
        if site is not None and placeholders(site.object_path):
            manager.fail(f"expected an object path without parameters, got '{site.object_path}'", level="schema")
            return None
        return site

    # The entries

    def entries(self) -> dict[str, Made]:
        """Message -> its method entry, without those that the file maps itself."""
        gone = set(self._root.at("removed").data or ())
        made = {message: each for message, each in self._of_fields() if f"{self.name}.{message}" not in gone}
        made.update(self._of_methods())
        messages = self.scope.at("messages")
        for message in messages.data or ():
            entry = self._overridden(messages.at(message), made.get(message))
            made.pop(message, None)
            if entry is not None:
                made[message] = entry
        by_hand = self._root.at("methods")
        for message in [message for message in made if by_hand.has(f"{self.name}.{message}")]:
            if messages.has(message):
                messages.at(message).fail(f"'{self.name}.{message}' is in `methods` too: keep one of them", key=True)
            del made[message]
        for unmapped in self.scope.at("unmapped").items():
            if unmapped.data in made:
                unmapped.fail(f"message '{unmapped.data}' has a D-Bus side: {_shown(made[unmapped.data][0])}")
        inherited = self.scope.at("defaults").has("async") or self._root.at("defaults").has("async")
        for keys, about in made.values():
            if not about.has_task_form:
                keys.setdefault("async", "reject")
            elif keys.get("effect") == "read" and not inherited:  # a message may run long although it reads
                keys.setdefault("async", "task")
        return made

    def _made(
        self,
        on: Literal["object", "manager", "objects"] = "object",  # "objects": of the manager
        *,
        returns: Returns = "all",
        field: str = "",
        has_task_form: bool = False,
        **keys: Any,
    ) -> Made:
        """A method entry with the target of the stanza."""
        target = dict(self._target)
        if on != "object":
            target["object_path"] = self._manager_path
        if on == "manager" and self._manager is not None:
            target["interface"] = self._manager.interface.name
        about = Derived(self.legacy_class, self._sites[on], returns, field, has_task_form)
        return {**target, **keys}, about

    def _params(self, *params: Any, of_object: bool = True) -> list[Any]:
        """The session and the object, then these parameters."""
        session = [self._session] if self._session else []
        shared = {"name": self._self, "format": {"class": self.name}}
        own = [shared if self._other.data is not None else self._self] if of_object else []
        return [*session, *own, *params]

    # What follows from the fields

    def _of_fields(self) -> Iterator[tuple[str, Made]]:
        yield from self._of_records()
        fields = self.legacy_class.fields.values()
        probe = next((found.known.name for found in fields if found.known), "")
        for each in fields:
            known, params = each.known, self._params()
            keys: dict[str, Any]
            if known is None:  # the call tells whether the object exists
                keys = {"property": probe} if probe else {"all_properties": True}
                made = self._made(**keys, params=params, returns="default", field=each.name)
            elif each.has_default:
                result = {"record": self.name}
                made = self._made(all_properties=True, params=params, result=result, returns="member", field=each.name)
            else:
                keys = {"result": each.form} if each.form else {}
                made = self._made(property=known.name, params=params, **keys)
            yield f"get_{each.name}", made
            if known is not None and "write" in known.access:
                form = {} if each.format == "text" else each.form
                params = self._params({"name": "value", **form} if form else "value")
                yield f"set_{each.name}", self._made(set_property=known.name, params=params)

    def _of_records(self) -> Iterator[tuple[str, Made]]:
        if not self.legacy_class.fields:
            return
        record = {"record": self.name}
        yield "get_record", self._made(all_properties=True, params=self._params(), result=record)
        key = {"key": self._key, **({"class": self.name} if self._other.data is not None else {})}
        kinds: tuple[
            tuple[str, Returns, str, str], ...
        ] = (  # message, what it returns, its parameter, needs this field
            ("get_all", "keys", "", ""),
            ("get_all_records", "all", "", ""),
            ("get_all_records_where", "where", "expr", ""),
            ("get_by_uuid", "by_uuid", "uuid", "uuid"),
            ("get_by_name_label", "by_name_label", "label", "name_label"),
        )
        for message, returns, name, needed in kinds:
            if not needed or needed in self.legacy_class.fields:
                params = self._params(*([{"name": name, "drop": True}] if name else []), of_object=False)
                yield message, self._made("objects", managed_objects=key, params=params, result=record, returns=returns)

    # What follows from the methods of the interfaces

    def _of_methods(self) -> dict[str, Made]:
        if self._other.data is not None:  # the methods are messages of the other class
            return {}
        messages = self.scope.at("messages").data or {}
        members = {entry["member"] for entry in messages.values() if "member" in entry and "interface" not in entry}
        renamed = {member for member in members if legacy_name(member) not in messages}
        ignored = {*(self.scope.at("ignore").data or ()), *renamed}
        made: dict[str, Made] = {}
        sites: dict[Where, TargetObject | None] = {"object": self._site, "manager": self._manager}
        for on, site in sites.items():
            for method in site.interface.methods.values() if site is not None else ():
                if method.name in ignored:
                    continue
                name = legacy_name(method.name)
                found = self._message(name, method, on)
                if name in made:
                    both = " and ".join(_shown(each[0]) for each in (made[name], found))
                    self.scope.fail(f"message '{name}' is {both}: list one of them in `ignore`", key=True)
                made[name] = found
        return made

    def _message(self, name: str, method: IdlMethod, on: Where) -> Made:
        """A method; its effect follows from its name."""
        forms = [(argument.name, form_of(argument.legacy_type)) for argument in method.ins]
        arguments = [{"name": argument, **form} if form else argument for argument, form in forms]
        keys: dict[str, Any] = {"member": method.name, "params": self._params(*arguments, of_object=on == "object")}
        outs = [(out.name, form_of(out.legacy_type)) for out in method.outs]
        if any(form for _, form in outs):
            whole = len(outs) == 1
            keys["result"] = outs[0][1] if whole else {out: {"from": out, **form} for out, form in outs}
        changed = self._changed_type(name)
        is_set = changed is not None and not changed.is_dict
        idempotent = is_set or name.startswith(("set_", "remove_from_"))
        keys["effect"] = "read" if name.startswith("get_") else "idempotent" if idempotent else "write"
        return self._made(on, has_task_form=name not in LOOK_UPS and changed is None, **keys)

    def _changed_type(self, name: str) -> Type | None:
        """The type of the array or dictionary to which a message adds an item, or from which it removes one."""
        for prefix in ("add_to_", "remove_from_", "add_", "remove_"):
            found = self.legacy_class.fields.get(name.removeprefix(prefix)) if name.startswith(prefix) else None
            if found is not None and found.known is not None and found.known.type.code == "a":
                return found.known.type
        return None

    # What the stanza says

    def _overridden(self, message: Scope, made: Made | None) -> Made | None:
        """The entry with the keys of `messages`; None, with the problem reported, when it has no D-Bus side."""
        own = {key: value for key, value in message.data.items() if key != "optional"}
        if KINDS.keys() & own.keys():
            made = self._elsewhere(message, own)
        elif made is None and not any(key in own for key in KEYS_OF_TARGET):
            name = str(message.path[-1])
            members = [*self._site.interface.methods, *(self._manager.interface.methods if self._manager else ())]
            text = f"message '{name}' has no D-Bus side: there is no method '{member_name(name)}'"
            hint = did_you_mean(member_name(name), members)
            message.fail(f"{text}{hint}; name another one with `member`, or list it in `unmapped`", key=True)
        if made is None:
            return None
        entry, about = made
        entry = {**entry, **own}
        if message.has("optional"):  # xapi counts the parameters only where each is required
            entry = {"surplus": "ignore", **entry, "params": self._optional(message, entry)}
        if own.keys() & {"bus_name", "object_path", "interface", "idl"}:
            about = replace(about, site=None)
        has_task_form = own["async"] != "reject" if "async" in own else about.has_task_form
        return entry, replace(about, has_task_form=has_task_form, plain=False)

    def _elsewhere(self, message: Scope, own: Mapping[str, Any]) -> Made | None:
        """The entry of a message with a target of its own."""
        name = str(message.path[-1])
        if "member" not in own:
            entry, about = self._made(params=self._params())
            return entry, replace(about, site=None)
        if "interface" in own or "object_path" in own:
            target = replace(message, data={**self._target, **own})
            site = find_site(target, self._root.at("dbus"), self._library)
        else:
            managed = self._manager is not None and own["member"] in self._manager.interface.methods
            site = self._manager if managed and own["member"] not in self._site.interface.methods else self._site
        if site is None:
            return None
        method = site.interface.methods.get(own["member"])
        if method is None:
            text = unknown("method", own["member"], site.interface.methods, owner=site.interface.name)
            message.at("member").fail(text)
            return None
        given = own.get("args", {})
        rest = replace(method, ins=[argument for argument in method.ins if argument.name not in given])
        on: Where = "object" if placeholders(site.object_path) else "manager"
        entry, about = self._message(name, rest, on)
        return {**entry, "object_path": site.object_path, "interface": site.interface.name}, about

    def _optional(self, message: Scope, entry: Mapping[str, Any]) -> list[Any]:
        """The parameters, with the defaults of `optional`."""
        optional = message.at("optional")
        if message.has("params"):
            optional.fail("'optional' cannot be combined with 'params': give the default there", key=True)
            return list(entry["params"])
        params = [item if isinstance(item, Mapping) else {"name": item} for item in entry["params"]]
        names = [item["name"] for item in params]
        for name in optional.data:
            if name not in names:
                optional.at(name).fail(unknown("argument", name, names), key=True)
        return [
            {**item, "default": optional.data[item["name"]]} if item["name"] in optional.data else item
            for item in params
        ]


LOOK_UPS = ("get_all", "get_by_uuid", "get_by_name_label")  # methods of a manager that are no messages of their own


def _shown(entry: Mapping[str, Any]) -> str:
    kind = next(key for key in KINDS if key in entry)
    return f"{kind} {entry[kind]}" if isinstance(entry[kind], str) else kind


# For the event hub: where the objects of the classes are on D-Bus, and the same records as those of `get_record`

RECORD, RECORDS = "get_record", "get_all_records"


def object_classes(expansion: Expansion, routes: Mapping[str, Route]) -> Iterator[ObjectClass]:
    """Each class whose records follow from its fields. `routes`: the methods of the file that have no problem."""
    root = expansion.root
    for name, legacy_class in expansion.classes.items():
        methods = f"{name}.{RECORD}", f"{name}.{RECORDS}"
        one, every = (routes.get(method) for method in methods)
        if one is None or every is None or any(method not in expansion.derived for method in methods):
            continue  # they are mapped by hand, so that nothing is known about the form of the records
        stanza = root.at("classes", name)
        keys = {**(root.at("defaults").data or {}), **(stanza.at("defaults").data or {})}
        variants = Directions.of(keys.get("variants", "plain")).received
        escape, shared = keys.get("escape", "systemd"), name if stanza.has("same_object_as") else ""
        properties, key = legacy_class.interface.properties, legacy_class.key
        before, _, rest = one.bus_target.object_path.partition("{")
        yield ObjectClass(
            service=str(root.data["service"]),
            name=name,
            bus_name=one.bus_target.bus_name,
            manager=every.bus_target.object_path,
            before=before,
            after=rest.partition("}")[2],
            interface=legacy_class.interface.name,
            key=record_key(key if key in ("element", "path") else properties[key], escape, "plain", shared),
            record=legacy_class.record(variants),
            routes=(one, every),
            fingerprint=f"{one.fingerprint} {every.fingerprint}",
        )
