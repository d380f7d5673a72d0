"""Mapping files -> the table of routes, or all problems of all files at once. Knows no running service."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from gateway.core.routing.publication import Publication, WatchTrigger
from gateway.core.routing.route import Route
from gateway.core.rpc.spelling import AS_WRITTEN, MethodSpelling
from gateway.core.xenstore.exposure import Exposure
from gateway.mapping import load, schema
from gateway.mapping.load import MappingDocument, Scope
from gateway.mapping.methods import Compiled, Compiler
from gateway.mapping.migration import Upstreams
from gateway.mapping.problem import Problem, did_you_mean, one_of
from gateway.mapping.rollouts import check_rollouts
from gateway.mapping.table import Contract, EndpointKey, EndpointTable, Table
from gateway.mapping.targets import NOTHING, IdlLibrary
from gateway.mapping.xenstore_endpoints import CODEC, compile_xenstore_endpoint, methods_reached, unsayable
from gateway.mapping.xenstore_publish import compile_publications, compile_watch_triggers

REVISION = 12  # hexadecimal digits
ONE_SPELLING: Mapping[str, MethodSpelling] = MappingProxyType({})


def build(
    paths: Sequence[Path],
    *,
    codecs: Collection[str],
    dialects: Collection[str],
    listeners: Collection[str] | None,
    upstreams: Upstreams | None = None,
    stores: Collection[str] = (),  # listeners that are a xenstore
    may_be_empty: bool = False,  # a directory without a mapping file is no problem
    contents: Mapping[Path, bytes] = NOTHING,  # in place of what these files, IDL files too, hold
    spellings: Mapping[
        str, MethodSpelling
    ] = ONE_SPELLING,  # dialect -> the forms of its names, where there are several
) -> tuple[Table, list[Problem]]:
    """Compile mapping files and directories; `listeners` or `upstreams` None: any name will do.

    With problems, sorted by place, the table holds only what was good: nobody should use it.
    """
    known = {"codec": codecs, "dialect": dialects, "listener": listeners}
    work = _Work(known, upstreams, may_be_empty, stores, contents, spellings)
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
    )
    return table, sorted(work.problems)


@dataclass(slots=True)
class _Endpoint:
    """An endpoint while it is filled. `said`: the file and line that first named it."""

    codec: str
    dialect: str
    said: str
    passthrough_to: str | None = None
    sent: str = ""  # the file and line that said where what is not mapped goes
    exposure: Exposure | None = None
    compiled: dict[str, Compiled] = field(default_factory=dict)
    claimed: dict[str, str] = field(default_factory=dict)  # every name -> the entry that has it
    spelled: dict[str, tuple[str, str]] = field(default_factory=dict)  # every spelling -> file and method it means


@dataclass(slots=True)
class _Work:
    known: Mapping[str, Collection[str] | None]
    upstreams: Upstreams | None
    may_be_empty: bool
    stores: Collection[str] = ()
    contents: Mapping[Path, bytes] = field(default_factory=dict)
    spellings: Mapping[str, MethodSpelling] = field(default_factory=dict)
    problems: dict[Problem, None] = field(default_factory=dict)
    contracts: list[Contract] = field(default_factory=list)
    publications: list[Publication] = field(default_factory=list)
    triggers: list[WatchTrigger] = field(default_factory=list)
    published: dict[tuple[str, str], str] = field(default_factory=dict)  # listener and node -> where it is said
    hung: dict[tuple[str, str], str] = field(default_factory=dict)
    roots: list[Path] = field(default_factory=list)  # directories whose files may be quoted
    library: IdlLibrary = field(init=False)
    found: dict[EndpointKey, _Endpoint] = field(default_factory=dict)
    _only: dict[EndpointKey, Collection[str]] = field(default_factory=dict)  # of the file at hand
    members: list[tuple[Route, Scope]] = field(default_factory=list)  # each method, and where it stands

    def __post_init__(self) -> None:
        self.library = IdlLibrary(self.problems, self.roots, self.contents)

    def read(self, paths: Sequence[Path]) -> list[MappingDocument]:
        """The documents that have the shape of a mapping file."""
        self.roots += [path if path.is_dir() else path.parent for path in paths]
        files, problems = load.find(paths, may_be_empty=self.may_be_empty)
        documents = []
        for file in files:
            document, wrong = load.parse(file, self.contents[file]) if file in self.contents else load.read(file)
            if document is not None:
                wrong, document = schema.check(document)
            if document is not None:
                documents.append(document)
            elif load.outside(file, self.roots):
                wrong = [Problem(str(file), 1, 1, "", "is no mapping file", "schema")]
            problems += wrong
        self.problems.update(dict.fromkeys(problems))
        return documents

    def add(self, document: MappingDocument) -> None:
        """Compile a file's methods and put them where the file exposes them."""
        root = Scope(document, self.problems, (), document.data)
        compiler = Compiler(root, self.library, self.upstreams)
        compiled = {name: compiler.compile(name) for name in root.at("methods").data}
        entries = root.at("methods")
        self.members += [(method.route, entries.at(name)) for name, method in compiled.items() if method is not None]
        self.contracts += [method.contract for method in compiled.values() if method is not None]
        if compiler.contract is not None:
            self.contracts.append(compiler.contract)
        self._mirror(root, compiled)
        endpoints = self._expose(root)
        self._lead_on(root, compiler.upstream, endpoints)
        for name, method in compiled.items():
            reached = {key: endpoint for key, endpoint in endpoints.items() if name in self._only.get(key, compiled)}
            for called, scope in _spellings(root.at("methods", name)):
                self._claim(reached, called, scope, method)

    def _lead_on(self, root: Scope, upstream: str | None, endpoints: Mapping[EndpointKey, _Endpoint]) -> None:
        """Where the endpoints of a file send what has no route."""
        unmapped = root.at("unmapped")
        forwards = unmapped.data == "passthrough"
        if forwards and upstream is None:
            unmapped.fail("passthrough is refused: no 'legacy: {upstream: NAME}' says where the legacy service is")
        if not root.data["methods"] and not forwards and root.document.complete:
            root.at("methods").fail("no method is mapped, and 'unmapped: passthrough' is not said", key=True)
        for key, endpoint in endpoints.items() if unmapped.data else ():
            self._send_on(unmapped, upstream if forwards else None, key, endpoint)

    def _send_on(self, unmapped: Scope, upstream: str | None, key: EndpointKey, endpoint: _Endpoint) -> None:
        """Files that share an endpoint agree on where it leads; one that says nothing agrees with all."""
        spoken = self.upstreams.get(upstream) if upstream is not None and self.upstreams is not None else None
        speech = f"{endpoint.codec}/{endpoint.dialect}"
        if spoken is not None and speech not in spoken:
            understood = one_of(sorted(spoken))
            unmapped.fail(f"{key} speaks {speech}, the upstream '{upstream}' understands only {understood}")
        if endpoint.sent and endpoint.passthrough_to != upstream:
            does, wants = (
                f"passes through to '{name}'" if name else "rejects" for name in (endpoint.passthrough_to, upstream)
            )
            unmapped.fail(f"{key} {does} what is not mapped ({endpoint.sent}), this file {wants}")
        elif not endpoint.sent:
            endpoint.passthrough_to = upstream
            endpoint.sent = f"{unmapped.document.file}:{unmapped.document.line(unmapped.path)}"

    def _mirror(self, root: Scope, compiled: Mapping[str, Compiled | None]) -> None:
        """What the file publishes, and the triggers it has."""
        for published in compile_publications(root, self.library, self.published):
            self.publications.append(published.publication)
            self.contracts.append(published.contract)
        self.triggers += compile_watch_triggers(root, compiled, self.hung)
        for key in ("publish", "on_change"):
            for index in range(len(root.at(key).data or ())):
                self._is_store(root.at(key, index))

    def _expose(self, root: Scope) -> dict[EndpointKey, _Endpoint]:
        expose = root.at("expose")
        if not expose.data and not root.says("on_change"):
            root.at("expose").fail("no method of this file can be reached: say where it is exposed", key=True)
        here: dict[EndpointKey, _Endpoint] = {}
        self._only = {}
        for index in range(len(expose.data or ())):
            place = expose.at(index)
            key = EndpointKey(place.data["listener"], place.data["path"])
            if key in here:
                place.fail(f"this file is exposed at {key} twice")
            elif self._names_known(place):
                methods = methods_reached(place, root.at("methods"))
                if place.says("methods"):
                    self._only[key] = methods.data
                endpoint = self._endpoint(place, key, compile_xenstore_endpoint(place, methods))
                here.update({key: endpoint} if endpoint is not None else {})
        return here

    def _is_store(self, place: Scope) -> None:
        """Nodes are in a xenstore."""
        listener = place.data["listener"]
        if self._is_known(place, "listener") and self.known["listener"] is not None and listener not in self.stores:
            place.at("listener").fail(f"'{listener}' is not a xenstore")

    def _names_known(self, place: Scope) -> bool:
        unknown = [kind for kind in self.known if not self._is_known(place, kind)]
        return not unknown and self._listener_fits(place)

    def _is_known(self, place: Scope, kind: str) -> bool:
        names = self.known[kind]
        name = place.data.get(kind, "plain")
        if names is None or name in names:
            return True
        hint = did_you_mean(name, names) or f" (there are: {one_of(sorted(names))})"
        place.at(kind).fail(f"'{name}' is no {kind}{hint}", level="schema")
        return False

    def _listener_fits(self, place: Scope) -> bool:
        """A xenstore is no place for another codec, and its codec for no other place."""
        listener, codec = place.data["listener"], place.data["codec"]
        if self.known["listener"] is None or (listener in self.stores) == (codec == CODEC):
            return True
        kind = "is" if listener in self.stores else "is not"
        place.at("listener").fail(f"'{listener}' {kind} a xenstore, which goes with the codec {CODEC} alone")
        return False

    def _endpoint(self, place: Scope, key: EndpointKey, exposure: Exposure | None) -> _Endpoint | None:
        codec, dialect = place.data["codec"], place.data.get("dialect", "plain")
        where = place.document.problem(place.path, "")
        new = _Endpoint(codec, dialect, f"{where.file}:{where.line}", exposure=exposure)
        endpoint = self.found.setdefault(key, new)
        if (endpoint.codec, endpoint.dialect) == (codec, dialect):
            if endpoint.exposure != exposure:
                place.fail(f"{key} is exposed in another way already ({endpoint.said})")
            return endpoint
        speaks = f"{endpoint.codec}/{endpoint.dialect} ({endpoint.said})"
        place.fail(f"{key} speaks {speaks}, it cannot speak {codec}/{dialect} too")
        return None

    def _claim(
        self, endpoints: Mapping[EndpointKey, _Endpoint], called: str, scope: Scope, method: Compiled | None
    ) -> None:
        """Give a method its name at each endpoint; the first one keeps it, a collision is noted once."""
        where = scope.document.problem(scope.path, "", key=True)
        collides = False
        for key, endpoint in endpoints.items():
            owner = endpoint.claimed.setdefault(called, f"{where.file}:{where.line}: {where.place}")
            if owner != f"{where.file}:{where.line}: {where.place}":
                if not collides:
                    scope.fail(f"'{called}' at {key} is mapped already, in {owner}", key=called == scope.path[-1])
                collides = True
            elif method is not None:
                endpoint.compiled[called] = method
                self._check_spellings(endpoint, called, scope)
                self._check_room(endpoint.exposure, called, scope, method)

    def _check_spellings(self, endpoint: _Endpoint, called: str, scope: Scope) -> None:
        """No spelling of a name means two methods: the mode of one would govern calls of the other."""
        method = (scope.document.file, str(scope.path[1]))
        for spelling in (called, *self._spelling(endpoint).others(called)):
            file, name = endpoint.spelled.setdefault(spelling, method)
            if (file, name) != method:
                why = f"'{spelling}' is another spelling of both '{method[1]}' and '{name}' ({file})"
                scope.fail(f"{why} in the dialect {endpoint.dialect}: map one of them", key=called == scope.path[-1])

    def _spelling(self, endpoint: _Endpoint) -> MethodSpelling:
        return self.spellings.get(endpoint.dialect, AS_WRITTEN)

    def _check_room(self, exposure: Exposure | None, called: str, scope: Scope, method: Compiled) -> None:
        """Said here, since a write would be made before its answer finds no room."""
        if exposure is not None and called == scope.path[-1]:
            why = unsayable(exposure.style, method.route.result)
            if why:
                (scope.at("result") if scope.says("result") else scope).fail(why, key=True)

    def endpoints(self) -> dict[EndpointKey, EndpointTable]:
        """What was good."""
        return {
            key: EndpointTable(
                key,
                endpoint.codec,
                endpoint.dialect,
                {name: method.route for name, method in endpoint.compiled.items()},
                {name: method.fingerprint for name, method in endpoint.compiled.items()},
                passthrough_to=endpoint.passthrough_to,
                exposure=endpoint.exposure,
                spelling=self._spelling(endpoint),
            )
            for key, endpoint in self.found.items()
        }


def _spellings(entry: Scope) -> Iterator[tuple[str, Scope]]:
    """A method's name and its aliases, each with the place where it stands."""
    yield str(entry.path[-1]), entry
    for index, alias in enumerate(entry.at("aliases").data or ()):
        yield alias, entry.at("aliases", index)


def _revision(documents: Sequence[MappingDocument], library: IdlLibrary) -> str:
    contents = [(document.path.name, document.content) for document in documents]
    contents += [(path.name, content) for path, content in library.contents.items()]
    digest = hashlib.sha256()
    for name, content in sorted(contents):
        digest.update(f"{name} {len(content)}\n".encode("utf-8", "surrogateescape") + content)
    return digest.hexdigest()[:REVISION]
