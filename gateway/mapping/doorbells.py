"""`doorbell` of a mapping file -> doorbells: which node calls which method, with what. Knows no target and no bus."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from gateway.core import nodes
from gateway.core.exposure import DOM0_ALONE
from gateway.core.nodes import Template
from gateway.core.publication import Beside, Doorbell, Text
from gateway.core.route import Parameter
from gateway.core.signature import Type
from gateway.mapping.exposure import compile_domains
from gateway.mapping.methods import Compiled
from gateway.mapping.problem import did_you_mean, one_of
from gateway.mapping.scope import Scope

VALUE = "value"  # in braces: the node's own value


def compile_doorbells(
    root: Scope, compiled: Mapping[str, Compiled | None], claimed: dict[tuple[str, str], str]
) -> list[Doorbell]:
    """The doorbells of a file that are good; the problems of the others are noted. `compiled`: the file's methods.

    `claimed`: listener and node -> whose doorbell hangs there, of all files: a node has one.
    """
    entries = root.at("doorbell")
    good = []
    for index in range(len(entries.data or ())):
        doorbell = _compile(entries.at(index), root, compiled)
        if doorbell is not None:
            first = claimed.setdefault((doorbell.listener, str(doorbell.node)), doorbell.source)
            if first == doorbell.source:
                good.append(doorbell)
            else:
                entries.at(index, "node").fail(f"{doorbell.node} has a doorbell already, in {first}")
    return good


def _compile(entry: Scope, root: Scope, compiled: Mapping[str, Compiled | None]) -> Doorbell | None:
    before = len(entry.problems)
    node = entry.at("node").attempt(nodes.template, entry.data["node"], level="schema")
    method = _method(entry.at("method"), compiled)
    if node is None or method is None:
        return None
    domains = compile_domains(entry.at("domains"), node) or method.route.domains or DOM0_ALONE
    parameters = _parameters(entry, node, method, root)
    where = entry.document.problem(entry.path, "")
    doorbell = Doorbell(
        listener=entry.data["listener"],
        node=node,
        route=method.route,
        parameters=parameters,
        domains=domains,
        source=f"{where.file}:{where.line}",
        fingerprint=hashlib.sha256(repr((entry.data, method.fingerprint)).encode("utf-8", "surrogatepass")).hexdigest(),
    )
    return doorbell if len(entry.problems) == before else None


def _method(scope: Scope, compiled: Mapping[str, Compiled | None]) -> Compiled | None:
    if scope.data not in compiled and scope.document.complete:
        scope.fail(f"'{scope.data}' is no method of this file{did_you_mean(scope.data, compiled)}")
    return compiled.get(scope.data)


def _parameters(entry: Scope, node: Template, method: Compiled, root: Scope) -> dict[str, Text | Beside]:
    known = {parameter.name: parameter for parameter in method.route.parameters}
    params = entry.at("params")
    strict = _is_strict(root, method.route.method)
    taken: dict[str, Text | Beside] = {}
    for name in params.data or ():
        scope = params.at(name)
        if name not in known:
            hint = did_you_mean(name, known) or f" (it has: {one_of(known)})"
            scope.fail(f"'{name}' is no parameter of {method.route.method}{hint}", key=True)
            continue
        taken[name] = _take(scope, node)
        _check_form(scope, known[name], taken[name], strict=strict)
    for parameter in known.values():
        if parameter.required and parameter.name not in taken:
            entry.fail(f"nobody gives the parameter '{parameter.name}' of {method.route.method}")
    return taken


def _take(scope: Scope, node: Template) -> Text | Beside:
    if isinstance(scope.data, str):
        text = Text(scope.data)
        for name in text.names:
            if name not in (*node.parameters, VALUE):
                known = one_of([*node.parameters, VALUE])
                scope.fail(f"'{{{name}}}' does not stand in 'node' (there are: {known})")
        return text
    tree = scope.says("tree")
    where = scope.at("tree" if tree else "node")
    if where.data != "." or not tree:
        path = where.attempt(nodes.template, f"/{where.data}", level="schema")
        if path is not None and path.parameters:
            where.fail("expected the path of a node beside 'node', without names in braces", level="schema")
    return Beside(where.data, tree=tree)


def _check_form(scope: Scope, parameter: Parameter, take: Text | Beside, *, strict: bool) -> None:
    """All that comes out of a store is text, and a tree a struct of it."""
    kind = parameter.type
    if kind is None:
        return
    if isinstance(take, Beside) and take.tree:
        if not _holds_texts(kind):
            scope.fail(f"'{parameter.name} {kind}' takes no tree: a{{ss}} or a{{sv}} is needed")
    elif kind.code not in "sogv" and (strict or kind.code not in "ybnqiuxtd"):
        needed = "; say coerce: legacy in the method" if strict and kind.code in "ybnqiuxtd" else ""
        scope.fail(f"'{parameter.name} {kind}' takes no text{needed}")


def _holds_texts(kind: Type) -> bool:
    return kind.code == "v" or (kind.is_dict and "".join(map(str, kind.children[0].children)) in ("ss", "sv"))


def _is_strict(root: Scope, method: str) -> bool:
    said = root.at("methods", method, "coerce").data or root.at("defaults", "coerce").data or "strict"
    return bool(said == "strict")
