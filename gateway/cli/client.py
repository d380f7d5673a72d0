"""A client of the admin API over its Unix socket, for the commands."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlencode

import msgspec

OnLine: TypeAlias = Callable[[bytes], object]

SILENCE = 30.0  # seconds without data after which a stream is lost; the gateway sends an empty line each second


class UnreachableError(Exception):
    """No gateway answers on the admin socket; the text names the socket."""


class RefusedError(Exception):
    """The gateway did not do it; the text is the gateway's, `status` the HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class _Connection(HTTPConnection):
    """A connection to a Unix socket; `timeout` in seconds for each read and write."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("gateway", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(path: Path, verb: str, target: str, body: object = None, *, timeout: float = 60.0, **query: object) -> Any:
    """Make one request on the socket at `path` and return the decoded answer.

    `timeout` in seconds; a part of the `query` that is None is left out.
    """
    given = {name: value for name, value in query.items() if value is not None}
    if given:
        target += f"?{urlencode(given)}"
    with closing(_Connection(path, timeout)) as connection:
        try:
            response = _request(connection, verb, target, body)
            content = response.read()
        except (HTTPException, OSError) as error:
            raise not_connected(path, error) from error
    answer = _decoded(path, content)
    if isinstance(answer, dict) and "error" in answer:
        raise RefusedError(answer["error"], response.status)
    return answer


def stream(path: Path, verb: str, target: str, body: object, on_line: OnLine) -> None:
    """Make one request whose answer is lines; call `on_line` with each line that is not empty."""
    with closing(_Connection(path, SILENCE)) as connection:
        try:
            connection.connect()
        except OSError as error:
            raise not_connected(path, error) from error
        for line in _lines(path, connection, verb, target, body):
            on_line(line)


def _request(connection: _Connection, verb: str, target: str, body: object) -> HTTPResponse:
    connection.request(verb, target, None if body is None else msgspec.json.encode(body))
    return connection.getresponse()


def _lines(path: Path, connection: _Connection, verb: str, target: str, body: object) -> Iterator[bytes]:
    """The lines of the answer to a request as they come, without empty ones."""
    rest = b""
    try:
        response = _request(connection, verb, target, body)
        if response.status != HTTPStatus.OK:
            answer = _decoded(path, response.read())
            if not isinstance(answer, dict) or not isinstance(answer.get("error"), str):
                raise UnreachableError(f"the server on {path} is not xcp-gateway")
            raise RefusedError(answer["error"], response.status)
        while chunk := response.read1():
            *lines, rest = (rest + chunk).split(b"\n")
            yield from filter(None, lines)
    except (HTTPException, OSError) as error:
        raise UnreachableError(f"the gateway on {path} has closed the connection") from error


def not_connected(path: Path, error: Exception) -> UnreachableError:
    """The error in words: no gateway, or a socket that this user may not open."""
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM):
        who = "only root, the gateway's user, and those whom [admin] of the config names may"
        cure = "name yourself in `read` or `change`, and a group of yours in `group`, then restart the gateway"
        return UnreachableError(f"you may not connect to {path}: {who}: {cure}")
    return UnreachableError(f"no gateway answers on {path}: is it running? `--socket` names another socket")


def _decoded(path: Path, content: bytes) -> Any:
    try:
        return msgspec.json.decode(content)
    except msgspec.DecodeError as error:
        raise UnreachableError(f"the server on {path} is not xcp-gateway") from error
