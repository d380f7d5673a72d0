"""HTTP in the way of the legacy servers, over TCP and Unix sockets.

Two manners: `xapi` keeps connections and answers what it cannot read with a page and status 500; `idl` is what the
xapi-idl sockets do: one request for each connection, hardly a header, and no answer at all when something is wrong.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from html import escape
from typing import NamedTuple

from legacy_switches import SilentError
from legacy_wire import BrokenError

MOST = 300 * 1024  # bytes of a body


class Request(NamedTuple):
    """One request; names of headers in lower case."""

    verb: str
    path: str
    one: bool  # HTTP/1.1
    headers: dict[str, str]
    body: bytes

    @property
    def keeps(self) -> bool:
        """Whether its client wants the connection to stay open."""
        said = self.headers.get("connection", "").lower()
        return said != "close" if self.one else said == "keep-alive"


class Answer(NamedTuple):
    """The answer of a handler. A content type of "" is not sent."""

    body: bytes
    kind: str = ""
    status: str = "200 OK"


Handler = Callable[[Request], Awaitable[Answer]]


async def listen(address: str, handler: Handler, *, idl: bool) -> asyncio.Server:
    """Serve on "tcp:HOST:PORT" or "unix:/PATH"."""
    serve = _idl(handler) if idl else _xapi(handler)
    kind, _, where = address.partition(":")
    if kind == "unix":
        with suppress(FileNotFoundError):
            os.unlink(where)  # noqa: PTH108 - nobody waits for this one
        return await asyncio.start_unix_server(serve, where)
    host, _, port = where.rpartition(":")
    return await asyncio.start_server(serve, host, int(port))


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def _xapi(handler: Handler) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while await _serve_one(reader, writer, handler):
                pass
        writer.close()

    return serve


async def _serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handler: Handler) -> bool:
    try:
        request = await _read(reader)
        answer = await handler(request)
    except SilentError:
        return False
    except BrokenError as error:
        page = f"<html><body><h1>HTTP 500 internal server error</h1>{escape(str(error))}</body></html>"
        await _write(writer, Answer(page.encode(), "text/html", "500 Internal Error"), "1.1", keeps=False, told=True)
        return False
    version = "1.1" if request.one else "1.0"
    await _write(writer, answer, version, keeps=request.keeps, told=request.verb != "HEAD")
    return request.keeps


async def _write(writer: asyncio.StreamWriter, answer: Answer, version: str, *, keeps: bool, told: bool) -> None:
    lines = [
        f"HTTP/{version} {answer.status}",
        f"connection: {'keep-alive' if keeps else 'close'}",
        "cache-control: no-cache, no-store",
        f"content-type: {answer.kind}",
        "Access-Control-Allow-Origin: *",
        "Access-Control-Allow-Headers: X-Requested-With",
        f"content-length: {len(answer.body)}",
    ]
    writer.write("\r\n".join((*lines, "", "")).encode() + (answer.body if told else b""))
    await writer.drain()


def _idl(handler: Handler) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, BrokenError, SilentError):
            request = await _read(reader)
            answer = await handler(request) if request.verb == "POST" else Answer(b"", "", "404 Not Found")
            lines = [f"HTTP/1.1 {answer.status}", "user-agent: xen-api", f"content-length: {len(answer.body)}"]
            writer.write("\r\n".join((*lines, "", "")).encode() + answer.body)
            await writer.drain()
        writer.close()

    return serve


async def _read(reader: asyncio.StreamReader) -> Request:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.LimitOverrunError as error:
        raise BrokenError("a long head") from error
    first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    words = first.split(" ")
    if len(words) != 3:  # verb, path, version
        raise BrokenError("no request line")
    headers = {name.strip().lower(): text.strip() for name, _, text in (line.partition(":") for line in lines)}
    if words[0] in ("POST", "PUT") and not headers.get("content-length", "").isdigit():
        raise BrokenError("Content-Length is missing")
    length = int(headers.get("content-length", "0"))
    if length > MOST:
        raise BrokenError("Body too large")
    return Request(words[0], words[1], words[2] == "HTTP/1.1", headers, await reader.readexactly(length))
