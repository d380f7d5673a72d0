"""`publish` and `on_change` of a mapping file: D-Bus signals and properties as xenstore nodes, and nodes that call
methods.

A Publication has a template for its nodes, the subscriptions that keep them current, and the routes by which properties
are read. A WatchTrigger has a node, the method that is called when its content changes, and where each parameter is
read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from msgspec.structs import replace

from gateway.core.dbus.arguments import ArgumentPlan, Constant, compile_arguments
from gateway.core.dbus.introspection_xml import signature
from gateway.core.dbus.object_paths import Escape, PathTemplate, placeholders
from gateway.core.dbus.signature import BASIC, Type
from gateway.core.dbus.target import Parameter, Subscription
from gateway.core.routing.publication import Flag, NodeTemplate, Publication, RelatedNode, Text, WatchTrigger, grants
from gateway.core.routing.route import Effect, Route
from gateway.core.xenstore import paths
from gateway.core.xenstore.paths import DOM0_ALONE, Template
from gateway.mapping.load import Scope
from gateway.mapping.problem import unknown
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
from gateway.mapping.xenstore.endpoints import compile_domains

SCALARS = frozenset(BASIC) - {"h"}  # types whose values a node can show
READ_TIMEOUT = 30.0  # seconds, for reading properties
VALUE = "value"  # the name, in braces, of the node's own value in a parameter of `on_change`


Published: TypeAlias = tuple[Publication, Contract]


def compile_publications(root: Scope, library: IdlLibrary, claimed: dict[tuple[str, str], str]) -> list[Published]:
    """The publications of a file that have no problem, each with the members of the service that it needs.

    `claimed`: listener and node -> source of its publication, over all files. Two publications of one node would
    overwrite each other for ever.
    """
    good = []
    for entry in root.at("publish").items():
        published = _Publish(entry, root, library).compile()
        if published is None:
            continue
        publication, _ = published
        nodes = [str(publication.template.node.below(*below)) for below in publication.template.leaves]
        taken = [node for node in nodes if (publication.listener, node) in claimed]
        for node in taken:
            entry.at("node").fail(f"{node} is already published in {claimed[publication.listener, node]}")
        claimed.update({(publication.listener, node): publication.source for node in nodes if node not in taken})
        good += [] if taken else [published]
    return good


class _Publish:
    """One entry of `publish`."""

    def __init__(self, entry: Scope, root: Scope, library: IdlLibrary) -> None:
        self._entry = entry
        self._root = root
        self._library = library
        self._escape: Escape = entry.data.get("escape", "systemd")  # how the service writes the parameter into the path
        self._where = entry.where()
        self._types: Mapping[str, Type | None] = {}  # of the names that the nodes may show; None: the object path's
        self._owner = ("", "")  # their kind, and who has them

    def compile(self) -> Published | None:
        entry, before = self._entry, len(self._entry.problems)
        site = find_site(entry, self._root.at("dbus"), self._library)
        node = entry.at("node").attempt(paths.template, entry.data["node"], level="schema")
        if site is None or node is None:
            return None
        fixed, brace, rest = site.object_path.partition("{")
        if brace and (not rest.endswith("}") or "{" in rest or not fixed.endswith("/") or fixed == "/"):
            place = entry.at("object_path") if entry.has("object_path") else entry
            last = "as the last element (/org/example/vm/{vm})"
            place.fail(f"expected at most one parameter, {last}, got '{site.object_path}'")
            return None
        text = repr((self._root.data.get("dbus"), entry.data, site))
        path = fixed.rstrip("/") if brace else fixed  # the subscription is for the path before the parameter
        publication = Publication(
            str(entry.data["listener"]),
            NodeTemplate(node, {}),
            (Subscription(site.bus_name, path, site.interface.name, below=bool(brace)),),
            site.object_path,
            source=self._where.source,
            fingerprint=hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
            is_escaped=self._escape == "systemd",
        )
        made = self._signal(site, publication) if entry.has("signal") else self._properties(site, publication)
        if made is None or len(entry.problems) > before:
            return None
        publication, members = made
        reach = PathTemplate(site.object_path, dict.fromkeys(placeholders(site.object_path), self._escape), {})
        contract = Contract(site.bus_name, site.object_path, site.interface, members, self._where, reach=reach)
        return publication, contract

    def _signal(self, site: TargetObject, made: Publication) -> tuple[Publication, tuple[str, ...]] | None:
        signal = known_member(self._entry.at("signal"), site.interface.signals, "signal", site)
        if signal is None:
            return None
        self._reject("objects", "a signal, which cannot be read again")
        if not self._entry.has("value"):
            self._entry.fail("'value' is missing; expected the text of the node, such as \"{kib}\"")
            return None
        self._types = {argument.name: argument.type for argument in signal.args}
        self._owner = ("argument", f"{site.interface.name}.{signal.name}")
        template = self._node_template(made.template, {(): self._entry.at("value")}, site)
        subscription = replace(made.subscriptions[0], member=signal.name, signature=signature(signal.args))
        arguments = tuple(argument.name for argument in signal.args)
        made = replace(made, template=template, subscriptions=(subscription,), arguments=arguments)
        return made, (signal.name,)

    def _properties(self, site: TargetObject, made: Publication) -> tuple[Publication, tuple[str, ...]] | None:
        entry, interface = self._entry, site.interface
        readable = {name: found for name, found in interface.properties.items() if found.access != "write"}
        self._types = {name: found.type for name, found in readable.items()}
        self._owner = ("property", interface.name)
        template = self._node_template(made.template, self._leaves(), site)
        used = {name: readable[name] for name in _names(template) if name in readable}
        if not used:
            if not set(_names(template)) - readable.keys() - set(placeholders(site.object_path)):
                entry.fail('the nodes show no property: add one in braces, such as "{Memory}"')
            return None
        for name, found in used.items():
            if (found.emits or interface.emits) == "false":
                text = f"{interface.name}.{name} is not signalled (EmitsChangedSignal is false)"
                entry.note(f"{text}: its node shows the value of the last start of the service or the gateway")
        properties = {name: str(found.type) for name, found in used.items()}
        subscriptions = [replace(made.subscriptions[0], properties=properties)]
        read_all = None
        if made.subscriptions[0].below:
            manager = str(entry.at("objects").data or made.subscriptions[0].object_path)
            read_all = self._route(managed_objects(replace(site, object_path=manager)), manager)
            subscriptions += [  # some libraries emit the signals of an object manager from the path of the object
                Subscription(site.bus_name, manager, OBJECT_MANAGER, member, wanted, below=manager != "/")
                for member, wanted in (("InterfacesAdded", "oa{sa{sv}}"), ("InterfacesRemoved", "oas"))
            ]
        else:
            self._reject("objects", "an object path without a parameter")
        read = self._route(all_properties(site), site.object_path, interface.name)
        made = replace(made, template=template, subscriptions=tuple(subscriptions), read=read, read_all=read_all)
        return made, tuple(used)

    def _leaves(self) -> Mapping[tuple[str, ...], Scope]:
        """The path of each node below `node`, and its content. The name of a property alone stands for its value."""
        if self._entry.has("property"):
            value = self._entry.at("value")
            return {(): value if value.data is not None else _braced(self._entry.at("property"))}
        self._reject("value", "'properties', where each node has its own value")
        leaves = {}
        for leaf in self._entry.at("properties").items():
            below = str(leaf.path[-1])
            path = leaf.attempt(paths.template, f"/{below}", level="schema")
            if path is not None and path.parameters:
                leaf.fail(f"expected the path of a node below 'node', without parameters, got '{below}'", key=True)
            plain = isinstance(leaf.data, str) and not placeholders(leaf.data)
            leaves[tuple(below.split("/"))] = _braced(leaf) if plain else leaf
        return leaves

    def _route(self, callee: Callee, object_path: str, *constants: str) -> Route:
        names = tuple(placeholders(object_path))
        plan = ArgumentPlan(callee.target, names, arguments=tuple(map(Constant, constants)))
        result = compile_result(replace(self._entry, data={}), callee, "plain", self._escape, {})
        return Route(
            service=self._root.data["service"],
            method="publish",
            target=callee.target,
            parameters=(),
            result=result.type,
            encode_arguments=compile_arguments(plan),
            decode_result=result.shape,
            map_error=lambda fault, _call: fault,
            timeout=READ_TIMEOUT,
            effect=Effect.READ,
            source=self._where.source,
        )

    def _reject(self, key: str, other: str) -> None:
        if self._entry.has(key):
            self._entry.at(key).fail(f"'{key}' cannot be combined with {other}", level="schema", key=True)

    def _node_template(
        self, made: NodeTemplate, leaves: Mapping[tuple[str, ...], Scope], site: TargetObject
    ) -> NodeTemplate:
        """The template with its leaves. Every name must be known or in the object path, and have a scalar type."""
        in_path, place, node = placeholders(site.object_path), self._entry.at("node"), made.node
        self._types = {**self._types, **dict.fromkeys(in_path)}
        self._check_names(place, node.parameters)
        content = {below: self._leaf(scope) for below, scope in leaves.items()}
        if in_path and not set(node.parameters) & self._types.keys():
            place.fail(f"all objects would write the same node: add {{{in_path[0]}}} to its path")
        return replace(made, leaves=content, permissions=self._permissions(node))

    def _leaf(self, scope: Scope) -> Text | Flag:
        if isinstance(scope.data, str):
            self._check_names(scope, Text(scope.data).names)
            return Text(scope.data)
        name, present = scope.data["present"], scope.at("present")
        self._check_names(present, (name,))
        kind = self._types.get(name)
        if name in self._types and (kind is None or kind.code != "b"):
            present.fail(f"expected a boolean (b); {name} is {kind or 'text'}")
        return Flag(name)

    def _check_names(self, scope: Scope, names: Iterable[str]) -> None:
        for name in names:
            kind = self._types.get(name)
            if name not in self._types:
                scope.fail(unknown(self._owner[0], name, self._types, owner=self._owner[1]))
            elif kind is not None and kind.code not in SCALARS:
                scope.fail(f"expected text, a number or a boolean, which a node can show; {name} is {kind}")

    def _permissions(self, node: Template) -> Text | None:
        scope = self._entry.at("permissions")
        if scope.data is None:
            return None
        text = Text(scope.data)
        for name in text.names:
            if name not in node.parameters:
                scope.fail(unknown("parameter", name, node.parameters, owner="'node'"), level="schema")
        scope.attempt(grants, text.fill(dict.fromkeys(text.names, 0)), level="schema")
        return text


def _braced(scope: Scope) -> Scope:
    return replace(scope, data=f"{{{scope.data}}}")


def _names(template: NodeTemplate) -> dict[str, None]:
    """All names in the path and in the content of the nodes."""
    texts = (name for text in template.leaves.values() for name in text.names)
    return dict.fromkeys((*template.node.parameters, *texts))


# Watch triggers


def compile_watch_triggers(
    root: Scope, routes: Mapping[str, Route], claimed: dict[tuple[str, str], str]
) -> list[WatchTrigger]:
    """The watch triggers of a file that have no problem. `routes`: the methods of the file that have none.

    `claimed`: listener and node -> source of its trigger, over all files.
    """
    good = []
    for entry in root.at("on_change").items():
        before = len(entry.problems)
        node = entry.at("node").attempt(paths.template, entry.data["node"], level="schema")
        name = entry.data["method"]
        if name not in root.data["methods"] and entry.document.complete:
            entry.at("method").fail(unknown("method", name, root.data["methods"]))
        route = routes.get(name)
        if node is None or route is None:
            continue
        text = repr((entry.data, route.fingerprint))
        trigger = WatchTrigger(
            listener=entry.data["listener"],
            node=node,
            route=route,
            parameters=_parameters(entry, node, route, root),
            domains=compile_domains(entry.at("allowed_domains"), node) or route.domains or DOM0_ALONE,
            source=entry.where().source,
            fingerprint=hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
        )
        if len(entry.problems) == before:
            first = claimed.setdefault((trigger.listener, str(node)), trigger.source)
            if first == trigger.source:
                good.append(trigger)
            else:
                entry.at("node").fail(f"{node} already has a watch trigger, in {first}")
    return good


def _parameters(entry: Scope, node: Template, route: Route, root: Scope) -> dict[str, Text | RelatedNode]:
    known = {parameter.name: parameter for parameter in route.parameters}
    coerce = root.at("methods", route.method, "coerce").data or root.at("defaults", "coerce").data or "strict"
    sources: dict[str, Text | RelatedNode] = {}
    for scope in entry.at("params").items():
        name = str(scope.path[-1])
        if name not in known:
            scope.fail(unknown("parameter", name, known, owner=route.method), key=True)
            continue
        sources[name] = _parameter_source(scope, node)
        _check_type(scope, known[name], sources[name], strict=coerce == "strict")
    for parameter in known.values():
        if parameter.required and parameter.name not in sources:
            entry.fail(f"required parameter '{parameter.name}' of {route.method} is missing: add it to `params`")
    return sources


def _parameter_source(scope: Scope, node: Template) -> Text | RelatedNode:
    if isinstance(scope.data, str):
        text = Text(scope.data)
        for name in text.names:
            if name not in (*node.parameters, VALUE):
                scope.fail(unknown("parameter", name, [*node.parameters, VALUE], owner="'node'"))
        return text
    tree = scope.has("tree")
    where = scope.at("tree" if tree else "node")
    if where.data != "." or not tree:
        path = where.attempt(paths.template, f"/{where.data}", level="schema")
        if path is not None and path.parameters:
            where.fail(f"expected the path of a node, without parameters, got '{where.data}'", level="schema")
    return RelatedNode(where.data, tree=tree)


def _check_type(scope: Scope, parameter: Parameter, source: Text | RelatedNode, *, strict: bool) -> None:
    """A node gives text, and a tree a struct of texts; the parameter must accept that."""
    kind = parameter.type
    if kind is None:
        return
    if isinstance(source, RelatedNode) and source.tree:
        if str(kind) not in ("v", "a{ss}", "a{sv}"):
            scope.fail(f"a tree needs a parameter of type a{{ss}} or a{{sv}}; {parameter.name} is {kind}")
    elif kind.code not in "sogv" and (strict or kind.code not in "ybnqiuxtd"):
        advice = ": add `coerce: legacy` to the method" if kind.code in "ybnqiuxtd" else ""
        scope.fail(f"a node gives text, but {parameter.name} is {kind}{advice}")
