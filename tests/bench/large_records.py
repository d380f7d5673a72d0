"""`VM.get_all_records` of 10,000 VMs with 90 fields, beside `xmlrpc.client.dumps` of the same data.

`python -m tests.bench.large_records` alone, or a table of `make bench`. CPU time and memory are those of the gateway's
process, from the kernel's accounting; the fields are those of the class VM in the shipped IDL, each with its type.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from dbus_fast import BusType, Message, MessageType, Variant
from dbus_fast.aio import MessageBus
from rich.console import Console
from rich.table import Table

from gateway.core.dbus import introspection_xml
from gateway.core.dbus.signature import Type
from tests.bench.load import BUS, RPC, cpu_seconds, gateway, started
from tests.kit.buses import private_bus
from tests.kit.programs import resident_bytes

ROOT = Path(__file__).parents[2]
IDL = ROOT / "mappings/idl/org.xen.xcp.xapi.classes.xml"
INTERFACE, MANAGER, NAME = "org.xen.xcp.xapi.VM1", "org.xen.xcp.xapi.VMManager1", "org.xen.xcp.bench"
PATH = "/org/xen/xcp/bench/vm"
VMS, FIELDS = 10_000, 90
TURNS = 3

MAPPING = """mapping: 1
service: bench
dbus: {bus_name: org.xen.xcp.bench, object_path: /org/xen/xcp/bench, idl: vm.xml}
expose:
  - {listener: rpc, path: /, codec: xmlrpc, dialect: xenapi}
  - {listener: rpc, path: /jsonrpc, codec: jsonrpc, dialect: xenapi}
defaults: {coerce: legacy, timeout: 5m}
methods: {}
classes:
  VM:
    object_path: /org/xen/xcp/bench/vm/{vm}
    interface: org.xen.xcp.xapi.VM1
    manager: {object_path: /org/xen/xcp/bench/vm, interface: org.xen.xcp.xapi.VMManager1}
"""
LIMITS = {"max_message_size": 128 * 1024**2, "max_incoming_bytes": 1024**3, "max_outgoing_bytes": 1024**3}


def value(kind: Type, field: int, vm: int) -> Any:
    """A value of a type, as long as in a real record."""
    if kind.is_dict:
        return {f"key-{number}": value(kind.children[0].children[1], field, vm) for number in range(2)}
    if kind.code == "a":
        return [value(kind.children[0], field, vm)]
    return {"b": vm % 2 == 0, "x": vm * 1_000_003, "d": vm / 8, "s": f"value {field} of {vm}"}.get(kind.code, vm)


def properties() -> Mapping[str, Type]:
    """The fields of a VM in the shipped IDL, at most FIELDS of them."""
    interface = introspection_xml.parse(IDL.read_text()).interfaces[INTERFACE]
    return {name: each.type for name, each in list(interface.properties.items())[:FIELDS]}


async def serve(address: str) -> None:
    """The service: all VMs as GetManagedObjects."""
    kinds = properties()
    objects = {
        f"{PATH}/vm_{vm}": {
            INTERFACE: {name: Variant(str(kind), value(kind, at, vm)) for at, (name, kind) in enumerate(kinds.items())}
        }
        for vm in range(VMS)
    }
    bus = await MessageBus(bus_type=BusType.SESSION, bus_address=address).connect()

    def answer(message: Message) -> Message | None:
        if message.message_type is MessageType.METHOD_CALL and message.member == "GetManagedObjects":
            return Message.new_method_return(message, "a{oa{sa{sv}}}", [objects])
        return None

    bus.add_message_handler(answer)
    await bus.request_name(NAME)
    print("ready", flush=True)  # noqa: T201 - the benchmark waits for this line
    await bus.wait_for_disconnect()  # type: ignore[no-untyped-call] # of the library


class Taken(NamedTuple):
    """What one answer took. `memory`: MiB at the peak, above what the process had before its first answer."""

    seconds: float
    cpu: float
    memory: float
    size: int


def ask(port: int, path: str, body: bytes) -> bytes:
    """Send a request, and read the whole answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("POST", path, body)
    answer = connection.getresponse().read()
    connection.close()
    if answer.count(b"name_label") < VMS:
        raise RuntimeError(f"expected {VMS} records, got {answer[:500]!r}")
    return answer


def measured(pid: int, before: int, work: Callable[[], int]) -> Taken:
    """The fastest of some turns of a process, and its highest peak above `before`; `work` returns an answer's size."""
    turns = []
    for _ in range(TURNS):
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak is that from now on
        begun, cpu = time.perf_counter(), cpu_seconds(pid)
        size = work()
        taken = time.perf_counter() - begun, cpu_seconds(pid) - cpu
        turns.append(Taken(*taken, (resident_bytes(pid, "VmHWM") - before) / 1024**2, size))
    best = min(turns, key=lambda turn: turn.cpu)
    return best._replace(memory=max(turn.memory for turn in turns))


def dumps(answer: bytes) -> Taken:
    """What the standard library takes to write the same data, alone in a process, without a bus or a check."""
    records = xmlrpc.client.loads(answer)[0]
    pid = os.getpid()
    return measured(pid, resident_bytes(pid), lambda: len(xmlrpc.client.dumps(records, methodresponse=True).encode()))


def table() -> Table:
    """A row for each codec, and one for the standard library."""
    kinds = properties()
    title = f"get_all_records of {VMS:,} VMs of {len(kinds)} fields"
    shown = Table("", "CPU", "wall", "peak memory", "answer", title=title)
    with tempfile.TemporaryDirectory() as name, private_bus(limits=LIMITS) as bus:
        files = {"bench.yaml": MAPPING, "vm.xml": IDL.read_text()}
        with (
            started(sys.executable, "-m", "tests.bench.large_records", bus.address, ready="ready"),
            gateway(Path(name), BUS + RPC, files, address=bus.address) as (port, pid),
        ):
            xml = xmlrpc.client.dumps((), "VM.get_all_records").encode()
            json = b'{"jsonrpc":"2.0","id":1,"method":"VM.get_all_records","params":[]}'
            before = resident_bytes(pid)
            answer = ask(port, "/", xml)
            rows = {
                "XML-RPC": measured(pid, before, lambda: len(ask(port, "/", xml))),
                "JSON-RPC": measured(pid, before, lambda: len(ask(port, "/jsonrpc", json))),
            }
    with ProcessPoolExecutor(1, get_context("spawn")) as alone:
        rows["xmlrpc.client.dumps"] = alone.submit(dumps, answer).result()
    for what, taken in rows.items():
        sizes = f"{taken.memory:,.0f} MiB", f"{taken.size / 1024**2:,.0f} MiB"
        shown.add_row(what, f"{taken.cpu:.2f} s", f"{taken.seconds:.2f} s", *sizes)
    return shown


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(serve(sys.argv[1]))
    else:
        Console().print(table())
