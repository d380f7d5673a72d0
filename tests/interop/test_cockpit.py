"""The page of cockpit in a real Chromium, through the real cockpit-ws and cockpit-bridge, against a real gateway."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.cli import client
from tests.kit import browser
from tests.kit.buses import private_bus
from tests.kit.gateway import Folder, gateway_process
from tests.kit.programs import ROOT, TIMEOUT, free_port, until
from tests.kit.toy_service import toy_service

WS = Path("/usr/lib/cockpit/cockpit-ws")
BRIDGE = shutil.which("cockpit-bridge")

pytestmark = [
    pytest.mark.bus,
    pytest.mark.skipif(not (browser.is_here() and WS.exists() and BRIDGE), reason="no chromium, cockpit-ws or bridge"),
]


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return not probe.connect_ex(("127.0.0.1", port))


@contextmanager
def cockpit(folder: Path, bus: str) -> Iterator[str]:
    """Run a cockpit without a login, with our page, on this bus; yields its URL."""
    (folder / "data/cockpit").mkdir(parents=True)
    (folder / "data/cockpit/xcp-gateway").symlink_to(ROOT / "packaging/cockpit")
    port = free_port()
    own = {"DBUS_SYSTEM_BUS_ADDRESS": bus, "DBUS_SESSION_BUS_ADDRESS": bus, "XDG_DATA_HOME": str(folder / "data")}
    command = [str(WS), "--no-tls", "--address=127.0.0.1", f"--port={port}", f"--local-session={BRIDGE}"]
    environment = {**os.environ, **own, "HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)}
    with (folder / "cockpit.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            until(lambda: answers(port))
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(TIMEOUT)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[tuple[Folder, str]]:
    made = Folder(tmp_path)
    with private_bus() as bus, toy_service(bus.address, "org.example.toy"):
        made.buses({"system": (bus.address, "org.example.*")})
        made.config.write_text(made.config.read_text().replace("[admin]\n", '[admin]\nbus = "system"\n'))
        with gateway_process(made.config), cockpit(tmp_path, bus.address) as url:
            yield made, url


async def test_a_mode_is_set_and_everything_rolled_back_from_the_page(
    folder: tuple[Folder, str], tmp_path: Path
) -> None:
    made, url = folder
    async with browser.chromium(tmp_path) as tab:
        await tab.goto(f"{url}/cockpit/@localhost/xcp-gateway/index.html")
        await tab.until("document.getElementById('state').innerText === '7 methods'")
        assert "toy/echo" in await tab.text("#methods")
        await tab.type("input[name=pattern]", "echo")
        await tab.choose("select[name=mode]", "off")
        await tab.type("input[name=why]", "from <cockpit>")
        await tab.click("button[value=set]")
        await tab.until("document.getElementById('state').innerText === 'toy/echo: dbus -> off'")
        await tab.until("document.getElementById('log').innerText.includes('toy/echo: dbus -> off')")
        (entry, *_) = await asyncio.to_thread(client.ask, made.control, "GET", "/v1/audit")
        assert (entry["subject"], entry["why"]) == ("toy/echo", "from <cockpit>")
        assert re.search("echo\\s+off", await tab.text("#methods"))
        await tab.click("button[value=back]")  # without a reason
        await tab.until("document.getElementById('state').innerText.startsWith('The reason is missing')")
        await tab.type("input[name=why]", "enough")
        await tab.click("button[value=clear]")
        await tab.until("document.getElementById('state').innerText === 'toy/echo: off -> dbus'")
        if os.environ.get("SCREENS"):
            await tab.screenshot(ROOT / "docs/screens/cockpit.png")
