"""Selection of methods by a pattern, and whether a setting is possible for them; problems in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches

from gateway.core.migration.modes import BUCKETS, Mode, Setting, Side, share
from gateway.core.routing.overrides import GROUP, NEEDS_LEGACY, is_exact, matches
from gateway.core.routing.route import Effect, Route

MAX_NAMED = 5  # methods that a message names; it gives the number of the rest


def select(routes: Iterable[Route], pattern: str) -> tuple[Route, ...]:
    """The routes that match a pattern: "VM.start", "xenopsd/VM.start", "VM.*", "group:vm-lifecycle", "*".

    A name that no method has may be another form of one: "Async.VM.start".
    """
    routes = tuple(routes)
    found = tuple(route for route in routes if matches(pattern, route))
    return found if found or not is_exact(pattern) else _of_form(routes, pattern)


def _of_form(routes: Iterable[Route], name: str) -> tuple[Route, ...]:
    """The routes of which this is another form of the name, or "service/" and the form."""
    service, _, form = name.rpartition("/")
    return tuple(route for route in routes if service in ("", route.service) and form in route.forms)


def canonical(routes: Iterable[Route], pattern: str) -> str:
    """A pattern as it is stored: "service/method" if it matches one method by name."""
    if not is_exact(pattern):
        return pattern
    selected = {f"{route.service}/{route.method}" for route in select(routes, pattern)}
    return selected.pop() if len(selected) == 1 else pattern


def routes_named(routes: Iterable[Route], name: str) -> tuple[Route, ...]:
    """The routes with this name or alias, or with this "service/method"; else those of which it is another form."""
    routes = tuple(routes)
    names = ((route, (route.method, f"{route.service}/{route.method}", *route.aliases)) for route in routes)
    return tuple(route for route, known in names if name in known) or _of_form(routes, name)


def no_match(routes: Sequence[Route], pattern: str) -> str:
    """A message that no method matches a pattern, with the nearest name."""
    if pattern.startswith(GROUP):
        groups = sorted({route.migration.group for route in routes} - {""})
        return f"no method is in group '{pattern.removeprefix(GROUP)}'{_hint(pattern.removeprefix(GROUP), groups)}"
    names = sorted({name for route in routes for name in (route.method, f"{route.service}/{route.method}")})
    near = get_close_matches(pattern, names, n=1)
    return f"no mapped method is named '{pattern}'" + (f" (did you mean '{near[0]}'?)" if near else "")


def setting(
    mode: str, percent: str | float | None = None, control: str = "", *, observe: bool = False, noise: bool = False
) -> Setting:
    """A setting from the words of a command; raises ValueError saying what is wrong."""
    if mode not in {each.value for each in Mode}:
        raise ValueError(f"unknown mode '{mode}'{_hint(mode, [each.value for each in Mode])}")
    requested = Mode(mode)
    if control not in {"", *(side.value for side in Side)}:
        raise ValueError(f"unknown side '{control}'; expected legacy or dbus")
    what, canary, shadow = requested.value, requested is Mode.CANARY, requested is Mode.SHADOW
    contradictions = {
        "canary needs a share: the percentage of its keys that D-Bus answers": canary and percent is None,
        f"a share belongs to canary, not to {what}": not canary and percent is not None,
        f"a control belongs to shadow, not to {what}": not shadow and bool(control),
        "no side answers in mode off: there is nothing to observe": requested is Mode.OFF and observe,
        "noise needs both sides: use it in shadow, or with observe": noise and not shadow and not observe,
    }
    for words, wrong in contradictions.items():
        if wrong:
            raise ValueError(words)
    return Setting(requested, share(percent) if percent is not None else 0, Side(control or "legacy"), observe, noise)


def setting_problems(routes: Iterable[Route], pattern: str, requested: Setting) -> list[str]:
    """Why a setting is not possible for all methods of a pattern; empty if it is."""
    routes = tuple(routes)
    selected = select(routes, pattern)
    if not selected:
        return [no_match(routes, pattern)]
    return [*_impossible(selected, requested), *_split_groups(routes, selected, requested)]


def _impossible(routes: Sequence[Route], requested: Setting) -> Iterator[str]:
    needs_legacy = requested.mode in NEEDS_LEGACY
    without = [route for route in routes if route.migration.upstream is None]
    if without and (needs_legacy or requested.observe):
        what = requested.mode.value if needs_legacy else "observe"
        yield f"{what} is refused: no upstream is configured for the legacy side of {names(without)}"
    if requested.mode is Mode.SHADOW or requested.observe:
        twice = f"{'shadow' if requested.mode is Mode.SHADOW else 'observe'} is refused: each call would run twice, and"
        never = [route for route in routes if route.effect is Effect.WRITE]
        unsaid = [route for route in routes if route.effect is not Effect.WRITE and not route.migration.may_shadow]
        if never:
            yield f"{twice} these are writes (no `effect: read` in the mapping): {names(never)}"
        if unsaid:
            yield f"{twice} the mapping has no 'shadow: true' that allows it: {names(unsaid)}"
    keyless = [route for route in routes if route.migration.key is None]
    if keyless and requested.mode is Mode.CANARY and requested.buckets not in (0, BUCKETS):
        yield f"canary is refused: the mapping has no 'key' to divide by; only 0% and 100% need none: {names(keyless)}"


def _split_groups(routes: Sequence[Route], selected: Sequence[Route], requested: Setting) -> Iterator[str]:
    """Methods of a group share state and move together; each may be switched off alone."""
    if requested.mode is Mode.OFF:
        return
    inside = {id(route) for route in selected}
    for group in sorted({route.migration.group for route in selected} - {""}):
        left_out = [route for route in routes if route.migration.group == group and id(route) not in inside]
        if left_out:
            yield (
                f"this would split the group '{group}', which shares state: {names(left_out)} would be left out; "
                f"say {GROUP}{group}"
            )


def names(routes: Sequence[Route]) -> str:
    """The first few, and how many more."""
    first = ", ".join(f"{route.service}/{route.method}" for route in routes[:MAX_NAMED])
    return first if len(routes) <= MAX_NAMED else f"{first} and {len(routes) - MAX_NAMED} more"


def _hint(word: str, known: Sequence[str]) -> str:
    near = get_close_matches(word, known, n=1)
    if near:
        return f" (did you mean '{near[0]}'?)"
    return f"; expected one of {', '.join(known)}" if known else " (there is none)"
