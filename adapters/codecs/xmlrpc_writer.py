"""XML-RPC values: values to the bytes of a <value>.

The forms are those that clients of every age read (http://xmlrpc.com/spec.md and the legacy servers): strings without a
type, integers as <int> and, beyond 32 bits, as <i8>, None as <nil/>, doubles without an exponent, dates as
20260131T09:05:00Z.

Records of one class have the same names and mostly the same types: the text between their values is made once for all
of them (a shape). A long value is written in pieces, so that its text never stands beside its bytes.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from decimal import Decimal
from io import BytesIO
from math import isfinite
from typing import Any, NamedTuple

from adapters.codecs.shared import is_long
from gateway.core.rpc.model import Int32, Value
from gateway.core.rpc.units import LONGEST_ZONE, compact

INT_MIN, INT_MAX = -(2**31), 2**31 - 1
I8_MIN, I8_MAX = -(2**63), 2**63 - 1

# XML 1.0, section 2.2: characters that no document can carry, not even as a reference.
_UNCARRIABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_CONTROLS = bytes([*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20)])
_FFFE, _FFFF = "\ufffe".encode(), "\uffff".encode()
_PIECE = 256 * 1024  # characters, about
_LONG = 256  # items of a value that is written in pieces


class Unwritable(Exception):  # noqa: N818 - no error of ours: it carries a fault up to where the codec returns it
    """A value that XML-RPC cannot carry; the text says which and why."""


class _ByType(dict[type, Callable[[Any], str]]):
    """Writers by type; a subclass uses the writer of its base class."""

    def __missing__(self, kind: type) -> Callable[[Any], str]:
        for base in kind.__mro__:
            if base in self:
                return self[base]
        raise Unwritable(f"expected a value that XML-RPC has a type for, got {kind.__name__}")


def write(value: Value, place: str = "$", before: bytes = b"", after: bytes = b"") -> bytes:
    """Return the <value> element, between two texts; raises Unwritable with the place, which an error searches for."""
    try:
        try:
            if not is_long(value, _LONG):
                return b"%b%b%b" % (before, _encoded(WRITERS[type(value)](value)), after)
            out = BytesIO()
            out.write(before)
            for text in _pieces(value):
                out.write(_encoded(text))
            out.write(after)
            return out.getvalue()
        except Unwritable:
            where, why = _locate(value) or ("", "cannot be written")
    except RecursionError:
        where, why = "", "nested too deeply"
    raise Unwritable(f"{place}{where}: {why}")


def _encoded(text: str) -> bytes:
    """Raise Unwritable for text that cannot be carried. One scan over the whole costs less than one for each string."""
    try:
        written = text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        raise Unwritable from None
    if len(written.translate(None, _CONTROLS)) < len(written):
        raise Unwritable
    if not text.isascii() and (_FFFE in written or _FFFF in written):
        raise Unwritable
    return written


def _pieces(value: Any) -> Iterator[str]:
    """The text of a long value, piece by piece."""
    is_struct = type(value) is dict
    parts, size = ["<value><struct>" if is_struct else "<value><array><data>"], 0
    end = "</member>" if is_struct else ""
    for name, item in value.items() if is_struct else enumerate(value):
        if is_struct:
            parts.append(_named(name))
        if is_long(item, _LONG):
            yield "".join(parts)
            yield from _pieces(item)
            parts, size = [end], 0
            continue
        text = WRITERS[type(item)](item)
        parts += (text, end)
        size += len(text)
        if size > _PIECE:
            yield "".join(parts)
            parts, size = [], 0
    parts.append("</struct></value>" if is_struct else "</data></array></value>")
    yield "".join(parts)


def escape(text: str) -> str:
    """Escape text between tags. A bare CR is escaped too, since readers turn it into LF (XML 1.0, section 2.11)."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text.replace('"', "&quot;").replace("\r", "&#13;")


def visible(text: str) -> str:
    """Return the text with characters that XML cannot carry spelled out, for messages."""
    return _UNCARRIABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def check_characters(text: object, what: str = "") -> None:
    """Raise Unwritable if XML cannot carry this text; the error begins with `what`."""
    if not isinstance(text, str):
        raise Unwritable(f"{what}expected text, got {type(text).__name__}")
    wrong = _UNCARRIABLE.search(text)
    if wrong is not None:
        raise Unwritable(f"{what}expected characters that XML can carry, got U+{ord(wrong[0]):04X}")


def _locate(value: object) -> tuple[str, str] | None:
    """Return the place of the first value that cannot be written, and why; None if there is none."""
    steps: Iterable[tuple[str, object]] = ()
    try:
        if isinstance(value, list):
            steps = ((f"[{at}]", item) for at, item in enumerate(value))
        elif isinstance(value, dict):
            for name in value:
                check_characters(name, "name of a member: ")
            steps = ((f".{name}", member) for name, member in value.items())
        else:
            check_characters(WRITERS[type(value)](value))
    except Unwritable as unwritable:
        return "", str(unwritable)
    for step, inner in steps:
        found = _locate(inner)
        if found is not None:
            return step + found[0], found[1]
    return None


def _array(items: list[Value]) -> str:
    return f"<value><array><data>{''.join([WRITERS[type(item)](item) for item in items])}</data></array></value>"


def _struct(members: dict[str, Value]) -> str:
    if _LEAST_OF_RECORD <= len(members) <= _LONG:
        return _record(members)
    parts = [
        f"{_BEGINNINGS.get(name) or _beginning(name)}{WRITERS[type(member)](member)}</member>"
        for name, member in members.items()
    ]
    return f"<value><struct>{''.join(parts)}</struct></value>"


_BEGINNINGS: dict[object, str] = {}  # of members, by name: those of records repeat
_MOST_BEGINNINGS, _LONGEST_NAME = 4096, 64


def _beginning(name: object) -> str:
    """Return a member up to its value."""
    beginning = _named(name)
    if len(_BEGINNINGS) < _MOST_BEGINNINGS and len(beginning) <= _LONGEST_NAME:
        _BEGINNINGS[name] = beginning
    return beginning


def _named(name: object) -> str:
    if not isinstance(name, str):
        raise Unwritable("not text")  # `_locate` says it in full
    return f"<member><name>{name if name.isidentifier() else escape(name)}</name>"


class _Shape(NamedTuple):
    """Structs of the same names and types. `text`: theirs, with %s for each value; `others`: those that are no text."""

    text: str
    texts: tuple[int, ...]
    others: tuple[tuple[int, Callable[[Any], str]], ...]


_SHAPES: dict[tuple[object, ...], _Shape] = {}  # by names, then types
_MOST_SHAPES, _LEAST_OF_RECORD = 512, 12


def _record(members: dict[str, Value]) -> str:
    values: list[Any] = [*members.values()]
    key = (*members, *map(type, values))
    shape = _SHAPES.get(key) or _shape(key, len(values))
    if not _is_plain("".join([values[at] for at in shape.texts])):
        for at in shape.texts:
            values[at] = escape(values[at])
    for at, writer in shape.others:
        values[at] = writer(values[at])
    return shape.text % (*values,)


def _shape(key: tuple[Any, ...], count: int) -> _Shape:
    names, kinds = key[:count], key[count:]
    others = tuple((at, WRITERS[kind]) for at, kind in enumerate(kinds) if kind is not str)
    holes = ["<value>%s</value>" if kind is str else "%s" for kind in kinds]
    parts = [f"{_named(name).replace('%', '%%')}{hole}</member>" for name, hole in zip(names, holes, strict=True)]
    texts = tuple(at for at, kind in enumerate(kinds) if kind is str)
    shape = _Shape(f"<value><struct>{''.join(parts)}</struct></value>", texts, others)
    if len(shape.text) <= _LONGEST_NAME * 2 * count:
        if len(_SHAPES) >= _MOST_SHAPES:
            _SHAPES.clear()
        _SHAPES[key] = shape
    return shape


def _string(text: str) -> str:
    if (
        "&" in text or "<" in text or ">" in text or '"' in text or "\r" in text
    ):  # rare; testing is cheaper than replacing
        text = escape(text)
    return f"<value>{text}</value>"


def _is_plain(text: str) -> bool:
    """Whether nothing of it must be escaped; `_string` has this inline."""
    return not ("&" in text or "<" in text or ">" in text or '"' in text or "\r" in text)


def _integer(number: int) -> str:
    if INT_MIN <= number <= INT_MAX:
        return f"<value><int>{number:d}</int></value>"
    if I8_MIN <= number <= I8_MAX:
        return f"<value><i8>{number:d}</i8></value>"
    raise Unwritable(f"expected an integer of 64 bits, got one of {number.bit_length() + 1}")


def _double(number: float) -> str:
    """Write the shortest digits that read back as the same number; the specification has no exponent."""
    if not isfinite(number):
        raise Unwritable(f"expected a finite number, got {number}")
    digits = repr(float(number))
    if "e" in digits:
        digits = f"{Decimal(digits):f}"
    return f"<value><double>{digits}</double></value>"


def _date(moment: datetime) -> str:
    text, zone = compact(moment)
    if len(zone) > LONGEST_ZONE:
        raise Unwritable(f"expected an offset of whole minutes from UTC, got {zone}")
    return f"<value><dateTime.iso8601>{text}{zone}</dateTime.iso8601></value>"


def _base64(data: bytes) -> str:
    return f"<value><base64>{binascii.b2a_base64(data, newline=False).decode()}</base64></value>"


WRITERS = _ByType(
    {
        str: _string,
        bool: ("<value><boolean>0</boolean></value>", "<value><boolean>1</boolean></value>").__getitem__,
        int: _integer,
        Int32: lambda number: f"<value><i4>{int(number)}</i4></value>",
        float: _double,
        type(None): lambda _: "<value><nil/></value>",
        list: _array,
        dict: _struct,
        datetime: _date,
        bytes: _base64,
    }
)
