"""HTTP by hand over a real socket, for requests that a correct client never sends. Addresses as in the config."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import struct
import xmlrpc.client
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.kit.programs import TIMEOUT

RECEIVES = 64 * 1024


@dataclass(frozen=True)
class HttpReply:
    """One answer; the names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Wire:
    """One connection to a listener."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @property
    def name(self) -> str:
        """The address of our end, as the other side sees it: "tcp:127.0.0.1:4711"."""
        host, port = self._writer.get_extra_info("sockname")[:2]
        return f"tcp:{host}:{port}"

    async def send(self, data: bytes) -> None:
        """Write, and let the loop run so that the bytes leave on their own."""
        self._writer.write(data)
        await self._writer.drain()
        await asyncio.sleep(0)

    def end(self) -> None:
        """Send no more, but go on reading."""
        self._writer.write_eof()

    def reset(self) -> None:
        """Reset the connection (SO_LINGER of socket(7))."""
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def reply(self, seconds: float = TIMEOUT) -> HttpReply:
        """Return the next answer."""
        async with asyncio.timeout(seconds):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("ascii")
            first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        return HttpReply(int(first.split()[1]), headers, body)

    async def raw(self, size: int) -> bytes:
        """Read this many bytes."""
        async with asyncio.timeout(TIMEOUT):
            return await self._reader.readexactly(size)

    async def rest(self) -> bytes:
        """Read until the other side closes or resets."""
        parts = []
        async with asyncio.timeout(TIMEOUT):
            with suppress(ConnectionError):
                while part := await self._reader.read(65536):
                    parts.append(part)
        return b"".join(parts)


@asynccontextmanager
async def connect(address: str, source: str = "") -> AsyncIterator[Wire]:
    """Open a connection to "tcp:HOST:PORT", "tcp:[IPV6]:PORT" or "unix:/PATH"; `source`: the address it comes from.

    What is sent to a client that does not read waits in the kernel: RECEIVES bytes twice here, and on the other side
    at most what `net.ipv4.tcp_wmem` says, 4 MiB.
    """
    kind, _, where = address.partition(":")
    if kind == "unix":
        reader, writer = await asyncio.open_unix_connection(where)
    else:
        host, _, port = where.rpartition(":")
        plug = socket.socket(socket.AF_INET6 if "[" in host else socket.AF_INET)
        plug.setblocking(False)
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVES)
        try:
            if source:
                plug.bind((source, 0))
            await asyncio.get_running_loop().sock_connect(plug, (host.strip("[]"), int(port)))
        except BaseException:
            plug.close()
            raise
        reader, writer = await asyncio.open_connection(sock=plug)
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()


def post(body: bytes, path: str = "/", *lines: str) -> bytes:
    """Return a request as a plain client writes it; `lines` are further headers."""
    head = [f"POST {path} HTTP/1.1", "Host: gateway", f"Content-Length: {len(body)}", *lines]
    return "\r\n".join((*head, "", "")).encode() + body


def chunked(*chunks: bytes, lines: tuple[str, ...] = ()) -> bytes:
    """The same with a chunked body."""
    head = "\r\n".join(("POST / HTTP/1.1", "Host: gateway", "Transfer-Encoding: chunked", *lines, "", ""))
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head.encode() + body + b"0\r\n\r\n"


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str | Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


def unix_post(path: Path, target: str, body: bytes) -> bytes:
    """POST over a Unix socket; the body of the response."""
    return _post(UnixConnection(path), target, body, {})


def tcp_post(
    url: str | int, target: str, body: bytes | str, headers: Mapping[str, str] = MappingProxyType({})
) -> bytes:
    """POST to "http://HOST:PORT" or a port of this host; the body of the response."""
    where = f"127.0.0.1:{url}" if isinstance(url, int) else url.removeprefix("http://")
    return _post(http.client.HTTPConnection(where, timeout=TIMEOUT), target, body, headers)


def xml_call(url: str | int, path: str, method: str, *params: Any) -> Any:
    """The value that answers a call over XML-RPC."""
    [value], _ = xmlrpc.client.loads(tcp_post(url, path, xmlrpc.client.dumps(params, method, allow_none=True)))
    return value


def json_call(url: str | int, path: str, method: str, params: object = (), **headers: str) -> Any:
    """The result of a call over JSON-RPC 2.0, or its error object."""
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    answer = json.loads(tcp_post(url, path, json.dumps(request), headers))
    return answer.get("error") or answer["result"]


def _post(connection: http.client.HTTPConnection, target: str, body: bytes | str, headers: Mapping[str, str]) -> bytes:
    try:
        connection.request("POST", target, body.encode() if isinstance(body, str) else body, dict(headers))
        return connection.getresponse().read()
    finally:
        connection.close()
