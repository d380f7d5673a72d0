"""The service behind every row: echoes a{sv}; dbus-fast on uvloop, so that it is not what is measured."""

import sys

import uvloop
from dbus_fast import BusType, Message, MessageType
from dbus_fast.aio import MessageBus

NAME = "org.xen.xcp.bench"


async def main(address: str) -> None:
    bus = await MessageBus(bus_type=BusType.SESSION, bus_address=address).connect()

    def echo(message: Message) -> Message | None:
        if message.message_type is MessageType.METHOD_CALL and message.member == "Echo":
            return Message.new_method_return(message, "a{sv}", message.body)
        return None

    bus.add_message_handler(echo)
    await bus.request_name(NAME)
    print("ready", flush=True)  # noqa: T201 - the benchmark waits for this line
    await bus.wait_for_disconnect()  # type: ignore[no-untyped-call] # of the library


uvloop.run(main(sys.argv[1]))
