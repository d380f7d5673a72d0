"""What a start imports: nothing that only other configs have use for, and all of that before root is given up."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.kit.gateway import TOY_MAPPING, Folder
from tests.kit.programs import TIMEOUT

START = """
import asyncio, json, sys, threading
from importlib.abc import MetaPathFinder
from pathlib import Path
from gateway import server

class Imports(MetaPathFinder):
    names = []
    in_event_loop = []

    def find_spec(self, name, path, target=None):
        self.names.append(name)
        if threading.current_thread() is threading.main_thread():
            self.in_event_loop.append(name)

async def ask(socket):
    reader, writer = await asyncio.open_unix_connection(socket)
    writer.write(b"GET /metrics HTTP/1.1\\r\\nHost: gateway\\r\\n\\r\\n")
    answer = await reader.read()
    writer.close()
    return "200 OK" in answer.decode()

async def main():
    config, *changes = map(Path, sys.argv[1:])
    stop = asyncio.Event()

    async def show(gateway):
        started, later = sorted(sys.modules), Imports()
        sys.meta_path.insert(0, later)
        answers = []
        for change in changes:
            config.write_text(change.read_text())
            answers.append("problems" in await gateway.reload())
        is_answered = await ask(gateway.settings.admin.socket)
        print(json.dumps([started, later.names, later.in_event_loop, answers, is_answered]))
        stop.set()

    await server.run_until(stop, asyncio.Event(), lambda: server.Gateway(config), show)

asyncio.run(main())
"""
# Each with the part of a config that needs it.
NEEDED_BY = {
    "aiohttp": "the first connection of an operator",
    "gateway.ops.traces": "traces.url",
    "prometheus_client": "the first scrape",
    "jinja2": "admin.web",
    "gateway.admin.web.server": "admin.web",
    "jsonschema": "files with problems",
    "wsproto": "listener.NAME.websocket",
    "adapters.admin_dbus.service": "admin.bus",
    "pyxs": "a xenstore",
    "adapters.xenstore.client.client": "a xenstore",
    "rich": "commands",
    "typer": "commands",
    "structlog": "nothing: logging writes the log",
    "gateway.scaffold": "commands",
    "gateway.reference": "commands",
    "gateway.workers": "workers",
    "multiprocessing": "nothing",
}


STORE = '[upstream.nodes]\nurl = "xenstore:/memory"\ncodec = "xenstore"\n'


class Seen(NamedTuple):
    """The modules of a gateway that has started; what it imports later, and what of this in the event loop."""

    started: list[str]
    later: list[str]  # when its config changes, then when an operator asks
    in_event_loop: list[str]
    refused: list[bool]  # of the changes
    is_answered: bool  # the operator


def seen(tmp_path: Path, bus: str, first: str, *changes: str) -> Seen:
    """Start a gateway, change its config, ask it as an operator."""
    folder = Folder(tmp_path)
    folder.mapping(TOY_MAPPING)
    folder.buses({"example": (bus, "org.example.*")})
    text = folder.config.read_text()
    folder.config.write_text(first + text)
    files = [tmp_path / f"{number}.toml" for number in range(len(changes))]
    for file, change in zip(files, changes, strict=True):
        file.write_text(first + text + change)
    command = [sys.executable, "-c", START, str(folder.config), *map(str, files)]
    shown = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=TIMEOUT)
    return Seen(*json.loads(shown.stdout))


def test_a_small_gateway_starts_without_what_other_configs_need(tmp_path: Path, empty_bus: str) -> None:
    """A reload that needs it and the first operator are served by what a thread imports; the event loop goes on."""
    found = seen(tmp_path, empty_bus, "", STORE)
    assert {name: why for name, why in NEEDED_BY.items() if name in found.started} == {}
    assert {"aiohttp.web", "adapters.xenstore.upstream"} <= {*found.later}
    assert (found.in_event_loop, found.refused, found.is_answered) == ([], [False], True)


def test_after_it_has_given_up_root_neither_a_reload_nor_an_operator_imports_anything(
    tmp_path: Path, empty_bus: str
) -> None:
    """A user that root has become may be unable to read the modules."""
    user = f'user = "{pwd.getpwuid(os.geteuid()).pw_name}"\n'
    found = seen(tmp_path, empty_bus, user, STORE, "[limits]\nmax_calls = 0\n", "[nonsense]\n", "[")
    assert (found.later, found.refused, found.is_answered) == ([], [False, True, True, True], True)
    encodings = {"encodings.idna", "encodings.cp1252", "encodings.iso8859_15"}  # host names, XML of old clients
    assert encodings <= {*found.started}
