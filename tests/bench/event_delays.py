"""How late events reach waiting clients, beside the bus's own delay: `python -m tests.bench.event_delays`.

A service changes its objects at a steady rate and writes the moment of each change into a property. Clients wait in
`event.from` and over WebSockets, each for one object; a plain D-Bus client hears the same signals in the same run. The
delay is from the moment of the change to its arrival. Memory is that of the gateway with and without the clients.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import uvloop
from dbus_fast import Message, MessageFlag, MessageType, Variant
from dbus_fast.aio import MessageBus
from rich.console import Console
from rich.table import Table
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Request, TextMessage

from tests.bench.load import BUS, RPC, gateway, started
from tests.kit.buses import private_bus
from tests.kit.clients import connect, post
from tests.kit.programs import resident_bytes

NAME, PATH, VM = "org.example.Objects", "/vm", "org.example.VM1"
PROPERTIES, MANAGER = "org.freedesktop.DBus.Properties", "org.freedesktop.DBus.ObjectManager"
IDL = f"""<node>
<interface name="org.example.Session1">
<method name="Check"><arg name="session" type="s" direction="in"/></method></interface>
<interface name="{VM}"><property name="NameLabel" type="s" access="read"/>
<property name="ChangedAt" type="t" access="read"/></interface></node>"""
MAPPING = f"""\
mapping: 1
service: bench
dbus: {{bus_name: {NAME}, object_path: /org/example, interface: org.example.Session1, idl: bench.xml}}
session: {{parameter: session, member: Check}}
expose: [{{listener: rpc, path: /jsonrpc, codec: jsonrpc, dialect: xenapi}}]
methods: {{event.from: {{events: from, params: [session, classes, token, timeout]}}}}
classes:
  VM: {{object_path: "/vm/{{vm}}", interface: {VM}, manager: {{object_path: /vm}}}}
"""
CONFIG = f"""\
{BUS}{RPC}\
websocket = true
max_connections = 8192
max_calls = 4096
max_waiting = 8192
[limits]
max_calls = 4096
max_buffered = "1GiB"
"""
ALL_WAIT = 300.0  # seconds until every client waits


# The service: a process of its own


async def serve(address: str, objects: int, rate: float) -> None:
    """Own the name, answer what the gateway asks, and change the objects one after the other."""
    bus = await MessageBus(bus_address=address).connect()
    changed = [0] * objects

    def properties(number: int) -> dict[str, Variant]:
        return {"NameLabel": Variant("s", f"vm {number}"), "ChangedAt": Variant("t", changed[number])}

    def handle(message: Message) -> Message | bool | None:
        if message.message_type is not MessageType.METHOD_CALL:
            return None
        if message.member == "GetManagedObjects":
            found = {f"{PATH}/v{number}": {VM: properties(number)} for number in range(objects)}
            return Message.new_method_return(message, "a{oa{sa{sv}}}", [found])
        return Message.new_method_return(message)

    bus.add_message_handler(handle)
    await bus.request_name(NAME)
    print("ready", flush=True)  # noqa: T201 - its parent waits for it
    number, begun, sent = 0, time.monotonic(), 0
    while True:
        while sent < (time.monotonic() - begun) * rate:
            number, sent = (number + 1) % objects, sent + 1
            changed[number] = time.monotonic_ns()
            body = [VM, {"ChangedAt": Variant("t", changed[number])}, []]
            signal = Message.new_signal(f"{PATH}/v{number}", PROPERTIES, "PropertiesChanged", "sa{sv}as", body)
            signal.flags = MessageFlag.NO_REPLY_EXPECTED
            bus.send(signal)
        await asyncio.sleep(0.001)


# Clients. Each adds its delays, in seconds, while `measuring` is set


class Delays:
    """The delays of one kind of client."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.measuring = False
        self.waiting = 0  # clients that had their first answer

    def add(self, changed_at: int) -> None:
        """Something has arrived that was changed at this moment, by time.monotonic_ns."""
        if self.measuring and changed_at:
            self.seconds.append((time.monotonic_ns() - changed_at) / 1e9)

    def percentiles(self) -> tuple[str, str]:
        """The 50th and the 99th, in milliseconds."""
        found = statistics.quantiles(self.seconds, n=100)
        return f"{found[49] * 1000:.2f}", f"{found[98] * 1000:.2f}"


async def on_bus(address: str, delays: Delays) -> None:
    """A D-Bus client with a match rule."""
    bus = await MessageBus(bus_address=address).connect()

    def handle(message: Message) -> None:
        if message.member == "PropertiesChanged":
            delays.add(message.body[1]["ChangedAt"].value)

    bus.add_message_handler(handle)
    rule = Message("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "AddMatch")
    rule.signature, rule.body = "s", [f"type='signal',sender='{NAME}'"]
    await bus.call(rule)
    await bus.wait_for_disconnect()  # type: ignore[no-untyped-call] # of the library


async def by_event_from(port: int, number: int, delays: Delays) -> None:
    """Wait in `event.from` for one object, over and over."""
    token = ""
    async with connect(f"tcp:127.0.0.1:{port}") as wire:
        while True:
            params = ["session", [f"vm/v{number}"], token, 60.1]
            body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "event.from", "params": params}).encode()
            await wire.send(post(body, "/jsonrpc"))
            answer = json.loads((await wire.reply()).body)
            assert "result" in answer, answer
            delays.waiting += not token
            token = answer["result"]["token"]
            for event in answer["result"]["events"]:
                delays.add(event["snapshot"]["changed_at"])


async def by_websocket(port: int, number: int, delays: Delays) -> None:
    """Subscribe to one object."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    frames = WSConnection(ConnectionType.CLIENT)
    writer.write(frames.send(Request(host="bench", target="/jsonrpc")))
    subscribe = {"jsonrpc": "2.0", "id": 1, "method": "events.subscribe", "params": ["session", [f"vm/v{number}"]]}
    while True:
        frames.receive_data(await reader.read(65536))
        for event in frames.events():
            if isinstance(event, AcceptConnection):
                writer.write(frames.send(TextMessage(json.dumps(subscribe))))
            elif isinstance(event, TextMessage):
                delays.waiting += '"snapshot":true' in event.data
                for each in json.loads(event.data).get("params", {}).get("events", ()):
                    delays.add(each["snapshot"]["changed_at"])


@contextlib.asynccontextmanager
async def running(*clients: asyncio.Task[None]) -> AsyncIterator[None]:
    """Have the clients run for the block."""
    try:
        yield
    finally:
        for each in clients:
            each.cancel()
        await asyncio.gather(*clients, return_exceptions=True)


async def measure(folder: Path, clients: int, rate: float, seconds: float) -> Table:
    """One run; returns the table."""
    kinds = {"the bus itself": Delays(), "event.from": Delays(), "WebSocket": Delays()}
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(private_bus(limits={"max_replies_per_connection": 50_000})).address
        command = (sys.executable, "-m", "tests.bench.event_delays", address, str(clients), str(rate))
        service = stack.enter_context(started(*command, ready="ready", stderr=sys.stderr.fileno()))
        files = {"bench.xml": IDL, "bench.yaml": MAPPING}
        port, pid = stack.enter_context(gateway(folder, CONFIG, files, "warning", address=address))
        loop, first = asyncio.get_running_loop(), Delays()
        async with running(
            loop.create_task(on_bus(address, kinds["the bus itself"])), loop.create_task(by_event_from(port, 0, first))
        ):
            async with asyncio.timeout(ALL_WAIT):
                while not first.waiting:  # then every object is read  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            await asyncio.sleep(2.0)
            before = resident_bytes(pid)
            made = [loop.create_task(by_event_from(port, each, kinds["event.from"])) for each in range(clients)]
            made += [loop.create_task(by_websocket(port, each, kinds["WebSocket"])) for each in range(clients)]
            async with running(*made):
                async with asyncio.timeout(ALL_WAIT):
                    while sum(each.waiting for each in kinds.values()) < 2 * clients:
                        assert service.poll() is None, "the service that changes its objects has ended"
                        await asyncio.sleep(0.1)
                await asyncio.sleep(1.0)  # until the last of them waits again
                for delays in kinds.values():
                    delays.measuring = True
                await asyncio.sleep(seconds)
                held = (resident_bytes(pid) - before) / (2 * clients)
                failed = [each for each in made if each.done()]
                assert not failed, failed[0].exception()
    title = f"{clients} + {clients} waiting clients, {rate:g} changes a second, {held / 1024:.1f} KiB for each client"
    shown = Table("", "arrived/s", "p50 ms", "p99 ms", title=title)
    for name, delays in kinds.items():
        shown.add_row(name, f"{len(delays.seconds) / seconds:.0f}", *delays.percentiles())
    return shown


def table(clients: int = 1000, rate: float = 1000.0, seconds: float = 10.0) -> Table:
    """One run."""
    with tempfile.TemporaryDirectory() as folder:
        return uvloop.run(measure(Path(folder), clients, rate, seconds))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(serve(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
    else:
        Console().print(table())
