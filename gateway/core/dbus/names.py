"""D-Bus names and object paths: grammar, and escaping of path elements.

D-Bus specification, "Valid Names" and "Valid Object Paths". Each check returns its text, or raises a ValueError that
says what was expected.
"""

from __future__ import annotations

import re
from collections.abc import Callable

MAX_LENGTH = 255  # bytes of a bus name, interface, member or error name; an object path has no limit of its own
_SHOWN = 60  # characters of a bad name that a message repeats

_UNIQUE_NAME = re.compile(r":[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+")
_WELL_KNOWN_NAME = re.compile(r"[A-Za-z_-][A-Za-z0-9_-]*(\.[A-Za-z_-][A-Za-z0-9_-]*)+")
_INTERFACE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+")
_MEMBER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PROPERTY = re.compile(r"[^\x00-\x1f\x7f]+")
_OBJECT_PATH = re.compile(r"/|(/[A-Za-z0-9_]+)+")
_ESCAPED = re.compile(rb"_([0-9A-Fa-f]{2})")
_TO_ESCAPE = re.compile(rb"[^A-Za-z0-9]|^[0-9]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ESCAPES = [b"_%02x" % byte for byte in range(256)]


def _check(pattern: re.Pattern[str], expected: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if len(text) > MAX_LENGTH:
            raise ValueError(f"expected {expected} and at most {MAX_LENGTH} bytes long, got {len(text)} characters")
        if pattern.fullmatch(text) is None:
            raise ValueError(f"expected {expected}, got {quoted(text)}")
        return text

    return check


_well_known_name = _check(_WELL_KNOWN_NAME, "a bus name such as org.example.Service")
_unique_name = _check(_UNIQUE_NAME, "a unique name such as :1.42")
interface = _check(_INTERFACE, "an interface such as org.example.Service1")
error_name = _check(_INTERFACE, "an error name such as org.example.Error.NotFound")
member = _check(_MEMBER, "a member such as GetAll")
# Any text: the specification has no grammar for it, and `scan-type` is in use.
property_name = _check(_PROPERTY, "the name of a property without control characters")


def bus_name(text: str) -> str:
    """Check a well-known name (`org.xen.xcp.xapi`) or a unique name, which the bus assigns (`:1.42`)."""
    return (_unique_name if text.startswith(":") else _well_known_name)(text)


def object_path(text: str) -> str:
    """Check an object path (`/org/xen/xcp/xapi`)."""
    if not is_object_path(text):
        raise ValueError(f"expected an object path such as /org/example/Service, got {quoted(text)}")
    return text


def is_object_path(text: str) -> bool:
    """Return whether `text` is a valid object path; fast enough for each request."""
    return _OBJECT_PATH.fullmatch(text) is not None


def escape_path_element(text: str) -> str:
    """Escape any text as one path element, as sd_bus_path_encode(3) does; the empty text becomes "_"."""
    if text.isascii() and text.isalnum() and not text[0].isdigit():
        return text
    escaped = _TO_ESCAPE.sub(lambda match: _ESCAPES[match[0][0]], text.encode("utf-8", "surrogatepass"))
    return escaped.decode("ascii") or "_"


def unescape_path_element(element: str) -> str:
    """Unescape a path element; an element that was not escaped is returned unchanged.

    An element counts as not escaped if escaping its text would not return it, or if the text would hold a control
    character (BlueZ's "dev_11_22").
    """
    text = decoded_path_element(element)
    if text is None or escape_path_element(text) != element or _CONTROL.search(text):
        return element
    return text


def decoded_path_element(element: str) -> str | None:
    """Return the text whose escaped form an element may be; None if there is none."""
    if element == "_":
        return ""
    unescaped = _ESCAPED.sub(lambda match: bytes.fromhex(match[1].decode()), element.encode("utf-8", "surrogatepass"))
    try:
        return unescaped.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return None


def quoted(text: str) -> str:
    """Quote a text for a message: ASCII, one line, limited length."""
    return ascii(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")


def printable(text: str) -> str:
    """Return the text with control characters and lone surrogates written as escapes."""
    return text if text.isprintable() else "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
