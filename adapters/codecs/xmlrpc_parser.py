"""XML parser for XML-RPC: bytes to a tree of elements, without document type and entities.

Namespaces are not processed: names are read as spelled. (With namespace processing expat copies the URI into each name,
which turns kilobytes into gigabytes.) Attributes, comments and processing instructions are ignored. The cost of a
message is bounded by its size (tests/property/test_cost.py, docs/decisions/0003).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from encodings.aliases import aliases
from typing import NoReturn
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser
from xml.parsers import expat

from gateway.core.rpc.model import FaultCode, MessageLimits

APACHE = "http://ws.apache.org/xmlrpc/namespaces/extensions"
EX = "ex:"  # the prefix under which the elements of that namespace are found in the tree

# The encodings that a message may declare (XML 1.0, section 4.3.3), by its byte order mark.
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
UTF8_MARK = b"\xef\xbb\xbf"
ENCODINGS: Mapping[bytes, tuple[str, ...]] = {
    **dict.fromkeys(UTF16_MARKS, ("utf-16",)),
    UTF8_MARK: ("utf-8",),
}
# Without a mark: character tables in which an ASCII character is its own byte. Codecs that compress, escape or have
# state (zlib, unicode_escape, UTF-7, ISO-2022) are not listed. No name of a client is looked up in Python's registry,
# which imports and caches whatever it is asked for.
_TABLES = frozenset(
    [f"cp125{at}" for at in range(9)]
    + [f"iso8859_{at}" for at in range(2, 17) if at != 12]
    + ["cp437", "cp850", "cp852", "cp858", "cp866", "koi8_r", "koi8_u", "mac_roman", "tis_620"]
    + ["big5", "euc_jp", "euc_kr", "gb2312", "gbk", "gb18030", "shift_jis", "cp932"]
)
# expat's own. ASCII is read as UTF-8, which contains it: some servers declare us-ascii whatever they send.
_NATIVE: Mapping[str, str] = {"utf_8": "utf-8", "ascii": "utf-8", "latin_1": "iso-8859-1"}
_CODECS: Mapping[str, str] = {
    **{alias: codec for alias, codec in aliases.items() if codec in _TABLES or codec in _NATIVE},
    **{codec: codec for codec in (*_TABLES, *_NATIVE)},
    "iso_8859_1": "latin_1",
    "us_ascii": "ascii",
}

# expat's error numbers (XML_ERROR_*) and their texts for the sender.
PROBLEMS: Mapping[int, str] = {
    3: "the message ends too early",
    4: "a character that is not allowed here",
    5: "the message ends inside a tag, or a tag is not closed",
    6: "the message ends inside a character",
    7: "a closing tag that does not match",
    8: "an attribute twice",
    9: "something after the end of the message",
    11: "an entity that XML itself does not define",
    14: "a reference to a character that XML cannot carry",
    17: "an XML declaration that is not at the very start",
    20: "a CDATA section that is not closed",
    30: "a malformed XML declaration",
}

_FINAL = True  # no more bytes follow

_DECLARED = re.compile(rb"""<\?xml[ \t\r\n][^?>]*?[ \t\r\n]encoding[ \t\r\n]*=[ \t\r\n]*["']([^"'?>]*)["']""")
SHORTEST_VALUE = len("<value/>")
_MOST_MARKUP = 8  # "<" that one value needs at most: member, name, value and its type, each opened and closed
_PIECE = 32 * 1024  # bytes parsed at a time, so that other threads can run
_LONGEST_TAG = 2 * _PIECE  # bytes of one tag, comment or processing instruction
_MOST_FOREIGN = 1000  # elements unknown to XML-RPC; one is already an error
_MOST_TEXT = 2**20  # bytes of text that the parser delivers in one piece
_TAGS_OF_A_LEVEL = 3  # struct, member, value; or array, data, value
_TAGS_AROUND = 16

# The elements of XML-RPC, and the types of Apache's extensions, whatever their prefix.
_EXTENSIONS = frozenset(["i1", "i2", "i8", "float", "biginteger", "bigdecimal", "dateTime", "nil"])
_FRAME = "methodCall methodName methodResponse fault params param value name member data array struct"
_TYPES = "string int i4 boolean double dateTime.iso8601 base64"
_KNOWN = _EXTENSIONS.union(_FRAME.split(), _TYPES.split())


class XmlError(Exception):
    """An error in a message; its place is assembled while the readers return."""

    def __init__(self, code: FaultCode, what: str, *steps: str) -> None:
        super().__init__(what)
        self.code = code
        self.what = what
        self.steps = list(steps)  # innermost first: "[3]", ".name", "$"

    def __str__(self) -> str:
        place = "".join(reversed(self.steps))
        return f"{place}: {self.what}" if place else self.what


class Within:
    """Errors inside have this step in their place, or this code: one outside of the values is no INVALID_PARAMS."""

    __slots__ = ("_code", "_step")

    def __init__(self, step: str = "", code: FaultCode | None = None) -> None:
        self._step, self._code = step, code

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, XmlError):
            error.steps.append(self._step)
            error.code = self._code or error.code


def shown(text: str) -> str:
    """Quote a client's text on one line, short enough for a message."""
    return repr(short(text))


def short(text: str) -> str:
    """Return at most 60 characters of a text."""
    return text if len(text) <= 60 else text[:57] + "..."


def tree(body: bytes, limits: MessageLimits, charset: str = "") -> Element:
    """Parse one message; raises XmlError. The size is checked before parsing, the depth while reading.

    `charset`: that of the Content-Type, for a message without mark and declaration (RFC 7303, section 3.2).
    """
    if len(body) > limits.body:
        raise XmlError(FaultCode.TOO_LARGE, f"expected at most {limits.body} bytes, got {len(body)}")
    body, encoding = _decoded(body, charset)
    crowded = len(body) >= limits.elements * SHORTEST_VALUE
    if crowded and body.count(b"<") > (limits.elements + 1) * _MOST_MARKUP:
        raise XmlError(
            FaultCode.TOO_LARGE, f"expected at most {limits.elements} values, got more markup than they need"
        )
    root = _quickly(body, encoding) if len(body) <= _PIECE else None
    if root is None:
        root = _Parser(encoding, len(body), limits.depth).parse(body)
    if crowded and sum(1 for _ in root.iter("value")) > limits.elements:
        raise XmlError(FaultCode.TOO_LARGE, f"expected at most {limits.elements} values, got more")
    return root


def _decoded(body: bytes, charset: str) -> tuple[bytes, str]:
    """Return the body in an encoding that expat supports, and the name of that encoding."""
    mark = b"" if body[:1] < b"\x80" else next((mark for mark in ENCODINGS if body.startswith(mark)), b"")
    if mark in UTF16_MARKS:
        body = _transcoded(body, "utf-16", "UTF-16 after its byte order mark")
    if b"\0" in body:  # also what UTF-16 and UTF-32 without a mark look like
        raise XmlError(FaultCode.PARSE_ERROR, "a zero byte; expected UTF-8, or UTF-16 with a byte order mark")
    declaration = _DECLARED.match(body.removeprefix(UTF8_MARK))
    declared = declaration[1].decode("latin-1").lower() if declaration else ""
    if mark:
        if declared not in ("", *ENCODINGS[mark]):
            expected = ", ".join(ENCODINGS[mark])
            raise XmlError(FaultCode.PARSE_ERROR, f"encoding: expected {expected}, got {shown(declared)}")
        return body, "utf-8"
    codec = _CODECS.get((declared if declaration else charset.lower()).replace("-", "_"))
    if codec is None and not declaration:
        codec = "utf_8"  # also where the charset of the Content-Type is unknown
    if codec is None:
        expected = "utf-8, us-ascii, iso-8859-1, another table of characters, or utf-16 with its mark"
        raise XmlError(FaultCode.PARSE_ERROR, f"encoding: expected {expected}, got {shown(declared)}")
    if codec in _NATIVE:
        return body, _NATIVE[codec]
    return _transcoded(body, codec, codec), "utf-8"


def _transcoded(body: bytes, codec: str, expected: str) -> bytes:
    try:
        return body.decode(codec).encode()
    except UnicodeError:
        raise XmlError(FaultCode.PARSE_ERROR, f"expected {expected}") from None


def _quickly(body: bytes, encoding: str) -> Element | None:
    """Parse a short message without declarations in C; None if it needs the careful parser.

    (This parser processes namespaces, but there are none.)
    """
    if b"xmlns" in body or b"<!DOCTYPE" in body:
        return None
    parser = XMLParser(encoding=encoding)  # noqa: S314 - what that rule fears begins with a DOCTYPE
    try:
        parser.feed(body)
        return parser.close()
    except ParseError:  # also for <ex:nil/>, which some clients never declare
        return None


class _Parser:
    """The careful parser of one message. The encoding is imposed, so that expat never asks for another codec."""

    def __init__(self, encoding: str, size: int, depth: int) -> None:
        self._parser = expat.ParserCreate(encoding)
        self._parser.buffer_text = True
        self._parser.buffer_size = max(1, min(size, _MOST_TEXT))
        self._parser.ordered_attributes = True
        self._parser.StartDoctypeDeclHandler = self._refuse_doctype
        self._builder = TreeBuilder()
        self._start = self._builder.start
        self._root: Element | None = None
        self._prefixes = {"ex"}  # some clients write <ex:nil/> and never declare what ex: is
        self._foreign = 0
        self._most_levels = _TAGS_AROUND + depth * _TAGS_OF_A_LEVEL
        self._parser.StartElementHandler = self._open_root
        self._parser.EndElementHandler = self._builder.end
        self._parser.CharacterDataHandler = self._builder.data

    def parse(self, body: bytes) -> Element:
        """Return the root element; raises XmlError."""
        try:
            for at in range(0, len(body) - _PIECE, _PIECE):
                self._parser.Parse(body[at : at + _PIECE], not _FINAL)
                self._check(at + _PIECE)
            rest = len(body) % _PIECE or _PIECE
            self._parser.Parse(body[-rest:], _FINAL)
        except expat.ExpatError as error:
            what = PROBLEMS.get(error.code, "not well-formed XML")
            raise XmlError(FaultCode.PARSE_ERROR, f"{what} ({_position(error.lineno, error.offset)})") from None
        finally:  # else parser and handlers hold each other, and the tree, until Python looks for such circles
            self._parser.StartElementHandler = self._parser.StartDoctypeDeclHandler = None
        return self._builder.close()

    def _check(self, given: int) -> None:
        """Check tag length and depth after so many bytes; open elements are the last children from the root."""
        if given - self._parser.CurrentByteIndex > _LONGEST_TAG:
            raise self._refusal(FaultCode.TOO_LARGE, f"a tag or comment of more than {_LONGEST_TAG} bytes")
        levels, element = 0, self._root
        while element is not None and len(element):
            levels, element = levels + 1, element[-1]
        if levels > self._most_levels:
            raise self._refusal(FaultCode.TOO_LARGE, "nested deeper than is allowed")

    def _open_root(self, tag: str, attributes: list[str]) -> None:
        self._root = self._open(tag, attributes)
        self._parser.StartElementHandler = self._open

    def _open(self, tag: str, attributes: list[str]) -> Element:
        if attributes:
            self._declare(attributes)
        return self._start(tag if tag in _KNOWN else self._other(tag), _NONE)

    def _declare(self, attributes: list[str]) -> None:
        """Record a prefix of Apache's extensions; it is valid from here to the end of the message."""
        for name, uri in zip(attributes[::2], attributes[1::2], strict=True):
            if uri == APACHE and name.startswith("xmlns:"):
                self._prefixes.add(name.removeprefix("xmlns:"))

    def _other(self, tag: str) -> str:
        prefix, _, local = tag.partition(":")
        if local in _EXTENSIONS and prefix in self._prefixes:
            return EX + local
        self._foreign += 1
        if self._foreign > _MOST_FOREIGN:
            what = f"expected XML-RPC's elements and values, got more than {_MOST_FOREIGN} others, such as"
            raise self._refusal(FaultCode.TOO_LARGE, f"{what} <{short(tag)}>")
        return tag

    def _refuse_doctype(self, *_: object) -> NoReturn:
        """Refuse a document type declaration: without one there are no entities to expand or to fetch."""
        raise self._refusal(FaultCode.PARSE_ERROR, "a document type declaration is not allowed")

    def _refusal(self, code: FaultCode, what: str) -> XmlError:
        where = _position(self._parser.CurrentLineNumber, self._parser.CurrentColumnNumber)
        return XmlError(code, f"{what} ({where})")


_NONE: dict[str, str] = {}


def _position(line: int, column: int) -> str:
    return f"line {line}, column {column + 1}"  # expat counts columns from 0, people from 1
