"""The elements of an XML-RPC value -> a neutral value, or a refusal that names the place; knows no calls and no bytes.

The types of http://xmlrpc.com/spec.md; besides these i8 and nil, both also in the Apache namespace. In a string all
white space is kept. Around a number, boolean or date it is passed over: the specification permits none there, but
servers such as Python's own do. A date keeps its fraction of a second and its zone, or that it has none.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from math import isfinite
from xml.etree.ElementTree import Element

from adapters.codecs.xmlrpc_xml import Refused, short, shown
from gateway.core.model import FaultCode, Value

APACHE = "{http://ws.apache.org/xmlrpc/namespaces/extensions}"
SPACE = " \t\r\n"  # XML 1.0, section 2.3; str.strip() alone takes many more
BLANK = frozenset({None, "", "\n"})  # what mostly stands between elements; other white space takes the long way

_INTEGER = re.compile(r"([+-]?)([0-9]+)").fullmatch
# The digits are matched possessively (++): no text can make the search start over again and again.
_DOUBLE = re.compile(r"[+-]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?").fullmatch
# Old servers write 20260131T09:05:00Z; with dashes, another zone, none, or a fraction it is read as well.
_DATE = re.compile(
    r"([0-9]{4})(?:([0-9]{2})([0-9]{2})|-([0-9]{2})-([0-9]{2}))"
    r"T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,6}))?(Z|[+-][0-9]{2}:?[0-9]{2})?"
).fullmatch


def bad(what: str, *steps: str) -> Refused:
    """A value that is not what its element says."""
    return Refused(FaultCode.INVALID_PARAMS, what, *steps)


def children(element: Element, *tags: str, optional: int = 0) -> list[Element]:
    """Its children, which must be these in this order, the last `optional` of them at will. Raises Refused."""
    found = list(element)
    names = [child.tag for child in found]
    if len(names) < len(tags) - optional or names != [*tags[: len(names)]]:
        expected = ", ".join(f"<{tag}>" for tag in tags)
        got = ", ".join(f"<{short(name)}>" for name in names[:4]) or "nothing"
        raise bad(f"expected {expected} in <{element.tag}>, got {got}{', ...' if len(names) > 4 else ''}")
    no_text(element)
    return found


def only_child(element: Element, tag: str) -> Element:
    """Its one child, which must be this. Raises Refused."""
    if len(element) == 1 and element.text in BLANK:
        child = element[0]
        if child.tag == tag and child.tail in BLANK:
            return child
    return children(element, tag)[0]


def repeated(element: Element, tag: str) -> Element:
    """The same element, which may hold nothing but elements of this tag. Raises Refused."""
    for child in element:
        if child.tag != tag:
            raise bad(f"expected <{tag}> in <{element.tag}>, got <{short(child.tag)}>")
    no_text(element)
    return element


def no_text(element: Element) -> None:
    """Between its children only white space may stand. Raises Refused."""
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
    """All of its text, white space kept. Raises Refused when it has children."""
    if len(element):
        raise bad(f"expected text in <{element.tag}>, got <{short(element[0].tag)}>")
    return element.text or ""


def value(element: Element, room: int) -> Value:
    """Read a <value> whose structs and arrays nest at most `room` deep. Raises Refused."""
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
        raise Refused(FaultCode.TOO_LARGE, "nested deeper than is allowed")
    return container(kind, room - 1)


def items_of(array: Element) -> Element:
    """The <data> of an <array>, which holds <value>s and nothing else. Raises Refused."""
    return repeated(only_child(array, "data"), "value")


def _array(element: Element, room: int) -> Value:
    items: list[Value] = []
    data = items_of(element)
    try:
        for item in data:
            items.append(value(item, room))  # noqa: PERF401 - how many there are is the place of the bad one
    except Refused as refused:
        refused.steps.append(f"[{len(items)}]")
        raise
    return items


def _struct(element: Element, room: int) -> Value:
    members: dict[str, Value] = {}
    for member in repeated(element, "member"):
        name, content = name_and_value(member)
        if name in members:
            raise bad(f"expected each member once, got {shown(name)} twice")
        try:
            members[name] = value(content, room)
        except Refused as refused:
            refused.steps.append(f".{short(name)}")
            raise
    return members


def name_and_value(member: Element) -> tuple[str, Element]:
    """The two halves of a <member>. Raises Refused."""
    name, content = member if len(member) == 2 and member.text in BLANK else children(member, "name", "value")
    if name.tag != "name" or content.tag != "value" or name.tail not in BLANK or content.tail not in BLANK:
        children(member, "name", "value")
    return text_of(name), content


def _integer(bits: int) -> Callable[[str], int]:
    """The reader of integers of so many bits: an optional sign and decimal digits."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1

    def read(text: str) -> int:
        if len(text) < 10 and text.isascii() and text.isdecimal():
            return int(text)
        match = _INTEGER(text.strip(SPACE))
        if match is None:
            raise bad(f"expected an integer in digits, got {shown(text)}")
        sign, digits = match.groups()
        digits = digits.lstrip("0") or "0"
        number = int(sign + digits) if len(digits) < 20 else None  # int() of a long text takes long
        if number is None or not low <= number <= high:
            raise bad(f"expected an integer of {bits} bits, got {short(sign + digits)}")
        return number

    return read


def _boolean(text: str) -> bool:
    digit = text.strip(SPACE)
    if digit not in BOOLEANS:
        raise bad(f"expected a boolean, 0 or 1, got {shown(text)}")
    return BOOLEANS[digit]


def _double(text: str) -> float:
    """NaN and infinities are no numbers of XML-RPC; neither is one so large that it would become infinite."""
    number = text.strip(SPACE)
    if _DOUBLE(number) is None:
        raise bad(f"expected a decimal number, got {shown(text)}")
    read = float(number)
    if not isfinite(read):
        raise bad(f"expected a number that fits a double, got {shown(text)}")
    return read


def _date(text: str) -> datetime:
    match = _DATE(text.strip(SPACE))
    if match is None:
        raise bad(f"expected a date such as 20260131T09:05:00Z, got {shown(text)}")
    year, month, day, dashed_month, dashed_day, hour, minute, second, fraction, zone = match.groups()
    try:
        return datetime(
            int(year),
            int(month or dashed_month),
            int(day or dashed_day),
            int(hour),
            int(minute),
            int(second),
            int((fraction or "").ljust(6, "0")),
            _zone(zone),
        )
    except ValueError:  # the 31st of June, an offset of 24 hours
        raise bad(f"expected a date that exists, got {shown(text)}") from None


def _zone(text: str | None) -> timezone | None:
    """Raises ValueError for an offset of a day or more."""
    if text is None or text == "Z":
        return UTC if text else None
    if int(text[-2:]) > 59:
        raise ValueError(text)
    offset = timedelta(hours=int(text[1:3]), minutes=int(text[-2:]))
    return timezone(-offset if text[0] == "-" else offset)


def _base64(text: str) -> bytes:
    try:
        return binascii.a2b_base64(b"".join(text.encode("ascii").split()), strict_mode=True)
    except ValueError:  # binascii.Error and UnicodeEncodeError are kinds of it
        raise bad(f"expected base64, got {shown(text)}") from None


def _nil(text: str) -> None:
    if text.strip(SPACE):
        raise bad(f"expected <nil/> to be empty, got {shown(text)}")


BOOLEANS: Mapping[str, bool] = {"0": False, "1": True}

SCALARS: dict[str, Callable[[str], Value]] = {
    "string": str,
    "int": _integer(32),
    "i4": _integer(32),
    "i8": _integer(64),
    "boolean": _boolean,
    "double": _double,
    "dateTime.iso8601": _date,
    "base64": _base64,
    "nil": _nil,
    f"{APACHE}nil": _nil,
    f"{APACHE}i8": _integer(64),
    "ex:nil": _nil,  # never declared by some clients
    "ex:i8": _integer(64),
}

CONTAINERS: dict[str, Callable[[Element, int], Value]] = {"array": _array, "struct": _struct}
