"""Compares a method that two revisions of mapping files have, and names each change by its rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gateway.core.dbus.signature import INTEGER_RANGES, Type
from gateway.core.dbus.target import PropertyTarget, Target
from gateway.core.migration.modes import Mode
from gateway.core.xenstore.exposure import Domains
from gateway.mapping.changes.rules import FoundChange
from gateway.mapping.changes.surface import MethodSurface, ParameterSurface, ResultSurface, effect_order
from gateway.mapping.encoding import Directions


class MethodComparison:
    """Compares a method that both revisions have."""

    def __init__(self, before: MethodSurface, after: MethodSurface) -> None:
        self._before = before
        self._after = after

    def changes(self) -> Iterator[FoundChange]:
        """All changes of the method."""
        yield from self._parameters()
        yield from self._calling()
        yield from self._result()
        yield from self._errors()
        yield from self._target()
        yield from self._migration()

    def _change(self, rule: str, message: str) -> FoundChange:
        return FoundChange(self._after.title, rule, message, *split_source(self._after.route.source))

    def _differs(self, rule: str, what: str, before: object, after: object) -> Iterator[FoundChange]:
        if before != after:
            yield self._change(rule, f"{what}: {before} became {after}")

    # Parameters

    def _parameters(self) -> Iterator[FoundChange]:
        old, new = self._before.parameters, self._after.parameters
        renamed = self._renamed()
        for name, other in renamed.items():
            rule = "PARAMETER_RENAMED" if self._before.has_names else "PARAMETER_NAME_CHANGED"
            yield self._change(rule, f"parameter '{name}' is called '{other}'")
        are = {each.name: each for each in new}
        for before in old:
            after = are.get(renamed.get(before.name, before.name))
            if after is None:
                if before.use != "session" and not self._after.keys.get("surplus"):
                    yield self._change("PARAMETER_GONE", f"parameter '{before.name}' is gone")
            else:
                yield from self._parameter(before, after)
        were = {renamed.get(each.name, each.name) for each in old}
        for each in new:
            if each.name not in were and each.use != "session":
                rule = "PARAMETER_ADDED_REQUIRED" if each.required else "PARAMETER_ADDED_OPTIONAL"
                yield self._change(rule, f"parameter '{each.name}' ({each.type or 'any'}) is new")
        yield from self._moved(renamed)

    def _renamed(self) -> dict[str, str]:
        """Parameters of another name at the same place, with the same type."""
        old, new = self._before.parameters, self._after.parameters
        were, are = {each.name for each in old}, {each.name for each in new}
        pairs = zip(old, new, strict=True) if len(old) == len(new) else ()
        return {a.name: b.name for a, b in pairs if a.name not in are and b.name not in were and a.type == b.type}

    def _moved(self, renamed: Mapping[str, str]) -> Iterator[FoundChange]:
        """A parameter that both have stands at another place, counted without the session."""
        old = [renamed.get(each.name, each.name) for each in self._before.parameters if each.use != "session"]
        new = [each.name for each in self._after.parameters if each.use != "session"]
        for name in old:
            if name in new and old.index(name) != new.index(name):
                text = f"parameter '{name}' was number {old.index(name) + 1} and is number {new.index(name) + 1}"
                yield self._change("PARAMETER_MOVED", text)
                return

    def _parameter(self, before: ParameterSurface, after: ParameterSurface) -> Iterator[FoundChange]:
        name = f"parameter '{after.name}'"
        if after.required and not before.required:
            yield self._change("PARAMETER_BECAME_REQUIRED", f"{name} is required; its default was {before.default!r}")
        elif before.required and not after.required:
            yield self._change("PARAMETER_BECAME_OPTIONAL", f"{name} has the default {after.default!r}")
        elif before.default != after.default:
            yield from self._differs("PARAMETER_DEFAULT_CHANGED", f"default of {name}", before.default, after.default)
        if before.is_used and not after.is_used:
            yield self._change("PARAMETER_UNUSED", f"{name} was {before.use}, and is dropped")
        elif before.use != after.use and before.is_used:
            yield from self._differs("PARAMETER_TARGET_CHANGED", name, before.use, after.use)
        if before.is_used and after.is_used:
            yield from self._type_of(name, before, after)
            yield from self._members(name, before, after)
            yield from self._subtrees(name, before, after)

    def _type_of(self, name: str, before: ParameterSurface, after: ParameterSurface) -> Iterator[FoundChange]:
        yield from self._differs("PARAMETER_FORM_CHANGED", f"form of {name}", before.form, after.form)
        if before.type == after.type:
            return
        rule = "PARAMETER_TYPE_WIDENED" if _accepts(after.type, before.type) else "PARAMETER_TYPE_CHANGED"
        yield from self._differs(rule, f"type of {name}", before.type or "any", after.type or "any")

    def _members(self, name: str, before: ParameterSurface, after: ParameterSurface) -> Iterator[FoundChange]:
        if before.members is None or after.members is None:
            if before.members is not after.members:
                yield self._change("PARAMETER_FORM_CHANGED", f"{name} has other members")
            return
        for member, was in before.members.items():
            found = after.members.get(member)
            if found is None:
                rule = "MEMBER_UNUSED" if after.others_ignored else "MEMBER_GONE"
                yield self._change(rule, f"member '{member}' of {name} is gone")
            elif found.type != was.type:
                yield from self._differs("MEMBER_TYPE_CHANGED", f"member '{member}' of {name}", was.type, found.type)
            elif found.required and not was.required:
                yield self._change("MEMBER_ADDED_REQUIRED", f"member '{member}' of {name} is required")
        for member, found in after.members.items():
            if member not in before.members and found.required:
                yield self._change("MEMBER_ADDED_REQUIRED", f"member '{member}' of {name} is new")

    def _subtrees(self, name: str, before: ParameterSurface, after: ParameterSurface) -> Iterator[FoundChange]:
        was, now = before.subtrees, after.subtrees
        if was == now:
            return
        text = f"objects of {name}: {' '.join(was) or 'any'} became {' '.join(now) or 'any'}"
        if not _covers(now, was):
            yield self._change("PARAMETER_OBJECTS_NARROWED", text)
        if not _covers(was, now):
            yield self._change("PARAMETER_OBJECTS_WIDENED", text)

    # How it is called

    def _calling(self) -> Iterator[FoundChange]:
        old, new = self._before.keys, self._after.keys
        if (old["coerce"], new["coerce"]) == ("legacy", "strict"):
            yield self._change("COERCION_STRICTER", "coerce: legacy became strict")
        if old.get("surplus") and not new.get("surplus"):
            yield self._change("SURPLUS_REJECTED", "'surplus: ignore' is gone")
        yield from self._variants(old["variants"], new["variants"])
        before, after = self._before.route, self._after.route
        if after.timeout < before.timeout:
            yield from self._differs("TIMEOUT_SHORTER", "timeout", f"{before.timeout:g} s", f"{after.timeout:g} s")
        else:
            yield from self._differs("TIMEOUT_LONGER", "timeout", f"{before.timeout:g} s", f"{after.timeout:g} s")
        if (before.session_check is None) is not (after.session_check is None):
            rule = "SESSION_ADDED" if before.session_check is None else "SESSION_GONE"
            yield self._change(
                rule, "the session is checked before each call" if rule == "SESSION_ADDED" else "no check"
            )
        checks = [str(each.session_check.target) for each in (before, after) if each.session_check is not None]
        if len(checks) == 2:
            yield from self._differs("SESSION_CHECK_CHANGED", "session check", *checks)
        if before.domains is not None or after.domains is not None:
            domains = before.domains or Domains(), after.domains or Domains()
            yield from domain_changes(self._after.title, *domains, split_source(after.source))
        if self._has_task_form(self._before) and not self._has_task_form(self._after):
            yield self._change("TASK_FORM_GONE", "calls that ask for a task are refused")
        for rule, names in (
            ("LOGIN_CHANGED", ("session_user", "session_originator", "session_closes", "root_login")),
            ("TASK_CHANGED", ("task",)),
        ):
            differing = [name for name in names if old.get(name) != new.get(name)]
            if differing:
                yield self._change(rule, f"{', '.join(differing)} differ{'s' if len(differing) == 1 else ''}")
        yield from self._differs("DOCUMENTATION_CHANGED", "documentation", before.documentation, after.documentation)

    def _variants(self, was: object, now: object) -> Iterator[FoundChange]:
        old, new = Directions.of(was), Directions.of(now)
        sends = any(each.type is None or each.type.has_variant for each in self._before.parameters)
        types = [data if directions.types is not None else None for data, directions in ((was, old), (now, new))]
        if sends and (old.sent, types[0]) != (new.sent, types[1]):
            yield self._change("VARIANTS_CHANGED", "variants that clients send are read in another way")
        result = self._after.result
        typed = (
            result.type is not None and result.type.has_variant and result.kind not in ("record", "records", "struct")
        )
        in_members = any("v" in text.split(" ")[0] for text in result.members.values())
        if old.received != new.received and (typed or in_members):
            yield from self._differs("VARIANTS_CHANGED", "variants in the result", old.received, new.received)

    def _has_task_form(self, method: MethodSurface) -> bool:
        has_tasks = any(each.spelling.task_prefixes for each in method.endpoints)
        return has_tasks and method.migration.tasks != "reject" and method.route.has_task_form

    # The result

    def _result(self) -> Iterator[FoundChange]:
        before, after = self._before.result, self._after.result
        if before.kind != after.kind:
            yield from self._differs("RESULT_TYPE_CHANGED", "result", _shown(before), _shown(after))
            return
        if before.kind in ("record", "records") and before.items != after.items:
            yield from self._differs("RESULT_KEY_CHANGED", "records", " ".join(before.items), " ".join(after.items))
        elif before.items != after.items or before.type != after.type:
            yield self._retyped(before, after)
        for name, was in before.members.items():
            found = after.members.get(name)
            if found is None:
                yield self._change("RESULT_FIELD_GONE", f"the result has no field '{name}'")
            else:
                yield from self._differs("RESULT_FIELD_TYPE_CHANGED", f"field '{name}'", was, found)
        for name in after.members.keys() - before.members.keys():
            yield self._change("RESULT_FIELD_ADDED", f"the result has the field '{name}'")

    def _retyped(self, before: ResultSurface, after: ResultSurface) -> FoundChange:
        old, new = before.type, after.type
        plain = before.items == after.items or (before.items == (str(old),) and after.items == (str(new),))
        narrowed = plain and old is not None and new is not None and _accepts(old, new) and _same_on_wire(old, new)
        rule = "RESULT_TYPE_NARROWED" if narrowed else "RESULT_TYPE_CHANGED"
        return self._change(rule, f"result: {_shown(before)} became {_shown(after)}")

    # Errors

    def _errors(self) -> Iterator[FoundChange]:
        old, new = self._before.errors, self._after.errors
        if old == new:
            return
        for name in dict.fromkeys([*old, *new]):
            before, after = _entries(old, name), _entries(new, name)
            yield from self._error(name, before, after)

    def _error(self, name: str, before: list[Any], after: list[Any]) -> Iterator[FoundChange]:
        for rule, keys, what in (
            ("ERROR_CODE_CHANGED", ("match", "code"), "code"),
            ("ERROR_ARGUMENTS_CHANGED", ("match", "args"), "arguments"),
            ("ERROR_MESSAGE_CHANGED", ("match", "message"), "message"),
        ):
            was = [tuple(str(entry.get(key)) for key in keys) for entry in before]
            now = [tuple(str(entry.get(key)) for key in keys) for entry in after]
            if was != now:
                key = keys[-1]
                old, new = (_list_of(entries, key) for entries in (before, after))
                yield self._change(rule, f"{name}: {what} {old} became {new}")
                return

    # The D-Bus side

    def _target(self) -> Iterator[FoundChange]:
        before, after = self._before.route.target, self._after.route.target
        assert isinstance(before, Target)
        assert isinstance(after, Target)
        yield from self._differs("BUS_NAME_CHANGED", "service", before.bus_name, after.bus_name)
        renamed = self._renamed()
        old_path = before.object_path
        for name, other in renamed.items():
            old_path = old_path.replace("{" + name + "}", "{" + other + "}")
        yield from self._differs("OBJECT_PATH_CHANGED", "object path", old_path, after.object_path)
        yield from self._differs("OBJECT_PATH_CHANGED", "escape", *self._escapes())
        yield from self._differs("MEMBER_CHANGED", "member", _member(before), _member(after))
        if _member(before) == _member(after):
            yield from self._signature(before, after)
        for name in dict.fromkeys([*self._before.args, *self._after.args]):
            was, now = self._before.args.get(name, "sent by clients"), self._after.args.get(name, "sent by clients")
            yield from self._differs("ARGUMENT_CHANGED", f"argument '{name}'", was, now)
        old_effect, new_effect = self._before.route.effect, self._after.route.effect
        weaker = effect_order(new_effect) < effect_order(old_effect)
        rule = "EFFECT_WEAKENED" if weaker else "EFFECT_STRENGTHENED"
        yield from self._differs(rule, "effect", old_effect.value, new_effect.value)
        if not weaker and self._after.migration.may_shadow and not self._before.migration.may_shadow:
            yield self._change("SHADOW_ALLOWED", "'shadow: true' is new")
        connections = (self._connection(self._before), self._connection(self._after))
        yield from self._differs("CONNECTION_CHANGED", "bus connection", *connections)

    def _escapes(self) -> tuple[object, object]:
        """The rule of escaping, where the object path has parameters."""
        if "{" not in self._before.route.bus_target.object_path or "{" not in self._after.route.bus_target.object_path:
            return "", ""
        return self._before.keys["escape"], self._after.keys["escape"]

    def _signature(self, before: Target, after: Target) -> Iterator[FoundChange]:
        old, new = (f"'{each.signature}' -> '{each.reply_signature}'" for each in (before, after))
        if isinstance(before, PropertyTarget) and isinstance(after, PropertyTarget):
            kinds = [_property_type(each) for each in (self._before, self._after)]
            old, new = (str(kind) for kind in kinds)
        yield from self._differs("SIGNATURE_CHANGED", "signature", old, new)

    def _connection(self, method: MethodSurface) -> str:
        own = method.route.connection
        return "shared" if own is None else f"of each {own.of}"

    # Migration

    def _migration(self) -> Iterator[FoundChange]:
        before, after = self._before.migration, self._after.migration
        if before.setting.mode is not Mode.OFF and after.setting.mode is Mode.OFF:
            yield self._change("METHOD_OFF", f"mode {before.setting} became off")
        else:
            yield from self._differs("MODE_CHANGED", "mode", str(before.setting), str(after.setting))
        yield from self._differs("FALLBACK_CHANGED", "fallback to the legacy service", before.fallback, after.fallback)
        upstreams = (before.upstream or "none", after.upstream or "none")
        yield from self._differs("UPSTREAM_CHANGED", "legacy service", *upstreams)
        if before.upstream is None and after.upstream is None:
            return
        # Plans of methods that may not be shadowed are without their shadow steps.
        if before.may_shadow == after.may_shadow and self._before.route.rollout != self._after.route.rollout:
            yield self._change("ROLLOUT_CHANGED", "the plan differs")
        old, new = self._before.migration_keys, self._after.migration_keys
        if old["compare"] != new["compare"]:
            yield self._change("COMPARISON_RULES_CHANGED", "`compare` differs")
        if old["redact"] != new["redact"]:
            yield self._change("REDACTION_CHANGED", "`redact` differs")
        keys = [(each.key.name if each.key else "none", each.group or "none") for each in (before, after)]
        if keys[0] != keys[1] or (before.always, before.never) != (after.always, after.never):
            yield self._change("CANARY_KEY_CHANGED", "key, group, `always` or `never` differs")
        errors = (", ".join(sorted(each.client_errors)) or "none" for each in (before, after))
        yield from self._differs("CLIENT_ERRORS_CHANGED", "client_errors", *errors)


def _property_type(method: MethodSurface) -> object:
    value = method.parameter("value") or next(
        (each for each in method.parameters if each.use == "argument value"), None
    )
    return value.type if value is not None else method.result.items or method.result.type


def _member(target: Target) -> str:
    if isinstance(target, PropertyTarget):
        return f"{target.member} {target.owner}.{target.name}"
    return f"{target.interface}.{target.member}"


def _entries(table: Mapping[str, Any], name: str) -> list[Any]:
    """The entries that apply to a D-Bus error: its own, then those of `*`."""
    found = [table.get(name), table.get("*") if name != "*" else None]
    return [entry for each in found if each is not None for entry in (each if isinstance(each, list) else [each])]


def _list_of(entries: list[Any], key: str) -> str:
    return ", ".join(str(entry.get(key)) for entry in entries) or "that of the protocol"


def _shown(result: ResultSurface) -> str:
    if result.kind == "value":
        return " ".join(result.items) or str(result.type)
    if result.kind == "array":
        return f"an array of {', '.join(result.items)}"
    return result.kind


def _covers(outer: tuple[str, ...], inner: tuple[str, ...]) -> bool:
    """Whether every object below the inner subtrees is below one of the outer; none are all objects."""
    if not outer:
        return True
    return bool(inner) and all(
        any(each == other or other == "/" or each.startswith(f"{other}/") for other in outer) for each in inner
    )


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


def _same_on_wire(old: Type, new: Type) -> bool:
    """Whether XML-RPC has the same type for both: `i8` for unsigned and 64-bit integers, `int` for the others."""
    if old.code in INTEGER_RANGES:
        return (old.code in "uxt") == (new.code in "uxt")
    return all(_same_on_wire(a, b) for a, b in zip(old.children, new.children, strict=True))


def domain_changes(subject: str, before: Domains, after: Domains, place: tuple[str, int]) -> Iterator[FoundChange]:
    """Whether fewer or more xenstore domains may call."""
    if before == after:
        return
    text = f"{_domains_text(before)} became {_domains_text(after)}"
    fewer = not after.everyone and (
        before.everyone or bool(before.numbers - after.numbers or before.named - after.named)
    )
    more = not before.everyone and (
        after.everyone or bool(after.numbers - before.numbers or after.named - before.named)
    )
    if fewer:
        yield FoundChange(subject, "DOMAINS_NARROWED", text, *place)
    if more:
        yield FoundChange(subject, "DOMAINS_WIDENED", text, *place)


def _domains_text(domains: Domains) -> str:
    if domains.everyone:
        return "any domain"
    return ", ".join([*map(str, sorted(domains.numbers)), *sorted(domains.named)]) or "domain 0 alone"


def split_source(source: str) -> tuple[str, int]:
    """The file and the line of a source ("FILE:LINE")."""
    file, _, line = source.rpartition(":")
    return file, int(line)
