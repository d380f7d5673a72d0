"""A real Chromium without a window, driven by the Chrome DevTools Protocol over its socket: real clicks and keys."""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.kit.programs import TIMEOUT

PROGRAM = "chromium"
SIZE = "1280,900"


def is_here() -> bool:
    return shutil.which(PROGRAM) is not None


class Tab:
    """One page of the browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)

    async def send(self, method: str, **params: Any) -> Any:
        """Send a command and return its result; events in between are dropped."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        async with asyncio.timeout(TIMEOUT):
            while True:
                message = await self._socket.receive_json()
                if message.get("id") == number:
                    assert "error" not in message, message
                    return message["result"]

    async def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        done = await self.send("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    async def until(self, script: str) -> Any:
        """Wait until an expression is true; asked again each time that the page could have changed."""
        async with asyncio.timeout(TIMEOUT):
            while True:
                try:
                    if found := await self.run(script):
                        return found
                except AssertionError:  # the page is being replaced
                    pass
                await asyncio.sleep(0.05)

    async def goto(self, url: str) -> None:
        """Load a page."""
        await self.send("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def text(self, selector: str) -> str:
        """The text of an element, once it is there."""
        return str(await self.until(f"(document.querySelector({selector!r}) || {{}}).innerText"))

    async def click(self, selector: str) -> None:
        """Click into the middle of an element, as a person does."""
        await self.until(f"document.querySelector({selector!r}) !== null")
        await self.run(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})")
        middle = "(box => [box.x + box.width / 2, box.y + box.height / 2])"
        box = await self.run(f"{middle}(document.querySelector({selector!r}).getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            await self.send("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    async def type(self, selector: str, text: str) -> None:
        """Click into a field and type."""
        await self.click(selector)
        await self.send("Input.insertText", text=text)

    async def press_enter(self) -> None:
        await self.send("Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", text="\r")

    async def choose(self, selector: str, value: str) -> None:
        """Choose an option of a list, by the keys of its first letters."""
        await self.run(f"document.querySelector({selector!r}).focus()")
        await self.run(f"document.querySelector({selector!r}).value = {value!r}")

    async def screenshot(self, file: Path) -> None:
        """Write the whole page as a PNG."""
        shot = await self.send("Page.captureScreenshot", captureBeyondViewport=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(base64.b64decode(shot["data"]))


@asynccontextmanager
async def chromium(folder: Path, *, scripts: bool = True) -> AsyncIterator[Tab]:
    """Run a browser with a profile of its own. `scripts`: whether pages may run JavaScript."""
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage")
    own = ("--remote-debugging-port=0", f"--user-data-dir={folder / 'profile'}", f"--window-size={SIZE}", "about:blank")
    process = await asyncio.create_subprocess_exec(
        PROGRAM, *options, *own, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "HOME": str(folder)},
    )  # fmt: skip
    assert process.stderr is not None
    reading: asyncio.Future[bytes] | None = None
    try:
        async with asyncio.timeout(TIMEOUT):
            while (found := re.search(rb"ws://([^/]+)/", line := await process.stderr.readline())) is None:
                assert line, "chromium has ended"
        reading = asyncio.ensure_future(process.stderr.read())
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://{found[1].decode()}/json") as tabs:
                page = next(each for each in await tabs.json() if each["type"] == "page")
            async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                tab = Tab(socket)
                await tab.send("Page.enable")
                await tab.send("Emulation.setScriptExecutionDisabled", value=not scripts)
                yield tab
    finally:
        process.kill()
        await process.wait()
        if reading is not None:
            await reading
