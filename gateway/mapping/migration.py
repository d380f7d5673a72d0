"""The keys that say who answers a method, legacy service or D-Bus -> its Migration. Knows no running upstream."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from math import inf
from typing import Any

from gateway.core.comparison import redaction
from gateway.core.comparison.json_path import Pattern
from gateway.core.comparison.redaction import RedactionRules
from gateway.core.comparison.rules import Rule, RuleError, Rules, compile_rule
from gateway.core.comparison.sampling import Sampling, parse_rate
from gateway.core.dbus.arguments import ArgumentPlan, parameter
from gateway.core.migration.modes import BUCKETS, Key, Migration, Mode, Setting, Side, share
from gateway.core.routing.route import Effect
from gateway.core.rpc.model import Call, Value, caller
from gateway.mapping.load import Scope
from gateway.mapping.problem import did_you_mean, one_of, place

DEFAULTS: Mapping[str, Any] = {"mode": "dbus", "on_unavailable": "fault", "async": "refuse"}

SESSION = "session"

Upstreams = Mapping[str, Collection[str]]  # name -> what it understands as it comes: "xmlrpc/xenapi"


def upstream_of(scope: Scope, upstreams: Upstreams | None) -> str | None:
    """The upstream that `legacy` at a file or a method names; noted when the config has none of this name."""
    named = scope.at("legacy", "upstream")
    if named.data is None:
        return None
    name = str(named.data)
    if upstreams is not None and name not in upstreams:
        hint = did_you_mean(name, upstreams) or f" (there are: {one_of(sorted(upstreams))})"
        named.fail(f"'{name}' is no upstream of the config{hint}", level="schema")
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
    """A method's migration. `upstream`: the method's own or the file's; `session`: the session's parameter."""
    return _Work(entry, defaults, upstream, plan, effect, session, group).migration()


class _Work:
    """One method. A key is the method's own or, where that is silent, that of `defaults`."""

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
        self._may_shadow = effect is Effect.READ or (effect is Effect.IDEMPOTENT and self._said("shadow") is True)

    def migration(self) -> Migration:
        setting = self._setting()
        key = self._key()
        self._check_upstream(setting)
        self._check_shadow(setting)
        if setting.mode is Mode.CANARY and key is None and 0 < setting.buckets < BUCKETS:
            self._place("mode").fail("canary is refused: no 'key' says what its share is a share of")
        return Migration(
            setting=setting,
            upstream=self._upstream,
            key=key,
            always=self._keys("always", key),
            never=self._keys("never", key),
            may_shadow=self._may_shadow,
            fallback=self._said("on_unavailable") == "legacy",
            tasks=self._said("async") if self._upstream is not None else "refuse",
        )

    # What is said

    def _place(self, key: str) -> Scope:
        """Where a key is said: in the entry, or in the defaults."""
        return self._entry.at(key) if self._entry.says(key) or not self._defaults.says(key) else self._defaults.at(key)

    def _said(self, key: str) -> Any:
        data = self._place(key).data
        return DEFAULTS.get(key) if data is None else data

    def _setting(self) -> Setting:
        observe, noise = self._observed("observe"), self._observed("noise")
        said = self._said("mode")
        if not isinstance(said, dict):
            return Setting(Mode(said), observe=observe, noise=noise)
        if "shadow" in said:
            return Setting(Mode.SHADOW, control=Side(said["shadow"]), observe=observe, noise=noise)
        buckets = self._place("mode").at("canary").attempt(share, said["canary"], level="schema")
        return Setting(Mode.CANARY, buckets or 0, observe=observe, noise=noise)

    def _observed(self, key: str) -> bool:
        """What `defaults` wish for holds where it may; a method's own wish is held against its effect later."""
        wished = self._said(key) is True
        return wished and (self._may_shadow or self._entry.says(key))

    # The key of a canary

    def _key(self) -> Key | None:
        """A method's own key comes before its group's, and that before those of the defaults, which not all have."""
        entry, defaults = self._entry, self._defaults
        default_mode = defaults.at("mode", "key") if not entry.says("mode") else defaults.at("mode", "nothing")
        groups = () if self._group is None else (self._group.at("key"),)
        own = (entry.at("mode", "key"), entry.at("key"), *groups)
        said = next((each for each in (*own, default_mode, defaults.at("key")) if each.data is not None), None)
        if said is None:
            return None
        name = str(said.data)
        take = self._taker(name)
        if take is None and said in own:
            known = [*dict.fromkeys((*self._plan.names, *CALLERS, SESSION))]
            hint = did_you_mean(name, known) or f" (there are: {one_of(known)})"
            said.fail(f"'{name}' is no parameter, and nothing that is known of a caller{hint}")
        return None if take is None else Key(name, take)

    def _taker(self, name: str) -> Callable[[Call], str | None] | None:
        """A parameter comes before what is known of a caller."""
        if name == SESSION and self._session in self._plan.names:
            return key_reader(self._plan, str(self._session))
        if name in self._plan.names:
            return key_reader(self._plan, name)
        return CALLERS.get(name)

    def _keys(self, key: str, divided: Key | None) -> frozenset[str]:
        if divided is None and self._entry.at(key).data:
            self._entry.at(key).fail(f"'{key}' lists keys, and no 'key' says of what", key=True)
        return frozenset(str(item) for item in self._place(key).data or ())

    # What is refused

    def _check_upstream(self, setting: Setting) -> None:
        if self._upstream is not None:
            return
        if setting.mode in (Mode.LEGACY, Mode.SHADOW, Mode.CANARY):
            self._place("mode").fail(f"{setting.mode.value} is refused: {_NO_UPSTREAM}")
        elif setting.observe and self._entry.says("observe"):
            self._place("observe").fail(f"there is nothing to observe: {_NO_UPSTREAM}")
        if self._said("on_unavailable") == "legacy":
            self._place("on_unavailable").fail(f"legacy is refused: {_NO_UPSTREAM}")
        if self._entry.at("async").data == "legacy":
            self._entry.at("async").fail(f"legacy is refused: {_NO_UPSTREAM}")

    def _check_shadow(self, setting: Setting) -> None:
        if self._effect is Effect.WRITE and self._entry.at("shadow").data is True:
            self._entry.at("shadow").fail(_TWICE)
        wishes = {"mode": setting.mode is Mode.SHADOW, "observe": setting.observe}
        for key, wished in wishes.items():
            if wished and not self._may_shadow:
                word = "shadow" if key == "mode" else "observe"
                why = _TWICE if self._effect is Effect.WRITE else _UNSAID
                own = self._entry.says(key)
                where = (
                    "" if own else f"; {place(self._place(key).path)} says {word}: give this method a mode of its own"
                )
                (self._entry.at(key) if own else self._entry).fail(f"{word} is refused: {why}{where}", key=not own)


_NO_UPSTREAM = "no 'legacy: {upstream: NAME}' says where the legacy service is"
_TWICE = "effect is write, the call would run twice"
_UNSAID = "effect is idempotent, and no 'shadow: true' says that the call may run twice"


def key_reader(plan: ArgumentPlan, name: str) -> Callable[[Call], str | None]:
    """What a call has for a parameter, as the text of a key."""
    find = parameter(plan, name, translated=True)
    return lambda call: _text(find(call))


def _text(value: Value | object) -> str | None:
    """A key is a text or a number; the old protocols write one number either way."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


# What the shares of a canary may be divided by, besides a parameter's value.
CALLERS: Mapping[str, Callable[[Call], str | None]] = {
    "user": lambda call: _text(call.extensions.get("user")),
    "peer": lambda call: caller(call.peer) or None,
    "domid": lambda call: _text(call.peer.domid),
}


# `compare` and `redact` -> how answers are compared, and what of them is never kept. Knows no other key.


class ComparisonSettings:
    """Comparison rules and redactions of one file: the method's first, then those of `defaults`, then the file's."""

    def __init__(self, root: Scope, parameters: Collection[str]) -> None:
        """`parameters`: those of all methods of the file."""
        self._session: str | None = root.at("session", "parameter").data
        common = (root.at("defaults"), root)
        self._samplings = [scope.at("compare") for scope in common]
        self._rules = [rule for scope in common for rule in _rules(scope.at("compare"))]
        redactions = [found for scope in common for found in _masks(scope.at("redact"))]
        self._masks = [pattern for _, pattern in redactions]
        if root.document.complete:
            for scope, pattern in redactions:
                _check_name(scope, pattern, parameters)

    def rules(self, entry: Scope) -> Rules:
        """How the answers of this method are compared; problems are noted."""
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
        """What is secret in calls of this method; the session always is, also as the result of a login."""
        own = list(_masks(entry.at("redact")))
        for scope, pattern in own:
            _check_name(scope, pattern, parameters)
            _check_index(scope, pattern, parameters)
        sessions = [redaction.named(self._session)] if self._session in parameters and self._session is not None else []
        sessions += [redaction.parse(f"$.{redaction.RESULT_OF}")] if entry.says("login") else []
        return RedactionRules((*sessions, *(pattern for _, pattern in own), *self._masks), tuple(parameters))


def _rules(scope: Scope) -> Iterator[Rule]:
    rules = scope.at("rules") if isinstance(scope.data, Mapping) else scope
    for index in range(len(rules.data or ())):
        rule = _rule(rules.at(index))
        if rule is not None:
            yield rule


def _rule(scope: Scope) -> Rule | None:
    said: Mapping[str, Any] = scope.data
    try:
        return compile_rule(said)
    except RuleError as error:
        (scope.at(error.key) if error.key else scope).fail(str(error), level="schema")
        return None


def _masks(scope: Scope) -> Iterator[tuple[Scope, Pattern]]:
    for index in range(len(scope.data or ())):
        place = scope.at(index)
        pattern = place.attempt(redaction.parse, place.data, level="schema")
        if pattern is not None:
            yield place, pattern


def _check_name(scope: Scope, pattern: Pattern, parameters: Collection[str]) -> None:
    """A redact that leads to no parameter would hide nothing."""
    root, step = (*pattern.steps, None)[:2]
    if root == redaction.NAMED and isinstance(step, str) and step not in parameters:
        hint = did_you_mean(step, parameters) or f" (there are: {one_of(parameters)})"
        scope.fail(f"'{step}' is no parameter{hint}", level="schema")


def _check_index(scope: Scope, pattern: Pattern, parameters: Collection[str]) -> None:
    root, step = (*pattern.steps, None)[:2]
    if root == redaction.PARAMS and isinstance(step, int) and step >= len(parameters):
        has = f"{len(parameters)} parameters" if len(parameters) != 1 else "1 parameter"
        scope.fail(f"there is no parameter {step}: the method has {has}, counted from 0", level="schema")
