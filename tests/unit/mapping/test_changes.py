"""Seeded changes between two revisions of a mapping: each is found, and nothing else is."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from gateway.check import compiled
from gateway.mapping.changes.compare import compare
from gateway.mapping.changes.rules import RULES, FoundChange, Ignored, Level, without_ignored
from gateway.mapping.changes.surface import Surface, surface

IDL = """<node>
<interface name="org.example.Shop1">
  <method name="Add">
    <arg name="title" type="s" direction="in"/><arg name="pages" type="u" direction="in"/>
    <arg name="book" type="s" direction="out"/>
  </method>
  <method name="Find"><arg name="title" type="s" direction="in"/><arg name="strict" type="b" direction="in"/>
    <arg name="book" type="o" direction="out"/><arg name="price" type="t" direction="out"/></method>
  <method name="Sell"><arg name="info" type="(su)" direction="in"/><arg name="to" type="s" direction="in"/></method>
  <method name="Order"><arg name="title" type="s" direction="in"/><arg name="number" type="u" direction="in"/></method>
  <method name="Set"><arg name="options" type="a{sv}" direction="in"/></method>
  <method name="Get"><arg name="options" type="a{sv}" direction="out"/></method>
  <method name="Count"><arg name="count" type="t" direction="out"/></method>
  <method name="Move"><arg name="book" type="s" direction="in"/></method>
  <method name="Conf"><arg name="conf" type="a{sv}" direction="in"/></method>
  <property name="Owner" type="s" access="readwrite"/>
  <property name="Size" type="t" access="read"/>
</interface>
<interface name="org.example.Shop2">
  <method name="Count"><arg name="count" type="t" direction="out"/></method>
</interface>
<interface name="org.example.Session1">
  <method name="Check"><arg name="session" type="s" direction="in"/></method>
</interface>
</node>
"""

BASE = """\
mapping: 1
service: shop
dbus: {bus_name: org.example.Shop, object_path: /shop, interface: org.example.Shop1, idl: shop.xml}
session: {parameter: session, member: Check, interface: org.example.Session1}
expose:
  - {listener: rpc, path: /RPC2, codec: xmlrpc, dialect: xenapi}
  - {listener: rpc, path: /json, codec: jsonrpc}
  - {listener: old, path: /old, codec: xmlrpc, methods: [Shop.count, Shop.order]}
legacy: {upstream: old}
defaults: {coerce: legacy, timeout: 30s, mode: legacy}
errors:
  org.example.Error.NoBook: {code: HANDLE_INVALID, args: [book, "{0}"], message: "no such book"}
types:
  conf: {record: {name: string, size: {type: int, default: 0}}}
methods:
  Shop.add: {member: Add, params: [session, title, {name: pages, default: 0}], aliases: [Shop.create]}
  Shop.find: {member: Find, params: [title], args: {strict: true}, effect: read, result: {ref: book, cost: price}}
  Shop.sell: {member: Sell, params: [{name: info, struct: [title, pages]}, to], surplus: ignore}
  Shop.order:
    member: Order
    params: [{name: order, fields: {title: title, number: {to: number, default: 1}}}]
  Shop.set: {member: Set, params: [options], variants: typed}
  Shop.get: {member: Get, effect: read, variants: typed}
  Shop.count: {member: Count, effect: read, compare: [{path: $, tolerance: 1}]}
  Shop.move: {member: Move, params: [book], key: book, effect: idempotent}
  Shop.conf: {member: Conf, params: [{name: conf, type: conf}]}
  Shop.record: {all_properties: true, params: [session]}
  Shop.owner: {property: Owner, params: [{name: shop, object: /shops}]}
  Shop.set_owner: {set_property: Owner, params: [{name: shop, object: /shops}, {name: owner, to: value}]}
  Shop.size: {property: Size, object_path: "/shop/{id}", params: [id], redact: ["$.result"]}
"""
SIZE = BASE[BASE.index("  Shop.size:") :]
COUNT = "{member: Count, eff"


@cache
def revision(mapping: str, idl: str = IDL) -> Surface:
    path = Path("/nowhere/shop.yaml")
    table, problems = compiled(path, mapping.encode(), {path.with_name("shop.xml"): idl.encode()})
    assert problems == []
    return surface(table)


def changed(*replacements: tuple[str, str]) -> list[FoundChange]:
    mapping, idl = BASE, IDL
    for old, new in replacements:
        assert (old in mapping) or (old in idl), old
        mapping, idl = mapping.replace(old, new, 1), idl.replace(old, new, 1)
    return compare(revision(BASE), revision(mapping, idl))


Seed = tuple[str, list[tuple[str, str]], dict[str, list[str]]]
INVALID = "COMPARISONS_INVALID"

# What is changed -> what is found: rule -> subjects. COMPARISONS_INVALID follows where D-Bus answers in another way.
SEEDS: list[Seed] = [
    (
        "an endpoint is gone",
        [("  - {listener: old, path: /old, codec: xmlrpc, methods: [Shop.count, Shop.order]}\n", "")],
        {"ENDPOINT_GONE": ["old /old"]},
    ),
    (
        "an endpoint is new",
        [("/json, codec: jsonrpc}", "/json, codec: jsonrpc}\n  - {listener: a, path: /a, codec: xmlrpc}")],
        {"ENDPOINT_ADDED": ["a /a"]},
    ),
    (
        "an endpoint has another dialect",
        [("codec: jsonrpc}", "codec: jsonrpc, dialect: xapi_idl}")],
        {"ENDPOINT_PROTOCOL_CHANGED": ["rpc /json"]},
    ),
    (
        "unmapped methods pass",
        [("legacy: {", "unmapped: passthrough\nlegacy: {")],
        {"UNMAPPED_PASSED": ["rpc /RPC2", "rpc /json", "old /old"]},
    ),
    (
        "a method is gone",
        [("  Shop.get: {member: Get, effect: read, variants: typed}\n", "")],
        {"METHOD_GONE": ["shop/Shop.get"]},
    ),
    (
        "a method is not exposed at one endpoint",
        [("[Shop.count, Shop.order]", "[Shop.order]")],
        {"METHOD_GONE": ["shop/Shop.count"]},
    ),
    (
        "a method is new",
        [("  Shop.move:", "  Shop.shut: {member: Count}\n  Shop.move:")],
        {"METHOD_ADDED": ["shop/Shop.shut"]},
    ),
    (
        "a method is gone, and passes",
        [
            ("  Shop.get: {member: Get, effect: read, variants: typed}\n", ""),
            ("legacy: {", "unmapped: passthrough\nlegacy: {"),
        ],
        {"METHOD_PASSED": ["shop/Shop.get"], "UNMAPPED_PASSED": ["rpc /RPC2", "rpc /json", "old /old"]},
    ),
    ("an alias is gone", [(", aliases: [Shop.create]", "")], {"ALIAS_GONE": ["shop/Shop.add"]}),
    (
        "an alias is new",
        [("{member: Count, eff", "{member: Count, aliases: [Shop.total], eff")],
        {"ALIAS_ADDED": ["shop/Shop.count"]},
    ),
    (
        "a method is switched off",
        [("Shop.get: {member: Get,", "Shop.get: {member: Get, mode: off,")],
        {"METHOD_OFF": ["shop/Shop.get"]},
    ),
    (
        "a method has no task form",
        [("{member: Move,", "{member: Move, async: reject,")],
        {"TASK_FORM_GONE": ["shop/Shop.move"]},
    ),
    (
        "a parameter became required",
        [("{name: pages, default: 0}]", "pages]")],
        {"PARAMETER_BECAME_REQUIRED": ["shop/Shop.add"], INVALID: ["shop/Shop.add"]},
    ),
    (
        "a parameter became optional",
        [("params: [title], args", "params: [{name: title, default: x}], args")],
        {"PARAMETER_BECAME_OPTIONAL": ["shop/Shop.find"]},
    ),
    (
        "a required parameter is new",
        [("[title], args: {strict: true}", "[title, strict]")],
        {
            "PARAMETER_ADDED_REQUIRED": ["shop/Shop.find"],
            "ARGUMENT_CHANGED": ["shop/Shop.find"],
            INVALID: ["shop/Shop.find"],
        },
    ),
    (
        "an optional parameter is new",
        [("Move, params: [book]", "Move, params: [book, {name: why, drop: true, default: x}]")],
        {"PARAMETER_ADDED_OPTIONAL": ["shop/Shop.move"]},
    ),
    (
        "a parameter is gone",
        [("[session, title, {name: pages, default: 0}]", "[session, title], args: {pages: 0}")],
        {"PARAMETER_GONE": ["shop/Shop.add"], "ARGUMENT_CHANGED": ["shop/Shop.add"], INVALID: ["shop/Shop.add"]},
    ),
    (
        "parameters change places",
        [
            ("struct: [title, pages]}, to]", "struct: [title, pages]}]"),
            ("params: [{name: info,", "params: [to, {name: info,"),
        ],
        {"PARAMETER_MOVED": ["shop/Shop.sell"], INVALID: ["shop/Shop.sell"]},
    ),
    (
        "a parameter is renamed",
        [("Move, params: [book], key: book", "Move, params: [{name: id, to: book}], key: id")],
        {"PARAMETER_RENAMED": ["shop/Shop.move"], "CANARY_KEY_CHANGED": ["shop/Shop.move"]},
    ),
    (
        "an argument has another type",
        [('<arg name="number" type="u"', '<arg name="number" type="y"')],
        {
            "MEMBER_TYPE_CHANGED": ["shop/Shop.order"],
            "SIGNATURE_CHANGED": ["shop/Shop.order"],
            INVALID: ["shop/Shop.order"],
        },
    ),
    (
        "an argument accepts fewer values",
        [('<arg name="pages" type="u"', '<arg name="pages" type="q"')],
        {
            "PARAMETER_TYPE_CHANGED": ["shop/Shop.add"],
            "SIGNATURE_CHANGED": ["shop/Shop.add"],
            INVALID: ["shop/Shop.add"],
        },
    ),
    (
        "an argument accepts more values",
        [('<arg name="pages" type="u"', '<arg name="pages" type="t"')],
        {
            "PARAMETER_TYPE_WIDENED": ["shop/Shop.add"],
            "SIGNATURE_CHANGED": ["shop/Shop.add"],
            INVALID: ["shop/Shop.add"],
        },
    ),
    (
        "a default is another one",
        [("{name: pages, default: 0}", "{name: pages, default: 1}")],
        {"PARAMETER_DEFAULT_CHANGED": ["shop/Shop.add"], INVALID: ["shop/Shop.add"]},
    ),
    (
        "a parameter is dropped",
        [("{name: pages, default: 0}]", "{name: pages, drop: true, default: 0}], args: {pages: 0}")],
        {"PARAMETER_UNUSED": ["shop/Shop.add"], "ARGUMENT_CHANGED": ["shop/Shop.add"], INVALID: ["shop/Shop.add"]},
    ),
    (
        "a value has a format",
        [("[title], args", "[{name: title, format: datetime}], args")],
        {"PARAMETER_FORM_CHANGED": ["shop/Shop.find"], INVALID: ["shop/Shop.find"]},
    ),
    (
        "fewer objects",
        [("object: /shops}]}\n  Shop.set", "object: /shops/small}]}\n  Shop.set")],
        {"PARAMETER_OBJECTS_NARROWED": ["shop/Shop.owner"]},
    ),
    (
        "more objects",
        [("object: /shops}]}\n  Shop.set", "object: [/shops, /stalls]}]}\n  Shop.set")],
        {"PARAMETER_OBJECTS_WIDENED": ["shop/Shop.owner"]},
    ),
    (
        "a member became required",
        [("number: {to: number, default: 1}", "number: number")],
        {"MEMBER_ADDED_REQUIRED": ["shop/Shop.order"], INVALID: ["shop/Shop.order"]},
    ),
    (
        "a member is renamed",
        [("struct: [title, pages]", "struct: [name, pages]")],
        {"MEMBER_GONE": ["shop/Shop.sell"], "MEMBER_ADDED_REQUIRED": ["shop/Shop.sell"], INVALID: ["shop/Shop.sell"]},
    ),
    (
        "a member of a record is required",
        [("size: {type: int, default: 0}", "size: int")],
        {"MEMBER_ADDED_REQUIRED": ["shop/Shop.conf"], INVALID: ["shop/Shop.conf"]},
    ),
    (
        "a member of a record is gone, and ignored",
        [("name: string, size", "size")],
        {"MEMBER_UNUSED": ["shop/Shop.conf"], INVALID: ["shop/Shop.conf"]},
    ),
    (
        "numbers as text are refused",
        [("Move, params", "Move, coerce: strict, params")],
        {"COERCION_STRICTER": ["shop/Shop.move"], INVALID: ["shop/Shop.move"]},
    ),
    (
        "further parameters are refused",
        [(", surplus: ignore", "")],
        {"SURPLUS_REJECTED": ["shop/Shop.sell"], INVALID: ["shop/Shop.sell"]},
    ),
    (
        "variants of clients",
        [("params: [options], variants: typed", "params: [options]")],
        {"VARIANTS_CHANGED": ["shop/Shop.set"], INVALID: ["shop/Shop.set"]},
    ),
    (
        "variants of results",
        [("effect: read, variants: typed", "effect: read")],
        {"VARIANTS_CHANGED": ["shop/Shop.get"], INVALID: ["shop/Shop.get"]},
    ),
    (
        "a result has another type",
        [('"Count"><arg name="count" type="t"', '"Count"><arg name="count" type="s"')],
        {
            "RESULT_TYPE_CHANGED": ["shop/Shop.count"],
            "SIGNATURE_CHANGED": ["shop/Shop.count"],
            INVALID: ["shop/Shop.count"],
        },
    ),
    (
        "a result has fewer values",
        [('"Count"><arg name="count" type="t"', '"Count"><arg name="count" type="u"')],
        {
            "RESULT_TYPE_NARROWED": ["shop/Shop.count"],
            "SIGNATURE_CHANGED": ["shop/Shop.count"],
            INVALID: ["shop/Shop.count"],
        },
    ),
    (
        "a result is an int in XML-RPC",
        [('"Count"><arg name="count" type="t"', '"Count"><arg name="count" type="q"')],
        {
            "RESULT_TYPE_CHANGED": ["shop/Shop.count"],
            "SIGNATURE_CHANGED": ["shop/Shop.count"],
            INVALID: ["shop/Shop.count"],
        },
    ),
    (
        "a result is void",
        [("{member: Count, eff", "{member: Count, result: void, eff")],
        {"RESULT_TYPE_CHANGED": ["shop/Shop.count"], INVALID: ["shop/Shop.count"]},
    ),
    (
        "a result lost a field",
        [("{ref: book, cost: price}", "{ref: book}")],
        {"RESULT_FIELD_GONE": ["shop/Shop.find"], INVALID: ["shop/Shop.find"]},
    ),
    (
        "a record lost a field",
        [('<property name="Size" type="t" access="read"/>', ""), (SIZE, "")],
        {"RESULT_FIELD_GONE": ["shop/Shop.record"], "METHOD_GONE": ["shop/Shop.size"], INVALID: ["shop/Shop.record"]},
    ),
    (
        "a result has a further field",
        [("{ref: book, cost: price}", "{ref: book, cost: price, title: book}")],
        {"RESULT_FIELD_ADDED": ["shop/Shop.find"], INVALID: ["shop/Shop.find"]},
    ),
    (
        "a field has another form",
        [("{ref: book, cost: price}", "{ref: book, cost: {from: price, format: text}}")],
        {"RESULT_FIELD_TYPE_CHANGED": ["shop/Shop.find"], INVALID: ["shop/Shop.find"]},
    ),
    (
        "an error has another code",
        [("code: HANDLE_INVALID", "code: NO_BOOK")],
        {"ERROR_CODE_CHANGED": ["shop/Shop.*"], INVALID: ["shop/Shop.*"]},
    ),
    (
        "an error of one method",
        [("{member: Count, eff", "{member: Count, errors: {org.example.Error.Busy: {code: 5}}, eff")],
        {"ERROR_CODE_CHANGED": ["shop/Shop.count"], INVALID: ["shop/Shop.count"]},
    ),
    (
        "an error has other arguments",
        [('args: [book, "{0}"]', "args: [book]")],
        {"ERROR_ARGUMENTS_CHANGED": ["shop/Shop.*"], INVALID: ["shop/Shop.*"]},
    ),
    (
        "an error has another message",
        [("no such book", "unknown book")],
        {"ERROR_MESSAGE_CHANGED": ["shop/Shop.*"], INVALID: ["shop/Shop.*"]},
    ),
    (
        "a shorter timeout",
        [("{member: Count, eff", "{member: Count, timeout: 5s, eff")],
        {"TIMEOUT_SHORTER": ["shop/Shop.count"]},
    ),
    (
        "a longer timeout",
        [("{member: Count, eff", "{member: Count, timeout: 5m, eff")],
        {"TIMEOUT_LONGER": ["shop/Shop.count"]},
    ),
    (
        "a session is needed",
        [("params: [title], args", "params: [session, title], args")],
        {"SESSION_ADDED": ["shop/Shop.find"]},
    ),
    ("no session is needed", [("params: [session, title,", "params: [title,")], {"SESSION_GONE": ["shop/Shop.add"]}),
    (
        "another description",
        [("{member: Count, eff", "{member: Count, documentation: How many., eff")],
        {"DOCUMENTATION_CHANGED": ["shop/Shop.count"]},
    ),
    (
        "another service",
        [("{member: Count, eff", "{member: Count, bus_name: org.example.Stall, eff")],
        {"BUS_NAME_CHANGED": ["shop/Shop.count"], INVALID: ["shop/Shop.count"]},
    ),
    (
        "another object",
        [("{member: Count, eff", "{member: Count, object_path: /stall, eff")],
        {"OBJECT_PATH_CHANGED": ["shop/Shop.count"], INVALID: ["shop/Shop.count"]},
    ),
    (
        "another rule of escaping",
        [("params: [id], redact", "params: [id], escape: none, redact")],
        {"OBJECT_PATH_CHANGED": ["shop/Shop.size"], INVALID: ["shop/Shop.size"]},
    ),
    (
        "another member",
        [("{member: Count, eff", "{member: Count, interface: org.example.Shop2, eff")],
        {"MEMBER_CHANGED": ["shop/Shop.count"], INVALID: ["shop/Shop.count"]},
    ),
    (
        "a property has another type",
        [('name="Owner" type="s"', 'name="Owner" type="o"')],
        {
            "SIGNATURE_CHANGED": ["shop/Shop.owner", "shop/Shop.set_owner"],
            "RESULT_TYPE_NARROWED": ["shop/Shop.owner"],
            "RESULT_FIELD_TYPE_CHANGED": ["shop/Shop.record"],
            "PARAMETER_TYPE_CHANGED": ["shop/Shop.set_owner"],
            INVALID: ["shop/Shop.owner", "shop/Shop.set_owner", "shop/Shop.record"],
        },
    ),
    (
        "a constant is another one",
        [("args: {strict: true}", "args: {strict: false}")],
        {"ARGUMENT_CHANGED": ["shop/Shop.find"], INVALID: ["shop/Shop.find"]},
    ),
    (
        "a write becomes a read",
        [("variants: typed}\n  Shop.get", "variants: typed, effect: read}\n  Shop.get")],
        {"EFFECT_WEAKENED": ["shop/Shop.set"], "TASK_FORM_GONE": ["shop/Shop.set"]},
    ),
    (
        "a read becomes a write",
        [("Get, effect: read", "Get, effect: write")],
        {"EFFECT_STRENGTHENED": ["shop/Shop.get"]},
    ),
    (
        "calls may be executed twice",
        [("effect: idempotent}", "effect: idempotent, shadow: true}")],
        {"SHADOW_ALLOWED": ["shop/Shop.move"]},
    ),
    (
        "own bus connections",
        [("legacy: {", "connection: {of: client}\nlegacy: {")],
        {"CONNECTION_CHANGED": ["shop/Shop.*"], INVALID: ["shop/Shop.*"]},
    ),
    (
        "another session check",
        [("session: {parameter: session,", "session: {parameter: session, object_path: /sessions,")],
        {"SESSION_CHECK_CHANGED": ["shop/Shop.add", "shop/Shop.record"]},
    ),
    (
        "a method is a login",
        [("effect: read, result: {ref", "effect: read, session_user: title, result: {ref")],
        {"LOGIN_CHANGED": ["shop/Shop.find"]},
    ),
    (
        "another plan",
        [(COUNT, "{member: Count, rollout: {steps: [dbus]}, eff")],
        {"ROLLOUT_CHANGED": ["shop/Shop.count"]},
    ),
    (
        "another mode",
        [("{member: Count, eff", "{member: Count, mode: dbus, eff")],
        {"MODE_CHANGED": ["shop/Shop.count"]},
    ),
    (
        "a fallback",
        [("{member: Count, eff", "{member: Count, on_unavailable: legacy, eff")],
        {"FALLBACK_CHANGED": ["shop/Shop.count"]},
    ),
    (
        "another legacy service",
        [("{member: Count, eff", "{member: Count, legacy: {upstream: older}, eff")],
        {"UPSTREAM_CHANGED": ["shop/Shop.count"]},
    ),
    (
        "other rules of comparison",
        [("tolerance: 1}", "tolerance: 2}")],
        {"COMPARISON_RULES_CHANGED": ["shop/Shop.count"]},
    ),
    ("other redactions", [(', redact: ["$.result"]', "")], {"REDACTION_CHANGED": ["shop/Shop.size"]}),
    ("another key", [("key: book", "key: peer")], {"CANARY_KEY_CHANGED": ["shop/Shop.move"]}),
    (
        "other mistakes of clients",
        [("{member: Count, eff", "{member: Count, client_errors: [HANDLE_INVALID], eff")],
        {"CLIENT_ERRORS_CHANGED": ["shop/Shop.count"]},
    ),
]


def test_there_are_enough_seeds() -> None:
    assert len(SEEDS) >= 40
    assert len({name for name, _, _ in SEEDS}) == len(SEEDS)


@pytest.mark.parametrize(("replacements", "expected"), [seed[1:] for seed in SEEDS], ids=[seed[0] for seed in SEEDS])
def test_a_seeded_change_is_found_and_nothing_else(
    replacements: list[tuple[str, str]], expected: dict[str, list[str]]
) -> None:
    found: dict[str, set[str]] = {}
    for change in changed(*replacements):
        found.setdefault(change.rule, set()).add(change.subject)
    methods = {f"shop/{name}" for _, name in revision(BASE).methods}
    wanted = {
        rule: {each for subject in subjects for each in (methods if subject.endswith("*") else {subject})}
        for rule, subjects in expected.items()
    }
    assert found == wanted


def test_the_same_revision_has_no_changes() -> None:
    assert changed() == []


def test_the_order_of_keys_and_comments_change_nothing() -> None:
    assert (
        changed(
            ("{member: Count, effect: read,", "{effect: read, member: Count,"), ("service: shop", "service: shop # x")
        )
        == []
    )


def test_every_rule_of_a_method_or_endpoint_without_a_xenstore_is_seeded() -> None:
    """The others concern nodes of a xenstore (below), or a form that only one codec has."""
    seeded = {rule for _, _, expected in SEEDS for rule in expected}
    unseeded = RULES.keys() - seeded
    assert unseeded == {
        *(name for name in RULES if name.startswith(("PUBLICATION_", "TRIGGER_", "DOMAINS_"))),
        "ENDPOINT_NODES_CHANGED",
        "UNMAPPED_REJECTED",
        "PARAMETER_NAME_CHANGED",
        "PARAMETER_TARGET_CHANGED",
        "RESULT_KEY_CHANGED",
        "TASK_CHANGED",
    }


def test_the_documentation_lists_every_rule() -> None:
    rows = [f"| `{name}` | {level.value} | {text} |" for name, (level, text) in RULES.items()]
    text = (Path(__file__).parents[3] / "docs/changes.md").read_text()
    assert [line for line in text.splitlines() if line.startswith("| `") and line.count("|") == 4 and "_" in line][
        -len(rows) :
    ] == rows


def test_messages_say_what_it_was_and_what_it_is() -> None:
    change = next(
        each for each in changed(("code: HANDLE_INVALID", "code: NO_BOOK")) if each.rule == "ERROR_CODE_CHANGED"
    )
    assert change.message == "org.example.Error.NoBook: code HANDLE_INVALID became NO_BOOK"
    assert (change.file, change.level) == ("/nowhere/shop.yaml", Level.WIRE)
    (line,) = {each.line for each in changed(("{member: Count, eff", "{member: Count, timeout: 5s, eff"))}
    assert BASE.splitlines()[line - 1].startswith("  Shop.count:")


def test_other_changes_of_records_and_arguments() -> None:
    by_path = BASE.replace(
        "Shop.record: {all_properties: true, params: [session]}", "Shop.all: {managed_objects: {key: path}}"
    )
    by_owner = by_path.replace("{key: path}", "{key: Owner}")
    swapped = BASE.replace(
        "Order\n    params: [{name: order, fields: {title: title, number: {to: number, default: 1}}}]",
        "Move\n    params: [{name: order, to: book}]",
    )
    other = swapped.replace(
        "member: Move\n    params: [{name: order, to: book}]",
        "member: Order\n    params: [{name: order, to: title}]\n    args: {number: 1}",
    )
    assert {each.rule for each in compare(revision(by_path), revision(by_owner))} == {"RESULT_KEY_CHANGED", INVALID}
    assert {each.rule for each in compare(revision(swapped), revision(other))} == {
        "PARAMETER_TARGET_CHANGED",
        "MEMBER_CHANGED",
        "ARGUMENT_CHANGED",
        INVALID,
    }  # fmt: skip


# Nodes of a xenstore

MAPPINGS = Path(__file__).parents[3] / "mappings"


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("squeezed", "style: tree, path", "style: tree, response_ttl: 5m, path", {"ENDPOINT_NODES_CHANGED"}),
        ("squeezed", "style: tree, path", "style: tree, allowed_domains: [7], path", {"DOMAINS_WIDENED"}),
        ("domain-memory", "dynamic-min: Dyn", "minimum: Dyn", {"PUBLICATION_CHANGED"}),
        ("domain-memory", "node: /local/domain/{domid}/memory\n", "node: /local/domain/{domid}/mem\n",
         {"PUBLICATION_GONE", "PUBLICATION_ADDED"}),
        ("domain-memory", "memory/target\n", "memory/wanted\n", {"TRIGGER_GONE", "TRIGGER_ADDED"}),
        ("guest-agent", 'allowed_domains: ["{domid}"]', "allowed_domains: [7]", {"TRIGGER_CHANGED"}),
    ],
)  # fmt: skip
def test_changes_of_nodes(file: str, old: str, new: str, expected: set[str]) -> None:
    path = MAPPINGS / f"{file}-xenstore.yaml"
    text = path.read_text()
    assert old in text
    tables = []
    for content in (text, text.replace(old, new, 1)):
        table, problems = compiled(path, content.encode())
        assert problems == []
        tables.append(surface(table))
    assert {each.rule for each in compare(*tables)} == expected
    if expected == {"DOMAINS_WIDENED"}:
        assert {each.rule for each in compare(*reversed(tables))} == {"DOMAINS_NARROWED"}


# A pair that is the other way round


def test_levels_of_the_way_back() -> None:
    """What is compatible one way may break the other way."""
    two = revision(BASE.replace("legacy: {", "unmapped: passthrough\nlegacy: {"))
    assert {each.rule for each in compare(two, revision(BASE))} == {"UNMAPPED_REJECTED"}


def test_positional_endpoints_do_not_mind_names() -> None:
    plain = BASE.replace("  - {listener: rpc, path: /json, codec: jsonrpc}\n", "")
    renamed = plain.replace("Move, params: [book], key: book", "Move, params: [{name: id, to: book}], key: id")
    found = compare(revision(plain), revision(renamed))
    assert [each.rule for each in found] == ["CANARY_KEY_CHANGED", "PARAMETER_NAME_CHANGED"]
    assert found[1].level is Level.SOURCE


# The ignore list


def test_the_ignore_list_takes_rules_and_patterns() -> None:
    found = changed(("code: HANDLE_INVALID", "code: NO_BOOK"))
    ignored = [
        Ignored.parse("ERROR_CODE_CHANGED Shop.add"),
        Ignored.parse(f"{INVALID}"),
        Ignored.parse("* shop/Shop.s*"),
    ]
    kept, unused = without_ignored(found, [*ignored, Ignored.parse("METHOD_GONE")])
    names = {"Shop.find", "Shop.order", "Shop.get", "Shop.count", "Shop.move", "Shop.conf", "Shop.record", "Shop.owner"}
    assert {(each.rule, each.subject) for each in kept} == {("ERROR_CODE_CHANGED", f"shop/{name}") for name in names}
    assert [str(each) for each in unused] == ["METHOD_GONE *"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("NO_RULE", "unknown rule 'NO_RULE': expected one of"), ("*", "'*' needs a pattern of methods")],
)
def test_a_bad_entry_of_the_ignore_list_is_refused(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected.replace("*", r"\*")):
        Ignored.parse(text)
