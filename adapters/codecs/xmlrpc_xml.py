"""Bytes -> a tree of XML elements without document type or entities, or a refusal; knows no XML-RPC.

Attributes, comments and processing instructions are passed over by whoever reads the tree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NoReturn
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser
from xml.parsers import expat

from gateway.core.model import FaultCode, Limits

# What a message may declare (XML 1.0, section 4.3.3) by the byte order mark it starts with.
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
UTF8_MARK = b"\xef\xbb\xbf"
ENCODINGS: Mapping[bytes, tuple[str, ...]] = {
    **dict.fromkeys(UTF16_MARKS, ("utf-16",)),
    UTF8_MARK: ("utf-8",),
    b"": ("utf-8", "us-ascii", "iso-8859-1"),
}

# expat's error numbers (XML_ERROR_*) in words for whoever wrote the message.
PROBLEMS: Mapping[int, str] = {
    3: "the message ends too early",
    4: "a character that may not stand here",
    5: "the message ends inside a tag, or a tag is not closed",
    6: "the message ends inside a character",
    7: "a closing tag that does not match",
    8: "an attribute twice",
    9: "something after the end of the message",
    11: "an entity that XML itself does not define",
    14: "a reference to a character that XML cannot carry",
    17: "an XML declaration that is not at the very start",
    20: "a CDATA section that is not closed",
    27: "a namespace prefix that is not declared",
    30: "a malformed XML declaration",
}
UNDECLARED_PREFIX = 27

_FINAL = True  # no more bytes follow

_DECLARED = re.compile(rb"""<\?xml[ \t\r\n][^?>]*?[ \t\r\n]encoding[ \t\r\n]*=[ \t\r\n]*["']([^"'?>]*)["']""")
_SHORTEST_VALUE = len("<value/>")
_MOST_MARKUP = 8  # "<" that one value needs at most: member, name, value and its type, each opened and closed


class Refused(Exception):  # noqa: N818 - no error of ours: it carries a fault up to where the codec returns it
    """What is wrong with a message; the place is put together while the readers return."""

    def __init__(self, code: FaultCode, what: str, *steps: str) -> None:
        super().__init__(what)
        self.code = code
        self.what = what
        self.steps = list(steps)  # innermost first: "[3]", ".name", "$"

    def __str__(self) -> str:
        place = "".join(reversed(self.steps))
        return f"{place}: {self.what}" if place else self.what


def shown(text: str) -> str:
    """Text of a client, quoted, on one line and short enough for a message."""
    return repr(short(text))


def short(text: str) -> str:
    """At most 60 characters of it."""
    return text if len(text) <= 60 else text[:57] + "..."


def tree(body: bytes, limits: Limits) -> Element:
    """Parse one message; raises Refused. Its size is checked before it is parsed, its depth when it is read."""
    if len(body) > limits.body:
        raise Refused(FaultCode.TOO_LARGE, f"expected at most {limits.body} bytes, got {len(body)}")
    body, encoding = _decoded(body)
    crowded = len(body) >= limits.elements * _SHORTEST_VALUE
    if crowded and body.count(b"<") > (limits.elements + 1) * _MOST_MARKUP:
        raise Refused(FaultCode.TOO_LARGE, f"expected at most {limits.elements} values, got more markup than they need")
    if b"<!DOCTYPE" in body:  # or these bytes stand in a comment or in CDATA, where they are harmless
        _refuse_doctype(body, encoding)
    root = _parse(body, encoding)
    if crowded and sum(1 for _ in root.iter("value")) > limits.elements:
        raise Refused(FaultCode.TOO_LARGE, f"expected at most {limits.elements} values, got more")
    return root


def _decoded(body: bytes) -> tuple[bytes, str]:
    """The body in an encoding in which every ASCII character is its own byte, and the name of that encoding."""
    mark = b"" if body[:1] < b"\x80" else next(mark for mark in ENCODINGS if body.startswith(mark))
    if mark in UTF16_MARKS:
        try:
            body = body.decode("utf-16").encode()
        except UnicodeError:
            raise Refused(FaultCode.PARSE_ERROR, "expected UTF-16 after its byte order mark") from None
    if b"\0" in body:  # also what UTF-16 and UTF-32 without a mark look like: DOCTYPE would not be found in them
        raise Refused(FaultCode.PARSE_ERROR, "a zero byte; expected UTF-8, or UTF-16 with a byte order mark")
    encoding = _declared(body.removeprefix(UTF8_MARK), ENCODINGS[mark])
    return body, "utf-8" if mark else encoding


def _declared(body: bytes, known: tuple[str, ...]) -> str:
    declaration = _DECLARED.match(body)
    name = declaration[1].decode("latin-1").lower() if declaration else known[0]
    if name not in known:
        expected = ", ".join(known) if len(known) == 1 else "utf-8, us-ascii, iso-8859-1 or utf-16 with its mark"
        raise Refused(FaultCode.PARSE_ERROR, f"encoding: expected {expected}, got {shown(name)}")
    return name


def _refuse_doctype(body: bytes, encoding: str) -> None:
    """Stop at a document type declaration: without one there are no entities to expand or to fetch."""
    parser = expat.ParserCreate(encoding)

    def refuse(*_: object) -> NoReturn:
        where = _position(parser.CurrentLineNumber, parser.CurrentColumnNumber)
        raise Refused(FaultCode.PARSE_ERROR, f"a document type declaration is not allowed ({where})")

    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(body, _FINAL)
    except expat.ExpatError:
        return  # _parse meets the same error and says so


def _parse(body: bytes, encoding: str) -> Element:
    """The encoding is imposed, so that expat reads the same characters that were searched for DOCTYPE."""
    parser = XMLParser(encoding=encoding)  # noqa: S314 - what that rule fears begins with a DOCTYPE
    try:
        parser.feed(body)
        return parser.close()
    except ParseError as error:
        if error.code == UNDECLARED_PREFIX:
            return _parse_prefixed(body, encoding)
        raise _problem(error.code, *error.position) from None


def _parse_prefixed(body: bytes, encoding: str) -> Element:
    """Read names as they are spelled: some clients write <ex:nil/> and never declare what ex: is."""
    builder = TreeBuilder()
    parser = expat.ParserCreate(encoding)
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(body, _FINAL)
    except expat.ExpatError as error:
        raise _problem(error.code, error.lineno, error.offset) from None
    return builder.close()


def _problem(code: int, line: int, column: int) -> Refused:
    what = PROBLEMS.get(code, "not well-formed XML")
    return Refused(FaultCode.PARSE_ERROR, f"{what} ({_position(line, column)})")


def _position(line: int, column: int) -> str:
    return f"line {line}, column {column + 1}"  # expat counts columns from 0, people from 1
