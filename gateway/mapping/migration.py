"""The migration keys of a method (`mode`, `key`, `always`, ...) -> its Migration; also its comparison and redaction
rules, and the codes of client errors.

Whatever the mapping asks for, a call that may not be executed twice is never given a mode that executes it on both
sides.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from math import inf
from typing import Any

from msgspec import Struct

from gateway.core.comparison import redaction
from gateway.core.comparison.json_path import Pattern
from gateway.core.comparison.redaction import RedactionRules
from gateway.core.comparison.rules import Rule, RuleError, Rules, Sampling, compile_rule, parse_rate
from gateway.core.dbus import results
from gateway.core.dbus.arguments import ArgumentPlan, parameter
from gateway.core.migration.modes import BUCKETS, Key, Migration, Mode, Setting, Side, share
from gateway.core.routing.route import Effect
from gateway.core.rpc.model import Call, Value, caller
from gateway.mapping.load import Scope
from gateway.mapping.problem import format_place, unknown

DEFAULTS: Mapping[str, Any] = {"mode": "dbus", "on_unavailable": "fault"}

SESSION = "session"
NEEDS_UPSTREAM = "needs a legacy service: add `legacy: {upstream: NAME}`"

Upstreams = Mapping[str, Collection[str]]  # name -> the protocols it accepts unchanged: "xmlrpc/xenapi"


def may_shadow(effect: Effect, *, allowed: bool) -> bool:
    """Whether a call may be executed on both sides: a read, or an idempotent method with `shadow: true`."""
    return effect is Effect.READ or (effect is Effect.IDEMPOTENT and allowed)


def upstream_of(scope: Scope, upstreams: Upstreams | None) -> str | None:
    """The upstream that `legacy` of a file or a method names; an unknown name is reported."""
    named = scope.at("legacy", "upstream")
    if named.data is None:
        return None
    name = str(named.data)
    if upstreams is not None and name not in upstreams:
        named.fail(unknown("upstream", name, sorted(upstreams)), level="schema")
    return name


class MethodMigration(Struct):
    """The migration keys of one method; where the entry has none, those of `defaults`."""

    entry: Scope
    defaults: Scope
    upstream: str | None  # the method's or the file's
    plan: ArgumentPlan
    effect: Effect
    session: str | None  # the session parameter
    group: Scope | None

    def compile(self) -> Migration:
        """The migration of the method; problems are reported."""
        may = may_shadow(self.effect, allowed=self._value("shadow") is True)
        # `observe` and `noise` of `defaults` apply only to methods that may run twice.
        observe, noise = (self._value(key) is True and (may or self.entry.has(key)) for key in ("observe", "noise"))
        mode, key = self._value("mode"), self._key()
        if not isinstance(mode, dict):
            setting = Setting(Mode(mode), observe=observe, noise=noise)
        elif "shadow" in mode:
            setting = Setting(Mode.SHADOW, control=Side(mode["shadow"]), observe=observe, noise=noise)
        else:
            buckets = self._place("mode").at("canary").attempt(share, mode["canary"], level="schema")
            setting = Setting(Mode.CANARY, buckets or 0, observe=observe, noise=noise)
        self._check_upstream(setting)
        if not may:
            self._check_shadow(setting)
        if setting.mode is Mode.CANARY and key is None and 0 < setting.buckets < BUCKETS:
            text = "mode canary needs a key: add `key: PARAMETER`, or a property of the caller such as `key: peer`"
            self._place("mode").fail(text)
        for name in ("always", "never"):
            if key is None and self.entry.at(name).data:
                self.entry.at(name).fail(f"'{name}' needs a key: add `key: PARAMETER`", key=True)
        return Migration(
            setting=setting,
            upstream=self.upstream,
            key=key,
            always=frozenset(map(str, self._place("always").data or ())),
            never=frozenset(map(str, self._place("never").data or ())),
            may_shadow=may,
            fallback=self._value("on_unavailable") == "legacy",
            tasks=self._tasks(),
        )

    def _tasks(self) -> Any:
        """`async`: without one, a method that only reads, sets a property or waits for events, has no form that
        returns a task.

        A login never has one: every client can read the result of a task.
        """
        reads = self.effect is Effect.READ or self.entry.has("set_property") or self.entry.has("events")
        asked = self._value("async") or ("reject" if reads else "task")
        if asked == "task" and self.entry.has("session_user"):
            return "reject"
        return "task" if asked == "legacy" and self.upstream is None else asked

    def _place(self, key: str) -> Scope:
        """The place of a key: in the entry, or in `defaults`."""
        return self.entry.at(key) if self.entry.has(key) or not self.defaults.has(key) else self.defaults.at(key)

    def _value(self, key: str) -> Any:
        data = self._place(key).data
        return DEFAULTS.get(key) if data is None else data

    def _key(self) -> Key | None:
        """The key of a canary: the method's, else the group's, else that of `defaults`, if the method has it."""
        entry, defaults = self.entry, self.defaults
        groups = () if self.group is None else (self.group.at("key"),)
        own = (entry.at("mode", "key"), entry.at("key"), *groups)
        common = ((defaults.at("mode", "key"),) if not entry.has("mode") else ()) + (defaults.at("key"),)
        place = next((each for each in (*own, *common) if each.data is not None), None)
        if place is None:
            return None
        name, session = str(place.data), self.session in self.plan.names
        take = CALLERS.get(name)  # a parameter has precedence over a property of the caller
        if name == SESSION and session:
            take = key_reader(self.plan, str(self.session))
        elif name in self.plan.names:
            take = key_reader(self.plan, name)
        if take is None and place in own:
            owner = str(entry.path[-1]) if place in groups else ""  # the place of a group names no method
            known = dict.fromkeys((*self.plan.names, *CALLERS, *([SESSION] if session else [])))
            place.fail(unknown("key", name, known, owner=owner))
        return None if take is None else Key(name, take)

    def _check_upstream(self, setting: Setting) -> None:
        if self.upstream is not None:
            return
        if setting.mode in (Mode.LEGACY, Mode.SHADOW, Mode.CANARY):
            self._place("mode").fail(f"mode {setting.mode.value} {NEEDS_UPSTREAM}")
        elif setting.observe and self.entry.has("observe"):
            self._place("observe").fail(f"'observe' {NEEDS_UPSTREAM}")
        if self._value("on_unavailable") == "legacy":
            self._place("on_unavailable").fail(f"'on_unavailable: legacy' {NEEDS_UPSTREAM}")
        if self.entry.at("async").data == "legacy":
            self.entry.at("async").fail(f"'async: legacy' {NEEDS_UPSTREAM}")

    def _check_shadow(self, setting: Setting) -> None:
        """Report what would execute a call twice that may not be."""
        is_write = self.effect is Effect.WRITE
        if is_write and self.entry.at("shadow").data is True:
            self.entry.at("shadow").fail(f"'shadow: true' {_WRITE}")
        for key, what, wanted in (
            ("mode", "mode shadow", setting.mode is Mode.SHADOW),
            ("observe", "'observe'", setting.observe),
        ):
            text = f"{what} {_WRITE if is_write else _IDEMPOTENT}"
            if wanted and self.entry.has(key):
                self.entry.at(key).fail(text)
            elif wanted:
                inherited = format_place(self._place(key).path)
                self.entry.fail(f"{text}; inherited from {inherited}: set `{key}` here", key=True)


_WRITE = "would execute each call twice, and the effect is write"
_IDEMPOTENT = "would execute each call twice, and the effect is idempotent: add `shadow: true` to allow it"


def client_errors(entry: Scope, group: Scope | None, root: Scope) -> frozenset[str]:
    """The codes that the list nearest to a method names: its own, else its group's, else the file's."""
    places = (entry, *([] if group is None else [group]), root)
    listed = next((place.at("client_errors").data for place in places if place.has("client_errors")), ())
    return frozenset(map(str, listed))


def check_client_errors(root: Scope) -> None:
    """Report codes that the D-Bus side never gives: they would excuse the legacy side only.

    D-Bus gives the codes of `errors`; an error that no table has keeps its D-Bus name, which contains a dot. Nothing is
    reported where a code is a template: it may become any code.
    """

    def codes_of(*scopes: Scope) -> Iterator[str]:
        for data in (entries for scope in scopes for entries in (scope.at("errors").data or {}).values()):
            yield from (str(entry["code"]) for entry in (data if isinstance(data, list) else [data]))

    methods = root.at("methods").items()
    common = [*codes_of(root, root.at("session"), *root.at("classes").items())]
    lists = [(entry, [*common, *codes_of(entry)]) for entry in methods if entry.has("client_errors")]
    whole = [each for each in (root, *root.at("groups").items()) if each.has("client_errors")]
    if whole and root.document.complete:
        every = [*common, *codes_of(*methods)]
        lists += [(each, every) for each in whole]
    for scope, codes in lists:
        if any(results.template_names(code) for code in codes):
            continue
        for item in scope.at("client_errors").items():
            if str(item.data) not in codes and "." not in str(item.data):
                item.fail(unknown("code of `errors`", str(item.data), dict.fromkeys(codes)), level="schema")


def key_reader(plan: ArgumentPlan, name: str) -> Callable[[Call], str | None]:
    """A function that reads the value of a parameter from a call, as the text of a key."""
    find = parameter(plan, name, translated=True)
    return lambda call: _text(find(call))


def _text(value: Value | object) -> str | None:
    """The text of a key: a text, or an integer in decimal (legacy clients send either); None for any other value."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


# Properties of the caller that a canary may use as its key.
CALLERS: Mapping[str, Callable[[Call], str | None]] = {
    "user": lambda call: _text(call.extensions.get("user")),
    "peer": lambda call: caller(call.peer) or None,
    "domid": lambda call: _text(call.peer.domid),
}


# Comparison rules and redactions


class ComparisonSettings:
    """The `compare` rules and `redact` paths of a file: a method's first, then those of `defaults`, then the file's."""

    def __init__(self, root: Scope, defaults: Scope, parameters: Collection[str]) -> None:
        """`defaults`: of the file, or of a class. `parameters`: the names of all parameters of the file's methods."""
        self._session: str | None = root.at("session", "parameter").data
        common = (defaults, root)
        self._samplings = [scope.at("compare") for scope in common]
        self._rules = [rule for scope in common for rule in _rules(scope.at("compare"))]
        redactions = [found for scope in common for found in _redactions(scope.at("redact"))]
        self._redactions = [pattern for _, pattern in redactions]
        if root.document.complete:
            for scope, pattern in redactions:
                _check_redaction(scope, pattern, parameters)

    def rules(self, entry: Scope) -> Rules:
        """The comparison rules of a method, in order of precedence."""
        return Rules((*_rules(entry.at("compare")), *self._rules))

    def sampling(self, entry: Scope) -> Sampling:
        """Which calls of this method are compared: each key of the method, of `defaults`, or of the file."""
        found: dict[str, float] = {}
        for compare in (entry.at("compare"), *self._samplings):
            if isinstance(compare.data, Mapping):
                if "share" in compare.data and "share" not in found:
                    buckets = compare.at("share").attempt(share, compare.data["share"], level="schema")
                    found["share"] = (buckets or 0) / BUCKETS
                if "at_most" in compare.data and "at_most" not in found:
                    rate = compare.at("at_most").attempt(parse_rate, compare.data["at_most"], level="schema")
                    found["at_most"] = rate or inf
        return Sampling(**found)

    def redactions(self, entry: Scope, parameters: Sequence[str]) -> RedactionRules:
        """The redactions of a method. The session is always redacted, also as the result of a login."""
        own = list(_redactions(entry.at("redact")))
        for scope, pattern in own:
            _check_redaction(scope, pattern, parameters)
            root, step = (*pattern.steps, None)[:2]
            if root == redaction.PARAMS and isinstance(step, int) and step >= len(parameters):
                many = f"the number of parameters is {len(parameters)}, and indexes begin with 0"
                scope.fail(f"no parameter at index {step}: {many}", level="schema")
        sessions = [redaction.named(self._session)] if self._session in parameters and self._session is not None else []
        sessions += [redaction.parse(f"$.{redaction.RESULT_OF}")] if entry.has("session_user") else []
        return RedactionRules((*sessions, *(pattern for _, pattern in own), *self._redactions), tuple(parameters))


def _rules(scope: Scope) -> Iterator[Rule]:
    for rule in (scope.at("rules") if isinstance(scope.data, Mapping) else scope).items():
        try:
            yield compile_rule(rule.data)
        except RuleError as error:
            (rule.at(error.key) if error.key else rule).fail(str(error), level="schema")


def _redactions(scope: Scope) -> Iterator[tuple[Scope, Pattern]]:
    for place in scope.items():
        pattern = place.attempt(redaction.parse, place.data, level="schema")
        if pattern is not None:
            yield place, pattern


def _check_redaction(scope: Scope, pattern: Pattern, parameters: Collection[str]) -> None:
    """A path to an unknown parameter would redact nothing."""
    root, step = (*pattern.steps, None)[:2]
    if root == redaction.NAMED and isinstance(step, str) and step not in parameters:
        scope.fail(unknown("parameter", step, parameters), level="schema")
