"""Names and values of xenstore nodes: path elements, templates, exposure, values as text, lists of nodes as bytes.

xenstore allows `A-Z a-z 0-9 - _ @` in a path element. All of them but `@` stand for themselves. Every other byte of a
name's UTF-8 is written as `@` and its two hexadecimal digits: `VM.start` is `VM@2estart`. The empty name is `@`.
"""

from __future__ import annotations

import itertools
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from datetime import datetime
from math import isfinite
from typing import NamedTuple

from msgspec import Struct

from gateway.core.dbus.names import quoted
from gateway.core.dbus.scalars import MarshalError
from gateway.core.rpc.model import Value
from gateway.core.rpc.units import LONGEST_ZONE, compact

MAX_PATH = 3072  # bytes of an absolute path, XENSTORE_ABS_PATH_MAX of xen/io/xs_wire.h
MAX_VALUE = 2048  # bytes of a value that every store accepts from every domain

_TO_ESCAPE = re.compile(rb"[^A-Za-z0-9_-]")
_LEADING_DIGIT = re.compile(rb"^[0-9]")
_ESCAPES = [b"@%02x" % byte for byte in range(256)]
_ELEMENT = re.compile(r"(?:[A-Za-z0-9_-]++|@[0-9a-f]{2})++|@")
_ESCAPED = re.compile(rb"@([0-9a-f]{2})")
_BYTES = {escape[1:]: bytes([byte]) for byte, escape in enumerate(_ESCAPES)}
_PATH = re.compile(r"(?:/[A-Za-z0-9_@-]+)+")
_INDEX = re.compile(r"0|[1-9][0-9]{0,5}")
_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


# Elements


def element(text: str) -> str:
    """A text as one path element. Raises ValueError for a lone surrogate, which UTF-8 cannot express."""
    try:
        escaped = _TO_ESCAPE.sub(lambda match: _ESCAPES[match[0][0]], text.encode())
    except UnicodeEncodeError:
        raise ValueError(f"expected text without lone surrogates, got {quoted(text)}") from None
    return escaped.decode("ascii") or "@"


def member(text: str) -> str:
    """The same for a member of a struct. A leading digit is escaped: plain digits are the index of an array."""
    escaped = element(text)
    return _LEADING_DIGIT.sub(lambda match: _ESCAPES[match[0][0]], escaped.encode()).decode("ascii")


def text_of(written: str) -> str:
    """The inverse of `element` and `member`. Raises ValueError for anything that they do not write."""
    if _ELEMENT.fullmatch(written) is not None:
        if "@" not in written:
            return written
        escaped = b"" if written == "@" else written.encode("ascii")
        raw = _ESCAPED.sub(lambda match: _BYTES[match[1]], escaped)
        try:
            text = raw.decode()
            if written in (element(text), member(text)):
                return text
        except UnicodeDecodeError:
            pass
    raise ValueError(f"expected a name as an element of a path (`.` is `@2e`), got {quoted(written)}")


def index_of(written: str) -> int | None:
    """The array index that an element stands for; None when the element is a name."""
    return int(written) if _INDEX.fullmatch(written) else None


def is_path(text: str) -> bool:
    """Whether a store can have this node. The root `/` does not count."""
    return len(text) <= MAX_PATH and _PATH.fullmatch(text) is not None


# Templates


def is_parameter(element: str) -> bool:
    """Whether an element of a template is a name in braces."""
    return _PLACEHOLDER.fullmatch(element) is not None


class Match(NamedTuple):
    """A path that fits a template.

    `node` is the part that fits, `parameters` their values, `rest` the elements behind it.
    """

    node: str
    parameters: Mapping[str, str]
    rest: tuple[str, ...]


class Template(Struct, frozen=True):
    """A path whose elements may be parameters: `/local/domain/{domid}/control/shutdown`."""

    elements: tuple[str, ...]

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names in braces, in their order."""
        return tuple(found[1] for each in self.elements if (found := _PLACEHOLDER.fullmatch(each)))

    @property
    def root(self) -> str:
        """The elements before the first parameter: every path that fits is at or below this node."""
        before = itertools.takewhile(lambda each: not is_parameter(each), self.elements)
        return "/" + "/".join(before)

    def below(self, *elements: str) -> Template:
        """The template with more elements."""
        return Template((*self.elements, *elements))

    def continues(self, path: str) -> Template | None:
        """The template of what follows this path; None when the template does not begin with it."""
        elements = tuple(path.split("/")[1:])
        begins = Template(self.elements[: len(elements)])
        return Template(self.elements[len(elements) :]) if begins.match(path) else None

    def match(self, path: str) -> Match | None:
        """Compare a path with the template; None when it does not fit or is too short."""
        elements = path.split("/")[1:]
        count = len(self.elements)
        if len(elements) < count:
            return None
        parameters: dict[str, str] = {}
        for wanted, found in zip(self.elements, elements, strict=False):
            name = _PLACEHOLDER.fullmatch(wanted)
            if name is not None:
                parameters[name[1]] = found
            elif wanted != found:
                return None
        return Match("/" + "/".join(elements[:count]), parameters, tuple(elements[count:]))

    def __str__(self) -> str:
        return "/" + "/".join(self.elements)


def template(text: str) -> Template:
    """Read a template. Raises ValueError."""
    elements = text.removeprefix("/").split("/")
    names = [found[1] for each in elements if (found := _PLACEHOLDER.fullmatch(each))]
    plain = [each for each in elements if not is_parameter(each)]
    if not text.startswith("/") or not all(re.fullmatch("[A-Za-z0-9_@-]+", each) for each in plain):
        raise ValueError(f"expected a path such as /local/domain/{{domid}}/control, got {quoted(text)}")
    if len(names) != len(set(names)):
        raise ValueError(f"expected each parameter once, got {quoted(text)}")
    return Template(tuple(elements))


# Where the methods of an endpoint are reached


DOM0 = 0  # may always call: it can read and write every node
HOUR = 3600.0  # seconds


class Domains(Struct, frozen=True):
    """The domains that may call, besides domain 0."""

    numbers: frozenset[int] = frozenset()
    named: frozenset[str] = frozenset()  # parameters of the path whose value is the domid
    everyone: bool = False

    def allow(self, caller: int, parameters: Mapping[str, Value]) -> bool:
        """Whether this domain may call. `parameters` include those of the path."""
        if caller == DOM0 or self.everyone or caller in self.numbers:
            return True
        return any(parameters.get(name) == str(caller) for name in self.named)


DOM0_ALONE = Domains()


class StateWords(Struct, frozen=True):
    """The words in a state node: for a request that is committed, taken, done, or failed.

    An empty word: nothing is written at that moment.
    """

    node: str = "state"
    commit: str = ""
    in_progress: str = ""
    done: str = ""
    failed: str = ""
    truncated: str = ""  # done, but a value was cut to `limit` bytes
    limit: int = 0


class Exposure(Struct, frozen=True):
    """One `expose` entry of a mapping that names a style. The meaning of some fields depends on the style."""

    style: str
    path: Template
    domains: Domains = DOM0_ALONE
    response_ttl: float | None = HOUR  # seconds after which a response that is still there is removed; None: never
    method: str = ""  # called for every word; empty: the word is the method
    parameters: tuple[str, ...] = ()  # nodes beside the word that are parameters
    states: StateWords | None = None
    answers: tuple[tuple[str, StateWords], ...] = ()  # by method


# Values as text, in the forms of docs/types.md


_I64 = range(-(2**63), 2**64)


def node_text(value: object) -> bytes:
    """A simple value as the text of a node. Raises MarshalError for a value that a node cannot hold."""
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, bool):
        return b"1" if value else b"0"
    if isinstance(value, int):
        if value not in _I64:
            raise MarshalError("an integer of 64 bits", value)
        return b"%d" % value
    if isinstance(value, float):
        if not isfinite(value):
            raise MarshalError("a finite number", value)
        return repr(float(value)).encode()  # the shortest digits that read back as the same number
    if isinstance(value, bytes):
        return b64encode(value)
    if isinstance(value, datetime):
        text, zone = compact(value)
        if len(zone) > LONGEST_ZONE:
            raise MarshalError("an offset of whole minutes from UTC", zone)
        return (text + zone).encode()
    expected = "a value (a node cannot hold nil)" if value is None else "a simple value, which a node can hold"
    raise MarshalError(expected, value)


def _string(text: str) -> bytes:
    if "\0" in text:
        raise MarshalError("text without NUL", text)
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise MarshalError("text without lone surrogates", text) from None


# Lists of byte strings as netstrings: `4:echo,0:,` (https://cr.yp.to/proto/netstrings.txt)


_DIGITS = 9  # of a length


def pack(items: Iterable[bytes]) -> bytes:
    """The items as one byte string."""
    return b"".join([b"%d:%b," % (len(item), item) for item in items])


def unpack(packed: bytes) -> list[bytes]:
    """The inverse. Raises ValueError, which names the byte."""
    items: list[bytes] = []
    at = 0
    while at < len(packed):
        colon = packed.find(b":", at, at + _DIGITS + 1)
        digits = packed[at:colon] if colon > 0 else b""
        if not digits.isdigit() or (digits.startswith(b"0") and digits != b"0"):
            raise ValueError(f"expected a length and a colon at byte {at}")
        end = colon + 1 + int(digits)
        if packed[end : end + 1] != b",":
            raise ValueError(f"expected a comma at byte {end}")
        items.append(packed[colon + 1 : end])
        at = end + 1
    return items
