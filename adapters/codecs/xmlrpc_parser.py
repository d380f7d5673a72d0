"""Bytes -> a tree of XML elements without document type or entities, or a refusal; knows little of XML-RPC.

Names are read as they are spelled: where a message declares namespaces they are not processed (each name would be given
its whole URI, which makes megabytes of kilobytes). Attributes, comments and processing instructions are passed over.
What a message costs is bounded by its bytes (tests/property/test_cost.py, docs/decisions/0003).
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

# What a message may declare (XML 1.0, section 4.3.3) by the byte order mark it starts with.
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
UTF8_MARK = b"\xef\xbb\xbf"
ENCODINGS: Mapping[bytes, tuple[str, ...]] = {
    **dict.fromkeys(UTF16_MARKS, ("utf-16",)),
    UTF8_MARK: ("utf-8",),
}
# Without a mark: tables of characters, in which an ASCII character is its own byte. What compresses, escapes or has
# states (zlib, unicode_escape, UTF-7, ISO-2022) is not among them, and no name of a client is looked up in Python's
# own register, which imports and remembers whatever it is asked for.
_TABLES = frozenset(
    [f"cp125{at}" for at in range(9)]
    + [f"iso8859_{at}" for at in range(2, 17) if at != 12]
    + ["cp437", "cp850", "cp852", "cp858", "cp866", "koi8_r", "koi8_u", "mac_roman", "tis_620"]
    + ["big5", "euc_jp", "euc_kr", "gb2312", "gbk", "gb18030", "shift_jis", "cp932"]
)
_NATIVE: Mapping[str, str] = {"utf_8": "utf-8", "ascii": "us-ascii", "latin_1": "iso-8859-1"}  # expat's own
_CODECS: Mapping[str, str] = {
    **{alias: codec for alias, codec in aliases.items() if codec in _TABLES or codec in _NATIVE},
    **{codec: codec for codec in (*_TABLES, *_NATIVE)},
    "iso_8859_1": "latin_1",
    "us_ascii": "ascii",
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
    30: "a malformed XML declaration",
}

_FINAL = True  # no more bytes follow

_DECLARED = re.compile(rb"""<\?xml[ \t\r\n][^?>]*?[ \t\r\n]encoding[ \t\r\n]*=[ \t\r\n]*["']([^"'?>]*)["']""")
_SHORTEST_VALUE = len("<value/>")
_MOST_MARKUP = 8  # "<" that one value needs at most: member, name, value and its type, each opened and closed
_PIECE = 32 * 1024  # bytes that the parser is given at a time, so that other threads have their turn
_LONGEST_TAG = 2 * _PIECE  # bytes of one tag, comment or processing instruction
_MOST_FOREIGN = 1000  # elements that XML-RPC does not know; one is wrong already
_MOST_TEXT = 2**20  # bytes of one text that the parser hands on in one piece
_TAGS_OF_A_LEVEL = 3  # struct, member, value; or array, data, value
_TAGS_AROUND = 16

# The elements of XML-RPC, and the types of Apache's extensions, whatever their prefix.
_EXTENSIONS = frozenset(["i1", "i2", "i8", "float", "biginteger", "bigdecimal", "dateTime", "nil"])
_FRAME = "methodCall methodName methodResponse fault params param value name member data array struct"
_TYPES = "string int i4 boolean double dateTime.iso8601 base64"
_KNOWN = _EXTENSIONS.union(_FRAME.split(), _TYPES.split())


class XmlError(Exception):
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


def tree(body: bytes, limits: MessageLimits, charset: str = "") -> Element:
    """Parse one message; raises Refused. Its size is checked before it is parsed, its depth when it is read.

    `charset`: what its Content-Type says, for a message that has no mark and declares nothing (RFC 7303, section 3.2).
    """
    if len(body) > limits.body:
        raise XmlError(FaultCode.TOO_LARGE, f"expected at most {limits.body} bytes, got {len(body)}")
    body, encoding = _decoded(body, charset)
    crowded = len(body) >= limits.elements * _SHORTEST_VALUE
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
    """The body in an encoding that expat knows, and the name of that encoding."""
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
    codec = _CODECS.get(declared.replace("-", "_")) if declaration else _codec_of(charset)
    if codec is None:
        expected = "utf-8, us-ascii, iso-8859-1, another table of characters, or utf-16 with its mark"
        raise XmlError(FaultCode.PARSE_ERROR, f"encoding: expected {expected}, got {shown(declared)}")
    if codec in _NATIVE:
        return body, _NATIVE[codec]
    return _transcoded(body, codec, codec), "utf-8"


def _codec_of(charset: str) -> str:
    """That of a Content-Type. One that nobody knows, and ASCII, is read as what XML is without a declaration."""
    codec = _CODECS.get(charset.lower().replace("-", "_"), "utf_8")
    return "utf_8" if codec == "ascii" else codec


def _transcoded(body: bytes, codec: str, expected: str) -> bytes:
    try:
        return body.decode(codec).encode()
    except UnicodeError:
        raise XmlError(FaultCode.PARSE_ERROR, f"expected {expected}") from None


def _quickly(body: bytes, encoding: str) -> Element | None:
    """A short message in which nothing can be declared, by a parser that runs no line of Python; None when it has to be
    read with care. (It does process namespaces, of which there are none.)
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
    """Reads one message with care. Its encoding is imposed: none can be declared that expat would ask others for."""

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
        """The root; raises Refused."""
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
        """After so many bytes: what is open now is the last element of the last one, and so on."""
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
        """Where a prefix is declared is not remembered: from here on it stands for Apache's extensions."""
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
        """Without a document type declaration there are no entities to expand or to fetch."""
        raise self._refusal(FaultCode.PARSE_ERROR, "a document type declaration is not allowed")

    def _refusal(self, code: FaultCode, what: str) -> XmlError:
        where = _position(self._parser.CurrentLineNumber, self._parser.CurrentColumnNumber)
        return XmlError(code, f"{what} ({where})")


_NONE: dict[str, str] = {}


def _position(line: int, column: int) -> str:
    return f"line {line}, column {column + 1}"  # expat counts columns from 0, people from 1
