"""Publications and watch triggers: D-Bus values become nodes of a xenstore, and changed nodes become calls.

A `Publication` says which nodes show a service's properties or the arguments of its signals. A `WatchTrigger` says
which method is called when a node changes. Both are compiled from mapping files and pure.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from msgspec import Struct, field

from gateway.core.dbus.names import escape_path_element, unescape_path_element
from gateway.core.dbus.scalars import MarshalError, placed
from gateway.core.dbus.target import Subscription
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call, Peer, Value
from gateway.core.xenstore.paths import DOM0_ALONE, MAX_PATH, MAX_VALUE, Domains, Template, element, node_text

Values: TypeAlias = Mapping[str, Value]
Grants: TypeAlias = "tuple[tuple[str, int], ...]"  # letter and domid; first the owner, with the letter of all others

DOMAINS = ("local", "domain")  # a domain's own nodes are below /local/domain/DOMID
_NAME = re.compile(r"\{([^{}]*)\}")
_DOMID = re.compile(r"0|[1-9][0-9]{0,4}")


# Text


class Text(Struct, frozen=True):
    """A text with names in braces: `{kib}`."""

    source: str

    @property
    def names(self) -> tuple[str, ...]:
        """The names in braces."""
        return tuple(_NAME.findall(self.source))

    def fill(self, values: Values) -> str | None:
        """The text with the values in place of the names; None when a value is missing. Raises MarshalError."""
        if not all(name in values for name in self.names):
            return None
        return _NAME.sub(lambda found: text_of(values[found[1]], found[1]), self.source)


def text_of(value: Value, name: str) -> str:
    """A simple value as text, as the codec `xenstore` writes it. Raises MarshalError at `name`."""
    return str(placed(name, node_text, value), "utf-8")


# Publish


class NodeSet(Struct, frozen=True):
    """Nodes that are written together."""

    leaves: Mapping[str, bytes | None]  # path -> value; None: the node is removed
    grants: Grants = ()  # empty: as the store sets them
    domain: str = ""  # written only while this domain's node exists; empty: always
    left_out: tuple[str, ...] = ()  # nodes whose value cannot be written, and why; they are removed


class Flag(Struct, frozen=True):
    """A node that exists, with the empty value, while a boolean is true."""

    name: str

    @property
    def names(self) -> tuple[str, ...]:
        """The boolean's."""
        return (self.name,)


class NodeTemplate(Struct, frozen=True):
    """A template of nodes. `leaves`: the path elements below `node` and the value there."""

    node: Template
    leaves: Mapping[tuple[str, ...], Text | Flag]
    permissions: Text | None = None  # "n0,r{domid}"

    def render(self, values: Values) -> NodeSet:
        """The nodes for some values. A node whose value cannot be written is left out.

        Raises MarshalError for a value in the path or in the permissions, which concern all nodes.
        """
        root = tuple(_element(Text(each), values) for each in self.node.elements)
        domain = ""
        if self.node.elements[:2] == DOMAINS and len(root) > 2:
            domain = f"/{root[0]}/{root[1]}/{_domid(root[2], 'node')}"
        leaves: dict[str, bytes | None] = {}
        left_out: list[str] = []
        for below, leaf in self.leaves.items():
            if all(name in values for name in leaf.names):
                path = "/".join(("", *root, *below))
                if len(path) > MAX_PATH:
                    raise MarshalError(f"a path of at most {MAX_PATH} characters", path)
                try:
                    leaves[path] = _leaf(leaf, values)
                except MarshalError as error:
                    leaves[path] = None
                    left_out.append(f"{path} ({', '.join(leaf.names)}): {error.bare}")
        granted: Grants = ()
        if self.permissions is not None:
            domids = {name: _domid(values.get(name), name) for name in self.permissions.names}
            granted = grants(self.permissions.fill(domids) or "")
        return NodeSet(leaves, granted, domain, tuple(left_out))


def _element(text: Text, values: Values) -> str:
    """One element of a path. A `/` in a value is escaped, so that it cannot lead to another node."""
    if not text.names:
        return text.source
    filled = text.fill(values)
    if filled is None:
        raise MarshalError("a value for each name in the path", None).at(text.names[0])
    return element(filled)


def _domid(value: Value, name: str) -> str:
    """A domid as it is written in a path. Raises MarshalError."""
    text = text_of(value, name)
    if not _DOMID.fullmatch(text):
        raise MarshalError("a domid", value).at(name)
    return text


def _leaf(leaf: Text | Flag, values: Values) -> bytes | None:
    if isinstance(leaf, Flag):
        return b"" if values[leaf.name] else None
    text = leaf.fill(values) or ""
    try:
        value = text.encode()
    except UnicodeEncodeError:
        raise MarshalError("text without lone surrogates", text) from None
    if len(value) > MAX_VALUE:
        raise MarshalError(f"a value of at most {MAX_VALUE} bytes", text)
    return value


def grants(text: str) -> Grants:
    """Read permissions as `xenstore-chmod` writes them, with commas: `n0,r5`. Raises ValueError."""
    found = [re.fullmatch(r"([nrwb])(0|[1-9][0-9]{0,4})", part.strip()) for part in text.split(",")]
    if not all(found):
        raise ValueError(f"expected permissions such as n0,r5 (the owner comes first), got '{text}'")
    return tuple((one[1], int(one[2])) for one in found if one is not None)


class Publication(Struct, frozen=True):
    """The nodes that show what a service signals.

    The source is a signal with `arguments`, or properties, which `read` and `read_all` read.
    """

    listener: str
    template: NodeTemplate
    subscriptions: tuple[Subscription, ...]
    object_path: str  # its last element may be a parameter: {name}
    arguments: tuple[str, ...] = ()
    read: Route | None = None  # the properties of one object
    read_all: Route | None = None  # of all objects: {last element of the object path, unescaped: properties}
    source: str = ""
    fingerprint: str = ""  # differs when mapping or IDL of it differ
    is_escaped: bool = True  # the last element of the object path is escaped as sd_bus_path_encode does

    @property
    def parameter(self) -> str:
        """The parameter of the object path; empty when there is one object."""
        names = _NAME.findall(self.object_path)
        return names[0] if names else ""

    def key(self, object_path: str) -> str | None:
        """The value of the parameter in an object path; None when the path is another one."""
        fixed, brace, _ = self.object_path.partition("{")
        if not brace:
            return "" if object_path == fixed else None
        last = object_path.removeprefix(fixed)
        if not last or last == object_path or "/" in last:
            return None
        return unescape_path_element(last) if self.is_escaped else last

    def path(self, key: str) -> str:
        """The object path of the object with this key."""
        fixed, brace, _ = self.object_path.partition("{")
        if not brace:
            return fixed
        return fixed + (escape_path_element(key) if self.is_escaped else key)

    def node_set(self, key: str, values: Values) -> NodeSet:
        """The nodes of one object. Raises MarshalError."""
        return self.template.render({**values, self.parameter: key} if self.parameter else values)


# Watch triggers


class RelatedNode(NamedTuple):
    """A node, or the nodes below one, that are passed with a call besides the changed node.

    `path` starts at the parent of the changed node; "." with `tree` means everything below that parent.
    """

    path: str  # "os_name", "os/name", "."
    tree: bool = False


RelatedContent: TypeAlias = "bytes | Mapping[str, bytes] | None"


class Content(Struct, frozen=True):
    """The content that a trigger fires for, read in one transaction."""

    value: bytes
    related: Mapping[RelatedNode, RelatedContent] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Equal for equal content."""
        related = sorted(
            (node, sorted(found.items()) if isinstance(found, Mapping) else found)
            for node, found in self.related.items()
        )
        return digest(self.value) if not related else hashlib.sha256(repr((self.value, related)).encode()).hexdigest()


def digest(value: bytes) -> str:
    """The digest of a node's value alone."""
    return hashlib.sha256(value).hexdigest()


class WatchTrigger(Struct, frozen=True):
    """A node, and the method that is called when its content changes."""

    listener: str
    node: Template
    route: Route
    parameters: Mapping[str, Text | RelatedNode]
    domains: Domains = DOM0_ALONE  # that may fire it
    source: str = ""
    fingerprint: str = ""

    @property
    def place(self) -> str:
        """Listener and node: `store /local/domain/{domid}/data/updated`."""
        return f"{self.listener} {self.node}"

    @property
    def related(self) -> tuple[RelatedNode, ...]:
        """The nodes that are read together with the changed node."""
        return tuple({source: None for source in self.parameters.values() if isinstance(source, RelatedNode)})

    def call(self, content: Content, path: Values, domid: int) -> Call:
        """The call for a content. Raises MarshalError when a value is not UTF-8."""
        values = {**path, "value": _text(content.value, "value")}
        given: dict[str, Value] = {}
        for name, source in self.parameters.items():
            found = source.fill(values) if isinstance(source, Text) else content.related.get(source)
            if isinstance(found, Mapping):
                given[name] = {below: _text(value, name) for below, value in found.items()}
            elif found is not None:  # a node that does not exist: the method has a default for it or refuses
                given[name] = found if isinstance(found, str) else _text(found, name)
        return Call(self.route.method, (), given, peer=Peer(f"domain {domid}", domid=domid))


def _text(value: bytes, name: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise MarshalError("UTF-8 text", value).at(name) from None
