"""Asks a running gateway over its admin socket; what the commands use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import aiohttp
import msgspec

OnLine: TypeAlias = Callable[[bytes], object]

SILENCE = 30.0  # seconds without a word after which nobody writes lines any more
OK = 200


class UnreachableError(Exception):
    """Nobody answers on the admin socket; the text names it."""


class RefusedError(Exception):
    """The gateway could not do what was asked; the text is its own."""


def ask(socket: Path, verb: str, path: str, body: object = None, *, timeout: float = 60.0) -> Any:
    """Make one request and return the decoded answer; `timeout` in seconds."""
    return asyncio.run(_ask(socket, verb, path, body, timeout))


def stream(socket: Path, verb: str, path: str, body: object, on_line: OnLine) -> None:
    """Make one request whose answer is lines; `on_line` gets each as it comes, but for empty ones."""
    asyncio.run(_stream(socket, verb, path, body, on_line))


async def _stream(socket: Path, verb: str, path: str, body: object, on_line: OnLine) -> None:
    limit = aiohttp.ClientTimeout(total=None, sock_read=SILENCE)
    rest = b""
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket)), timeout=limit) as session,
            session.request(verb, f"http://gateway{path}", data=msgspec.json.encode(body)) as response,
        ):
            if response.status != OK:
                _refuse(socket, await response.read())
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in filter(None, lines):
                    on_line(line)
    except aiohttp.ClientConnectorError as error:
        raise UnreachableError(f"no gateway answers on {socket}: is it running?") from error
    except (aiohttp.ClientError, TimeoutError) as error:
        raise UnreachableError(f"the gateway on {socket} has gone") from error


def _refuse(socket: Path, body: bytes) -> NoReturn:
    try:
        answer = msgspec.json.decode(body)
        text = answer["error"]
    except (msgspec.DecodeError, LookupError, TypeError) as error:
        raise UnreachableError(f"what answers on {socket} is no xcp-gateway") from error
    raise RefusedError(text)


async def _ask(socket: Path, verb: str, path: str, body: object, timeout: float) -> Any:  # noqa: ASYNC109 - handed to aiohttp
    data = None if body is None else msgspec.json.encode(body)
    limit = aiohttp.ClientTimeout(total=timeout)
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket)), timeout=limit) as session,
            session.request(verb, f"http://gateway{path}", data=data) as response,
        ):
            answer = msgspec.json.decode(await response.read())
    except (aiohttp.ClientError, OSError) as error:
        raise UnreachableError(f"no gateway answers on {socket}: is it running?") from error
    except msgspec.DecodeError as error:
        raise UnreachableError(f"what answers on {socket} is no xcp-gateway") from error
    if isinstance(answer, dict) and "error" in answer:
        raise RefusedError(answer["error"])
    return answer
