"""What no gateway can be faster than: httptools, msgspec, dbus-fast, uvloop, and no checks of any kind.

bridge_limit.py bridge PORT BUS_ADDRESS    JSON-RPC to the bus: one method, one service
bridge_limit.py proxy PORT TARGET_PORT     HTTP to HTTP: bytes as they came, to a service with one answer at a time
bridge_limit.py legacy PORT                a legacy service that answers everything with one text
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from typing import Any, cast

import httptools
import msgspec
import uvloop
from dbus_fast import BusType, Message
from dbus_fast.aio import MessageBus

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
LEGACY = (
    b"""<?xml version='1.0'?><methodResponse><params><param><value>8a5b2c1e</value></param></params></methodResponse>"""
)


class Connection(asyncio.Protocol):
    """One client: whole bodies go to `serve`."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.parser = httptools.HttpRequestParser(self)
        self.body = b""

    def data_received(self, data: bytes) -> None:
        self.raw = data
        self.parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        body, self.body = self.body, b""
        self.serve(body)

    def serve(self, body: bytes) -> None:
        raise NotImplementedError


async def bridge(address: str) -> type[Connection]:
    bus = await MessageBus(bus_type=BusType.SESSION, bus_address=address).connect()
    decode, encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode
    loop = asyncio.get_running_loop()

    async def answer(transport: asyncio.Transport, body: bytes) -> None:
        call = decode(body)
        path, interface = "/org/xen/xcp/bench", "org.xen.xcp.bench.Echo1"
        reply = await bus.call(
            Message("org.xen.xcp.bench", path, interface, "Say", signature="s", body=call["params"], validate=False)
        )
        assert reply is not None
        text = encode({"jsonrpc": "2.0", "result": reply.body[0], "id": call["id"]})
        transport.write(HEAD % (b"application/json", len(text)) + text)

    class Bridge(Connection):
        def serve(self, body: bytes) -> None:
            self.task = asyncio.Task(answer(self.transport, body), loop=loop, name="call")

    return Bridge


class Legacy(Connection):
    """A legacy service with one answer."""

    def serve(self, body: bytes) -> None:
        self.transport.write(HEAD % (b"text/xml", len(LEGACY)) + LEGACY)


class Answers(asyncio.Protocol):
    """The proxy's connection to the service; the answer goes to `client` as it came."""

    client: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.parser = httptools.HttpResponseParser(self)
        self.is_whole = False

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)
        self.client.transport.write(data)
        if self.is_whole:
            self.is_whole = False
            self.client.answered()

    def on_message_complete(self) -> None:
        self.is_whole = True


async def proxy(port: int) -> type[Connection]:
    loop = asyncio.get_running_loop()
    idle: deque[Answers] = deque()

    class Proxy(Connection):
        async def connect(self, raw: bytes) -> None:
            _, answers = await loop.create_connection(Answers, "127.0.0.1", port)
            self.forward(answers, raw)

        def serve(self, body: bytes) -> None:
            if idle:
                self.forward(idle.pop(), self.raw)
            else:
                self.task = asyncio.Task(self.connect(self.raw), loop=loop)

        def forward(self, answers: Answers, raw: bytes) -> None:
            self.upstream, answers.client = answers, self
            answers.transport.write(raw)

        def answered(self) -> None:
            idle.append(self.upstream)

    return Proxy


async def main(kind: str, port: int, target: str) -> None:
    made: type[Connection] = Legacy
    if kind == "bridge":
        made = await bridge(target)
    elif kind == "proxy":
        made = await proxy(int(target))
    server = await asyncio.get_running_loop().create_server(made, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), "".join(sys.argv[3:])))
