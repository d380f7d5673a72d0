"""A call that is refused goes nowhere, though a legacy service would take it: a gateway's process and its neighbours.

A guest's request in a real xenstored, and a method of the shipped mapping that is off, in each spelling of its name.
"""

from __future__ import annotations

import asyncio
import json
import re
import xmlrpc.client
from pathlib import Path

import pytest

from adapters.xenstore.client.client import XenstoreClient
from adapters.xenstore.client.operations import StoreOperations
from adapters.xenstore.client.wire import Permissions
from tests.kit.clients import tcp_post
from tests.kit.gateway import RPC, STORE, TOOLSTACK, TOY_IDL, configured, ship
from tests.kit.programs import until
from tests.kit.stores import Xenstored, xenstored
from tests.kit.upstreams import legacy_server, ok

CONFIG = f"""\
{TOOLSTACK}{STORE}\
[upstream.old]
url = "xenstore:/old-squeezed"
codec = "xenstore"
store = "{{store}}"
pid = false
timeout = "1s"
"""

# Nobody but domain 0 may call here, and domain 7 what says so.
MAPPING = """\
mapping: 1
service: squeezed
dbus: {bus_name: org.example.toy, object_path: /org/example/toy, interface: org.example.Toy1, idl: toy.xml}
expose:
  - {listener: store, codec: xenstore, style: tree, path: /squeezed}
legacy: {upstream: old}
unmapped: passthrough
defaults: {timeout: 10s, effect: write, coerce: legacy}
methods:
  echo-legacy: {member: Echo, params: [text], mode: legacy}
  echo-dbus: {member: Echo, params: [text], mode: dbus}
  echo-off: {member: Echo, params: [text], mode: off}
  narrow: {member: Echo, params: [text], mode: legacy, allowed_domains: [7]}
"""
GUEST = 5


async def ask(store: XenstoreClient, function: str) -> None:
    """Write a request as a guest does: the node is its own."""
    request = f"/squeezed/rpc/request/{function}/1"

    async def write(nodes: StoreOperations) -> None:
        await nodes.mkdir(request)
        await nodes.set_permissions(request, Permissions(GUEST, "n"))
        await nodes.write(f"{request}/text", b"from a guest")

    await store.transaction(write)


def answer(running: Xenstored, function: str) -> str:
    """What stands in the response once it is there."""
    return until(lambda: running.tool("ls", "-f", f"/squeezed/rpc/response/{function}/1", check=False))


async def test_what_a_guest_may_not_call_reaches_no_old_service(tmp_path: Path) -> None:
    files = {"toy.xml": TOY_IDL, "squeezed.yaml": MAPPING}
    with (
        xenstored() as running,
        configured(tmp_path, CONFIG, files, bus=f"unix:path={tmp_path}/no-bus", store=running.path),
    ):
        async with XenstoreClient(running.path) as store:
            await store.until_connected()
            for function in ("echo-legacy", "echo-dbus", "echo-off", "narrow", "not-mapped"):
                await ask(store, function)
                assert f"domain {GUEST} may not call '{function}'" in answer(running, function)
        assert running.tool("ls", "-f", "/old-squeezed", check=False) == ""


XAPI_CONFIG = TOOLSTACK + RPC + '[upstream.xapi]\nurl = "{old}"\ndialect = "xenapi"\nspeaks = ["jsonrpc"]\n'
SPELLINGS = ("VM.start", "VM_start", "Async.VM.start", "InternalAsync.VM.start")
DONE = "<methodResponse><params><param><value>done</value></param></params></methodResponse>"


def attempts(spelling: str) -> list[tuple[str, str]]:
    """Path and body of each way to send a call: alone, in a multicall and in a batch, beside one that is forwarded."""
    params: list[str | bool] = ["session", "vm", False, False]
    entries = [
        {"jsonrpc": "2.0", "id": name, "method": name, "params": params} for name in ("VMPP.protect_now", spelling)
    ]
    calls = [{"methodName": name, "params": params} for name in ("VMPP.protect_now", spelling)]
    return [
        ("/", xmlrpc.client.dumps(tuple(params), spelling)),
        ("/RPC2", xmlrpc.client.dumps((calls,), "system.multicall")),
        ("/jsonrpc", json.dumps(entries[1])),
        ("/jsonrpc", json.dumps(entries)),
    ]


@pytest.mark.parametrize("mode", ["off", "dbus"])
async def test_no_spelling_of_a_shipped_method_reaches_the_old_xapi_against_its_mode(tmp_path: Path, mode: str) -> None:
    ship(tmp_path, "xapi")
    mapping = tmp_path / "mappings/xapi.yaml"
    text = mapping.read_text().replace("\nexpose:", "\nunmapped: passthrough\n\nexpose:", 1)
    start = re.compile(r"^      start:( \{|$)", re.MULTILINE)  # the message of the class VM, in either style of YAML
    text, found = start.subn(lambda m: f"{m[0]}mode: {mode}, " if m[1] else f"{m[0]}\n        mode: {mode}", text, 1)
    assert found == 1
    mapping.write_text(text)
    async with legacy_server(lambda _: ok(DONE.encode())) as old:
        with configured(tmp_path, XAPI_CONFIG, bus=f"unix:path={tmp_path}/no-bus", old=old.url) as process:
            port = process.port
            for spelling in SPELLINGS:
                for path, body in attempts(spelling):
                    answer = (await asyncio.to_thread(tcp_post, port, path, body)).decode()
                    said = "is switched off" if mode == "off" else "'toolstack'"
                    assert said in answer, (spelling, path, answer)
            await asyncio.to_thread(tcp_post, port, "/", xmlrpc.client.dumps(("session",), "VMPP.get_all"))
    asked = b"\n".join(old.requests)
    assert asked.count(b"VMPP.protect_now") == 2 * len(SPELLINGS)
    assert asked.count(b"VMPP.get_all") == 1
    assert b"start" not in asked
