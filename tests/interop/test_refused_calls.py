"""A call that is refused goes nowhere: a guest's request in a real xenstored, before an old service that would take it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from adapters.transports.xenstore_store import Nodes, Permissions, Store
from tests.kit.gateway import TOY_IDL, gateway_process
from tests.kit.xenstored import Xenstored, xenstored

CONFIG = """\
[upstream.old]
url = "xenstore:/old-squeezed"
codec = "xenstore"
store = "{store}"
pid = false
timeout = "1s"
[listener.store]
bind = ["xenstore:{store}"]
[mappings]
directories = ["mappings"]
[control]
socket = "{folder}/control"
[log]
format = "json"
"""

# Nobody but domain 0 may call here, and domain 7 what says so.
MAPPING = """\
mapping: 1
service: squeezed
dbus: {bus_name: org.example.toy, object_path: /org/example/toy, interface: org.example.Toy1, idl: toy.xml}
expose:
  - {listener: store, codec: xenstore, style: tree, path: /squeezed}
legacy: {upstream: old}
unmapped: forward
defaults: {timeout: 10s, effect: write, coerce: legacy}
methods:
  echo: {member: Echo, params: [text], mode: %s}
  narrow: {member: Echo, params: [text], mode: legacy, domains: [7]}
"""
GUEST = 5


async def ask(store: Store, function: str) -> None:
    """Write a request as a guest does: the node is its own."""
    request = f"/squeezed/rpc/request/{function}/1"

    async def write(nodes: Nodes) -> None:
        await nodes.mkdir(request)
        await nodes.set_permissions(request, Permissions(GUEST, "n"))
        await nodes.write(f"{request}/text", b"from a guest")

    await store.transaction(write)


def answer(running: Xenstored, function: str) -> str:
    """What stands in the response once it is there."""
    end = time.monotonic() + 20
    while not (found := running.tool("ls", "-f", f"/squeezed/rpc/response/{function}/1", check=False)):
        assert time.monotonic() < end, running.tool("ls", "-f", "/squeezed", check=False)
    return found


@pytest.mark.parametrize("mode", ["legacy", "dbus", "off"])
async def test_what_a_guest_may_not_call_reaches_no_old_service(tmp_path: Path, mode: str) -> None:
    (tmp_path / "mappings").mkdir()
    (tmp_path / "mappings/toy.xml").write_text(TOY_IDL)
    (tmp_path / "mappings/squeezed.yaml").write_text(MAPPING % mode)
    with xenstored() as running:
        (tmp_path / "gateway.toml").write_text(CONFIG.format(store=running.path, folder=tmp_path))
        with gateway_process(tmp_path / "gateway.toml") as process:
            process.wait_for("ready")
            async with Store(running.path) as store:
                await store.until_connected()
                for function in ("echo", "narrow", "not-mapped"):
                    await ask(store, function)
                    assert f"domain {GUEST} may not call '{function}'" in answer(running, function)
            assert running.tool("ls", "-f", "/old-squeezed", check=False) == ""
