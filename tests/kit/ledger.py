"""Real processes for requests in xenstore: a bus, a service that keeps a journal, a store, a gateway."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from gateway.cli import client
from tests.kit.buses import private_bus
from tests.kit.gateway import REST, RPC, STORE, TOOLSTACK, Process
from tests.kit.programs import ROOT, until
from tests.kit.stores import C_STORE, Xenstored, xenstored
from tests.soak import service

BUS_NAME = "org.example.soak.ledger"

MAPPING = f"""\
mapping: 1
service: ledger
dbus: {{bus_name: {BUS_NAME}, object_path: {service.OBJECT_PATH}, interface: {service.INTERFACE}, idl: ledger.xml}}
expose:
  - {{listener: store, codec: xenstore, style: tree, path: /ledger, allowed_domains: [5, 7]}}
  - {{listener: rpc, codec: jsonrpc, path: /}}
defaults: {{timeout: 20s, coerce: legacy, effect: read}}
methods:
  read: {{member: Read, params: [text], result: {{same: same}}}}
  write:
    member: Write
    params: [token, {{name: pause, default: 0}}]
    result: {{done: done}}
    effect: write
"""

CONFIG = TOOLSTACK + STORE + RPC + REST + 'level = "warning"\n'


class Ledger:
    """Everything that runs. `journal`: the writes that the service has executed."""

    def __init__(self, folder: Path, store: Xenstored) -> None:
        self.folder = folder
        self.config = folder / "gateway.toml"
        self.store = store
        self._gateway: Process | None = None

    @property
    def journal(self) -> Counter[str]:
        """Count how often each token was written."""
        return Counter((self.folder / "journal").read_text().split())

    def control(self, verb: str, path: str) -> Any:
        """Make an admin request once the gateway runs."""

        def ask() -> list[Any]:
            with suppress(client.UnreachableError):
                return [client.ask(self.folder / "control", verb, path)]
            return []

        return until(ask)[0]

    def start_gateway(self) -> None:
        assert self._gateway is None
        self._gateway = Process(self.config)

    def kill_gateway(self) -> None:
        gateway, self._gateway = self._gateway, None
        if gateway is not None:
            gateway.end()

    def restart_gateway(self) -> None:
        """Kill it and start another one."""
        self.kill_gateway()
        self.start_gateway()


@contextmanager
def ledger(folder: Path, more: str = "", name: str = C_STORE, workers: int = 1) -> Iterator[Ledger]:
    """Run all of it; the gateway may not be ready yet. `more`: a mapping file; `name`: of the store."""
    with private_bus() as bus, xenstored(name=name) as store, ExitStack() as stack:
        (folder / "mappings").mkdir()
        (folder / "mappings/ledger.xml").write_text(service.IDL)
        (folder / "mappings/ledger.yaml").write_text(MAPPING)
        if more:
            (folder / "mappings/more.yaml").write_text(more)
        world = Ledger(folder, store)
        config = CONFIG.format(bus=bus.address, store=store.path, folder=folder)
        world.config.write_text(f'workers = {workers}\n{config}[state]\nfile = "state.db"\n' if workers > 1 else config)
        stack.enter_context(_service(bus.address, folder / "journal"))
        stack.callback(world.kill_gateway)
        world.start_gateway()
        yield world


@contextmanager
def _service(address: str, journal: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "tests.soak.service", address, BUS_NAME, str(journal)]
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            until(journal.exists)
            yield
        finally:
            process.kill()
