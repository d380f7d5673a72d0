"""Compiles mapping files to a Table, and reports all problems of all files at once.

Each file is read, checked against the schema and compiled: its methods, publications and watch triggers by themselves,
then its place at the endpoints, which several files may share. Nothing here needs a running service. A method or file
with a problem is left out of the table; the caller must not use a table that comes with problems.
"""

from __future__ import annotations

import dataclasses
import gc
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType

from msgspec import Struct, field

from gateway.core.routing.object_class import ObjectClass
from gateway.core.routing.publication import Publication, WatchTrigger
from gateway.core.routing.route import Route
from gateway.core.rpc.spelling import AS_WRITTEN, MethodSpelling, together
from gateway.core.xenstore.exposure import Exposure
from gateway.mapping import load, schema
from gateway.mapping.classes.expand import expand, object_classes
from gateway.mapping.load import MappingDocument, Scope
from gateway.mapping.methods import Compiled, Compiler
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
    work = _Compilation(known, upstreams, may_be_empty, stores, contents, spellings)
    with _collector_paused():
        documents = work.read(paths)
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
    passthrough_to: str | None = None
    unmapped_source: str = ""  # file and line of the first `unmapped`
    exposure: Exposure | None = None
    session_check: Route | None = None
    removed: set[str] = field(default_factory=set)
    compiled: dict[str, Compiled] = field(default_factory=dict)
    owners: dict[str, Scope] = field(default_factory=dict)  # method name or alias -> its entry
    spelled: dict[str, tuple[str, str]] = field(default_factory=dict)  # spelling -> file and method


@dataclasses.dataclass(slots=True)
class _Compilation:
    known: Mapping[str, Collection[str] | None]
    upstreams: Upstreams | None
    may_be_empty: bool
    stores: Collection[str] = ()
    contents: Mapping[Path, bytes] = dataclasses.field(default_factory=dict)
    spellings: Mapping[str, MethodSpelling] = dataclasses.field(default_factory=dict)
    problems: dict[Problem, None] = dataclasses.field(default_factory=dict)
    notes: dict[str, None] = dataclasses.field(default_factory=dict)
    contracts: list[Contract] = dataclasses.field(default_factory=list)
    publications: list[Publication] = dataclasses.field(default_factory=list)
    triggers: list[WatchTrigger] = dataclasses.field(default_factory=list)
    classes: list[ObjectClass] = dataclasses.field(default_factory=list)
    published: dict[tuple[str, str], str] = dataclasses.field(default_factory=dict)  # listener and node -> source
    watched: dict[tuple[str, str], str] = dataclasses.field(default_factory=dict)  # listener and node -> source
    roots: list[Path] = dataclasses.field(default_factory=list)  # directories whose files a message may quote
    library: IdlLibrary = dataclasses.field(init=False)
    found: dict[EndpointKey, _Endpoint] = dataclasses.field(default_factory=dict)
    members: list[tuple[Route, Scope]] = dataclasses.field(default_factory=list)  # each method with its entry

    def __post_init__(self) -> None:
        self.library = IdlLibrary(self.problems, self.roots, self.contents)

    def read(self, paths: Sequence[Path]) -> list[MappingDocument]:
        """The documents that conform to the schema."""
        self.roots += [path if path.is_dir() else path.parent for path in paths]
        files, problems = load.find(paths, may_be_empty=self.may_be_empty)
        documents = []
        for file in files:
            document, found = load.parse(file, self.contents[file]) if file in self.contents else load.read(file)
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
        dialects = [entry.get("dialect", "plain") for entry in root.at("expose").data or ()]
        spelling = together(self.spellings.get(dialect, AS_WRITTEN) for dialect in dialects)
        compiler = Compiler(expansion, self.library, self.upstreams, spelling)
        self.notes.update(dict.fromkeys(expansion.gaps))
        compiled = {name: compiler.compile(name) for name in entries.data}
        good = {name: method for name, method in compiled.items() if method is not None}
        self.members += [(method.route, entries.at(name)) for name, method in good.items()]
        self.contracts += [
            contract
            for method in good.values()
            for contract in (method.contract, *method.further)
            if contract is not None
        ]
        self.contracts += compiler.contracts()
        self.classes += object_classes(expansion, {name: method.route for name, method in good.items()})
        self._add_xenstore_nodes(root, compiled)
        endpoints = self._expose(root)
        for endpoint, _ in endpoints.values():
            endpoint.session_check = endpoint.session_check or compiler.session_check
            endpoint.removed.update(root.at("removed").data or ())
        _check_removed(root)
        self._add_unmapped(root, compiler.upstream, {key: endpoint for key, (endpoint, _) in endpoints.items()})
        for name, method in compiled.items():
            reached = {key: endpoint for key, (endpoint, names) in endpoints.items() if name in names}
            for called, scope in _names(entries.at(name)):
                self._claim(reached, called, scope, method)

    def _add_xenstore_nodes(self, root: Scope, compiled: Mapping[str, Compiled | None]) -> None:
        """Add the publications and watch triggers of a file."""
        for published in compile_publications(root, self.library, self.published):
            self.publications.append(published.publication)
            self.contracts.append(published.contract)
        self.triggers += compile_watch_triggers(root, compiled, self.watched)
        for entry in (root.at(key, i) for key in ("publish", "on_change") for i in range(len(root.at(key).data or ()))):
            listener = entry.data["listener"]
            known = self._is_known(entry, "listener") and self.known["listener"] is not None
            if known and listener not in self.stores:
                entry.at("listener").fail(f"listener '{listener}' is not bound to a xenstore")

    # What is not mapped

    def _add_unmapped(self, root: Scope, upstream: str | None, endpoints: Mapping[EndpointKey, _Endpoint]) -> None:
        unmapped = root.at("unmapped")
        passes = unmapped.data == "passthrough"
        if passes and upstream is None:
            unmapped.fail(f"'unmapped: passthrough' {NEEDS_UPSTREAM}")
        if not root.data["methods"] and not passes and not root.has("classes") and root.document.complete:
            root.at("methods").fail("the file maps no method: add one, or `unmapped: passthrough`", key=True)
        for key, endpoint in endpoints.items() if unmapped.data else ():
            self._set_passthrough(unmapped, upstream if passes else None, key, endpoint)

    def _set_passthrough(self, unmapped: Scope, upstream: str | None, key: EndpointKey, endpoint: _Endpoint) -> None:
        """All files that share an endpoint and have `unmapped` must agree."""
        accepted = self.upstreams.get(upstream) if upstream is not None and self.upstreams is not None else None
        protocol = f"{endpoint.codec}/{endpoint.dialect}"
        if accepted is not None and protocol not in accepted:
            listed = one_of(sorted(accepted))
            unmapped.fail(f"endpoint {key} speaks {protocol}, but upstream '{upstream}' accepts only {listed}")
        if not endpoint.unmapped_source:
            endpoint.passthrough_to = upstream
            endpoint.unmapped_source = f"{unmapped.document.file}:{unmapped.document.line(unmapped.path)}"
        elif endpoint.passthrough_to != upstream:
            other, own = (
                f"passes unmapped methods to '{name}'" if name else "rejects unmapped methods"
                for name in (endpoint.passthrough_to, upstream)
            )
            unmapped.fail(f"conflict at endpoint {key}: {endpoint.unmapped_source} {other}, this file {own}")

    # Endpoints

    def _expose(self, root: Scope) -> dict[EndpointKey, tuple[_Endpoint, Collection[str]]]:
        """The endpoints of a file, each with the methods that are reached there."""
        expose = root.at("expose")
        if not expose.data and not root.has("on_change"):
            expose.fail("no client can reach the methods of this file: add an `expose` entry", key=True)
        endpoints: dict[EndpointKey, tuple[_Endpoint, Collection[str]]] = {}
        for entry in (expose.at(index) for index in range(len(expose.data or ()))):
            key = EndpointKey(entry.data["listener"], entry.data["path"])
            if self._is_left_out(entry):
                continue
            if key in endpoints:
                entry.fail(f"duplicate endpoint {key}: this file already exposes its methods there")
                continue
            wrong = [kind for kind in self.known if not self._is_known(entry, kind)]
            if not wrong and self._listener_fits(entry):
                methods = exposed_methods(entry, root.at("methods"))
                endpoint = self._endpoint(entry, key, compile_xenstore_endpoint(entry, methods))
                if endpoint is not None:
                    endpoints[key] = endpoint, methods.data
        return endpoints

    def _is_left_out(self, entry: Scope) -> bool:
        listeners = self.known["listener"]
        return entry.has("optional") and listeners is not None and entry.data["listener"] not in listeners

    def _is_known(self, entry: Scope, kind: str) -> bool:
        names = self.known[kind]
        name = entry.data.get(kind, "plain")
        if names is None or name in names:
            return True
        entry.at(kind).fail(unknown(kind, name, sorted(names)), level="schema")
        return False

    def _listener_fits(self, entry: Scope) -> bool:
        listener, codec = entry.data["listener"], entry.data["codec"]
        if self.known["listener"] is None or (listener in self.stores) == (codec == CODEC):
            return True
        if listener in self.stores:
            entry.at("listener").fail(
                f"listener '{listener}' is bound to a xenstore: expected codec {CODEC}, got {codec}"
            )
        else:
            entry.at("listener").fail(f"codec {CODEC} needs a listener that is bound to a xenstore, got '{listener}'")
        return False

    def _endpoint(self, entry: Scope, key: EndpointKey, exposure: Exposure | None) -> _Endpoint | None:
        codec, dialect = entry.data["codec"], entry.data.get("dialect", "plain")
        where = entry.document.problem(entry.path, "")
        new = _Endpoint(codec, dialect, f"{where.file}:{where.line}", exposure=exposure)
        endpoint = self.found.setdefault(key, new)
        if (endpoint.codec, endpoint.dialect) != (codec, dialect):
            other = f"{endpoint.codec}/{endpoint.dialect} ({endpoint.source})"
            entry.fail(f"endpoint {key} already speaks {other}, got {codec}/{dialect}: use another path")
            return None
        if endpoint.exposure != exposure:
            entry.fail(f"endpoint {key} already has other xenstore options ({endpoint.source})")
        return endpoint

    # Method names

    def _claim(
        self, endpoints: Mapping[EndpointKey, _Endpoint], called: str, scope: Scope, method: Compiled | None
    ) -> None:
        """Add a method under one of its names to each endpoint. Of several collisions, one is reported."""
        own_name = called == scope.path[-1]  # not an alias
        collides = False
        for key, endpoint in endpoints.items():
            owner = endpoint.owners.setdefault(called, scope)
            if owner is not scope and (owner.document, owner.path) != (scope.document, scope.path):
                if not collides:
                    where = owner.document.problem(owner.path, "", key=True)
                    place = f"{where.file}:{where.line}: {where.place}"
                    scope.fail(f"method '{called}' is already mapped at endpoint {key}, in {place}", key=own_name)
                collides = True
            elif method is not None:
                endpoint.compiled[called] = method
                self._check_spellings(endpoint, called, scope, key=own_name)
                if endpoint.exposure is not None and own_name:
                    check_result(endpoint.exposure.style, method.route.result, scope)

    def _check_spellings(self, endpoint: _Endpoint, called: str, scope: Scope, *, key: bool) -> None:
        """No spelling may stand for two methods: the mode of one would govern calls of the other."""
        method = (scope.document.file, str(scope.path[1]))
        for spelling in (called, *self._spelling(endpoint).others(called)):
            file, name = endpoint.spelled.setdefault(spelling, method)
            if (file, name) != method:
                text = f"'{method[1]}' and '{name}' ({file}) share the spelling '{spelling}'"
                scope.fail(f"{text} in dialect {endpoint.dialect}: map only one of them", key=key)

    def _spelling(self, endpoint: _Endpoint) -> MethodSpelling:
        return self.spellings.get(endpoint.dialect, AS_WRITTEN)

    def endpoints(self) -> dict[EndpointKey, EndpointTable]:
        """The endpoints with the methods that have no problem."""
        return {
            key: EndpointTable(
                key,
                endpoint.codec,
                endpoint.dialect,
                {name: method.route for name, method in endpoint.compiled.items()},
                {name: method.route.fingerprint for name, method in endpoint.compiled.items()},
                passthrough_to=endpoint.passthrough_to,
                exposure=endpoint.exposure,
                spelling=self._spelling(endpoint),
                session_check=endpoint.session_check,
                removed=frozenset(endpoint.removed),
            )
            for key, endpoint in self.found.items()
        }


def _names(entry: Scope) -> Iterator[tuple[str, Scope]]:
    """A method's name and its aliases, each with its place."""
    yield str(entry.path[-1]), entry
    for index, alias in enumerate(entry.at("aliases").data or ()):
        yield alias, entry.at("aliases", index)


def _check_removed(root: Scope) -> None:
    """A method that is mapped is not removed."""
    for index, name in enumerate(root.at("removed").data or ()):
        mapped = next((each for each in root.data["methods"] if fnmatchcase(each, name)), None)
        if mapped is not None:
            root.at("removed", index).fail(f"'{name}' is removed, but '{mapped}' is mapped: leave out one of them")


def _revision(documents: Sequence[MappingDocument], library: IdlLibrary) -> str:
    contents = [(document.path.name, document.content) for document in documents]
    contents += [(path.name, content) for path, content in library.contents.items()]
    digest = hashlib.sha256()
    for name, content in sorted(contents):
        digest.update(f"{name} {len(content)}\n".encode("utf-8", "surrogateescape") + content)
    return digest.hexdigest()[:REVISION]
