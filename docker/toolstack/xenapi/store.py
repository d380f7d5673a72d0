"""The objects of the pool, by reference. A change keeps both sides of its relations, and is told to who listens.

A field holds what XenAPI has in it; references are text. `Row.one` and `Row.many` follow them.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from service import Error

from xenapi import schema
from xenapi.relations import OPERATIONS, OWNED, RELATIONS, SNAPSHOT, SUMS, TEMPLATE
from xenapi.schema import NULL_REF, Class, Field

Side = tuple[str, str]  # class and field
OTHER: Mapping[Side, Side] = {
    tuple(side.split(".")): tuple(other.split("."))
    for relation in RELATIONS
    for side, other in (relation, relation[::-1])
}


class Row:
    """One object."""

    def __init__(self, store: Store, cls: Class, ref: str, values: dict[str, Any]) -> None:
        self.store = store
        self.cls = cls
        self.ref = ref
        self.values = values

    def __getitem__(self, field: str) -> Any:
        return self.values[field]

    def one(self, field: str) -> Row | None:
        """The object that a reference points to; None for none."""
        return self.store.rows.get(self.values[field])

    def many(self, field: str) -> list[Row]:
        """The objects that a set of references points to."""
        return [self.store.rows[ref] for ref in self.values[field] if ref in self.store.rows]

    def put(self, **changes: Any) -> None:
        """Change fields."""
        self.store.put(self, changes)


class Listener:
    """Is told what changes; this one does not care."""

    def added(self, row: Row) -> None:
        """An object was made."""

    def changed(self, row: Row, fields: list[str]) -> None:
        """Fields of an object changed."""

    def removed(self, row: Row) -> None:
        """An object was destroyed."""


class Store:
    """All objects."""

    def __init__(self) -> None:
        self.classes = schema.classes()
        self.rows: dict[str, Row] = {}
        self.listener = Listener()
        self._changed: dict[str, dict[str, None]] | None = None  # ref -> fields, while changes are collected

    def all(self, cls: str) -> list[Row]:
        """Every object of a class, in the order in which they were made."""
        return [row for row in self.rows.values() if row.cls.name == cls]

    def find(self, cls: str, ref: str) -> Row:
        """The object of this class with this reference; raises HandleInvalid."""
        row = self.rows.get(ref)
        if row is None or row.cls.name != cls:
            raise Error("HandleInvalid", "ss", cls, ref)
        return row

    def by_uuid(self, cls: str, wanted: str) -> Row:
        """The object of this class with this UUID; raises UuidInvalid."""
        for row in self.all(cls):
            if row["uuid"] == wanted:
                return row
        raise Error("UuidInvalid", "ss", cls, wanted)

    def named(self, cls: str, label: str) -> list[Row]:
        """The objects of this class with exactly this name."""
        return [row for row in self.all(cls) if row["name_label"] == label]

    def create(self, cls: str, /, **values: Any) -> Row:
        """Make an object; fields without a value have their default."""
        own = self.classes[cls]
        unique = values.pop("uuid", "") or str(uuid.uuid4())
        filled = {name: deepcopy(field.default) for name, field in own.fields.items()}
        row = Row(self, own, f"OpaqueRef:{unique}", {**filled, "uuid": unique})
        with self._collecting() as changed:
            self.rows[row.ref] = row
            try:
                self.put(row, values)
            except Exception:
                self._unrelate(row)
                del self.rows[row.ref]
                raise
            changed.pop(row.ref, None)
            self.listener.added(row)
        return row

    def put(self, row: Row, changes: Mapping[str, Any]) -> None:
        """Change fields, and those that follow from them: the other end of a relation, sums, allowed operations."""
        with self._collecting():
            for name, value in changes.items():
                self._put(row, row.cls.fields[name], value)
            self._allow(row)

    def destroy(self, row: Row) -> None:
        """Remove an object, what it owns, and all that points to it."""
        for name in OWNED.get(row.cls.name, ()):
            held = row.many(name) if isinstance(row[name], list) else [row.one(name)]
            for each in held:
                if each is not None and each.ref in self.rows:
                    self.destroy(each)
        with self._collecting():
            self._unrelate(row)
            del self.rows[row.ref]
            for other in list(self.rows.values()):
                self._forget(other, row.ref)
        self.listener.removed(row)

    def check(self, field: Field, value: Any) -> None:
        """Raise an error for a value that a client may not write: no tag of the enum, a reference to no object."""
        if field.tags and value not in field.tags:
            raise Error("InvalidValue", "ss", field.name, str(value))
        if field.type.target:
            for ref in value if isinstance(value, list) else [value]:
                if ref not in ("", NULL_REF):
                    self.find(field.type.target, ref)

    def _put(self, row: Row, field: Field, value: Any) -> None:
        before = row.values[field.name]
        if field.type.kind == "ref":
            value = value or NULL_REF
        if before == value:
            return
        row.values[field.name] = value
        self._changed[row.ref][field.name] = None
        other = OTHER.get((row.cls.name, field.name))
        if other is None:
            return
        old, new = _refs(before), _refs(value)
        for ref in old:
            if ref not in new and ref in self.rows:
                self._unlink(self.rows[ref], other[1], row.ref)
        for ref in new:
            if ref not in old:
                self._link(self.find(other[0], ref), other[1], row.ref)

    def _link(self, row: Row, name: str, ref: str) -> None:
        held = row[name]
        value = ref if not isinstance(held, list) else held if ref in held else [*held, ref]
        self._put(row, row.cls.fields[name], value)

    def _unlink(self, row: Row, name: str, ref: str) -> None:
        held = row[name]
        value = [each for each in held if each != ref] if isinstance(held, list) else NULL_REF if held == ref else held
        self._put(row, row.cls.fields[name], value)

    def _allow(self, row: Row) -> None:
        field, states = OPERATIONS.get(row.cls.name, ("", {}))
        if not states:
            return
        allowed = list(states[row[field]])
        if row.cls.name == "VM" and row["is_a_template"]:
            allowed = list(SNAPSHOT if row["is_a_snapshot"] else TEMPLATE)
        elif row.cls.name == "VM" and row["is_control_domain"]:
            allowed = []
        if row.values["allowed_operations"] != allowed:
            row.values["allowed_operations"] = allowed
            if self._changed is not None:
                self._changed[row.ref]["allowed_operations"] = None

    def _unrelate(self, row: Row) -> None:
        related = [name for name in row.cls.fields if (row.cls.name, name) in OTHER]
        self.put(row, {name: [] if isinstance(row[name], list) else NULL_REF for name in related})

    @contextmanager
    def _collecting(self) -> Iterator[dict[str, dict[str, None]]]:
        """Collect changes (reference -> fields), and tell the listener of each object once, at the end."""
        if self._changed is not None:
            yield self._changed
            return
        self._changed = defaultdict(dict)
        try:
            yield self._changed
        finally:
            self._add_up()
            changed, self._changed = self._changed, None
            for ref, fields in changed.items():
                if ref in self.rows:
                    self.listener.changed(self.rows[ref], list(fields))

    def _add_up(self) -> None:
        """Make the sums follow what changed."""
        changed = [(self.rows[ref], dict(fields)) for ref, fields in self._changed.items() if ref in self.rows]
        for cls, name, relation, part in SUMS:
            other, back = OTHER[cls, relation]
            owners = [row for row, fields in changed if row.cls.name == cls and relation in fields]
            owners += [row.one(back) for row, fields in changed if row.cls.name == other and part in fields]
            for owner in filter(None, owners):
                self._put(owner, owner.cls.fields[name], sum(each[part] for each in owner.many(relation)))

    def _forget(self, row: Row, ref: str) -> None:
        """Clear references to an object that has gone, where no relation did."""
        changes: dict[str, Any] = {}
        for name, field in row.cls.fields.items():
            value = row.values[name]
            if field.type.kind == "ref" and value == ref:
                changes[name] = NULL_REF
            elif isinstance(value, list) and ref in value:
                changes[name] = [each for each in value if each != ref]
            elif isinstance(value, dict) and (ref in value or ref in value.values()):
                changes[name] = {key: each for key, each in value.items() if ref not in (key, each)}
        if changes:
            self.put(row, changes)


def _refs(value: Any) -> list[str]:
    """The references in a field."""
    return [ref for ref in (value if isinstance(value, list) else [value]) if ref != NULL_REF]
