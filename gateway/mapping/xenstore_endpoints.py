"""What an `expose` entry says about a xenstore -> an Exposure, or problems; of methods it knows name and parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gateway.core.dbus.signature import Type
from gateway.core.rpc.units import seconds
from gateway.core.xenstore.exposure import HOUR, Domains, Exposure, StateWords
from gateway.core.xenstore.paths import Template, template
from gateway.mapping.load import Scope
from gateway.mapping.problem import did_you_mean, one_of

CODEC = "xenstore"
EVERYONE = "any"
NEVER = "never"

# What each style may be told besides its path and domains; with a star what it must be told.
STYLES: Mapping[str, tuple[str, ...]] = {
    "tree": ("response_ttl",),
    "chunked": (),
    "mailbox": ("answers*",),
    "word": ("method",),
    "deletion": ("method", "parameters", "states"),
    "directory": ("method", "states*"),
}
OPTIONS = ("response_ttl", "method", "parameters", "states", "answers")
ONE_TEXT, MEMBERS = ("chunked", "mailbox"), ("deletion", "directory")  # what the answers of these styles have room for
NEEDED_STATES = {"directory": ("commit", "done"), "deletion": ()}


def methods_reached(place: Scope, methods: Scope) -> Scope:
    """The methods of the file that an entry reaches: all of them, or those that it names."""
    only = place.at("methods")
    for index, name in enumerate(only.data or ()):
        if name not in (methods.data or ()):
            known = list(methods.data or ())
            hint = did_you_mean(name, known) or f" (there are: {one_of(known)})"
            only.at(index).fail(f"'{name}' is no method of this file{hint}")
    if only.data is None:
        return methods
    return replace(methods, data={name: entry for name, entry in (methods.data or {}).items() if name in only.data})


def compile_xenstore_endpoint(place: Scope, methods: Scope) -> Exposure | None:
    """The exposure of an entry with the codec `xenstore`, None for another codec; `methods`: those it reaches."""
    if place.data["codec"] != CODEC:
        for key in ("style", "allowed_domains", *OPTIONS):
            if place.says(key):
                place.at(key).fail(f"'{key}' goes with the codec {CODEC} only", level="schema", key=True)
        return None
    path = place.at("path").attempt(template, place.data["path"], level="schema")
    if path is None or not _said_well(place, path, methods):
        return None
    said = place.data
    return Exposure(
        style=said["style"],
        path=path,
        domains=compile_domains(place.at("allowed_domains"), path) or Domains(),
        response_ttl=_response_ttl(place.at("response_ttl")),
        method=said.get("method", ""),
        parameters=tuple(said.get("parameters", ())),
        states=_words(said["states"]) if "states" in said else None,
        answers=tuple(
            (called, _answer(words))
            for name, words in said.get("answers", {}).items()
            for called in (name, *(methods.at(name, "aliases").data or ()))
        ),
    )


def compile_domains(scope: Scope, path: Template | None) -> Domains | None:
    """Which domains may call; None where nothing is said. `path`: where `{domid}` must stand."""
    if scope.data is None:
        return None
    if scope.data == EVERYONE:
        return Domains(everyone=True)
    names = [str(item)[1:-1] for item in scope.data if str(item).startswith("{")]
    for index, item in enumerate(scope.data):
        if path is not None and str(item).startswith("{") and str(item)[1:-1] not in path.parameters:
            scope.at(index).fail(f"{item} does not stand in the path {path}", level="schema")
    numbers = frozenset(item for item in scope.data if isinstance(item, int))
    return Domains(numbers, frozenset(names), everyone=EVERYONE in scope.data)


def unsayable(style: str, result: Type | None) -> str:
    """Why a style has no room for what a method returns; "" when it has, or when that is known at run time only."""
    if result is None or result.code == "v" or (style == "mailbox" and result.is_dict):
        return ""
    is_one = result.code not in "a("
    if style in ONE_TEXT and not is_one:
        return f"the style {style} has room for one text, and this returns {result}; `result: NAME` picks one"
    if style in MEMBERS and is_one:
        return (
            f"the style {style} has room for members, and this returns {result}; `result: {{NODE: NAME}}` gives it one"
        )
    return ""


def _said_well(place: Scope, path: Template, methods: Scope) -> bool:
    before = len(place.problems)
    if not place.says("style"):
        place.fail(f"the codec {CODEC} needs a style: one of {', '.join(STYLES)}", level="schema")
        return False
    if place.data.get("dialect", "plain") != "plain":
        place.at("dialect").fail(f"the codec {CODEC} goes with the dialect plain only", level="schema")
    if path.root == "/" or any(name.startswith("_") for name in path.parameters):
        place.at("path").fail("a path begins with a name, and none of its parameters with _", level="schema")
    _check_options(place)
    _check_methods(place, path, methods)
    return len(place.problems) == before


def _check_options(place: Scope) -> None:
    style = place.data["style"]
    known = [name.removesuffix("*") for name in STYLES[style]]
    for name in OPTIONS:
        if place.says(name) and name not in known:
            has = f" (it has: {one_of(known)})" if known else ""
            place.at(name).fail(f"'{name}' does not go with the style {style}{has}", level="schema", key=True)
        elif f"{name}*" in STYLES[style] and not place.says(name):
            place.at("style").fail(f"the style {style} needs '{name}'", level="schema")
    for name in NEEDED_STATES.get(style, ()):
        if place.says("states") and not place.at("states").says(name):
            place.at("states").fail(f"'{name}' is missing", level="schema")


def _check_methods(place: Scope, path: Template, methods: Scope) -> None:
    """The methods that the entry names exist, and every one takes what the path gives."""
    names = list(methods.data or ())
    for scope, name in _named(place):
        if name not in names:
            hint = did_you_mean(name, names) or f" (there are: {one_of(names)})"
            scope.fail(f"'{name}' is no method of this file{hint}")
    for name in names:
        if place.says("answers") and name not in place.data["answers"]:
            place.at("answers").fail(f"nobody says what the state is when '{name}' is done")
        compile_domains(methods.at(name, "allowed_domains"), path)
    for parameter in path.parameters:
        lacking = [name for name in names if parameter not in _parameters(methods.at(name))]
        if lacking:
            place.at("path").fail(f"{{{parameter}}} is no parameter of {one_of(lacking)}; `drop` it if it is not used")


def _parameters(entry: Scope) -> list[str]:
    params = entry.at("params").data or ()
    return [str(item["name"]) if isinstance(item, dict) else str(item) for item in params]


def _named(place: Scope) -> list[tuple[Scope, str]]:
    answers = [(place.at("answers", name), name) for name in place.data.get("answers", ())]
    return [*([(place.at("method"), place.data["method"])] if place.says("method") else []), *answers]


def _response_ttl(scope: Scope) -> float | None:
    if scope.data is None:
        return HOUR
    return None if scope.data == NEVER else seconds(scope.data)


def _words(said: Mapping[str, Any]) -> StateWords:
    return StateWords(**said)


def _answer(said: str | Mapping[str, Any]) -> StateWords:
    return StateWords(done=said) if isinstance(said, str) else StateWords(**said)
