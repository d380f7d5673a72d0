"""How the legacy services write values: ocaml-rpc's XML-RPC and JSON-RPC, byte for byte.

XML has no typed integers: 42 and "42" are written alike, and a reader gets text. Nothing here is the gateway's.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from datetime import UTC, datetime
from typing import Any
from xml.etree import ElementTree as ET

_ESCAPES = str.maketrans({"<": "&lt;", ">": "&gt;", "&": "&amp;", '"': "&quot;"})
_DROPPED = dict.fromkeys(code for code in range(32) if code not in (9, 10, 13))
_OPEN = '<?xml version="1.0"?><methodResponse><params><param>'
_CLOSE = "</param></params></methodResponse>"


class Failure(Exception):  # noqa: N818 - what the legacy services call it
    """The error of a method: any value, in the form of its service."""

    def __init__(self, error: Any) -> None:
        super().__init__(str(error))
        self.error = error


class BrokenError(Exception):
    """The message cannot be read; the old parsers raise."""


# XML-RPC


def value(item: Any) -> str:
    """One value, in its <value> tags."""
    return f"<value>{_inner(item)}</value>"


def _inner(item: Any) -> str:
    match item:
        case None:
            return "<nil/>"
        case bool():
            return f"<boolean>{int(item)}</boolean>"
        case int():
            return str(item)
        case float():
            return f"<double>{item:.16g}</double>"
        case str():
            return item.translate(_DROPPED).translate(_ESCAPES)
        case bytes():
            return f"<base64>{b64encode(item).decode()}</base64>"
        case datetime():
            return f"<dateTime.iso8601>{moment(item)}</dateTime.iso8601>"
        case dict():
            return f"<struct>{''.join(_member(name, each) for name, each in item.items())}</struct>"
    return f"<array><data>{''.join(map(value, item))}</data></array>"


def _member(name: str, item: Any) -> str:
    return f"<member><name>{name.translate(_ESCAPES)}</name>{value(item)}</member>"


def moment(when: datetime) -> str:
    """No dashes in the date, colons in the time."""
    return when.astimezone(UTC).strftime("%Y%m%dT%H:%M:%SZ")


def xml_success(result: Any) -> bytes:
    """Return the struct of a success."""
    return f"{_OPEN}{value({'Status': 'Success', 'Value': result})}{_CLOSE}".encode()


def xml_failure(error: Any) -> bytes:
    """Return the struct of a failure."""
    return f"{_OPEN}{value({'Status': 'Failure', 'ErrorDescription': error})}{_CLOSE}".encode()


def xml_bare(result: Any) -> bytes:
    """A result without the struct: system.listMethods."""
    return f"{_OPEN}{value(result)}{_CLOSE}".encode()


def read_xml(body: bytes) -> tuple[str, list[Any]]:
    """Method and parameters; the old parser insists on <params>."""
    try:
        root = ET.fromstring(body)  # noqa: S314 - a sample that only its own tests talk to
        name, params = root.findtext("methodName"), root.find("params")
        if root.tag != "methodCall" or name is None or params is None:
            raise BrokenError("no methodCall with methodName and params")
        return name, [_read(_only(param)) for param in params]
    except (ET.ParseError, ValueError, LookupError, RecursionError) as error:
        raise BrokenError(str(error)) from error


def _only(node: ET.Element) -> ET.Element:
    if len(node) != 1:
        raise BrokenError(f"<{node.tag}> holds {len(node)} elements")
    return node[0]


def _read(node: ET.Element) -> Any:
    if not len(node):
        return node.text or ""
    inner = _only(node)
    text = inner.text or ""
    match inner.tag:
        case "nil":
            return None
        case "boolean":
            return text == "1"
        case "int" | "i4" | "i8":
            return int(text)
        case "double":
            return float(text)
        case "base64":
            return b64decode(text)
        case "struct":
            return {member.findtext("name", ""): _read(member[1]) for member in inner}
        case "array":
            return [_read(each) for each in inner[0]]
    return text


# JSON-RPC


def read_json(body: bytes) -> tuple[str, list[Any], Any, bool]:
    """Method, parameters, id, and whether it is 2.0."""
    try:
        call = json.loads(body)
        version, method, identity = call.get("jsonrpc"), call["method"], call["id"]
        _check_text(call)
    except (ValueError, KeyError, AttributeError, RecursionError) as error:
        raise BrokenError(str(error)) from error
    if version not in (None, "2.0") or not isinstance(method, str) or type(identity) not in (str, int):
        raise BrokenError("no call")
    params = call.get("params")
    if isinstance(params, dict):
        params = [params]
    elif params is None and version:
        params = []
    if not isinstance(params, list):
        raise BrokenError("no parameters")
    return method, params, identity, version is not None


def _check_text(call: Any) -> None:
    """D-Bus carries Unicode without NUL; other text raises ValueError."""
    if rb"\u0000" in json.dumps(call, ensure_ascii=False).encode():
        raise ValueError("a text holds NUL")


def json_success(result: Any, identity: Any, *, two: bool) -> bytes:
    """A result, in the version it was asked in."""
    if two:
        return _json({"jsonrpc": "2.0", "result": result, "id": identity})
    return _json({"result": result, "error": None, "id": identity})


def json_failure(error: Any, identity: Any, *, two: bool) -> bytes:
    """An error; in 2.0 its code is always 1."""
    if not two:
        return _json({"result": None, "error": error, "id": identity})
    first, *rest = error if isinstance(error, list) else [error]
    return _json({"jsonrpc": "2.0", "error": {"code": 1, "message": first, "data": rest}, "id": identity})


def _json(message: Any) -> bytes:
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False, default=_as_json).encode()


def _as_json(item: Any) -> Any:
    return b64encode(item).decode() if isinstance(item, bytes) else moment(item)
