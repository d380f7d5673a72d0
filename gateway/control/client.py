"""Asks a running gateway over its control socket; what the commands use."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import msgspec


class UnreachableError(Exception):
    """Nobody answers on the control socket; the text names it."""


class RefusedError(Exception):
    """The gateway could not do what was asked; the text is its own."""


def ask(socket: Path, verb: str, path: str, body: object = None, *, timeout: float = 60.0) -> Any:
    """Make one request and return the decoded answer; `timeout` in seconds."""
    return asyncio.run(_ask(socket, verb, path, body, timeout))


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
