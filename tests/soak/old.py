"""The legacy service of the methods that migrate: HTTP, XML-RPC, JSON-RPC, and a journal.

Started as `python -m tests.soak.old SOCKET JOURNAL`. A process of its own, to be killed and stopped. It does the
same as the D-Bus service, and also accepts text for numbers.
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
NAMES: Mapping[str, tuple[str, ...]] = {  # of parameters
    "read": ("text",),
    "record": ("record",),
    "refuse": ("text",),
    "write": ("token", "pause"),
}


class RefusedError(Exception):
    """What `refuse` answers."""


async def do(name: str, params: Any) -> Any:
    """Execute a call, whose parameters come by name or by position."""
    service, _, method = name.partition(".")
    by_name = params if isinstance(params, dict) else dict(zip(NAMES[method], params, strict=True))
    match method:
        case "read":
            return f"{service}:{by_name['text']}"
        case "record":
            return by_name["record"]
        case "write":  # half the pause, the journal, half the pause, the answer: a kill may find it before and after
            half = int(by_name["pause"]) / 2000  # milliseconds for both
            await asyncio.sleep(half)
            os.write(journal, f"{by_name['token']}\n".encode())
            await asyncio.sleep(half)
            return f"done:{by_name['token']}"
    raise RefusedError(f"refused {by_name['text']}")


async def xml(body: bytes) -> bytes:
    """One methodCall, or a system.multicall."""
    params, method = xmlrpc.client.loads(body)
    try:
        if method == "system.multicall":
            items: Any = params[0]
            answer: Any = [await _one_of_many(item["methodName"], item["params"]) for item in items]
        else:
            answer = await do(str(method), params)
    except RefusedError as error:
        return xmlrpc.client.dumps(xmlrpc.client.Fault(REFUSED, str(error))).encode()
    return xmlrpc.client.dumps((answer,), methodresponse=True).encode()


async def _one_of_many(method: str, params: Any) -> Any:
    try:
        return [await do(method, params)]
    except RefusedError as error:
        return {"faultCode": REFUSED, "faultString": str(error)}


async def jsonrpc(body: bytes) -> bytes:
    """One request or notification of either version, or a batch."""
    message = json.loads(body)
    requests = message if isinstance(message, list) else [message]
    answers = [answer for request in requests if (answer := await _request(request)) is not None]
    return json.dumps(answers if isinstance(message, list) else answers[0]).encode() if answers else b""


async def _request(request: dict[str, Any]) -> dict[str, Any] | None:
    beside = {"jsonrpc": "2.0"} if "jsonrpc" in request else {"result": None, "error": None}
    try:
        outcome = {"result": await do(request["method"], request["params"])}
    except RefusedError as error:
        outcome = {"error": {"code": REFUSED, "message": str(error)}}
    return None if request.get("id") is None else {**beside, **outcome, "id": request["id"]}


SPEAKS: Mapping[str, tuple[str, Callable[[bytes], Awaitable[bytes]]]] = {
    "/RPC2": ("text/xml", xml),
    "/jsonrpc": ("application/json", jsonrpc),
}


async def answer(request: web.Request) -> web.Response:
    """A path for each protocol; whatever else is said goes to the first."""
    kind, speak = SPEAKS.get(request.path, SPEAKS["/RPC2"])
    return web.Response(body=await speak(await request.read()), content_type=kind)


if __name__ == "__main__":
    journal = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    served = web.Application()
    served.router.add_post("/{path:.*}", answer)
    web.run_app(served, path=sys.argv[1], print=None, access_log=None)
