"""Seeded changes between two revisions of a mapping: each is found, and nothing else is."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from gateway.check import compiled
from gateway.mapping.changes.compare import compare
from gateway.mapping.changes.rules import RULES, FoundChange, Ignored, Level, without_ignored
from gateway.mapping.changes.surface import Surface, surface
from tests.kit.cases import each_case
from tests.kit.programs import ROOT

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


@cache
def revision(mapping: str, idl: str = IDL) -> Surface:
    path = Path("/nowhere/shop.yaml")
    table, problems = compiled(path, mapping.encode(), {path.with_name("shop.xml"): idl.encode()})
    assert problems == []
    return surface(table)


def edited(*edits: str) -> tuple[str, str]:
    """The mapping and the IDL after edits: `OLD => NEW`; `NAME: OLD => NEW`, types in the IDL; `METHOD + KEYS`."""
    mapping, idl = BASE, IDL
    for edit in edits:
        old, arrow, new = edit.partition(" => ")
        if not arrow:  # keys that are added to an entry
            method, _, keys = edit.partition(" + ")
            old, new = f"{method}: {{", f"{method}: {{{keys}, "
        elif re.fullmatch(r"\w+: \w => \w", edit):
            name, _, kind = old.partition(": ")
            old, new = (f'name="{name}" type="{each}"' for each in (kind, new))
        assert (old in mapping) or (old in idl), old
        mapping, idl = mapping.replace(old, new, 1), idl.replace(old, new, 1)
    return mapping, idl


def changed(*edits: str) -> list[FoundChange]:
    return compare(revision(BASE), revision(*edited(*edits)))


INVALID = "COMPARISONS_INVALID"
GET = "  Shop.get: {member: Get, effect: read, variants: typed}\n => "
PASSED = "legacy: { => unmapped: passthrough\nlegacy: {"
PAGES = "{name: pages, default: 0}"
MOVE = "Move, params: [book], key: book => Move, params: [{name: id, to: book}], key: id"
OLD = "  - {listener: old, path: /old, codec: xmlrpc, methods: [Shop.count, Shop.order]}\n"
OTHER_OWNER = "RESULT_TYPE_NARROWED: owner; RESULT_FIELD_TYPE_CHANGED!: record; PARAMETER_TYPE_CHANGED: set_owner"
EVERYWHERE = "rpc /RPC2 & rpc /json & old /old"

# What is found, by rule, with its subjects; and the edits. `!`: COMPARISONS_INVALID follows,
# since D-Bus answers in another way.
SEEDS: list[tuple[str, *tuple[str, ...]]] = [
    ("ENDPOINT_GONE: old /old", f"{OLD} => "),
    (
        "ENDPOINT_ADDED: a /a",
        "/json, codec: jsonrpc} => /json, codec: jsonrpc}\n  - {listener: a, path: /a, codec: xmlrpc}",
    ),
    ("ENDPOINT_PROTOCOL_CHANGED: rpc /json", "codec: jsonrpc} => codec: jsonrpc, dialect: xapi_idl}"),
    (f"UNMAPPED_PASSED: {EVERYWHERE}", PASSED),
    ("METHOD_GONE: get", GET),
    ("METHOD_GONE: count", "[Shop.count, Shop.order] => [Shop.order]"),
    ("METHOD_ADDED: shut", "  Shop.move: =>   Shop.shut: {member: Count}\n  Shop.move:"),
    (f"METHOD_PASSED: get; UNMAPPED_PASSED: {EVERYWHERE}", GET, PASSED),
    ("ALIAS_GONE: add", ", aliases: [Shop.create] => "),
    ("ALIAS_ADDED: count", "count + aliases: [Shop.total]"),
    ("METHOD_OFF: get", "get + mode: off"),
    ("TASK_FORM_GONE: move", "move + async: reject"),
    ("PARAMETER_BECAME_REQUIRED!: add", "{name: pages, default: 0}] => pages]"),
    ("PARAMETER_BECAME_OPTIONAL: find", "params: [title], args => params: [{name: title, default: x}], args"),
    ("PARAMETER_ADDED_REQUIRED!: find; ARGUMENT_CHANGED: find", "[title], args: {strict: true} => [title, strict]"),
    (
        "PARAMETER_ADDED_OPTIONAL: move",
        "Move, params: [book => Move, params: [book, {name: why, drop: true, default: x}",
    ),
    (
        "PARAMETER_GONE!: add; ARGUMENT_CHANGED: add",
        f"[session, title, {PAGES}] => [session, title], args: {{pages: 0}}",
    ),
    (
        "PARAMETER_MOVED!: sell",
        "struct: [title, pages]}, to] => struct: [title, pages]}]",
        "params: [{name: info, => params: [to, {name: info,",
    ),
    ("PARAMETER_RENAMED: move; CANARY_KEY_CHANGED: move", MOVE),
    ("MEMBER_TYPE_CHANGED!: order; SIGNATURE_CHANGED: order", "number: u => y"),
    ("PARAMETER_TYPE_CHANGED!: add; SIGNATURE_CHANGED: add", "pages: u => q"),
    ("PARAMETER_TYPE_WIDENED: add; SIGNATURE_CHANGED!: add", "pages: u => t"),
    ("PARAMETER_DEFAULT_CHANGED!: add", "{name: pages, default: 0} => {name: pages, default: 1}"),
    (
        "PARAMETER_UNUSED!: add; ARGUMENT_CHANGED: add",
        f"{PAGES}] => {{name: pages, drop: true, default: 0}}], args: {{pages: 0}}",
    ),
    ("PARAMETER_FORM_CHANGED!: find", "[title], args => [{name: title, format: datetime}], args"),
    ("PARAMETER_OBJECTS_NARROWED: owner", "object: /shops} => object: /shops/small}"),
    ("PARAMETER_OBJECTS_WIDENED: owner", "object: /shops} => object: [/shops, /stalls]}"),
    ("MEMBER_ADDED_REQUIRED!: order", "number: {to: number, default: 1} => number: number"),
    ("MEMBER_GONE!: sell; MEMBER_ADDED_REQUIRED: sell", "struct: [title, pages] => struct: [name, pages]"),
    ("MEMBER_ADDED_REQUIRED!: conf", "size: {type: int, default: 0} => size: int"),
    ("MEMBER_UNUSED!: conf", "name: string, size => size"),
    ("COERCION_STRICTER!: move", "move + coerce: strict"),
    ("SURPLUS_REJECTED!: sell", ", surplus: ignore => "),
    ("VARIANTS_CHANGED!: set", "params: [options], variants: typed => params: [options]"),
    ("VARIANTS_CHANGED!: get", "effect: read, variants: typed => effect: read"),
    ("RESULT_TYPE_CHANGED!: count; SIGNATURE_CHANGED: count", "count: t => s"),
    ("RESULT_TYPE_NARROWED!: count; SIGNATURE_CHANGED: count", "count: t => u"),
    ("RESULT_TYPE_CHANGED!: count; SIGNATURE_CHANGED: count", "count: t => q"),  # an int in XML-RPC
    ("RESULT_TYPE_CHANGED!: count", "count + result: void"),
    ("RESULT_FIELD_GONE!: find", "{ref: book, cost: price} => {ref: book}"),
    (
        "RESULT_FIELD_GONE!: record; METHOD_GONE: size",
        '<property name="Size" type="t" access="read"/> => ',
        f"{BASE[BASE.index('  Shop.size:') :]} => ",
    ),
    ("RESULT_FIELD_ADDED!: find", "{ref: book, cost: price} => {ref: book, cost: price, title: book}"),
    ("RESULT_FIELD_TYPE_CHANGED!: find", "cost: price} => cost: {from: price, format: text}}"),
    ("ERROR_CODE_CHANGED!: *", "code: HANDLE_INVALID => code: NO_BOOK"),
    ("ERROR_CODE_CHANGED!: count", "count + errors: {org.example.Error.Busy: {code: 5}}"),
    ("ERROR_ARGUMENTS_CHANGED!: *", 'args: [book, "{0}"] => args: [book]'),
    ("ERROR_MESSAGE_CHANGED!: *", "no such book => unknown book"),
    ("TIMEOUT_SHORTER: count", "count + timeout: 5s"),
    ("TIMEOUT_LONGER: count", "count + timeout: 5m"),
    ("SESSION_ADDED: find", "params: [title], args => params: [session, title], args"),
    ("SESSION_GONE: add", "params: [session, title, => params: [title,"),
    ("DOCUMENTATION_CHANGED: count", "count + documentation: How many."),
    ("BUS_NAME_CHANGED!: count", "count + bus_name: org.example.Stall"),
    ("OBJECT_PATH_CHANGED!: count", "count + object_path: /stall"),
    ("OBJECT_PATH_CHANGED!: size", "Shop.size + escape: none"),
    ("MEMBER_CHANGED!: count", "count + interface: org.example.Shop2"),
    (f"SIGNATURE_CHANGED!: owner & set_owner; {OTHER_OWNER}", "Owner: s => o"),
    ("ARGUMENT_CHANGED!: find", "args: {strict: true} => args: {strict: false}"),
    ("EFFECT_WEAKENED: set; TASK_FORM_GONE: set", "set + effect: read"),
    ("EFFECT_STRENGTHENED: get", "Get, effect: read => Get, effect: write"),
    ("SHADOW_ALLOWED: move", "move + shadow: true"),
    ("CONNECTION_CHANGED!: *", "legacy: { => connection: {of: client}\nlegacy: {"),
    ("SESSION_CHECK_CHANGED: add & record", "session + object_path: /sessions"),
    ("", "session: s => o"),  # the same object and member check it
    ("LOGIN_CHANGED: find", "find + session_user: title"),
    ("ROLLOUT_CHANGED: count", "count + rollout: {steps: [dbus]}"),
    ("MODE_CHANGED: count", "count + mode: dbus"),
    ("FALLBACK_CHANGED: count", "count + on_unavailable: legacy"),
    ("UPSTREAM_CHANGED: count", "count + legacy: {upstream: older}"),
    ("COMPARISON_RULES_CHANGED: count", "tolerance: 1} => tolerance: 2}"),
    ("REDACTION_CHANGED: size", ', redact: ["$.result"] => '),
    ("CANARY_KEY_CHANGED: move", "key: book => key: peer"),
    ("CLIENT_ERRORS_CHANGED: count", "count + client_errors: [HANDLE_INVALID]"),
    ("", "{member: Count, effect: read, => {effect: read, member: Count,", "service: shop => service: shop # x"),
]


@each_case("seed", SEEDS)
def test_a_seeded_change_is_found_and_nothing_else(seed: tuple[str, *tuple[str, ...]]) -> None:
    expected: dict[str, set[str]] = {}
    every = [name for _, name in revision(BASE).methods]
    for rule, _, subjects in (each.partition(": ") for each in seed[0].split("; ") if each):
        names = every if subjects == "*" else [f"Shop.{name}" for name in subjects.split(" & ")]
        if "/" in subjects:  # endpoints
            names = subjects.split(" & ")
        for each in (rule[:-1], INVALID) if rule.endswith("!") else (rule,):
            expected.setdefault(each, set()).update(name if "/" in name else f"shop/{name}" for name in names)
    found: dict[str, set[str]] = {}
    for change in changed(*seed[1:]):
        found.setdefault(change.rule, set()).add(change.subject)
    assert found == expected


def test_every_rule_of_a_method_or_endpoint_without_a_xenstore_is_seeded() -> None:
    """The others concern nodes of a xenstore (below), or a form that only one codec has."""
    seeded = {rule.partition(":")[0].rstrip("!") for seed in SEEDS for rule in seed[0].split("; ")}
    assert RULES.keys() - seeded == {
        *(name for name in RULES if name.startswith(("PUBLICATION_", "TRIGGER_", "DOMAINS_"))),
        INVALID,
        "ENDPOINT_NODES_CHANGED",
        "UNMAPPED_REJECTED",
        "PARAMETER_NAME_CHANGED",
        "PARAMETER_TARGET_CHANGED",
        "RESULT_KEY_CHANGED",
        "TASK_CHANGED",
    }


def test_the_documentation_lists_every_rule() -> None:
    rows = [f"| `{name}` | {level.value} | {text} |" for name, (level, text) in RULES.items()]
    text = (ROOT / "docs/changes.md").read_text()
    listed = [line for line in text.splitlines() if line.startswith("| `") and line.count("|") == 4 and "_" in line]
    assert listed[-len(rows) :] == rows


def test_messages_say_what_it_was_and_what_it_is() -> None:
    found = [each for each in changed("code: HANDLE_INVALID => code: NO_BOOK") if each.rule == "ERROR_CODE_CHANGED"]
    assert found[0].message == "org.example.Error.NoBook: code HANDLE_INVALID became NO_BOOK"
    assert (found[0].file, found[0].level) == ("/nowhere/shop.yaml", Level.WIRE)
    (line,) = {each.line for each in changed("count + timeout: 5s")}
    assert BASE.splitlines()[line - 1].startswith("  Shop.count:")


def test_changes_of_other_forms_of_a_mapping() -> None:
    passing = revision(BASE.replace("legacy: {", "unmapped: passthrough\nlegacy: {"))
    assert {each.rule for each in compare(passing, revision(BASE))} == {"UNMAPPED_REJECTED"}
    by_path = BASE.replace("record: {all_properties: true, params: [session]}", "all: {managed_objects: {key: path}}")
    by_owner = by_path.replace("{key: path}", "{key: Owner}")
    assert {each.rule for each in compare(revision(by_path), revision(by_owner))} == {"RESULT_KEY_CHANGED", INVALID}
    order = BASE[BASE.index("  Shop.order:") : BASE.index("  Shop.set:")]
    entries = (
        "{member: Move, params: [{name: order, to: book}]}",
        "{member: Order, params: [{name: order, to: title}], args: {number: 1}}",
    )
    were, are = (revision(BASE.replace(order, f"  Shop.order: {entry}\n")) for entry in entries)
    found = {each.rule for each in compare(were, are)}
    assert found == {"PARAMETER_TARGET_CHANGED", "MEMBER_CHANGED", "ARGUMENT_CHANGED", INVALID}


def test_positional_endpoints_do_not_mind_names() -> None:
    plain = BASE.replace("  - {listener: rpc, path: /json, codec: jsonrpc}\n", "")
    renamed = plain.replace("Move, params: [book], key: book", "Move, params: [{name: id, to: book}], key: id")
    found = compare(revision(plain), revision(renamed))
    assert [each.rule for each in found] == ["CANARY_KEY_CHANGED", "PARAMETER_NAME_CHANGED"]
    assert found[1].level is Level.SOURCE


# Nodes of a xenstore


@each_case(
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
    path = ROOT / "mappings" / f"{file}-xenstore.yaml"
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


# The ignore list


def test_the_ignore_list_takes_rules_and_patterns() -> None:
    found = changed("code: HANDLE_INVALID => code: NO_BOOK")
    ignored = ("ERROR_CODE_CHANGED Shop.add", INVALID, "* shop/Shop.s*", "METHOD_GONE")
    kept, unused = without_ignored(found, [Ignored.parse(each) for each in ignored])
    names = {"Shop.find", "Shop.order", "Shop.get", "Shop.count", "Shop.move", "Shop.conf", "Shop.record", "Shop.owner"}
    assert {(each.rule, each.subject) for each in kept} == {("ERROR_CODE_CHANGED", f"shop/{name}") for name in names}
    assert [str(each) for each in unused] == ["METHOD_GONE *"]
    for text, expected in (("NO_RULE", "unknown rule 'NO_RULE': expected one of"), ("*", "'*' needs a pattern")):
        with pytest.raises(ValueError, match=re.escape(expected)):
            Ignored.parse(text)
