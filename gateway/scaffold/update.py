"""Updates a mapping file after its IDL has changed, and keeps what a person wrote: names, values, comments, order.

The file is edited as text. An entry is recognized by what it maps, not by its name. Members that are new in the IDL
get an entry after those of their interface. An entry whose member is gone becomes a comment. Where the arguments of a
method have changed, its parameters follow, so that old clients can call it as before where that is possible. A member
that was in the IDL before and has no entry was left out by a person, and stays so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct
from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from gateway.core.dbus.introspection_xml import Argument, Interface
from gateway.core.dbus.names import printable
from gateway.mapping.rewrite import (
    RewriteError,
    TextEdit,
    add_keys,
    apply_edits,
    end_of,
    entries_of,
    is_flow,
    line_end,
    shared_nodes,
)
from gateway.mapping.targets import KINDS, OBJECT_MANAGER, STANDARD
from gateway.scaffold.mapping import Entry, Section, own_name, quoted

GONE = "gone from the IDL:"  # begins the comment before an entry whose member the IDL no longer has
_SIMPLE = frozenset({"name", "default", "documentation", "object"})  # keys of a parameter that can follow an argument

Triple = tuple[str, str, str]  # interface, kind, member


def members_of(interfaces: Mapping[str, Interface]) -> set[Triple]:
    """What an entry can map."""
    found: set[Triple] = set()
    for name, interface in interfaces.items():
        found |= {(name, "member", each) for each in interface.methods}
        readable = [each.name for each in interface.properties.values() if each.access != "write"]
        found |= {(name, "property", each) for each in readable}
        found |= {(name, "set_property", each.name) for each in interface.properties.values() if each.access != "read"}
        if readable:
            found |= {(name, "all_properties", ""), (name, "managed_objects", "")}
    return found


class _Existing(Struct):
    """An entry of the file."""

    name: str
    key: Node
    node: Node
    triple: Triple
    ours: bool  # it uses the IDL file that has changed

    @property
    def title(self) -> str:
        """What it maps, for a person."""
        interface, _, member = self.triple
        return f"{interface}.{member}" if member else interface


class Update:
    """The update of the text of a mapping file; raises RewriteError where it cannot be edited.

    `idl`: the IDL file, whose interfaces were `before` and are `after`.
    """

    def __init__(self, text: str, idl: str, before: Mapping[str, Interface], after: Mapping[str, Interface]) -> None:
        self._text = text
        self._idl = idl
        self._before = before
        self._after = after
        root = YAML(typ="safe", pure=True).compose(text)
        keys = entries_of(root)
        if "methods" not in keys or not isinstance(keys["methods"], MappingNode):
            raise RewriteError("expected a mapping file with `methods`")
        self._methods = keys["methods"]
        self._dbus = {key: _scalar(node) for key, node in entries_of(keys.get("dbus", root)).items()}
        self._shared = shared_nodes(root)
        self._of_classes: set[str] = set()  # interfaces whose methods follow from the IDL without entries
        for stanza in entries_of(keys["classes"]).values() if "classes" in keys else ():
            bound = entries_of(stanza)
            manager = entries_of(bound["manager"]) if "manager" in bound else {}
            self._of_classes |= {_scalar(each["interface"]) for each in (bound, manager) if "interface" in each}
            if "interface" not in bound:
                self._of_classes.add(self._dbus.get("interface", ""))
        self._existing = [self._read(key, node) for key, node in self._methods.value]
        self._indent = " " * (self._existing[0].key.start_mark.column if self._existing else 2)
        self._edits: list[TextEdit] = []
        self._inserted: dict[int, list[str]] = {}  # index -> lines that are inserted there
        self.notes: list[str] = []  # what was done, and what a person must do

    def run(self, made: Sequence[Section]) -> str:
        """The new text. `made`: the sections of a new file."""
        known, left = {*self._before, *self._after}, members_of(self._after)
        for each in self._existing:
            if each.ours and each.triple[0] in known and each.triple not in left:
                self._comment_out(each)
        for each in self._existing:
            if each.ours and each.triple in left and each.triple[1] == "member":
                self._follow_arguments(each)
        self._add(made)
        newline = line_end(self._text)
        for index, lines in self._inserted.items():
            start = "" if index == 0 or self._text[index - 1] == "\n" else newline
            self._edits.append(TextEdit(index, index, start + "".join(line + newline for line in lines)))
        return apply_edits(self._text, self._edits)

    def _read(self, key: Node, node: Node) -> _Existing:
        keys = {name: _scalar(value) for name, value in entries_of(node).items()}
        kind = next((kind for kind in KINDS if kind in keys), "")
        interface = keys.get("interface", self._dbus.get("interface", ""))
        member = keys[kind] if kind in ("member", "property", "set_property") else ""
        ours = keys.get("idl", self._dbus.get("idl", "")) == self._idl and interface not in STANDARD
        return _Existing(str(key.value), key, node, (interface, kind, member), ours)

    def _comment_out(self, each: _Existing) -> None:
        start = self._text.rfind("\n", 0, each.key.start_mark.index) + 1
        end = self._line_after(each)
        alone = self._text[start : each.key.start_mark.index].strip() == "" and not is_flow(self._methods)
        if not alone or id(each.node) in self._shared:
            self.notes.append(f"by hand: {each.name}: {each.title} is gone from the IDL")
            return
        indent = " " * each.key.start_mark.column
        lines = self._text[start:end].splitlines(keepends=True)
        head = f"{indent}# {GONE} {each.title}{line_end(self._text)}"
        commented = "".join(f"{indent}# {line.removeprefix(indent)}" if line.strip() else line for line in lines)
        self._edits.append(TextEdit(start, end, head + commented))
        self.notes.append(f"{each.name} is a comment now: {each.title} is gone from the IDL")

    def _line_after(self, each: _Existing) -> int:
        """The index of the line after an entry."""
        at = self._text.find("\n", end_of(self._text, each.node, each.key.end_mark.index))
        return len(self._text) if at < 0 else at + 1

    def _insert_after_last(self, existing: Sequence[_Existing], lines: Iterable[str]) -> None:
        last = max(existing, key=lambda each: each.key.start_mark.index)
        self._inserted.setdefault(self._line_after(last), []).extend(lines)

    def _add(self, made: Sequence[Section]) -> None:
        """Add entries of what is new: after those of its interface, or as a section at the end."""
        known = members_of(self._before) | {each.triple for each in self._existing}
        names = {each.name for each in self._existing}
        at_end: list[str] = []
        for section in made:
            new = [entry for entry in section.entries if entry.identity[:3] not in known]
            is_told = section.interface in self._of_classes or (self._before and section.interface == OBJECT_MANAGER)
            if not new or is_told:
                continue
            entries = [self._fitted(entry, own_name(entry.name, names)) for entry in new]
            lines = [line for entry in entries for line in entry.lines(self._indent)]
            self.notes.append(f"new: {', '.join(entry.name for entry in entries)}")
            if of_interface := [each for each in self._existing if each.triple[0] == section.interface]:
                self._insert_after_last(of_interface, lines)
            else:
                heading = [f"{self._indent}# {printable(each)}" for each in (section.interface, *section.comments)]
                at_end += ["", *heading, *lines]
        if at_end and self._existing:
            if is_flow(self._methods):
                raise RewriteError("`methods` is written in braces: write one entry a line to have it updated")
            self._insert_after_last(self._existing, at_end)
        elif at_end:
            newline = line_end(self._text)
            start, end = len(self._text[: self._methods.start_mark.index].rstrip(" ")), self._methods.end_mark.index
            self._edits.append(TextEdit(start, end, newline.join(["", *at_end])))

    def _fitted(self, entry: Entry, name: str) -> Entry:
        """A new entry for this file: with a name of its own, without what `dbus` gives it."""
        own_idl = () if self._dbus.get("idl") == self._idl else (("idl", quoted(self._idl)),)
        fitted = Entry(name, entry.identity, (*entry.keys, *own_idl), entry.decide)
        return fitted.within({key: value for key, value in self._dbus.items() if key != "idl"})

    def _follow_arguments(self, each: _Existing) -> None:
        interface, _, member = each.triple
        new = self._after[interface].methods[member]
        old = self._before[interface].methods.get(member) if interface in self._before else None
        if old is None or [*map(str, old.ins)] == [*map(str, new.ins)]:
            return
        changes = _Changes(old.ins, new.ins)
        if id(each.node) in self._shared:
            self.notes.append(f"by hand: {each.name}, whose entry is shared by a YAML anchor: {changes}")
            return
        try:
            self._edits += _Parameters(self._text, each.name, each.node).edits(changes)
        except RewriteError as error:
            self.notes.append(f"by hand: {each.name}: {changes}; {error}")
        else:
            self.notes.append(f"{each.name}: {changes}")


def _scalar(node: Node) -> str:
    return str(node.value) if isinstance(node, ScalarNode) else ""


class _Changes:
    """How the in-arguments of a method have changed, by name; as text, for a person.

    An argument of another name counts as renamed where all types are as before.
    """

    def __init__(self, old: Sequence[Argument], new: Sequence[Argument]) -> None:
        same_types = [str(each.type) for each in old] == [str(each.type) for each in new]
        were, are = {each.name: str(each.type) for each in old}, {each.name: str(each.type) for each in new}
        pairs = [(a.name, b.name) for a, b in zip(old, new, strict=True)] if same_types else []
        self.renamed = {a: b for a, b in pairs if a != b and b not in were and a not in are}
        self.removed = [name for name in were if name not in are and name not in self.renamed]
        self.added = [name for name in are if name not in were and name not in self.renamed.values()]
        self.retyped = [name for name in were if name in are and were[name] != are[name]]

    def __str__(self) -> str:
        required = "is new, and required of clients unless you give it a default"
        parts = [
            *(f"argument {a} is called {b}" for a, b in self.renamed.items()),
            *(f"argument {name} is gone" for name in self.removed),
            *(f"argument {name} {required}" for name in self.added),
            *(f"argument {name} has another type" for name in self.retyped),
        ]
        return "; ".join(parts) or "the order of the arguments has changed"


class _Parameters:
    """Edits `params` of an entry. A parameter whose argument is gone is accepted and dropped: old clients send it."""

    def __init__(self, text: str, name: str, entry: Node) -> None:
        self._text = text
        self._name = name
        self._entry = entry
        self._params = entries_of(entry).get("params")
        self._items = list(self._params.value) if isinstance(self._params, SequenceNode) else []

    def edits(self, changes: _Changes) -> list[TextEdit]:
        """The edits; raises RewriteError with the reason why there are none."""
        found = [self._edit(name, "to", quoted(other)) for name, other in changes.renamed.items()]
        found += [self._edit(name, "drop", "true") for name in changes.removed]
        return found + ([self._addition([quoted(name) for name in changes.added])] if changes.added else [])

    def _edit(self, argument: str, key: str, value: str) -> TextEdit:
        """Add a key to the parameter that supplies an argument."""
        for item in self._items:
            keys = {name: _scalar(node) for name, node in entries_of(item).items()}
            if isinstance(item, ScalarNode) and str(item.value) == argument:
                text = f"{{name: {quoted(argument)}, {key}: {value}}}"
                return TextEdit(item.start_mark.index, end_of(self._text, item), text)
            if keys.get("to", keys.get("name")) == argument and keys.keys() <= _SIMPLE and is_flow(item):
                return add_keys(self._text, self._name, item, {key: value})
        raise RewriteError(f"no plain parameter supplies {argument}")

    def _addition(self, names: Sequence[str]) -> TextEdit:
        """Add parameters after the required ones."""
        if self._params is None:
            return add_keys(self._text, self._name, self._entry, {"params": f"[{', '.join(names)}]"})
        required = [item for item in self._items if "default" not in entries_of(item)]
        if is_flow(self._params):
            if required:
                end = end_of(self._text, required[-1])
                return TextEdit(end, end, "".join(f", {name}" for name in names))
            start = self._params.start_mark.index + 1
            return TextEdit(start, start, ", ".join(names) + (", " if self._items else ""))
        if not required:
            raise RewriteError("every parameter has a default")
        at = self._text.find("\n", end_of(self._text, required[-1]))
        if at < 0:
            raise RewriteError("the last line has no end")
        indent, newline = " " * self._params.start_mark.column, line_end(self._text)
        return TextEdit(at + 1, at + 1, "".join(f"{indent}- {name}{newline}" for name in names))
