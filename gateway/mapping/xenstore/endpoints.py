"""`expose` entries with the codec `xenstore` -> an Exposure: style, path, allowed domains and the options of the style.

A style is the convention by which requests and responses are written as nodes; docs/xenstore.md describes each.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from gateway.core.dbus.signature import Type
from gateway.core.rpc.units import seconds
from gateway.core.xenstore.paths import HOUR, Domains, Exposure, StateWords, Template, template
from gateway.mapping.load import Scope
from gateway.mapping.parameters import parameter_names
from gateway.mapping.problem import one_of, unknown

CODEC = "xenstore"
EVERYONE = "any"
NEVER = "never"

# Style -> its options besides path and allowed_domains; a star marks a required one.
STYLES: Mapping[str, tuple[str, ...]] = {
    "tree": ("response_ttl",),
    "chunked": (),
    "mailbox": ("answers*",),
    "word": ("method",),
    "deletion": ("method", "parameters", "states"),
    "directory": ("method", "states*"),
}
OPTIONS = ("response_ttl", "method", "parameters", "states", "answers")
REQUIRED_STATES = {"directory": ("commit", "done")}
ONE_TEXT, MEMBERS = ("chunked", "mailbox"), ("deletion", "directory")  # styles by the form of their responses


def exposed_methods(entry: Scope, methods: Scope) -> Scope:
    """The methods of the file that an `expose` entry reaches: those of its `methods`, or all."""
    chosen = entry.at("methods")
    for item in chosen.items():
        if item.data not in methods.data:
            item.fail(unknown("method", item.data, methods.data))
    if chosen.data is None:
        return methods
    return replace(methods, data={name: data for name, data in methods.data.items() if name in chosen.data})


def compile_xenstore_endpoint(entry: Scope, methods: Scope) -> Exposure | None:
    """The exposure of an entry with the codec `xenstore`, else None. `methods`: those that the entry reaches."""
    data = entry.data
    if data["codec"] != CODEC:
        for key in ("style", "allowed_domains", *OPTIONS):
            if entry.has(key):
                entry.at(key).fail(f"'{key}' requires codec {CODEC}", level="schema", key=True)
        return None
    path = entry.at("path").attempt(template, data["path"], level="schema")
    if path is None or not _check(entry, path, methods):
        return None
    ttl = data.get("response_ttl")
    return Exposure(
        style=data["style"],
        path=path,
        domains=compile_domains(entry.at("allowed_domains"), path) or Domains(),
        response_ttl=HOUR if ttl is None else None if ttl == NEVER else seconds(ttl),
        method=data.get("method", ""),
        parameters=tuple(data.get("parameters", ())),
        states=StateWords(**data["states"]) if "states" in data else None,
        answers=tuple(
            (called, StateWords(done=words) if isinstance(words, str) else StateWords(**words))
            for name, words in data.get("answers", {}).items()
            for called in (name, *(methods.at(name, "aliases").data or ()))
        ),
    )


def compile_domains(scope: Scope, path: Template | None) -> Domains | None:
    """`allowed_domains`; None where the key is absent. With a path, each `{name}` must be one of its parameters."""
    if scope.data is None:
        return None
    if scope.data == EVERYONE:
        return Domains(everyone=True)
    names = [str(item)[1:-1] for item in scope.data if str(item).startswith("{")]
    for index, item in enumerate(scope.data):
        if path is not None and str(item).startswith("{") and str(item)[1:-1] not in path.parameters:
            scope.at(index).fail(f"{item} is not a parameter of the path {path}", level="schema")
    numbers = frozenset(item for item in scope.data if isinstance(item, int))
    return Domains(numbers, frozenset(names), everyone=EVERYONE in scope.data)


def check_result(style: str, result: Type | None, entry: Scope) -> None:
    """Report a result that the style cannot write; at run time that would be found only after the call was executed.

    `result`: the type that the method returns, None for void. What a variant contains is known at run time only.
    """
    if result is None or result.code == "v" or (style == "mailbox" and result.is_dict):
        return
    is_one = result.code not in "a("
    needs = ""
    if style in ONE_TEXT and not is_one:
        needs = "needs one text as result, got {}: pick an output argument with `result: NAME`"
    if style in MEMBERS and is_one:
        needs = "needs a struct as result, got {}: name it with `result: {{NODE: NAME}}`"
    if needs:
        where = entry.at("result") if entry.has("result") else entry
        where.fail(f"style {style} {needs.format(result)}", key=True)


def _check(entry: Scope, path: Template, methods: Scope) -> bool:
    before = len(entry.problems)
    if not entry.has("style"):
        entry.fail(f"codec {CODEC} needs 'style'; expected one of {', '.join(STYLES)}", level="schema")
        return False
    if entry.data.get("dialect", "plain") != "plain":
        text = f"codec {CODEC} supports dialect plain only, got '{entry.data['dialect']}'"
        entry.at("dialect").fail(text, level="schema")
    if path.root == "/" or any(name.startswith("_") for name in path.parameters):
        text = f"expected a path whose first element is a name and whose parameters do not begin with '_', got '{path}'"
        entry.at("path").fail(text, level="schema")
    style = entry.data["style"]
    known = [name.removesuffix("*") for name in STYLES[style]]
    for name in OPTIONS:
        if entry.has(name) and name not in known:
            text = f"style {style} does not have the option '{name}'; its options: {one_of(known)}"
            entry.at(name).fail(text, level="schema", key=True)
        elif f"{name}*" in STYLES[style] and not entry.has(name):
            entry.at("style").fail(f"style {style} needs '{name}'", level="schema")
    for name in REQUIRED_STATES.get(style, ()):
        if entry.has("states") and not entry.at("states").has(name):
            entry.at("states").fail(f"'{name}' is missing", level="schema")
    _check_methods(entry, path, methods)
    return len(entry.problems) == before


def _check_methods(entry: Scope, path: Template, methods: Scope) -> None:
    """The methods that the entry names exist, and every method has the parameters of the path."""
    names = list(methods.data)
    named = [(each, each.path[-1]) for each in entry.at("answers").items()]
    named += [(entry.at("method"), entry.data["method"])] if entry.has("method") else []
    for scope, name in named:
        if name not in names:
            scope.fail(unknown("method", str(name), names))
    for method in methods.items():
        if entry.has("answers") and method.path[-1] not in entry.data["answers"]:
            text = f"method '{method.path[-1]}' has no entry: add its state when the call is done"
            entry.at("answers").fail(text)
        compile_domains(method.at("allowed_domains"), path)
    for parameter in path.parameters:
        lacking = [str(each.path[-1]) for each in methods.items() if parameter not in parameter_names(each)]
        if lacking:
            text = f"{{{parameter}}} is not a parameter of {one_of(lacking)}: add it to `params`"
            entry.at("path").fail(f"{text} (with `drop: true` if it is not used)")
