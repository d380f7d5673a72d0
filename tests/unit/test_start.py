"""What a start imports: nothing that only other configs have use for, and all of that before root is given up."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

from tests.kit.gateway import TOY_MAPPING, Folder
from tests.kit.programs import TIMEOUT

START = """
import asyncio, json, sys
from importlib.abc import MetaPathFinder
from pathlib import Path
from gateway import server

class Imports(MetaPathFinder):
    names = []

    def find_spec(self, name, path, target=None):
        self.names.append(name)

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
        print(json.dumps([started, later.names, answers]))
        stop.set()

    await server.run_until(stop, asyncio.Event(), lambda: server.Gateway(config), show)

asyncio.run(main())
"""
# Each with the part of a config that needs it.
NEEDED_BY = {
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


def started(tmp_path: Path, bus: str, first: str, *changes: str) -> tuple[set[str], list[str], list[bool]]:
    """The modules of a gateway that has started, those that it imports when its config changes, what is refused."""
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
    modules, later, refused = json.loads(shown.stdout)
    return set(modules), later, refused


def test_a_small_gateway_starts_without_what_other_configs_need(tmp_path: Path, empty_bus: str) -> None:
    modules, *_ = started(tmp_path, empty_bus, "")
    assert {name: why for name, why in NEEDED_BY.items() if name in modules} == {}


STORE = '[upstream.nodes]\nurl = "xenstore:/memory"\ncodec = "xenstore"\n'


def test_after_it_has_given_up_root_a_reload_imports_nothing(tmp_path: Path, empty_bus: str) -> None:
    """A user that root has become may be unable to read the modules."""
    user = f'user = "{pwd.getpwuid(os.geteuid()).pw_name}"\n'
    modules, later, refused = started(
        tmp_path, empty_bus, user, STORE, "[limits]\nmax_calls = 0\n", "[nonsense]\n", "["
    )
    assert (later, refused) == ([], [False, True, True, True])
    assert {"encodings.idna", "encodings.cp1252", "encodings.iso8859_15"} <= modules  # host names, XML of old clients


def test_another_gateway_imports_adapters_when_a_reload_needs_them(tmp_path: Path, empty_bus: str) -> None:
    _, later, refused = started(tmp_path, empty_bus, "", STORE)
    assert ("adapters.xenstore.upstream" in later, refused) == (True, [False])
