"""Which methods a pattern means, and whether a setting may hold for them: refusals in words. Knows no file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches

from gateway.core.migration.modes import BUCKETS, Mode, Setting, Side, share
from gateway.core.routing.overrides import GROUP, NEEDS_LEGACY, is_exact, matches
from gateway.core.routing.route import Effect, Route

NAMED = 5  # methods that a refusal names; of more it gives the number


def select(routes: Iterable[Route], pattern: str) -> tuple[Route, ...]:
    """Those a pattern means: "VM.start", "xenopsd/VM.start", "VM.*", "group:vm-lifecycle", "*"."""
    return tuple(route for route in routes if matches(pattern, route))


def canonical(routes: Iterable[Route], pattern: str) -> str:
    """A pattern as it is kept: what means one method is "service/method", however a person writes it."""
    if not is_exact(pattern):
        return pattern
    means = {f"{route.service}/{route.method}" for route in select(routes, pattern)}
    return means.pop() if len(means) == 1 else pattern


def routes_named(routes: Iterable[Route], name: str) -> tuple[Route, ...]:
    """Those a client may mean by a name, or an operator by "service/method"."""
    return tuple(route for route in routes if name in (route.method, f"{route.service}/{route.method}", *route.aliases))


def no_match(routes: Sequence[Route], pattern: str) -> str:
    """That a pattern means nothing, and what might have been meant."""
    if pattern.startswith(GROUP):
        groups = sorted({route.migration.group for route in routes} - {""})
        return f"no method is in group '{pattern.removeprefix(GROUP)}'{_hint(pattern.removeprefix(GROUP), groups)}"
    names = sorted({name for route in routes for name in (route.method, f"{route.service}/{route.method}")})
    near = get_close_matches(pattern, names, n=1)
    return f"no mapped method is named '{pattern}'" + (f" (did you mean '{near[0]}'?)" if near else "")


def setting(
    mode: str, percent: str | float | None = None, control: str = "", *, observe: bool = False, noise: bool = False
) -> Setting:
    """A setting from an operator's words; raises ValueError saying what is wrong with them."""
    if mode not in {each.value for each in Mode}:
        raise ValueError(f"'{mode}' is no mode{_hint(mode, [each.value for each in Mode])}")
    wanted = Mode(mode)
    if control not in {"", *(side.value for side in Side)}:
        raise ValueError(f"'{control}' is no side (there are: legacy, dbus)")
    wrong = [*_contradictions(wanted, percent, control, observe=observe, noise=noise)]
    if wrong:
        raise ValueError(wrong[0])
    return Setting(wanted, share(percent) if percent is not None else 0, Side(control or "legacy"), observe, noise)


def _contradictions(
    mode: Mode, percent: str | float | None, control: str, *, observe: bool, noise: bool
) -> Iterator[str]:
    if mode is Mode.CANARY and percent is None:
        yield "canary needs a share: for how many per cent of its keys D-Bus is to answer"
    if mode is not Mode.CANARY and percent is not None:
        yield f"a share belongs to canary, not to {mode.value}"
    if mode is not Mode.SHADOW and control:
        yield f"a control belongs to shadow, not to {mode.value}"
    if mode is Mode.OFF and observe:
        yield "nobody answers in mode off: there is nothing to observe"
    if noise and mode is not Mode.SHADOW and not observe:
        yield "noise is told apart only while the other side is asked too: in shadow, or with observe"


def setting_problems(routes: Iterable[Route], pattern: str, wanted: Setting) -> list[str]:
    """Why a setting may not hold for all the methods of a pattern; nothing when it may."""
    routes = tuple(routes)
    means = select(routes, pattern)
    if not means:
        return [no_match(routes, pattern)]
    return [*_without_upstream(means, wanted), *_twice(means, wanted), *_keyless(means, wanted),
            *_split(routes, means, wanted)]  # fmt: skip


def _without_upstream(routes: Sequence[Route], wanted: Setting) -> Iterator[str]:
    if wanted.mode not in NEEDS_LEGACY and not wanted.observe:
        return
    lost = [route for route in routes if route.migration.upstream is None]
    if lost:
        what = wanted.mode.value if wanted.mode in NEEDS_LEGACY else "observe"
        yield f"{what} is refused: no upstream answers for the old side of {names(lost)}"


def _twice(routes: Sequence[Route], wanted: Setting) -> Iterator[str]:
    if wanted.mode is not Mode.SHADOW and not wanted.observe:
        return
    what = "shadow" if wanted.mode is Mode.SHADOW else "observe"
    never = [route for route in routes if route.effect is Effect.WRITE]
    unsaid = [route for route in routes if route.effect is not Effect.WRITE and not route.migration.may_shadow]
    if never:
        yield f"{what} is refused: each call would run twice, and these are writes: {names(never)}"
    if unsaid:
        yield (
            f"{what} is refused: each call would run twice, and no 'shadow: true' in the mapping says that this does "
            f"no harm: {names(unsaid)}"
        )


def _keyless(routes: Sequence[Route], wanted: Setting) -> Iterator[str]:
    if wanted.mode is not Mode.CANARY or wanted.buckets in (0, BUCKETS):
        return
    lost = [route for route in routes if route.migration.key is None]
    if lost:
        yield (
            f"canary is refused: no 'key' in the mapping says what its share is a share of; only 0% and 100% need "
            f"none: {names(lost)}"
        )


def _split(routes: Sequence[Route], means: Sequence[Route], wanted: Setting) -> Iterator[str]:
    """Methods that share state move together; each of them may be switched off alone."""
    if wanted.mode is Mode.OFF:
        return
    inside = {id(route) for route in means}
    for group in sorted({route.migration.group for route in means} - {""}):
        left_out = [route for route in routes if route.migration.group == group and id(route) not in inside]
        if left_out:
            yield (
                f"this would split the group '{group}', which shares state: {names(left_out)} would be left out; "
                f"say {GROUP}{group}"
            )


def names(routes: Sequence[Route]) -> str:
    """The first few, and how many more."""
    first = ", ".join(f"{route.service}/{route.method}" for route in routes[:NAMED])
    return first if len(routes) <= NAMED else f"{first} and {len(routes) - NAMED} more"


def _hint(word: str, known: Sequence[str]) -> str:
    near = get_close_matches(word, known, n=1)
    if near:
        return f" (did you mean '{near[0]}'?)"
    return f" (there are: {', '.join(known)})" if known else " (there is none)"
