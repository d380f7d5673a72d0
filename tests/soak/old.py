"""The legacy service of the methods that migrate: HTTP, XML-RPC, JSON-RPC, and a journal.

Started as `python -m tests.soak.old SOCKET NAME JOURNAL`. A process of its own, to be killed and stopped.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import xmlrpc.client
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

REFUSED = 17  # the code of its one error


class RefusedError(Exception):
    """What Refuse answers."""


class Old:
    """Does the same as the D-Bus service; it also accepts text for numbers."""

    def __init__(self, name: str, journal: int) -> None:
        self._name = name
        self._journal = journal

    async def do(self, method: str, params: Mapping[str, Any]) -> Any:
        act: Callable[..., Awaitable[Any]] = getattr(self, f"_{method.removeprefix(f'{self._name}.')}")
        return await act(**params)

    async def _read(self, text: str) -> str:
        return f"{self._name}:{text}"

    async def _record(self, record: dict[str, Any]) -> dict[str, Any]:
        return record

    async def _refuse(self, text: str) -> None:
        raise RefusedError(f"refused {text}")

    async def _write(self, token: str, pause: int | str) -> str:
        """Half the pause, the journal, half the pause, the answer: a kill may find it before and after."""
        half = int(pause) / 2000  # milliseconds for both
        await asyncio.sleep(half)
        os.write(self._journal, f"{token}\n".encode())
        await asyncio.sleep(half)
        return f"done:{token}"


NAMES: Mapping[str, tuple[str, ...]] = {  # of parameters
    "read": ("text",),
    "record": ("record",),
    "refuse": ("text",),
    "write": ("token", "pause"),
}


def named(method: str, params: Any) -> Mapping[str, Any]:
    """Parameters by name, however they came."""
    return params if isinstance(params, dict) else dict(zip(NAMES[method.partition(".")[2]], params, strict=True))


# XML-RPC


async def xml(old: Old, body: bytes) -> bytes:
    """One methodCall, or a system.multicall."""
    params, method = xmlrpc.client.loads(body)
    try:
        if method == "system.multicall":
            items: Any = params[0]
            answer: Any = [await _one_of_many(old, item["methodName"], item["params"]) for item in items]
        else:
            answer = await old.do(str(method), named(str(method), params))
    except RefusedError as error:
        return xmlrpc.client.dumps(xmlrpc.client.Fault(REFUSED, str(error))).encode()
    return xmlrpc.client.dumps((answer,), methodresponse=True).encode()


async def _one_of_many(old: Old, method: str, params: Any) -> Any:
    try:
        return [await old.do(method, named(method, params))]
    except RefusedError as error:
        return {"faultCode": REFUSED, "faultString": str(error)}


# JSON-RPC


async def jsonrpc(old: Old, body: bytes) -> bytes:
    """One request or notification of either version, or a batch."""
    message = json.loads(body)
    if not isinstance(message, list):
        answer = await _request(old, message)
        return b"" if answer is None else json.dumps(answer).encode()
    answers = [answer for request in message if (answer := await _request(old, request)) is not None]
    return json.dumps(answers).encode() if answers else b""


async def _request(old: Old, request: dict[str, Any]) -> dict[str, Any] | None:
    two = {"jsonrpc": "2.0"} if "jsonrpc" in request else {}
    try:
        outcome = {"result": await old.do(request["method"], named(request["method"], request["params"]))}
    except RefusedError as error:
        outcome = {"error": {"code": REFUSED, "message": str(error)}}
    if request.get("id") is None:
        return None
    return {**two, **({} if two else {"result": None, "error": None}), **outcome, "id": request["id"]}


SPEAKS: Mapping[str, tuple[str, Callable[[Old, bytes], Awaitable[bytes]]]] = {
    "/RPC2": ("text/xml", xml),
    "/jsonrpc": ("application/json", jsonrpc),
}


def application(old: Old) -> web.Application:
    """A path for each protocol; whatever else is said goes to the first."""

    async def answer(request: web.Request) -> web.Response:
        kind, speak = SPEAKS.get(request.path, SPEAKS["/RPC2"])
        return web.Response(body=await speak(old, await request.read()), content_type=kind)

    served = web.Application()
    served.router.add_post("/{path:.*}", answer)
    return served


if __name__ == "__main__":
    journal = os.open(sys.argv[3], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    web.run_app(application(Old(sys.argv[2], journal)), path=sys.argv[1], print=None, access_log=None)
