"""Scaffolds of hostile sources: whatever names and texts they have, what is written passes `check`."""

from __future__ import annotations

import json
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.comparison.serialization import write
from gateway.core.dbus.introspection_xml import IdlError, parse
from gateway.mapping.load import MappingDocument
from gateway.mapping.load import parse as parse_yaml
from gateway.scaffold import SourceError, openrpc, recording
from gateway.scaffold.description import Description
from gateway.scaffold.files import Plan, new_files, problems, updated_files
from gateway.scaffold.legacy import LegacyMethod, describe
from gateway.scaffold.mapping import Settings

SETTINGS = Settings("shop", "idl/shop.xml", "xcp-gateway scaffold", upstream="old")
NAMES = st.text(max_size=12) | st.sampled_from(
    ["a.b", "on", "true", "~", "x: {y: z}", "a\n  b: c", "#", "'", '"', "--", "{}"]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | NAMES
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=8
)
KINDS = st.sampled_from(["string", "integer", "number", "boolean", "array", "object", "null", "other"])
SCHEMAS: st.SearchStrategy[Any] = st.recursive(
    JSON | st.fixed_dictionaries({"type": KINDS | JSON}),
    lambda inner: st.fixed_dictionaries(
        {"type": KINDS},
        optional={
            "items": inner | st.lists(inner, max_size=3),
            "properties": st.dictionaries(NAMES, inner, max_size=2),
            "additionalProperties": inner,
            "default": JSON,
            "minimum": JSON,
            "maximum": JSON,
            "enum": JSON,
            "format": JSON,
        },
    ),
    max_leaves=6,
)
PARAMS = st.fixed_dictionaries({"name": NAMES}, optional={"schema": SCHEMAS, "required": JSON, "summary": JSON})
METHODS = st.fixed_dictionaries(
    {"name": NAMES}, optional={"params": st.lists(PARAMS, max_size=3), "result": PARAMS | JSON, "summary": JSON}
)


def is_good(plan: Plan) -> None:
    """Both files can be used, and no text has become a key of the mapping."""
    idl, mapping = plan.files
    assert problems(mapping, plan.files[mapping], idl, plan.files[idl]) == [], plan.files
    document, _ = parse_yaml(mapping, plan.files[mapping].encode())
    assert isinstance(document, MappingDocument)
    assert isinstance(document.data, dict)
    assert document.data.keys() <= {"mapping", "service", "dbus", "expose", "legacy", "defaults", "methods"}


def are_good(methods: list[LegacyMethod]) -> None:
    service = describe("org.example.Shop", "shop", methods)
    if service.interfaces:
        with suppress(SourceError):
            is_good(new_files(service, SETTINGS, Path("/nowhere")))


@settings(deadline=None, max_examples=25)
@given(st.lists(METHODS, min_size=1, max_size=3))
def test_any_openrpc_document(methods: list[Any]) -> None:
    with suppress(SourceError):
        are_good(openrpc.read(json.dumps({"methods": methods}).encode()))


@settings(deadline=None, max_examples=20)
@given(
    st.lists(
        st.tuples(NAMES, st.lists(JSON, max_size=3), st.dictionaries(NAMES, JSON, max_size=2), JSON),
        min_size=1,
        max_size=4,
    )
)
def test_any_recording(calls: list[tuple[str, list[Any], dict[str, Any], Any]]) -> None:
    where = dict.fromkeys(("listener", "path", "codec", "service", "effect"), "x")
    lines = []
    for method, params, named, reply in calls:
        values = {"params": write(params), "named": write(named), "reply": write(reply)}
        lines.append(json.dumps({**where, "method": method, **values}).encode())
    with suppress(SourceError):
        are_good(recording.read(lines).methods)


ATTRIBUTE = st.text(
    alphabet=st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=10
) | st.sampled_from(["a", "b", "\n  x: 1", "on", "Rx Mode"])
TYPES = st.sampled_from(["s", "a{sv}", "(su)", "h", "o", "ao", "v", "a{vs}", "", "t", "ay"])


def element(tag: str, attributes: dict[str, str], inside: str = "") -> str:
    listed = "".join(f" {name}={quoteattr(value)}" for name, value in attributes.items())
    return f"<{tag}{listed}>{inside}</{tag}>"


ARGUMENTS = st.builds(
    lambda name, kind, way: element("arg", {"name": name, "type": kind, "direction": way}),
    ATTRIBUTE,
    TYPES,
    st.sampled_from(["in", "out"]),
)
MEMBERS = st.builds(
    lambda name, inside: element("method", {"name": name}, "".join(inside)),
    st.sampled_from(["Get", "Set", "Add", "GetAll"]),
    st.lists(ARGUMENTS, max_size=3),
) | st.builds(
    lambda name, kind, access: element("property", {"name": name, "type": kind, "access": access}),
    ATTRIBUTE,
    TYPES,
    st.sampled_from(["read", "write", "readwrite"]),
)
OBJECTS = st.sampled_from(["/", "/org/example/Shop", "/org/example/Shop/book/1", "/org/example/Shop/book/2", "/x/y"])


@settings(deadline=None, max_examples=25)
@given(
    st.lists(
        st.tuples(OBJECTS, st.sampled_from(["Book1", "Shop1"]), st.lists(MEMBERS, max_size=4)), min_size=1, max_size=4
    ),
    st.booleans(),
)
def test_any_introspection_data(pieces: list[tuple[str, str, list[str]]], by_name: bool) -> None:
    """And an update with the same data changes nothing."""
    service = Description("org.example.Shop")
    for path, interface, members in pieces:
        try:
            node = parse(f'<node><interface name="org.example.{interface}">{"".join(members)}</interface></node>')
        except IdlError:
            continue
        service.add(path, node)
        service.add_values(path, f"org.example.{interface}", {"Name": ("s", path.rpartition("/")[2] or "root")})
    if not service.interfaces:
        return
    own = Settings("shop", "idl/shop.xml", "xcp-gateway scaffold", by_name=by_name)
    with tempfile.TemporaryDirectory() as folder:
        plan = new_files(service, own, Path(folder))
        is_good(plan)
        for file, text in plan.files.items():
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(text.encode())
        again = updated_files(service, own, Path(folder), complete=True)
        assert again.changed == {}, (again.notes, [*again.diff()])
