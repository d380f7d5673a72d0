"""The service behind every row: echoes a{sv} or text, or returns many records.

It runs dbus-fast on uvloop, so that it is not what is measured.
"""

import sys
from pathlib import Path

import uvloop
from dbus_fast import BusType, Message, MessageType
from dbus_fast.aio import MessageBus

sys.path.insert(0, str(Path(__file__).parents[2]))

from adapters.dbus.connection import Outbox

NAME = "org.xen.xcp.bench"
SIGNATURES = {"Echo": "a{sv}", "Say": "s"}
RECORDS = {
    f"OpaqueRef:{at}": {f"field{number}": f"value {at} {number}" for number in range(20)} for at in range(10_000)
}


async def main(address: str) -> None:
    bus = await MessageBus(bus_type=BusType.SESSION, bus_address=address).connect()
    bus._writer.sock = Outbox(bus._writer.sock)  # type: ignore[union-attr, arg-type] # the library takes a full socket for a closed one

    def echo(message: Message) -> Message | None:
        if message.message_type is MessageType.METHOD_CALL and message.member in SIGNATURES:
            return Message.new_method_return(message, SIGNATURES[message.member], message.body)
        if message.message_type is MessageType.METHOD_CALL and message.member == "Records":
            return Message.new_method_return(message, "a{sa{ss}}", [RECORDS])
        return None

    bus.add_message_handler(echo)
    await bus.request_name(NAME)
    print("ready", flush=True)  # noqa: T201 - the benchmark waits for this line
    await bus.wait_for_disconnect()  # type: ignore[no-untyped-call] # of the library


uvloop.run(main(sys.argv[1]))
