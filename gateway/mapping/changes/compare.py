"""Compares two revisions of mapping files, and names each change by its rule.

Endpoints first, with the names that clients find there; then each method that both revisions have. A change of a method
counts once, however many endpoints it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from msgspec.structs import replace

from gateway.core.dbus.signature import INTEGER_RANGES, Type
from gateway.core.dbus.target import PropertyTarget, Target
from gateway.core.migration.modes import Mode
from gateway.core.routing.publication import Publication
from gateway.core.routing.route import Effect
from gateway.core.xenstore.paths import Domains
from gateway.mapping.changes.rules import RULES, FoundChange, Level
from gateway.mapping.changes.surface import MethodSurface, ParameterSurface, ResultSurface, Surface
from gateway.mapping.encoding import Directions
from gateway.mapping.table import EndpointKey, EndpointTable, Table

Found: TypeAlias = Iterator[tuple[str, str]]  # rule and message

# Rules that leave the answer of the D-Bus side as it was: those that concern who may call, evidence, or nobody, these,
# and none of those of results.
_OTHER_LEVELS = (Level.ACCESS, Level.EVIDENCE, Level.COMPATIBLE)
_SAME_ANSWER = frozenset(
    {
        "DOMAINS_NARROWED",
        "EFFECT_WEAKENED",
        "FALLBACK_CHANGED",
        "METHOD_OFF",
        "MODE_CHANGED",
        "PARAMETER_NAME_CHANGED",
        "PARAMETER_OBJECTS_NARROWED",
        "PARAMETER_RENAMED",
        "SESSION_ADDED",
        "SESSION_CHECK_CHANGED",
        "SHADOW_ALLOWED",
        "TASK_FORM_GONE",
        "TIMEOUT_SHORTER",
    }
)


def compare(old: Surface, new: Surface) -> list[FoundChange]:
    """All changes from `old` to `new`, by subject."""
    found = [*_endpoints(old, new), *_nodes(old.table, new.table)]
    for key, before in old.methods.items():
        after = new.methods.get(key)
        if after is None:
            continue
        changes = [*_method(before, after)]
        answers = sorted({rule for rule, _ in changes if _changes_answers(rule)})
        if answers and before.migration.upstream is not None and after.migration.upstream is not None:
            text = f"answers that were compared before are no longer those of D-Bus: {', '.join(answers)}"
            changes.append(("COMPARISONS_INVALID", text))
        place = _split(after.route.source)
        found += [FoundChange(after.title, rule, message, *place) for rule, message in changes]
    return sorted(dict.fromkeys(found))


def _changes_answers(rule: str) -> bool:
    return rule.startswith("RESULT_") or (RULES[rule][0] not in _OTHER_LEVELS and rule not in _SAME_ANSWER)


# Endpoints and names


def _endpoints(old: Surface, new: Surface) -> Iterator[FoundChange]:
    for key, before in old.endpoints.items():
        after = new.endpoints.get(key)
        if after is None:
            text = f"the endpoint had {len(before.routes)} methods"
            yield FoundChange(str(key), "ENDPOINT_GONE", text, *_place(before))
            continue
        for rule, message in _endpoint(before, after):
            yield FoundChange(str(key), rule, message, *_place(after))
    for key in new.endpoints.keys() - old.endpoints.keys():
        endpoint = new.endpoints[key]
        yield FoundChange(str(key), "ENDPOINT_ADDED", f"{endpoint.codec}/{endpoint.dialect}", *_place(endpoint))
    for (title, name), keys in _names_only_in(old, new).items():
        rule, text = "METHOD_GONE", "not mapped any more"
        passed = [new.endpoints[key].passthrough_to for key in keys]
        if not title.endswith(f"/{name}"):
            rule, text = "ALIAS_GONE", f"the name '{name}' is gone"
        elif all(passed):
            rule, text = "METHOD_PASSED", f"not mapped any more; '{passed[0]}' answers"
        place = _split(old.endpoints[keys[0]].routes[name].source)
        yield FoundChange(title, rule, f"{text} at {', '.join(map(str, keys))}", *place)
    for (title, name), keys in _names_only_in(new, old).items():
        rule = "METHOD_ADDED" if title.endswith(f"/{name}") else "ALIAS_ADDED"
        place = _split(new.endpoints[keys[0]].routes[name].source)
        yield FoundChange(title, rule, f"'{name}' is new at {', '.join(map(str, keys))}", *place)


def _names_only_in(these: Surface, others: Surface) -> dict[tuple[str, str], list[EndpointKey]]:
    """Method and name -> the endpoints of both that have it in one revision only."""
    found: dict[tuple[str, str], list[EndpointKey]] = {}
    for key, endpoint in these.endpoints.items():
        for name, route in endpoint.routes.items():
            if key in others.endpoints and name not in others.endpoints[key].routes:
                found.setdefault((f"{route.service}/{route.method}", name), []).append(key)
    return found


def _endpoint(before: EndpointTable, after: EndpointTable) -> Found:
    spoken = [f"{each.codec}/{each.dialect}" for each in (before, after)]
    if spoken[0] != spoken[1]:
        yield "ENDPOINT_PROTOCOL_CHANGED", f"{spoken[0]} became {spoken[1]}"
    if before.passthrough_to and not after.passthrough_to:
        yield "UNMAPPED_REJECTED", f"methods that no file maps were passed to '{before.passthrough_to}'"
    elif before.passthrough_to != after.passthrough_to:
        yield "UNMAPPED_PASSED", f"methods that no file maps are passed to '{after.passthrough_to}'"
    if before.exposure is not None and after.exposure is not None:
        yield from _domains(before.exposure.domains, after.exposure.domains)
        if replace(after.exposure, domains=before.exposure.domains) != before.exposure:
            yield "ENDPOINT_NODES_CHANGED", "style, states or parameters of the nodes"


def _nodes(old: Table, new: Table) -> Iterator[FoundChange]:
    """Publications and watch triggers of a xenstore."""
    published = [{_published(each): each.fingerprint for each in table.publications} for table in (old, new)]
    triggered = [{each.place: each.fingerprint for each in table.triggers} for table in (old, new)]
    for kind, (were, are) in (("PUBLICATION", published), ("TRIGGER", triggered)):
        for subject in were.keys() | are.keys():
            if subject not in are:
                yield FoundChange(subject, f"{kind}_GONE", "not in the mapping any more")
            elif subject not in were:
                yield FoundChange(subject, f"{kind}_ADDED", "new in the mapping")
            elif were[subject] != are[subject]:
                yield FoundChange(subject, f"{kind}_CHANGED", "its entry, or the IDL that it uses, differs")


def _published(publication: Publication) -> str:
    """The listener and the node of a publication."""
    return f"{publication.listener} /{'/'.join(publication.template.node.elements)}"


def _split(source: str) -> tuple[str, int]:
    """The file and the line of a source ("FILE:LINE")."""
    file, _, line = source.rpartition(":")
    return file, int(line)


def _place(endpoint: EndpointTable) -> tuple[str, int]:
    first = next(iter(endpoint.routes.values()), None)
    return (_split(first.source)[0], 1) if first is not None else ("", 1)


# Methods that both revisions have

EFFECTS = (Effect.READ, Effect.IDEMPOTENT, Effect.WRITE)  # by what a second run of a call would do

# What only has to be the same: rule, its name in messages, and how it is read.
_PLAIN: Sequence[tuple[str, str, Callable[[MethodSurface], object]]] = (
    ("DOCUMENTATION_CHANGED", "documentation", lambda one: one.route.documentation),
    ("BUS_NAME_CHANGED", "service", lambda one: one.route.bus_target.bus_name),
    ("MEMBER_CHANGED", "member", lambda one: _member(one.route.bus_target)),
    (
        "CONNECTION_CHANGED",
        "bus connection",
        lambda one: "of each " + one.route.connection.of if one.route.connection else "shared",
    ),
    ("FALLBACK_CHANGED", "fallback to the legacy service", lambda one: one.migration.fallback),
    ("UPSTREAM_CHANGED", "legacy service", lambda one: one.migration.upstream or "none"),
)


def _method(before: MethodSurface, after: MethodSurface) -> Found:
    """All changes of a method."""
    renamed = _renamed(before.parameters, after.parameters)
    yield from _parameters(before, after, renamed)
    yield from _calling(before, after)
    yield from _variants(before, after)
    yield from _result(before.result, after.result)
    yield from _errors(before.errors, after.errors)
    yield from _target(before, after, renamed)
    yield from _migration(before, after)
    for rule, what, read in _PLAIN:
        yield from _differs(rule, what, read(before), read(after))


def _differs(rule: str, what: str, before: object, after: object) -> Found:
    if before != after:
        yield rule, f"{what}: {before} became {after}"


# Parameters


def _renamed(old: Sequence[ParameterSurface], new: Sequence[ParameterSurface]) -> dict[str, str]:
    """Parameters of another name at the same place, with the same type."""
    were, are = {each.name for each in old}, {each.name for each in new}
    pairs = zip(old, new, strict=True) if len(old) == len(new) else ()
    return {a.name: b.name for a, b in pairs if a.name not in are and b.name not in were and a.type == b.type}


def _parameters(before: MethodSurface, after: MethodSurface, renamed: Mapping[str, str]) -> Found:
    for name, other in renamed.items():
        rule = "PARAMETER_RENAMED" if before.has_names else "PARAMETER_NAME_CHANGED"
        yield rule, f"parameter '{name}' is called '{other}'"
    are = {each.name: each for each in after.parameters}
    were = {renamed.get(each.name, each.name): each for each in before.parameters}
    for name, was in were.items():
        if name in are:
            yield from _parameter(was, are[name])
        elif was.use != "session" and not after.keys.get("surplus"):
            yield "PARAMETER_GONE", f"parameter '{was.name}' is gone"
    for name, each in are.items():
        if name not in were and each.use != "session":
            rule = "PARAMETER_ADDED_REQUIRED" if each.required else "PARAMETER_ADDED_OPTIONAL"
            yield rule, f"parameter '{name}' ({each.type or 'any'}) is new"
    old = [name for name, each in were.items() if each.use != "session"]
    new = [name for name, each in are.items() if each.use != "session"]
    moved = next((name for name in old if name in new and old.index(name) != new.index(name)), None)
    if moved is not None:
        text = f"parameter '{moved}' was number {old.index(moved) + 1} and is number {new.index(moved) + 1}"
        yield "PARAMETER_MOVED", text


def _parameter(before: ParameterSurface, after: ParameterSurface) -> Found:
    name = f"parameter '{after.name}'"
    if after.required and not before.required:
        yield "PARAMETER_BECAME_REQUIRED", f"{name} is required; its default was {before.default!r}"
    elif before.required and not after.required:
        yield "PARAMETER_BECAME_OPTIONAL", f"{name} has the default {after.default!r}"
    else:
        yield from _differs("PARAMETER_DEFAULT_CHANGED", f"default of {name}", before.default, after.default)
    if not before.is_used:
        return
    if not after.is_used:
        yield "PARAMETER_UNUSED", f"{name} was {before.use}, and is dropped"
        return
    yield from _differs("PARAMETER_TARGET_CHANGED", name, before.use, after.use)
    yield from _differs("PARAMETER_FORM_CHANGED", f"form of {name}", before.form, after.form)
    rule = "PARAMETER_TYPE_WIDENED" if _accepts(after.type, before.type) else "PARAMETER_TYPE_CHANGED"
    yield from _differs(rule, f"type of {name}", before.type or "any", after.type or "any")
    yield from _members(name, before, after)
    was, now = before.subtrees, after.subtrees
    if was != now:
        text = f"objects of {name}: {' '.join(was) or 'any'} became {' '.join(now) or 'any'}"
        if not _covers(now, was):
            yield "PARAMETER_OBJECTS_NARROWED", text
        if not _covers(was, now):
            yield "PARAMETER_OBJECTS_WIDENED", text


def _members(name: str, before: ParameterSurface, after: ParameterSurface) -> Found:
    if before.members is None or after.members is None:
        if before.members is not after.members:
            yield "PARAMETER_FORM_CHANGED", f"{name} has other members"
        return
    for member, was in before.members.items():
        found = after.members.get(member)
        if found is None:
            rule = "MEMBER_UNUSED" if after.others_ignored else "MEMBER_GONE"
            yield rule, f"member '{member}' of {name} is gone"
        elif found.type != was.type:
            yield from _differs("MEMBER_TYPE_CHANGED", f"member '{member}' of {name}", was.type, found.type)
        elif found.required and not was.required:
            yield "MEMBER_ADDED_REQUIRED", f"member '{member}' of {name} is required"
    for member, found in after.members.items():
        if member not in before.members and found.required:
            yield "MEMBER_ADDED_REQUIRED", f"member '{member}' of {name} is new"


def _accepts(wide: Type | None, narrow: Type | None) -> bool:
    """Whether every value of the narrow type is one of the wide type."""
    if wide is None or narrow is None:
        return wide is None
    if wide == narrow or (wide.code == "s" and narrow.code in "og"):
        return True
    if wide.code in INTEGER_RANGES and narrow.code in INTEGER_RANGES:
        (low, high), (least, most) = INTEGER_RANGES[wide.code], INTEGER_RANGES[narrow.code]
        return low <= least and most <= high
    same = wide.code == narrow.code and len(wide.children) == len(narrow.children) > 0
    return same and all(_accepts(a, b) for a, b in zip(wide.children, narrow.children, strict=True))


def _covers(outer: tuple[str, ...], inner: tuple[str, ...]) -> bool:
    """Whether every object below the inner subtrees is below one of the outer; none are all objects."""
    if not outer:
        return True
    return bool(inner) and all(
        any(each == other or other == "/" or each.startswith(f"{other}/") for other in outer) for each in inner
    )


# How it is called


def _calling(before: MethodSurface, after: MethodSurface) -> Found:
    old, new = before.keys, after.keys
    if (old["coerce"], new["coerce"]) == ("legacy", "strict"):
        yield "COERCION_STRICTER", "coerce: legacy became strict"
    if old.get("surplus") and not new.get("surplus"):
        yield "SURPLUS_REJECTED", "'surplus: ignore' is gone"
    was, now = before.route.timeout, after.route.timeout
    yield from _differs("TIMEOUT_SHORTER" if now < was else "TIMEOUT_LONGER", "timeout", f"{was:g} s", f"{now:g} s")
    checks = before.route.session_check, after.route.session_check
    if checks[0] is not None and checks[1] is not None:
        yield from _differs("SESSION_CHECK_CHANGED", "session check", str(checks[0].target), str(checks[1].target))
    elif checks[1] is not None:
        yield "SESSION_ADDED", "the session is checked before each call"
    elif checks[0] is not None:
        yield "SESSION_GONE", "no check"
    yield from _domains(before.route.domains or Domains(), after.route.domains or Domains())
    if _has_task_form(before) and not _has_task_form(after):
        yield "TASK_FORM_GONE", "calls that ask for a task are refused"
    for rule, names in (
        ("LOGIN_CHANGED", ("session_user", "session_originator", "session_closes", "root_login")),
        ("TASK_CHANGED", ("task",)),
    ):
        differing = [name for name in names if old.get(name) != new.get(name)]
        if differing:
            yield rule, f"{', '.join(differing)} differ{'s' if len(differing) == 1 else ''}"


def _variants(before: MethodSurface, after: MethodSurface) -> Found:
    data = before.keys["variants"], after.keys["variants"]
    old, new = map(Directions.of, data)
    sends = any(each.type is None or each.type.has_variant for each in before.parameters)
    types = [each if directions.types is not None else None for each, directions in zip(data, (old, new), strict=True)]
    if sends and (old.sent, types[0]) != (new.sent, types[1]):
        yield "VARIANTS_CHANGED", "variants that clients send are read in another way"
    result = after.result
    typed = result.type is not None and result.type.has_variant and result.kind not in ("record", "records", "struct")
    if typed or any("v" in text.split(" ")[0] for text in result.members.values()):
        yield from _differs("VARIANTS_CHANGED", "variants in the result", old.received, new.received)


def _has_task_form(method: MethodSurface) -> bool:
    has_tasks = any(each.spelling.task_prefixes for each in method.endpoints)
    return has_tasks and method.migration.tasks != "reject" and method.route.has_task_form


def _domains(before: Domains, after: Domains) -> Found:
    """Whether fewer or more xenstore domains may call."""

    def lacks(these: Domains, others: Domains) -> bool:
        few = these.numbers - others.numbers or these.named - others.named
        return not others.everyone and (these.everyone or bool(few))

    text = f"{_domains_text(before)} became {_domains_text(after)}"
    if lacks(before, after):
        yield "DOMAINS_NARROWED", text
    if lacks(after, before):
        yield "DOMAINS_WIDENED", text


def _domains_text(domains: Domains) -> str:
    if domains.everyone:
        return "any domain"
    return ", ".join([*map(str, sorted(domains.numbers)), *sorted(domains.named)]) or "domain 0 alone"


# The result and the errors


def _result(before: ResultSurface, after: ResultSurface) -> Found:
    if before.kind != after.kind:
        yield from _differs("RESULT_TYPE_CHANGED", "result", _shown(before), _shown(after))
        return
    if before.kind in ("record", "records") and before.items != after.items:
        yield from _differs("RESULT_KEY_CHANGED", "records", " ".join(before.items), " ".join(after.items))
    elif before.items != after.items or before.type != after.type:
        old, new = before.type, after.type
        plain = before.items == after.items or (before.items == (str(old),) and after.items == (str(new),))
        narrowed = plain and old is not None and new is not None and _accepts(old, new) and _same_on_wire(old, new)
        rule = "RESULT_TYPE_NARROWED" if narrowed else "RESULT_TYPE_CHANGED"
        yield rule, f"result: {_shown(before)} became {_shown(after)}"
    for name, was in before.members.items():
        if name in after.members:
            yield from _differs("RESULT_FIELD_TYPE_CHANGED", f"field '{name}'", was, after.members[name])
        else:
            yield "RESULT_FIELD_GONE", f"the result has no field '{name}'"
    for name in after.members.keys() - before.members.keys():
        yield "RESULT_FIELD_ADDED", f"the result has the field '{name}'"


def _shown(result: ResultSurface) -> str:
    if result.kind == "value":
        return " ".join(result.items) or str(result.type)
    if result.kind == "array":
        return f"an array of {', '.join(result.items)}"
    return result.kind


def _same_on_wire(old: Type, new: Type) -> bool:
    """Whether XML-RPC has the same type for both: `i8` for unsigned and 64-bit integers, `int` for the others."""
    if old.code in INTEGER_RANGES:
        return (old.code in "uxt") == (new.code in "uxt")
    return all(_same_on_wire(a, b) for a, b in zip(old.children, new.children, strict=True))


def _errors(old: Mapping[str, Any], new: Mapping[str, Any]) -> Found:
    """The first difference of each D-Bus error. The entries that apply to it are its own, then those of `*`."""

    def entries(table: Mapping[str, Any], name: str) -> list[Any]:
        found = [table[each] for each in dict.fromkeys((name, "*")) if each in table]
        return [entry for each in found for entry in (each if isinstance(each, list) else [each])]

    for name in dict.fromkeys([*old, *new]) if old != new else ():
        both = entries(old, name), entries(new, name)
        for rule, key, what in (
            ("ERROR_CODE_CHANGED", "code", "code"),
            ("ERROR_ARGUMENTS_CHANGED", "args", "arguments"),
            ("ERROR_MESSAGE_CHANGED", "message", "message"),
        ):
            was, now = ([(str(entry.get("match")), str(entry.get(key))) for entry in each] for each in both)
            if was != now:
                shown = (", ".join(text for _, text in each) or "that of the protocol" for each in (was, now))
                yield rule, f"{name}: {what} {' became '.join(shown)}"
                break


# The D-Bus side


def _target(before: MethodSurface, after: MethodSurface, renamed: Mapping[str, str]) -> Found:
    old, new = before.route.bus_target, after.route.bus_target
    path = old.object_path
    for name, other in renamed.items():
        path = path.replace("{" + name + "}", "{" + other + "}")
    yield from _differs("OBJECT_PATH_CHANGED", "object path", path, new.object_path)
    if "{" in old.object_path and "{" in new.object_path:
        yield from _differs("OBJECT_PATH_CHANGED", "escape", before.keys["escape"], after.keys["escape"])
    if _member(old) == _member(new):
        yield from _differs("SIGNATURE_CHANGED", "signature", _signature(before), _signature(after))
    args = [each.keys.get("args", {}) for each in (before, after)]
    for name in dict.fromkeys([*args[0], *args[1]]):
        was, now = (each.get(name, "sent by clients") for each in args)
        yield from _differs("ARGUMENT_CHANGED", f"argument '{name}'", was, now)
    weaker = EFFECTS.index(after.route.effect) < EFFECTS.index(before.route.effect)
    rule = "EFFECT_WEAKENED" if weaker else "EFFECT_STRENGTHENED"
    yield from _differs(rule, "effect", before.route.effect.value, after.route.effect.value)
    if not weaker and after.migration.may_shadow and not before.migration.may_shadow:
        yield "SHADOW_ALLOWED", "'shadow: true' is new"


def _member(target: Target) -> str:
    if isinstance(target, PropertyTarget):
        return f"{target.member} {target.owner}.{target.name}"
    return f"{target.interface}.{target.member}"


def _signature(method: MethodSurface) -> str:
    target = method.route.bus_target
    if not isinstance(target, PropertyTarget):
        return f"'{target.signature}' -> '{target.reply_signature}'"
    value = method.parameter("value") or next(
        (each for each in method.parameters if each.use == "argument value"), None
    )
    return str(value.type if value is not None else method.result.items or method.result.type)


# Migration


def _migration(old: MethodSurface, new: MethodSurface) -> Found:
    before, after = old.migration, new.migration
    if before.setting.mode is not Mode.OFF and after.setting.mode is Mode.OFF:
        yield "METHOD_OFF", f"mode {before.setting} became off"
    else:
        yield from _differs("MODE_CHANGED", "mode", str(before.setting), str(after.setting))
    if before.upstream is None and after.upstream is None:
        return
    # Plans of methods that may not be shadowed are without their shadow steps.
    if before.may_shadow == after.may_shadow and old.route.rollout != new.route.rollout:
        yield "ROLLOUT_CHANGED", "the plan differs"
    for rule, key in (("COMPARISON_RULES_CHANGED", "compare"), ("REDACTION_CHANGED", "redact")):
        if old.migration_keys[key] != new.migration_keys[key]:
            yield rule, f"`{key}` differs"
    keys = [(each.key.name if each.key else "none", each.group or "none") for each in (before, after)]
    if keys[0] != keys[1] or (before.always, before.never) != (after.always, after.never):
        yield "CANARY_KEY_CHANGED", "key, group, `always` or `never` differs"
    errors = (", ".join(sorted(each.client_errors)) or "none" for each in (before, after))
    yield from _differs("CLIENT_ERRORS_CHANGED", "client_errors", *errors)
