"""A toy D-Bus service in a process of its own, written with dbus-next; every way of answering badly is one row of TOYS.

Two implementations of D-Bus meet on the wire so: the gateway speaks dbus-fast.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import MessageType, NameFlag
from dbus_next.message import Message
from dbus_next.signature import Variant

from tests.kit.programs import speaking

INTERFACE = "org.example.Toy1"
OBJECT_PATH = "/org/example/toy"

Answer = Message | bool | None


class Toy:
    """What one service process remembers between calls."""

    def __init__(self, bus: MessageBus, label: str) -> None:
        self.bus = bus
        self.label = label
        self.held: list[Message] = []
        self.watchers: list[Message] = []
        self.notes: list[tuple[int, str]] = []
        self.echoes = 0

    def handle(self, message: Message) -> Answer:
        """Answer what a row of TOYS answers, leave the rest to the library."""
        if message.message_type is not MessageType.METHOD_CALL or message.interface != INTERFACE:
            return None
        return TOYS[message.member](self, message)


def echo(toy: Toy, call: Message) -> Answer:
    """Give back the body, whatever its signature."""
    toy.echoes += 1
    return Message.new_method_return(call, call.signature, call.body)


def hold(toy: Toy, call: Message) -> Answer:
    """Answer when Release comes: a slow method without a clock."""
    toy.held.append(call)
    for watcher in toy.watchers:
        toy.bus.send(Message.new_method_return(watcher, "u", [len(toy.held)]))
    toy.watchers.clear()
    return True


def held(toy: Toy, call: Message) -> Answer:
    """Answer how many are held, once there are any."""
    if toy.held:
        return Message.new_method_return(call, "u", [len(toy.held)])
    toy.watchers.append(call)
    return True


def release(toy: Toy, call: Message) -> Answer:
    waiting, toy.held = toy.held, []
    for late in waiting:
        toy.bus.send(Message.new_method_return(late, "s", ["released"]))
    return Message.new_method_return(call, "u", [len(waiting)])


def fail(toy: Toy, call: Message) -> Answer:
    """Answer with the error named by the first argument, the others (in one variant) are its body."""
    name, body = call.body
    return _error(call, name, body.signature, [body.value])


def refuse(toy: Toy, call: Message) -> Answer:
    """Give back a text, or answer with the error that follows "refuse " in it."""
    text: str = call.body[0]
    if text.startswith("refuse "):
        return _error(call, text.split()[1], "s", [text])
    return echo(toy, call)


def damaged(toy: Toy, call: Message) -> Answer:
    """Answer with the value in the variant, some of its bytes changed so that it is not valid D-Bus."""
    answer, good, bad = call.body
    reply = Message.new_method_return(call, answer.signature, [answer.value])
    reply.serial = toy.bus.next_serial()
    data: bytes = reply._marshall()  # type: ignore[no-untyped-call] # of the library
    toy.bus._sock.sendall(data.replace(good, bad))
    return True


def leave(toy: Toy, call: Message) -> Answer:
    """End the process in mid-call."""
    os._exit(1)


def write(toy: Toy, call: Message) -> Answer:
    """Execute: one letter more in the file of the first argument. Then end as the second says."""
    path, ending = call.body
    with Path(path).open("a") as journal:
        journal.write("x")
    if ending == "leave":
        os._exit(1)
    return True if ending == "hang" else Message.new_method_return(call)


def note(toy: Toy, call: Message) -> Answer:
    """Remember the flags and the text of this call; a sender that wants no answer gets none."""
    toy.notes.append((call.flags.value, call.body[0]))
    return True if call.flags.value & 1 else Message.new_method_return(call)


def emit(toy: Toy, call: Message) -> Answer:
    """Emit a signal this many times; its arguments are the fields of the struct in the variant."""
    path, interface, member, body, times = call.body
    toy.bus._sock.setblocking(True)  # the library takes a full socket for the end of the connection
    for _ in range(times):
        told = Message.new_signal(path, interface, member, body.signature[1:-1], body.value)
        told.serial = toy.bus.next_serial()
        toy.bus._sock.sendall(told._marshall())  # type: ignore[no-untyped-call] # of the library
    toy.bus._sock.setblocking(False)
    return Message.new_method_return(call)


def descriptor(toy: Toy, call: Message) -> Answer:
    """Answer with a file descriptor in a variant, which no mapping can announce."""
    return Message.new_method_return(call, "v", [Variant("h", 0)], unix_fds=[0])


def _error(call: Message, name: str, signature: str, body: list[object]) -> Message:
    return Message(
        message_type=MessageType.ERROR,
        reply_serial=call.serial,
        destination=call.sender,
        error_name=name,
        signature=signature,
        body=body,
    )


TOYS: dict[str, Callable[[Toy, Message], Answer]] = {
    "Echo": echo,
    "Echoes": lambda toy, call: Message.new_method_return(call, "u", [toy.echoes]),  # calls of Echo so far
    "Label": lambda toy, call: Message.new_method_return(call, "s", [toy.label]),
    "Hold": hold,
    "Held": held,
    "Release": release,
    "Hang": lambda toy, call: True,
    "Fail": fail,
    "Refuse": refuse,
    "FailWithoutBody": lambda toy, call: _error(call, call.body[0], "", []),
    "Damaged": damaged,
    "Leave": leave,
    "Write": write,
    "Note": note,
    "Notes": lambda toy, call: Message.new_method_return(call, "a(ys)", [[list(one) for one in toy.notes]]),
    "Descriptor": descriptor,
    "Emit": emit,
}


async def serve(address: str, bus_name: str, text: str) -> None:
    """Own the name, take it over from another toy where need be, say so on stdout, answer until killed."""
    bus = await MessageBus(bus_address=address, negotiate_unix_fd=True).connect()
    bus.add_message_handler(Toy(bus, text).handle)
    await bus.request_name(bus_name, NameFlag.ALLOW_REPLACEMENT | NameFlag.REPLACE_EXISTING)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await bus.wait_for_disconnect()  # type: ignore[no-untyped-call] # of the library


class Service:
    """The process of a toy service."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def pause(self) -> None:
        """Stop the process; its connection stays open."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue the process."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it and wait until it has ended; may be called twice."""
        self._process.kill()
        self._process.wait()


def ask_toy(address: str, member: str) -> int:
    """Call `Held` or `Release` of the toy service, without a gateway."""
    to = ["--dest=org.example.toy", OBJECT_PATH, f"{INTERFACE}.{member}"]
    command = ["dbus-send", f"--bus={address}", "--print-reply=literal", *to]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


@contextmanager
def toy_service(address: str, bus_name: str, text: str = "toy") -> Iterator[Service]:
    """Run the toy service on a bus; it owns its name when the context is entered."""
    command = (sys.executable, "-W", "ignore", "-m", "tests.kit.toy_service", address, bus_name, text)
    # dbus-next prints a traceback when its broker is killed, which tests do
    with speaking(*command, stderr=subprocess.DEVNULL) as (process, _):
        yield Service(process)


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:4]))
