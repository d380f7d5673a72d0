"""XML-RPC values: elements to values, or an error that names the place.

Reads the types of http://xmlrpc.com/spec.md and Apache's extensions, with or without their prefix. White space is kept
in strings and ignored around numbers, booleans and dates, as servers such as Python's do. The D-Bus type, not the
element, decides how many bits an integer may have. A date keeps its zone or the lack of one, and its fraction of a
second, cut after six digits.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from math import isfinite
from xml.etree.ElementTree import Element

from adapters.codecs.xmlrpc_parser import EX, XmlError, short, shown
from gateway.core.rpc.model import FaultCode, Value

SPACE = " \t\r\n"  # XML 1.0, section 2.3; str.strip() removes many more
_SPACE_BYTES = SPACE.encode()
BLANK = frozenset({None, "", "\n"})  # the usual text between elements; other white space takes the slow path

_INTEGER = re.compile(r"([+-]?)([0-9]+)").fullmatch
# Digits are matched possessively (++), so that no text causes backtracking.
_DOUBLE = re.compile(r"[+-]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?").fullmatch
_MOST_DIGITS = 1000  # of an integer; the time that int() takes grows with their square
_FRACTION = 6  # digits
# Legacy servers write 20260131T09:05:00Z. Dashes, missing colons, another zone or none, and fractions are read as well.
_DATE = re.compile(
    r"([0-9]{4})(?:([0-9]{2})([0-9]{2})|-([0-9]{2})-([0-9]{2}))"
    r"[Tt ]([0-9]{2})(?:([0-9]{2})([0-9]{2})|:([0-9]{2}):([0-9]{2}))"
    r"(?:[.,]([0-9]++))?([Zz]|[+-][0-9]{2}(?::?[0-9]{2})?)?"
).fullmatch


def bad(what: str, *steps: str) -> XmlError:
    """Return the error of a value that does not fit its element."""
    return XmlError(FaultCode.INVALID_PARAMS, what, *steps)


def children(element: Element, *tags: str, optional: int = 0) -> list[Element]:
    """Return the children, which must be these in this order; the last `optional` may be missing. Raises XmlError."""
    found = list(element)
    names = [child.tag for child in found]
    if len(names) < len(tags) - optional or names != [*tags[: len(names)]]:
        expected = ", ".join(f"<{tag}>" for tag in tags)
        got = ", ".join(f"<{short(name)}>" for name in names[:4]) or "nothing"
        raise bad(f"expected {expected} in <{element.tag}>, got {got}{', ...' if len(names) > 4 else ''}")
    no_text(element)
    return found


def only_child(element: Element, tag: str) -> Element:
    """Return the only child, which must have this tag. Raises XmlError."""
    if len(element) == 1 and element.text in BLANK:
        child = element[0]
        if child.tag == tag and child.tail in BLANK:
            return child
    return children(element, tag)[0]


def repeated(element: Element, tag: str) -> Element:
    """Return the element, whose children must all have this tag. Raises XmlError."""
    for child in element:
        if child.tag != tag:
            raise bad(f"expected <{tag}> in <{element.tag}>, got <{short(child.tag)}>")
    no_text(element)
    return element


def no_text(element: Element) -> None:
    """Check that there is only white space between the children. Raises XmlError."""
    if element.text not in BLANK:
        _no_text(element, element.text)
    for child in element:
        if child.tail not in BLANK:
            _no_text(element, child.tail)


def _no_text(element: Element, text: str | None) -> None:
    stray = (text or "").strip(SPACE)
    if stray:
        raise bad(f"expected no text in <{short(element.tag)}>, got {shown(stray)}")


def text_of(element: Element) -> str:
    """Return the text with its white space. Raises XmlError if there are children."""
    if len(element):
        raise bad(f"expected text in <{element.tag}>, got <{short(element[0].tag)}>")
    return element.text or ""


def value(element: Element, room: int, *, last_wins: bool = False) -> Value:
    """Read a <value> whose structs and arrays nest at most `room` deep. Raises XmlError.

    `last_wins`: the last of two members of one name counts, as in the readers of the legacy servers' clients.
    """
    if not len(element):
        return element.text or ""  # without a type it is a string
    kind = element[0]
    if len(element) > 1 or element.text not in BLANK or kind.tail not in BLANK:
        children(element, kind.tag)
    scalar = SCALARS.get(kind.tag)
    if scalar is not None:
        return scalar(text_of(kind))
    container = CONTAINERS.get(kind.tag)
    if container is None:
        raise bad(f"expected a type of XML-RPC, got <{short(kind.tag)}>")
    if room <= 0:
        raise XmlError(FaultCode.TOO_LARGE, "nested deeper than is allowed")
    return container(kind, room - 1, last_wins)


def items_of(array: Element) -> Element:
    """Return the <data> of an <array>, which holds <value>s only; <array/> is empty. Raises XmlError."""
    return repeated(only_child(array, "data") if len(array) else array, "value")


def _array(element: Element, room: int, last_wins: bool) -> Value:  # noqa: FBT001 - a reader of CONTAINERS
    items: list[Value] = []
    data = items_of(element)
    try:
        for item in data:
            items.append(value(item, room, last_wins=last_wins))  # noqa: PERF401 - how many there are is the place of the bad one
    except XmlError as refused:
        refused.steps.append(f"[{len(items)}]")
        raise
    return items


def _struct(element: Element, room: int, last_wins: bool) -> Value:  # noqa: FBT001 - a reader of CONTAINERS
    members: dict[str, Value] = {}
    for member in repeated(element, "member"):
        name, content = name_and_value(member)
        if name in members and not last_wins:
            raise bad(f"expected each member once, got {shown(name)} twice")
        try:
            members[name] = value(content, room, last_wins=last_wins)
        except XmlError as refused:
            refused.steps.append(f".{short(name)}")
            raise
    return members


def name_and_value(member: Element) -> tuple[str, Element]:
    """Return name and <value> of a <member>. Raises XmlError."""
    name, content = member if len(member) == 2 and member.text in BLANK else children(member, "name", "value")
    if name.tag != "name" or content.tag != "value" or name.tail not in BLANK or content.tail not in BLANK:
        children(member, "name", "value")
    return text_of(name), content


def _integer(text: str) -> int:
    """Read an optional sign and decimal digits."""
    if len(text) < 10 and text.isascii() and text.isdecimal():
        return int(text)
    match = _INTEGER(text.strip(SPACE))
    if match is None:
        raise bad(f"expected an integer in digits, got {shown(text)}")
    sign, digits = match.groups()
    digits = digits.lstrip("0") or "0"
    if len(digits) > _MOST_DIGITS:
        raise bad(f"expected an integer of at most {_MOST_DIGITS} digits, got {len(digits)}")
    return int(sign + digits)


def _boolean(text: str) -> bool:
    digit = text.strip(SPACE)
    if digit not in BOOLEANS:
        raise bad(f"expected a boolean, 0 or 1, got {shown(text)}")
    return BOOLEANS[digit]


def _double(text: str) -> float:
    """Read a double; NaN, infinities and numbers beyond the range of a double are refused."""
    number = text.strip(SPACE)
    if _DOUBLE(number) is None:
        raise bad(f"expected a decimal number, got {shown(text)}")
    read = float(number)
    if not isfinite(read):
        raise bad(f"expected a number that fits a double, got {shown(text)}")
    return read


def _decimal(text: str) -> int | float:
    """Read a bigdecimal as an integer or a double; a number that no double represents exactly is refused."""
    number = text.strip(SPACE)
    if _INTEGER(number):
        return _integer(number)
    read = _double(number)
    if len(number) > _MOST_DIGITS or Decimal(repr(read)) != Decimal(number):
        raise bad(f"expected a number that a double holds, got {shown(number)}")
    return read


def _date(text: str) -> datetime:
    match = _DATE(text.strip(SPACE))
    if match is None:
        raise bad(f"expected a date such as 20260131T09:05:00Z, got {shown(text)}")
    *numbers, fraction, zone = match.groups()
    year, month, day, hour, minute, second = (int(number) for number in numbers if number is not None)
    try:
        microsecond = int((fraction or "")[:_FRACTION].ljust(_FRACTION, "0"))
        return datetime(year, month, day, hour, minute, second, microsecond, _zone(zone))
    except ValueError:  # the 31st of June, an offset of 24 hours
        raise bad(f"expected a date that exists, got {shown(text)}") from None


def _zone(text: str | None) -> timezone | None:
    """Read a time zone; raises ValueError for an offset of a day or more."""
    if text is None or text in "Zz":
        return UTC if text else None
    hours, minutes = int(text[1:3]), int(text[3:].removeprefix(":") or 0)
    if minutes > 59:
        raise ValueError(text)
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if text[0] == "-" else offset)


def _base64(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text.encode("ascii").translate(None, _SPACE_BYTES), strict_mode=True)
    except ValueError:  # binascii.Error and UnicodeEncodeError are kinds of it
        raise bad(f"expected base64, got {shown(text)}") from None


def _nil(text: str) -> None:
    if text.strip(SPACE):
        raise bad(f"expected <nil/> to be empty, got {shown(text)}")


BOOLEANS: Mapping[str, bool] = {"0": False, "1": True}

_EXTENSIONS: Mapping[str, Callable[[str], Value]] = {
    **dict.fromkeys(["i1", "i2", "i8", "biginteger"], _integer),
    "float": _double,
    "bigdecimal": _decimal,
    "dateTime": _date,
    "nil": _nil,
}

SCALARS: dict[str, Callable[[str], Value]] = {
    "string": str,
    "int": _integer,
    "i4": _integer,
    "boolean": _boolean,
    "double": _double,
    "dateTime.iso8601": _date,
    "base64": _base64,
    **_EXTENSIONS,
    **{EX + kind: read for kind, read in _EXTENSIONS.items()},
}

CONTAINERS: dict[str, Callable[[Element, int, bool], Value]] = {"array": _array, "struct": _struct}
