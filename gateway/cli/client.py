"""A client of the admin API over its Unix socket, for the commands."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import msgspec

OnLine: TypeAlias = Callable[[bytes], object]

DEFAULT_SOCKET = Path("/run/xcp-gateway/admin")
SILENCE = 30.0  # seconds without data after which a stream is lost; the gateway sends an empty line each second
OK = 200
UNPROCESSABLE = 422


class UnreachableError(Exception):
    """No gateway answers on the admin socket; the text names the socket."""


class RefusedError(Exception):
    """The gateway did not do it; the text is the gateway's, `status` the HTTP status."""

    def __init__(self, message: str, status: int = UNPROCESSABLE) -> None:
        super().__init__(message)
        self.status = status


def ask(socket: Path, verb: str, path: str, body: object = None, *, timeout: float = 60.0) -> Any:
    """Make one request and return the decoded answer; `timeout` in seconds."""
    import asyncio

    return asyncio.run(_ask(socket, verb, path, body, timeout))


def stream(socket: Path, verb: str, path: str, body: object, on_line: OnLine) -> None:
    """Make one request whose answer is lines; call `on_line` with each line that is not empty."""
    import asyncio

    asyncio.run(_stream(socket, verb, path, body, on_line))


async def _ask(socket: Path, verb: str, path: str, body: object, timeout: float) -> Any:  # noqa: ASYNC109 - handed to aiohttp
    import aiohttp

    data = None if body is None else msgspec.json.encode(body)
    limit = aiohttp.ClientTimeout(total=timeout)
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket)), timeout=limit) as session,
            session.request(verb, f"http://gateway{path}", data=data) as response,
        ):
            content = await response.read()
    except (aiohttp.ClientError, OSError) as error:
        raise not_connected(socket, error) from error
    answer = _decoded(socket, content)
    if isinstance(answer, dict) and "error" in answer:
        raise RefusedError(answer["error"], response.status)
    return answer


async def _stream(socket: Path, verb: str, path: str, body: object, on_line: OnLine) -> None:
    import aiohttp

    limit = aiohttp.ClientTimeout(total=None, sock_read=SILENCE)
    rest = b""
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket)), timeout=limit) as session,
            session.request(verb, f"http://gateway{path}", data=msgspec.json.encode(body)) as response,
        ):
            if response.status != OK:
                _refuse(socket, await response.read(), response.status)
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in filter(None, lines):
                    on_line(line)
    except aiohttp.ClientConnectorError as error:
        raise not_connected(socket, error) from error
    except (aiohttp.ClientError, TimeoutError) as error:
        raise UnreachableError(f"the gateway on {socket} has closed the connection") from error


def not_connected(socket: Path, error: Exception) -> UnreachableError:
    """The error in words: no gateway, or a socket that this user may not open."""
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM):
        who = "only root, the gateway's user, and the group of the socket may"
        return UnreachableError(f"you may not connect to {socket}: {who}; `read` and `change` of [admin] give rights")
    return UnreachableError(f"no gateway answers on {socket}: is it running? `--socket` names another socket")


def _refuse(socket: Path, content: bytes, status: int) -> NoReturn:
    answer = _decoded(socket, content)
    if not isinstance(answer, dict) or not isinstance(answer.get("error"), str):
        raise UnreachableError(f"the server on {socket} is not xcp-gateway")
    raise RefusedError(answer["error"], status)


def _decoded(socket: Path, content: bytes) -> Any:
    try:
        return msgspec.json.decode(content)
    except msgspec.DecodeError as error:
        raise UnreachableError(f"the server on {socket} is not xcp-gateway") from error
