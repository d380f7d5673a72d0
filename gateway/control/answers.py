"""What every path of the operator's API shares: bodies in, JSON out, refusals in words. Knows no path."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import structlog
from aiohttp import web

from gateway.core.kept import Refused, Rejected
from gateway.core.rights import Caller, Right

_log = structlog.get_logger("control")

Handler = Callable[[web.Request, Caller], Awaitable[web.StreamResponse]]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Path:
    """One operation of the API, and the right it needs."""

    verb: str
    path: str
    right: Right
    handle: Handler


async def body(request: web.Request, kind: type[_T]) -> _T:
    """The JSON that was sent; nothing is an empty object."""
    return msgspec.json.decode(await request.read() or b"{}", type=kind)


def query(request: web.Request, kind: type[_T]) -> _T:
    """What stands behind the question mark."""
    return msgspec.convert(dict(request.query), kind, strict=False)


def json(document: object, status: int = 200) -> web.Response:
    """An answer. What came of it is what the gateway says, or that it refused."""
    if isinstance(document, Refused):
        return json({"error": document.why}, _status(document))
    encoded = msgspec.json.encode(document, enc_hook=str)
    return web.Response(body=encoded, status=status, content_type="application/json")


def _status(refused: Refused) -> int:
    """422: the wish is wrong; 409: somebody else was faster; 503: it cannot be written down, or read, for now."""
    if isinstance(refused, Rejected):
        return 422
    return 409 if refused.conflict else 503


@web.middleware
async def plain_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer every error as {"error": text}, and none with a traceback."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        return json({"error": error.reason}, status=error.status)
    except (LookupError, ValueError) as error:
        return json({"error": str(error.args[0]) if error.args else str(error)}, status=422)
    except Exception:  # noqa: BLE001 - a bug is logged here and costs one request
        _log.exception("a bug answered this request", path=request.path)
        return json({"error": "internal error"}, status=500)
