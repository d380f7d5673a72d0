"""The migration keys of a method (`mode`, `key`, `always`, ...) -> its Migration; also its comparison and redaction
rules, and the codes of client errors.

Whatever the mapping asks for, a call that may not be executed twice is never given a mode that executes it on both
sides.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from math import inf
from typing import Any

from gateway.core.comparison import redaction
from gateway.core.comparison.json_path import Pattern
from gateway.core.comparison.redaction import RedactionRules
from gateway.core.comparison.rules import Rule, RuleError, Rules, compile_rule
from gateway.core.comparison.sampling import Sampling, parse_rate
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


def compile_migration(
    entry: Scope,
    defaults: Scope,
    upstream: str | None,
    plan: ArgumentPlan,
    effect: Effect,
    session: str | None,
    group: Scope | None = None,
) -> Migration:
    """The migration of a method. `upstream`: the method's or the file's; `session`: the session parameter."""
    return _Method(entry, defaults, upstream, plan, effect, session, group).migration()


class _Method:
    """The migration keys of one method; where the entry has none, those of `defaults`."""

    def __init__(
        self,
        entry: Scope,
        defaults: Scope,
        upstream: str | None,
        plan: ArgumentPlan,
        effect: Effect,
        session: str | None,
        group: Scope | None,
    ) -> None:
        self._entry = entry
        self._defaults = defaults
        self._upstream = upstream
        self._plan = plan
        self._effect = effect
        self._session = session
        self._group = group
        self._may_shadow = may_shadow(effect, allowed=self._value("shadow") is True)

    def migration(self) -> Migration:
        setting = self._setting()
        key = self._key()
        self._check_upstream(setting)
        self._check_shadow(setting)
        if setting.mode is Mode.CANARY and key is None and 0 < setting.buckets < BUCKETS:
            text = "mode canary needs a key: add `key: PARAMETER`, or a property of the caller such as `key: peer`"
            self._place("mode").fail(text)
        return Migration(
            setting=setting,
            upstream=self._upstream,
            key=key,
            always=self._keys("always", key),
            never=self._keys("never", key),
            may_shadow=self._may_shadow,
            fallback=self._value("on_unavailable") == "legacy",
            tasks=self._tasks(),
        )

    def _tasks(self) -> Any:
        """`async`: without one, a method that only reads, sets a property or waits for events, has no form that
        returns a task.

        A login never has one: every client can read the result of a task.
        """
        reads = self._effect is Effect.READ or self._entry.has("set_property") or self._entry.has("events")
        asked = self._value("async") or ("reject" if reads else "task")
        if asked == "task" and self._entry.has("session_user"):
            return "reject"
        return "task" if asked == "legacy" and self._upstream is None else asked

    def _place(self, key: str) -> Scope:
        """The place of a key: in the entry, or in `defaults`."""
        return self._entry.at(key) if self._entry.has(key) or not self._defaults.has(key) else self._defaults.at(key)

    def _value(self, key: str) -> Any:
        data = self._place(key).data
        return DEFAULTS.get(key) if data is None else data

    def _setting(self) -> Setting:
        observe, noise = self._observed("observe"), self._observed("noise")
        mode = self._value("mode")
        if not isinstance(mode, dict):
            return Setting(Mode(mode), observe=observe, noise=noise)
        if "shadow" in mode:
            return Setting(Mode.SHADOW, control=Side(mode["shadow"]), observe=observe, noise=noise)
        buckets = self._place("mode").at("canary").attempt(share, mode["canary"], level="schema")
        return Setting(Mode.CANARY, buckets or 0, observe=observe, noise=noise)

    def _observed(self, key: str) -> bool:
        """`observe` or `noise`. That of `defaults` applies only to methods that may run twice; see `_check_shadow`."""
        return self._value(key) is True and (self._may_shadow or self._entry.has(key))

    def _key(self) -> Key | None:
        """The key of a canary: the method's, else the group's, else that of `defaults`, if the method has it."""
        entry, defaults = self._entry, self._defaults
        default_mode = defaults.at("mode", "key") if not entry.has("mode") else defaults.at("mode", "nothing")
        groups = () if self._group is None else (self._group.at("key"),)
        own = (entry.at("mode", "key"), entry.at("key"), *groups)
        place = next((each for each in (*own, default_mode, defaults.at("key")) if each.data is not None), None)
        if place is None:
            return None
        name = str(place.data)
        take = self._key_reader(name)
        if take is None and place in own:
            session = [SESSION] if self._session in self._plan.names else []
            owner = str(entry.path[-1]) if place in groups else ""  # the place of a group names no method
            place.fail(unknown("key", name, dict.fromkeys((*self._plan.names, *CALLERS, *session)), owner=owner))
        return None if take is None else Key(name, take)

    def _key_reader(self, name: str) -> Callable[[Call], str | None] | None:
        """A parameter has precedence over a property of the caller."""
        if name == SESSION and self._session in self._plan.names:
            return key_reader(self._plan, str(self._session))
        if name in self._plan.names:
            return key_reader(self._plan, name)
        return CALLERS.get(name)

    def _keys(self, key: str, divided: Key | None) -> frozenset[str]:
        if divided is None and self._entry.at(key).data:
            self._entry.at(key).fail(f"'{key}' needs a key: add `key: PARAMETER`", key=True)
        return frozenset(str(item) for item in self._place(key).data or ())

    def _check_upstream(self, setting: Setting) -> None:
        if self._upstream is not None:
            return
        if setting.mode in (Mode.LEGACY, Mode.SHADOW, Mode.CANARY):
            self._place("mode").fail(f"mode {setting.mode.value} {NEEDS_UPSTREAM}")
        elif setting.observe and self._entry.has("observe"):
            self._place("observe").fail(f"'observe' {NEEDS_UPSTREAM}")
        if self._value("on_unavailable") == "legacy":
            self._place("on_unavailable").fail(f"'on_unavailable: legacy' {NEEDS_UPSTREAM}")
        if self._entry.at("async").data == "legacy":
            self._entry.at("async").fail(f"'async: legacy' {NEEDS_UPSTREAM}")

    def _check_shadow(self, setting: Setting) -> None:
        is_write = self._effect is Effect.WRITE
        if is_write and self._entry.at("shadow").data is True:
            self._entry.at("shadow").fail(f"'shadow: true' {_WRITE}")
        for key, what, wanted in (
            ("mode", "mode shadow", setting.mode is Mode.SHADOW),
            ("observe", "'observe'", setting.observe),
        ):
            if wanted and not self._may_shadow:
                text = f"{what} {_WRITE if is_write else _IDEMPOTENT}"
                if self._entry.has(key):
                    self._entry.at(key).fail(text)
                else:
                    inherited = format_place(self._place(key).path)
                    self._entry.fail(f"{text}; inherited from {inherited}: set `{key}` here", key=True)


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
    methods = {name: root.at("methods", name) for name in root.at("methods").data}
    classes = [root.at("classes", name) for name in root.at("classes").data or ()]
    common = [code for scope in (root, root.at("session"), *classes) for code in _codes(scope.at("errors"))]
    groups = [root.at("groups", name) for name in root.at("groups").data or ()]
    lists = [
        (entry, [*common, *_codes(entry.at("errors"))]) for entry in methods.values() if entry.has("client_errors")
    ]
    whole = [each for each in (root, *groups) if each.has("client_errors") and root.document.complete]
    if whole:
        every = [*common, *(code for entry in methods.values() for code in _codes(entry.at("errors")))]
        lists += [(each, every) for each in whole]
    for scope, codes in lists:
        if any(results.template_names(code) for code in codes):
            continue
        for index, code in enumerate(scope.at("client_errors").data or ()):
            if str(code) not in codes and "." not in str(code):
                known = dict.fromkeys(codes)
                scope.at("client_errors", index).fail(unknown("code of `errors`", str(code), known), level="schema")


def _codes(errors: Scope) -> Iterator[str]:
    for data in (errors.data or {}).values():
        yield from (str(entry["code"]) for entry in (data if isinstance(data, list) else [data]))


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
            _check_index(scope, pattern, parameters)
        sessions = [redaction.named(self._session)] if self._session in parameters and self._session is not None else []
        sessions += [redaction.parse(f"$.{redaction.RESULT_OF}")] if entry.has("session_user") else []
        return RedactionRules((*sessions, *(pattern for _, pattern in own), *self._redactions), tuple(parameters))


def _rules(scope: Scope) -> Iterator[Rule]:
    rules = scope.at("rules") if isinstance(scope.data, Mapping) else scope
    for index in range(len(rules.data or ())):
        rule = rules.at(index)
        try:
            yield compile_rule(rule.data)
        except RuleError as error:
            (rule.at(error.key) if error.key else rule).fail(str(error), level="schema")


def _redactions(scope: Scope) -> Iterator[tuple[Scope, Pattern]]:
    for index in range(len(scope.data or ())):
        place = scope.at(index)
        pattern = place.attempt(redaction.parse, place.data, level="schema")
        if pattern is not None:
            yield place, pattern


def _check_redaction(scope: Scope, pattern: Pattern, parameters: Collection[str]) -> None:
    """A path to an unknown parameter would redact nothing."""
    root, step = (*pattern.steps, None)[:2]
    if root == redaction.NAMED and isinstance(step, str) and step not in parameters:
        scope.fail(unknown("parameter", step, parameters), level="schema")


def _check_index(scope: Scope, pattern: Pattern, parameters: Collection[str]) -> None:
    root, step = (*pattern.steps, None)[:2]
    if root == redaction.PARAMS and isinstance(step, int) and step >= len(parameters):
        text = f"no parameter at index {step}: the number of parameters is {len(parameters)}, and indexes begin with 0"
        scope.fail(text, level="schema")
