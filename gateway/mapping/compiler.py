"""Compiles mapping files to a Table, and reports all problems of all files at once.

Each file is read, checked against the schema and compiled: its methods, publications and watch triggers by themselves,
then its place at the endpoints, which several files may share. Nothing here needs a running service. A method or file
with a problem is left out of the table; the caller must not use a table that comes with problems.
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType

from msgspec import Struct, field

from gateway.core.routing.publication import Publication, WatchTrigger
from gateway.core.routing.route import ObjectClass, Route
from gateway.core.rpc.spelling import AS_WRITTEN, MethodSpelling, together
from gateway.core.xenstore.paths import Exposure
from gateway.mapping import load, schema
from gateway.mapping.classes.expand import expand, object_classes
from gateway.mapping.load import MappingDocument, Scope
from gateway.mapping.methods import Compiler
from gateway.mapping.migration import NEEDS_UPSTREAM, Upstreams
from gateway.mapping.problem import Problem, one_of, unknown
from gateway.mapping.rollouts import check_rollouts
from gateway.mapping.table import Contract, EndpointKey, EndpointTable, Table
from gateway.mapping.targets import NOTHING, IdlLibrary
from gateway.mapping.xenstore.endpoints import CODEC, check_result, compile_xenstore_endpoint, exposed_methods
from gateway.mapping.xenstore.publish import compile_publications, compile_watch_triggers

REVISION = 12  # hexadecimal digits
ONE_SPELLING: Mapping[str, MethodSpelling] = MappingProxyType({})


def build(
    paths: Sequence[Path],
    *,
    codecs: Collection[str],
    dialects: Collection[str],
    listeners: Collection[str] | None,  # None: any name is accepted
    upstreams: Upstreams | None = None,  # None: any name is accepted
    stores: Collection[str] = (),  # the listeners that are bound to a xenstore
    may_be_empty: bool = False,  # accept a directory without a mapping file
    contents: Mapping[Path, bytes] = NOTHING,  # used instead of the content of these mapping or IDL files
    spellings: Mapping[str, MethodSpelling] = ONE_SPELLING,  # dialect -> its alternative spellings of method names
) -> tuple[Table, list[Problem]]:
    """Compile mapping files and directories; the problems are sorted by place.

    With problems, the table contains only the parts without one and must not be used.
    """
    known = {"codec": codecs, "dialect": dialects, "listener": listeners}
    roots = [path if path.is_dir() else path.parent for path in paths]
    found: dict[Problem, None] = {}
    work = _Compilation(known, upstreams, stores, spellings, roots, IdlLibrary(found, roots, contents), found)
    with _collector_paused():
        documents = work.read(paths, contents, may_be_empty=may_be_empty)
        for document in documents:
            work.add(document)
        check_rollouts(work.members)
    table = Table(
        work.endpoints(),
        _revision(documents, work.library),
        tuple(work.contracts),
        tuple(work.publications),
        tuple(work.triggers),
        {document.file: hashlib.sha256(document.content).hexdigest() for document in documents},
        {document.path: document.content for document in documents},
        work.library.contents,
        tuple(work.classes),
        tuple(work.notes),
    )
    return table, sorted(work.problems)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Nearly all that is made here stays, and looking through it again and again costs a fifth of the time."""
    paused = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if paused:
            gc.enable()


class _Endpoint(Struct):
    """An endpoint under construction."""

    codec: str
    dialect: str
    source: str  # file and line of the first entry that exposes it
    exposure: Exposure | None
    spelling: MethodSpelling
    passthrough_to: str | None = None
    unmapped_source: str = ""  # file and line of the first `unmapped`
    session_check: Route | None = None
    removed: set[str] = field(default_factory=set)
    routes: dict[str, Route] = field(default_factory=dict)
    owners: dict[str, Scope] = field(default_factory=dict)  # method name or alias -> its entry
    spelled: dict[str, tuple[str, str]] = field(default_factory=dict)  # spelling -> file and method

    @property
    def protocol(self) -> str:
        return f"{self.codec}/{self.dialect}"


class _Compilation(Struct):
    known: Mapping[str, Collection[str] | None]
    upstreams: Upstreams | None
    stores: Collection[str]
    spellings: Mapping[str, MethodSpelling]
    roots: Sequence[Path]  # directories whose files a message may quote
    library: IdlLibrary
    problems: dict[Problem, None]
    notes: dict[str, None] = field(default_factory=dict)
    found: dict[EndpointKey, _Endpoint] = field(default_factory=dict)
    published: dict[tuple[str, str], str] = field(default_factory=dict)  # listener and node -> source
    watched: dict[tuple[str, str], str] = field(default_factory=dict)  # listener and node -> source
    members: list[tuple[Route, Scope]] = field(default_factory=list)  # each method with its entry
    contracts: list[Contract] = field(default_factory=list)
    publications: list[Publication] = field(default_factory=list)
    triggers: list[WatchTrigger] = field(default_factory=list)
    classes: list[ObjectClass] = field(default_factory=list)

    def read(
        self, paths: Sequence[Path], contents: Mapping[Path, bytes], *, may_be_empty: bool
    ) -> list[MappingDocument]:
        """The documents that conform to the schema."""
        files, problems = load.find(paths, may_be_empty=may_be_empty)
        documents = []
        for file in files:
            document, found = load.parse(file, contents[file]) if file in contents else load.read(file)
            if document is not None:
                found, document = schema.check(document)
            if document is not None:
                documents.append(document)
            elif load.is_outside(file, self.roots):
                found = [Problem(str(file), 1, 1, "", "not a valid mapping file", "schema")]
            problems += found
        self.problems.update(dict.fromkeys(problems))
        return documents

    def add(self, document: MappingDocument) -> None:
        """Compile a file and add its methods to the endpoints that it exposes."""
        expansion = expand(Scope(document, self.problems, (), document.data, self.notes), self.library)
        root = expansion.root
        entries = root.at("methods")
        dialects = [entry.data.get("dialect", "plain") for entry in root.at("expose").items()]
        spelling = together(self.spellings.get(dialect, AS_WRITTEN) for dialect in dialects)
        compiler = Compiler(expansion, self.library, self.upstreams, spelling)
        self.notes.update(dict.fromkeys(expansion.gaps))
        compiled = {name: compiler.compile(name) for name in entries.data}
        routes = {name: method.route for name, method in compiled.items() if method is not None}
        self.members += [(route, entries.at(name)) for name, route in routes.items()]
        self.contracts += [each for method in compiled.values() if method is not None for each in method.contracts]
        self.contracts += compiler.contracts()
        self.classes += object_classes(expansion, routes)
        self._add_xenstore_nodes(root, routes)
        endpoints = self._expose(root)
        removed = root.at("removed").items()
        for endpoint, _ in endpoints.values():
            endpoint.session_check = endpoint.session_check or compiler.session_check
            endpoint.removed.update(item.data for item in removed)
        for item in removed:
            mapped = next((name for name in entries.data if fnmatchcase(name, item.data)), None)
            if mapped is not None:
                item.fail(f"'{item.data}' is removed, but '{mapped}' is mapped: leave out one of them")
        self._add_unmapped(root, compiler.upstream, {key: endpoint for key, (endpoint, _) in endpoints.items()})
        for name in compiled:
            entry, reached = entries.at(name), {key: each for key, (each, names) in endpoints.items() if name in names}
            for scope in (entry, *entry.at("aliases").items()):
                self._claim(reached, name if scope is entry else scope.data, scope, routes.get(name))

    def _add_xenstore_nodes(self, root: Scope, routes: Mapping[str, Route]) -> None:
        """Add the publications and watch triggers of a file."""
        for publication, contract in compile_publications(root, self.library, self.published):
            self.publications.append(publication)
            self.contracts.append(contract)
        self.triggers += compile_watch_triggers(root, routes, self.watched)
        for entry in (*root.at("publish").items(), *root.at("on_change").items()):
            listener = entry.data["listener"]
            known = self._is_known(entry, "listener") and self.known["listener"] is not None
            if known and listener not in self.stores:
                entry.at("listener").fail(f"listener '{listener}' is not bound to a xenstore")

    def _add_unmapped(self, root: Scope, upstream: str | None, endpoints: Mapping[EndpointKey, _Endpoint]) -> None:
        """What is not mapped is passed on or rejected; all files that share an endpoint and say so must agree."""
        unmapped = root.at("unmapped")
        passes = unmapped.data == "passthrough"
        if passes and upstream is None:
            unmapped.fail(f"'unmapped: passthrough' {NEEDS_UPSTREAM}")
        if not root.data["methods"] and not passes and not root.has("classes") and root.document.complete:
            root.at("methods").fail("the file maps no method: add one, or `unmapped: passthrough`", key=True)
        own = upstream if passes else None
        accepted = self.upstreams.get(own) if own is not None and self.upstreams is not None else None
        for key, endpoint in endpoints.items() if unmapped.data else ():
            if accepted is not None and endpoint.protocol not in accepted:
                only = f"upstream '{own}' accepts only {one_of(sorted(accepted))}"
                unmapped.fail(f"endpoint {key} speaks {endpoint.protocol}, but {only}")
            if not endpoint.unmapped_source:
                endpoint.passthrough_to = own
                endpoint.unmapped_source = unmapped.source
            elif endpoint.passthrough_to != own:
                theirs, ours = (
                    f"passes unmapped methods to '{name}'" if name else "rejects unmapped methods"
                    for name in (endpoint.passthrough_to, own)
                )
                unmapped.fail(f"conflict at endpoint {key}: {endpoint.unmapped_source} {theirs}, this file {ours}")

    # Endpoints

    def _expose(self, root: Scope) -> dict[EndpointKey, tuple[_Endpoint, Collection[str]]]:
        """The endpoints of a file, each with the methods that are reached there."""
        expose = root.at("expose")
        if not expose.data and not root.has("on_change"):
            expose.fail("no client can reach the methods of this file: add an `expose` entry", key=True)
        listeners = self.known["listener"]
        endpoints: dict[EndpointKey, tuple[_Endpoint, Collection[str]]] = {}
        for entry in expose.items():
            key = EndpointKey(entry.data["listener"], entry.data["path"])
            if entry.has("optional") and listeners is not None and key.listener not in listeners:
                continue
            if key in endpoints:
                entry.fail(f"duplicate endpoint {key}: this file already exposes its methods there")
                continue
            known = [self._is_known(entry, kind) for kind in self.known]
            if all(known) and self._listener_fits(entry):
                methods = exposed_methods(entry, root.at("methods"))
                endpoint = self._endpoint(entry, key, compile_xenstore_endpoint(entry, methods))
                if endpoint is not None:
                    endpoints[key] = endpoint, methods.data
        return endpoints

    def _is_known(self, entry: Scope, kind: str) -> bool:
        names = self.known[kind]
        name = entry.data.get(kind, "plain")
        if names is None or name in names:
            return True
        entry.at(kind).fail(unknown(kind, name, sorted(names)), level="schema")
        return False

    def _listener_fits(self, entry: Scope) -> bool:
        listener, codec = entry.data["listener"], entry.data["codec"]
        is_store = listener in self.stores
        if self.known["listener"] is None or is_store == (codec == CODEC):
            return True
        text = f"codec {CODEC} needs a listener that is bound to a xenstore, got '{listener}'"
        if is_store:
            text = f"listener '{listener}' is bound to a xenstore: expected codec {CODEC}, got {codec}"
        entry.at("listener").fail(text)
        return False

    def _endpoint(self, entry: Scope, key: EndpointKey, exposure: Exposure | None) -> _Endpoint | None:
        codec, dialect = entry.data["codec"], entry.data.get("dialect", "plain")
        spelling = self.spellings.get(dialect, AS_WRITTEN)
        new = _Endpoint(codec, dialect, entry.where().source, exposure, spelling)
        endpoint = self.found.setdefault(key, new)
        if endpoint.protocol != new.protocol:
            other = f"{endpoint.protocol} ({endpoint.source})"
            entry.fail(f"endpoint {key} already speaks {other}, got {new.protocol}: use another path")
            return None
        if endpoint.exposure != exposure:
            entry.fail(f"endpoint {key} already has other xenstore options ({endpoint.source})")
        return endpoint

    # Method names

    def _claim(
        self, endpoints: Mapping[EndpointKey, _Endpoint], called: str, scope: Scope, route: Route | None
    ) -> None:
        """Add a method under one of its names to each endpoint. Of several collisions, one is reported."""
        own_name = called == scope.path[-1]  # not an alias
        collides = False
        for key, endpoint in endpoints.items():
            owner = endpoint.owners.setdefault(called, scope)
            if owner is not scope and (owner.document, owner.path) != (scope.document, scope.path):
                if not collides:
                    where = owner.where(key=True)
                    place = f"{where.source}: {where.place}"
                    scope.fail(f"method '{called}' is already mapped at endpoint {key}, in {place}", key=own_name)
                collides = True
            elif route is not None:
                endpoint.routes[called] = route
                method = (scope.document.file, str(scope.path[1]))
                for spelling in (called, *endpoint.spelling.others(called)):
                    # A spelling that stands for two methods would let the mode of one govern calls of the other.
                    file, name = endpoint.spelled.setdefault(spelling, method)
                    if (file, name) != method:
                        text = f"'{method[1]}' and '{name}' ({file}) share the spelling '{spelling}'"
                        scope.fail(f"{text} in dialect {endpoint.dialect}: map only one of them", key=own_name)
                if endpoint.exposure is not None and own_name:
                    check_result(endpoint.exposure.style, route.result, scope)

    def endpoints(self) -> dict[EndpointKey, EndpointTable]:
        """The endpoints with the methods that have no problem."""
        return {
            key: EndpointTable(
                key,
                endpoint.codec,
                endpoint.dialect,
                endpoint.routes,
                passthrough_to=endpoint.passthrough_to,
                exposure=endpoint.exposure,
                spelling=endpoint.spelling,
                session_check=endpoint.session_check,
                removed=frozenset(endpoint.removed),
            )
            for key, endpoint in self.found.items()
        }


def _revision(documents: Sequence[MappingDocument], library: IdlLibrary) -> str:
    contents = [(document.path.name, document.content) for document in documents]
    contents += [(path.name, content) for path, content in library.contents.items()]
    digest = hashlib.sha256()
    for name, content in sorted(contents):
        digest.update(f"{name} {len(content)}\n".encode("utf-8", "surrogateescape") + content)
    return digest.hexdigest()[:REVISION]
