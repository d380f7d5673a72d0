"""A service that keeps a journal of its executed calls, and reconnects whenever its bus is back.

Started as `python -m tests.soak.service ADDRESS BUS_NAME JOURNAL`. A process of its own, to be killed and stopped.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from socket import SHUT_RDWR

from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import MessageType
from dbus_next.errors import DBusError
from dbus_next.message import Message

INTERFACE = "org.example.soak.Ledger1"
OBJECT_PATH = "/org/example/soak"
REFUSED = "org.example.soak.Error.Refused"
MUTE = 60.0  # seconds without an answer of the bus after which its connection is given up
COMING_BACK = 0.1  # seconds between two looks for the bus

IDL = f"""\
<node>
  <interface name="{INTERFACE}">
    <method name="Read"><arg name="text" type="s" direction="in"/><arg name="same" type="s" direction="out"/></method>
    <method name="Record">
      <arg name="record" type="a{{sv}}" direction="in"/><arg name="same" type="a{{sv}}" direction="out"/>
    </method>
    <method name="Write">
      <arg name="token" type="s" direction="in"/><arg name="pause" type="u" direction="in"/>
      <arg name="done" type="s" direction="out"/>
    </method>
    <method name="Large"><arg name="size" type="u" direction="in"/><arg name="text" type="s" direction="out"/></method>
    <method name="Refuse"><arg name="text" type="s" direction="in"/></method>
  </interface>
</node>
"""


class Service:
    """One connection of the service; the journal is one for all of them."""

    def __init__(self, bus: MessageBus, name: str, journal: int) -> None:
        self._bus = bus
        self._name = name
        self._journal = journal

    def handle(self, call: Message) -> Message | bool | None:
        """Answer our own members, and leave the rest to the library."""
        if call.message_type is not MessageType.METHOD_CALL or call.interface != INTERFACE:
            return None
        answer: Callable[[Message], Message | bool] = getattr(self, f"_{call.member.lower()}")
        return answer(call)

    def _read(self, call: Message) -> Message:
        return Message.new_method_return(call, "s", [f"{self._name}:{call.body[0]}"])

    def _record(self, call: Message) -> Message:
        return Message.new_method_return(call, call.signature, call.body)

    def _large(self, call: Message) -> Message:
        return Message.new_method_return(call, "s", ["x" * call.body[0]])

    def _refuse(self, call: Message) -> Message:
        return Message.new_error(call, REFUSED, f"refused {call.body[0]}")

    def _write(self, call: Message) -> bool:
        """Half the pause, the journal, half the pause, the answer: a kill may find it before and after."""
        token, pause = call.body
        half = pause / 2000  # milliseconds for both
        loop = asyncio.get_running_loop()
        loop.call_later(half, lambda: os.write(self._journal, f"{token}\n".encode()))
        loop.call_later(half + half, self._done, call)
        return True

    def _done(self, call: Message) -> None:
        if self._bus.connected and not call.flags.value & 1:
            self._bus.send(Message.new_method_return(call, "s", [f"done:{call.body[0]}"]))


async def serve(address: str, bus_name: str, journal: int) -> None:
    """Own the name as long as the bus lives and answers."""
    bus = await MessageBus(bus_address=address).connect()
    try:
        bus.add_message_handler(Service(bus, bus_name.rpartition(".")[2], journal).handle)
        async with asyncio.timeout(MUTE):
            await bus.request_name(bus_name)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_until_mute(bus))
            await bus.wait_for_disconnect()  # type: ignore[no-untyped-call] # of the library
            raise EOFError
    finally:
        # The library gives up on EAGAIN between two replies, and leaves its socket open: the broker would keep the name
        # and wait for the replies of a service that does not read any more. `close` alone does not close it, since the
        # library has a file of it. What the loop knows of the descriptor would hide its successor.
        loop = asyncio.get_running_loop()
        loop.remove_reader(bus._fd)
        loop.remove_writer(bus._fd)
        with suppress(OSError):  # the broker has closed it
            bus._sock.shutdown(SHUT_RDWR)
        bus._sock.close()


async def _until_mute(bus: MessageBus) -> None:
    """Raise TimeoutError when the bus does not answer any more: the library may have stopped to read."""
    name, path = "org.freedesktop.DBus", "/org/freedesktop/DBus"
    while True:
        async with asyncio.timeout(MUTE):
            await bus.call(Message(name, path, f"{name}.Peer", "Ping"))
        await asyncio.sleep(1.0)


async def serve_for_ever(address: str, bus_name: str, path: Path) -> None:
    """Reconnect, as a service manager would by a restart."""
    journal = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    while True:
        try:
            await serve(address, bus_name, journal)
        except* (OSError, EOFError, DBusError):  # TimeoutError is an OSError
            pass
        await asyncio.sleep(COMING_BACK)


if __name__ == "__main__":
    asyncio.run(serve_for_ever(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
