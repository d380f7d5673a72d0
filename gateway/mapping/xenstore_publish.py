"""`publish` of a mapping file -> publications: which nodes show which signal or properties. Knows no method entry."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from gateway.core.dbus.arguments import ArgumentPlan, Constant, compile_arguments, placeholders
from gateway.core.dbus.signature import BASIC, Type
from gateway.core.dbus.target import Parameter, Subscription
from gateway.core.routing.publication import Flag, NodeTemplate, Publication, RelatedNode, Text, WatchTrigger, grants
from gateway.core.routing.route import Effect, Route
from gateway.core.rpc.units import seconds
from gateway.core.xenstore import paths
from gateway.core.xenstore.exposure import DOM0_ALONE
from gateway.core.xenstore.paths import Template
from gateway.mapping.introspection_xml import signature
from gateway.mapping.load import Scope
from gateway.mapping.methods import Compiled
from gateway.mapping.problem import did_you_mean, one_of
from gateway.mapping.results import compile_result
from gateway.mapping.table import Contract
from gateway.mapping.targets import (
    OBJECT_MANAGER,
    Callee,
    IdlLibrary,
    TargetObject,
    all_properties,
    find_site,
    known_member,
    managed_objects,
)
from gateway.mapping.xenstore_endpoints import compile_domains

TEXTS = frozenset(BASIC) - {"h"}  # types whose values are said in a text
READING = "30s"  # how long reading the properties may take


@dataclass(frozen=True, slots=True)
class Published:
    """A publication, and what it relies on."""

    publication: Publication
    contract: Contract


def compile_publications(root: Scope, library: IdlLibrary, claimed: dict[tuple[str, str], str]) -> list[Published]:
    """The publications of a file that are good; the problems of the others are noted.

    `claimed`: listener and node -> who publishes it, of all files; two of them would undo each other's work for ever.
    """
    entries = root.at("publish")
    good = []
    for index in range(len(entries.data or ())):
        published = _Entry(entries.at(index), root, library).compile()
        if published is not None and _claim(published.publication, claimed, entries.at(index, "node")):
            good.append(published)
    return good


def _claim(publication: Publication, claimed: dict[tuple[str, str], str], scope: Scope) -> bool:
    nodes_ = [str(publication.template.node.below(*below)) for below in publication.template.leaves]
    twice = [node for node in nodes_ if (publication.listener, node) in claimed]
    for node in twice:
        scope.fail(f"{node} is published already, in {claimed[publication.listener, node]}")
    claimed.update({(publication.listener, node): publication.source for node in nodes_ if node not in twice})
    return not twice


class _Entry:
    """One entry while it is compiled."""

    def __init__(self, entry: Scope, root: Scope, library: IdlLibrary) -> None:
        self._entry = entry
        self._root = root
        self._library = library

    def compile(self) -> Published | None:
        before = len(self._entry.problems)
        site = find_site(self._entry, self._root.at("dbus"), self._library)
        node = self._entry.at("node").attempt(paths.template, self._entry.data["node"], level="schema")
        if site is None or node is None or not self._path_is_good(site):
            return None
        published = self._signal(site, node) if self._entry.says("signal") else self._properties(site, node)
        return published if len(self._entry.problems) == before else None

    def _path_is_good(self, site: TargetObject) -> bool:
        """At most one name, and that the last element; else who has changed could not be told, or the bus be heard."""
        fixed, brace, rest = site.object_path.partition("{")
        if not brace or (rest.endswith("}") and "{" not in rest and fixed.endswith("/") and fixed != "/"):
            return True
        where = self._entry.at("object_path") if self._entry.says("object_path") else self._entry
        where.fail("expected an object path with one name at most, as its last element: /org/example/vm/{vm}")
        return False

    # Signals

    def _signal(self, site: TargetObject, node: Template) -> Published | None:
        scope = self._entry.at("signal")
        signal = known_member(scope, site.interface.signals, "signal", site)
        if signal is None:
            return None
        self._refuse("objects", "a signal: what has happened cannot be read again")
        if not self._entry.says("value"):
            self._entry.fail("'value' is missing: the text of the node, such as \"{kib}\"")
            return None
        known = {argument.name: argument.type for argument in signal.args}
        drawing = self._drawing(
            node, {(): self._entry.at("value")}, known, f"argument of {site.interface.name}.{signal.name}", site
        )
        heard = replace(self._place(site), member=signal.name, signature=signature(signal.args))
        return self._published(
            Publication(
                self._listener, drawing, (heard,), site.object_path, arguments=tuple(arg.name for arg in signal.args)
            ),
            site,
            (),
        )

    # Properties

    def _properties(self, site: TargetObject, node: Template) -> Published | None:
        readable = {name: p for name, p in site.interface.properties.items() if p.access != "write"}
        known = {name: found.type for name, found in readable.items()}
        drawing = self._drawing(node, self._leaves(), known, f"property of {site.interface.name}", site)
        used = {name: readable[name] for name in _names(drawing) if name in readable}
        if not used:
            if not set(_names(drawing)) - known.keys() - set(placeholders(site.object_path)):
                self._entry.fail("no property is published")
            return None
        read_all = self._read_all(site)
        heard = [replace(self._place(site), properties={name: str(p.type) for name, p in used.items()})]
        if read_all is not None:
            heard += _comings_and_goings(site, read_all.bus_target.object_path)
        publication = Publication(
            self._listener,
            drawing,
            tuple(heard),
            site.object_path,
            read=self._route(all_properties(site), site.object_path, site.interface.name),
            read_all=read_all,
        )
        return self._published(publication, site, tuple(used))

    def _leaves(self) -> Mapping[tuple[str, ...], Scope]:
        """What each node says. A property's name alone stands for its value."""
        if self._entry.says("property"):
            value = self._entry.at("value")
            return {(): value if value.data is not None else _braced(self._entry.at("property"))}
        self._refuse("value", "'properties', where each node has its own")
        leaves = self._entry.at("properties")
        return {tuple(below.split("/")): self._below(leaves.at(below), below) for below in leaves.data}

    def _below(self, leaf: Scope, below: str) -> Scope:
        path = leaf.attempt(paths.template, f"/{below}", level="schema")
        if path is not None and path.parameters:
            leaf.fail("expected the path of a node below 'node', without names in braces", key=True)
        plain = isinstance(leaf.data, str) and not placeholders(leaf.data)
        return _braced(leaf) if plain else leaf

    def _read_all(self, site: TargetObject) -> Route | None:
        fixed, brace, _ = site.object_path.partition("{")
        if not brace:
            self._refuse("objects", "an object path without a name in it: there is one object")
            return None
        manager = self._entry.at("objects").data or fixed.rstrip("/")
        callee = managed_objects(replace(site, object_path=manager))
        return self._route(callee, manager)

    def _route(self, callee: Callee, object_path: str, *constants: str) -> Route:
        names = tuple(placeholders(object_path))
        plan = ArgumentPlan(callee.target, names, arguments=tuple(map(Constant, constants)))
        result = compile_result(
            Scope(self._entry.document, self._entry.problems, self._entry.path, {}), callee, "plain"
        )
        return Route(
            service=self._root.data["service"],
            method="publish",
            target=callee.target,
            parameters=(),
            result=result.type,
            encode_arguments=compile_arguments(plan),
            decode_result=result.shape,
            map_error=lambda fault, _call: fault,
            timeout=seconds(READING),
            effect=Effect.READ,
            source=self._source,
        )

    # Both

    @property
    def _listener(self) -> str:
        return str(self._entry.data["listener"])

    @property
    def _source(self) -> str:
        where = self._entry.document.problem(self._entry.path, "")
        return f"{where.file}:{where.line}"

    def _place(self, site: TargetObject) -> Subscription:
        fixed, brace, _ = site.object_path.partition("{")
        path = fixed.rstrip("/") if brace else fixed
        return Subscription(site.bus_name, path, site.interface.name, below=bool(brace))

    def _refuse(self, key: str, why: str) -> None:
        if self._entry.says(key):
            self._entry.at(key).fail(f"'{key}' does not go with {why}", level="schema", key=True)

    def _drawing(
        self,
        node: Template,
        leaves: Mapping[tuple[str, ...], Scope],
        known: Mapping[str, Type],
        what: str,
        site: TargetObject,
    ) -> NodeTemplate:
        """The nodes, every name in them known and of a type that can be said."""
        in_path = placeholders(site.object_path)
        types = {**known, **dict.fromkeys(in_path)}
        self._check_names(self._entry.at("node"), node.parameters, types, what)
        made = {below: self._leaf(scope, types, what) for below, scope in leaves.items()}
        if in_path and not set(node.parameters) & types.keys():
            self._entry.at("node").fail(f"every object would write this one node: {{{in_path[0]}}} is missing in it")
        return NodeTemplate(node, made, self._permissions(node))

    def _leaf(self, scope: Scope, types: Mapping[str, Type | None], what: str) -> Text | Flag:
        if isinstance(scope.data, str):
            self._check_names(scope, Text(scope.data).names, types, what)
            return Text(scope.data)
        name = scope.data["present"]
        self._check_names(scope.at("present"), (name,), types, what)
        kind = types.get(name)
        if name in types and (kind is None or kind.code != "b"):
            scope.at("present").fail(f"'{name}{f' {kind}' if kind else ''}' is no boolean")
        return Flag(name)

    def _check_names(self, scope: Scope, names: Iterable[str], types: Mapping[str, Type | None], what: str) -> None:
        for name in names:
            if name not in types:
                hint = did_you_mean(name, types) or f" (there are: {one_of(types)})"
                scope.fail(f"'{name}' is no {what}{hint}")
            elif (kind := types[name]) is not None and kind.code not in TEXTS:
                scope.fail(f"'{name} {kind}' is no text, number or boolean, which a node could say")

    def _permissions(self, node: Template) -> Text | None:
        scope = self._entry.at("permissions")
        if scope.data is None:
            return None
        text = Text(scope.data)
        self._known_in(text.names, node.parameters, scope)
        scope.attempt(grants, text.fill(dict.fromkeys(text.names, 0)), level="schema")
        return text

    def _known_in(self, names: Iterable[str], known: Collection[str], scope: Scope) -> None:
        for name in names:
            if name not in known:
                scope.fail(f"{{{name}}} does not stand in 'node' (there are: {one_of(known)})", level="schema")

    def _published(self, publication: Publication, site: TargetObject, members: tuple[str, ...]) -> Published:
        where = self._entry.document.problem(self._entry.path, "")
        contract = Contract(
            site.bus_name,
            site.object_path,
            site.interface,
            (
                *members,
                *(
                    one.member
                    for one in publication.subscriptions
                    if one.interface == site.interface.name and one.member
                ),
            ),
            where.file,
            where.line,
            where.column,
            where.place,
        )
        said = repr((self._root.data.get("dbus"), self._entry.data, site))
        digest = hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()
        return Published(replace(publication, source=self._source, fingerprint=digest), contract)


def _braced(scope: Scope) -> Scope:
    return replace(scope, data=f"{{{scope.data}}}")


def _names(drawing: NodeTemplate) -> dict[str, None]:
    """Every name that is needed, in the path too."""
    texts = (name for text in drawing.leaves.values() for name in text.names)
    return dict.fromkeys((*drawing.node.parameters, *texts))


def _comings_and_goings(site: TargetObject, manager: str) -> list[Subscription]:
    """The signals of an object manager; its own path, or as some libraries have it, that of the object itself."""
    signals = {"InterfacesAdded": "oa{sa{sv}}", "InterfacesRemoved": "oas"}
    return [
        Subscription(site.bus_name, manager, OBJECT_MANAGER, member, wanted, below=manager != "/")
        for member, wanted in signals.items()
    ]


# `trigger` of a mapping file -> triggers: which node calls which method, with what. Knows no target and no bus.


VALUE = "value"  # in braces: the node's own value


def compile_watch_triggers(
    root: Scope, compiled: Mapping[str, Compiled | None], claimed: dict[tuple[str, str], str]
) -> list[WatchTrigger]:
    """The triggers of a file that are good; the problems of the others are noted. `compiled`: the file's methods.

    `claimed`: listener and node -> whose trigger hangs there, of all files: a node has one.
    """
    entries = root.at("on_change")
    good = []
    for index in range(len(entries.data or ())):
        trigger = _compile(entries.at(index), root, compiled)
        if trigger is not None:
            first = claimed.setdefault((trigger.listener, str(trigger.node)), trigger.source)
            if first == trigger.source:
                good.append(trigger)
            else:
                entries.at(index, "node").fail(f"{trigger.node} has a trigger already, in {first}")
    return good


def _compile(entry: Scope, root: Scope, compiled: Mapping[str, Compiled | None]) -> WatchTrigger | None:
    before = len(entry.problems)
    node = entry.at("node").attempt(paths.template, entry.data["node"], level="schema")
    method = _method(entry.at("method"), compiled)
    if node is None or method is None:
        return None
    domains = compile_domains(entry.at("allowed_domains"), node) or method.route.domains or DOM0_ALONE
    parameters = _parameters(entry, node, method, root)
    where = entry.document.problem(entry.path, "")
    trigger = WatchTrigger(
        listener=entry.data["listener"],
        node=node,
        route=method.route,
        parameters=parameters,
        domains=domains,
        source=f"{where.file}:{where.line}",
        fingerprint=hashlib.sha256(repr((entry.data, method.fingerprint)).encode("utf-8", "surrogatepass")).hexdigest(),
    )
    return trigger if len(entry.problems) == before else None


def _method(scope: Scope, compiled: Mapping[str, Compiled | None]) -> Compiled | None:
    if scope.data not in compiled and scope.document.complete:
        scope.fail(f"'{scope.data}' is no method of this file{did_you_mean(scope.data, compiled)}")
    return compiled.get(scope.data)


def _parameters(entry: Scope, node: Template, method: Compiled, root: Scope) -> dict[str, Text | RelatedNode]:
    known = {parameter.name: parameter for parameter in method.route.parameters}
    params = entry.at("params")
    strict = _is_strict(root, method.route.method)
    taken: dict[str, Text | RelatedNode] = {}
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


def _take(scope: Scope, node: Template) -> Text | RelatedNode:
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
        path = where.attempt(paths.template, f"/{where.data}", level="schema")
        if path is not None and path.parameters:
            where.fail("expected the path of a node beside 'node', without names in braces", level="schema")
    return RelatedNode(where.data, tree=tree)


def _check_form(scope: Scope, parameter: Parameter, take: Text | RelatedNode, *, strict: bool) -> None:
    """All that comes out of a store is text, and a tree a struct of it."""
    kind = parameter.type
    if kind is None:
        return
    if isinstance(take, RelatedNode) and take.tree:
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
