"""The web page in a real Chromium, beside a legacy service with a planted fault: shadow, difference, canary, rollback.

The screenshots in docs/screens are made here, where SCREENS=1 asks for it.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import xmlrpc.client
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.cli import client
from tests.kit import browser
from tests.kit.buses import private_bus
from tests.kit.clients import xml_call
from tests.kit.gateway import TOY_MAPPING, Folder, gateway_process
from tests.kit.programs import ROOT, until
from tests.kit.toy_service import toy_service
from tests.kit.upstreams import legacy_server, ok

pytestmark = pytest.mark.skipif(not browser.is_here(), reason="chromium is not installed")

SCREENS = ROOT / "docs/screens"


async def shot(tab: browser.Tab, name: str, scripts: bool) -> None:
    if os.environ.get("SCREENS") and scripts:
        await tab.screenshot(SCREENS / f"{name}.png")


def old_echo(request: bytes) -> bytes:
    """The answer of a legacy service whose `echo` says something else than the one on D-Bus."""
    params, _ = xmlrpc.client.loads(request.partition(b"\r\n\r\n")[2])
    answer = f"{params[0]!s}, said the legacy service"
    return ok(xmlrpc.client.dumps((answer,), methodresponse=True).encode())


@pytest.fixture
async def folder() -> AsyncIterator[Folder]:
    async with legacy_server(old_echo) as legacy:
        with (
            tempfile.TemporaryDirectory(prefix="gateway-") as place,  # pages show its name, so it is a short one
            private_bus() as bus, toy_service(bus.address, "org.example.toy"),
        ):  # fmt: skip
            folder = Folder(Path(place))
            mapping = TOY_MAPPING.replace("defaults: {", "legacy: {upstream: old}\ndefaults: {mode: legacy, ")
            folder.mapping(mapping.replace("params: [text]}", "params: [text], key: text}"))
            folder.buses({"toolstack": (bus.address, "org.example.*")})
            text = folder.config.read_text().replace("[admin]", '[admin]\nweb = "tcp:127.0.0.1:0"')
            folder.config.write_text(f'{text}[upstream.old]\nurl = "{legacy.url}"\n')
            with gateway_process(folder.config) as process:
                (folder.path / "address").write_text(process.url)
                yield folder


async def enter(tab: browser.Tab, folder: Folder) -> str:
    """Come in by an invitation; the URL of the page."""
    answer = await asyncio.to_thread(client.ask, folder.control, "POST", "/v1/web")
    await tab.goto(answer["url"])
    return str(answer["url"]).partition("/enter")[0]


def call(folder: Folder, text: str) -> object:
    return xml_call((folder.path / "address").read_text(), "/RPC2", "echo", text)


ECHO = "/method/toy/echo"
FORM = "form[action='/do/set-mode']"


async def set_mode(tab: browser.Tab, mode: str, why: str, percent: str = "") -> None:
    await tab.choose(f"{FORM} select[name=mode]", mode)
    if percent:
        await tab.type(f"{FORM} input[name=percent]", percent)
    await tab.type(f"{FORM} input[name=why]", why)
    await tab.click(f"{FORM} button")


@pytest.mark.parametrize("scripts", [True, False], ids=["with JavaScript", "without JavaScript"])
async def test_a_method_is_migrated_and_rolled_back_by_clicks(folder: Folder, tmp_path: Path, scripts: bool) -> None:
    async with browser.chromium(tmp_path, scripts=scripts) as tab:
        base = await enter(tab, folder)
        assert "ready" in await tab.text("main")
        await shot(tab, "overview", scripts)
        await tab.goto(base + ECHO)
        await set_mode(tab, "shadow", "first look")
        assert "legacy -> shadow" in await tab.text(".done")
        assert await asyncio.to_thread(call, folder, "hello") == "hello, said the legacy service"
        await asyncio.to_thread(until_compared, folder)
        await tab.goto(base + ECHO)
        assert await tab.text("article tbody th") == "$"
        assert await tab.text("article del") == '"hello, said the legacy service"'
        assert await tab.text("article ins") == '"hello"'
        await shot(tab, "method", scripts)
        await set_mode(tab, "canary", "the legacy service is wrong", "100")
        assert "shadow -> canary 100%" in await tab.text(".done")
        assert await asyncio.to_thread(call, folder, "hello") == "hello"
        await tab.goto(base + "/methods?pattern=echo")
        assert "canary" in await tab.text("tbody tr")
        await shot(tab, "methods", scripts)
        await tab.goto(base + "/")
        await act(tab, "rollback", "it was right after all")
        assert await asyncio.to_thread(call, folder, "hello") == "hello, said the legacy service"
        await tab.goto(base + "/audit")
        assert "it was right after all" in await tab.text("tbody")
        await shot(tab, "audit", scripts)
        await tab.goto(base + "/callers")
        assert "xmlrpc" in await tab.text("main")
        await shot(tab, "callers", scripts)


async def test_a_rollout_is_started_paused_and_aborted_by_clicks(folder: Folder, tmp_path: Path) -> None:
    async with browser.chromium(tmp_path) as tab:
        base = await enter(tab, folder)
        await tab.goto(base + ECHO)
        await act(tab, "start-rollout", "the first of many")
        for _ in range(5):
            await asyncio.to_thread(call, folder, "hello")
        await asyncio.to_thread(until_compared, folder)
        await tab.goto(base + "/rollouts")
        assert "running" in await tab.text("article h2")
        assert "shadow" in await tab.text("li[aria-current=step]")
        while "nothing yet" in (standing := await tab.text("article tbody tr")):  # the step counts once it has settled
            await asyncio.to_thread(call, folder, "hello")
            await tab.goto(base + "/rollouts")
        assert "0.1% of the comparisons" in standing
        await act(tab, "pause-rollout", "over the weekend")
        await tab.until("document.querySelector('article h2').innerText.includes('paused')")
        await shot(tab, "rollouts", scripts=True)
        await tab.type("article input[name=why]", "never ")
        await tab.press_enter()  # which of the buttons is meant?
        await act(tab, "abort-rollout", "mind")
        await tab.until("document.querySelector('article h2').innerText.includes('aborted')")
        await tab.goto(base + "/audit")
        assert "never mind" in (decided := await tab.text("tbody"))
        assert "resume" not in decided
        assert await asyncio.to_thread(call, folder, "hello") == "hello, said the legacy service"


async def act(tab: browser.Tab, action: str, why: str) -> None:
    button = f"button[formaction='/do/{action}']"
    await tab.type(f"form:has({button}) input[name=why]", why)
    await tab.click(button)
    await tab.text(".done")


async def test_the_page_follows_what_others_change(folder: Folder, tmp_path: Path) -> None:
    async with browser.chromium(tmp_path) as tab:
        await enter(tab, folder)
        await tab.until("document.getElementById('log').children.length === 0")
        await asyncio.to_thread(client.ask, folder.control, "POST", "/v1/mode", {"pattern": "echo", "mode": "dbus"})
        await tab.until("document.getElementById('log').textContent.includes('toy/echo: legacy -> dbus')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_text_has_the_contrast_of_wcag_aa_and_every_field_a_name(
    folder: Folder, tmp_path: Path, scheme: str
) -> None:
    async with browser.chromium(tmp_path) as tab:
        await tab.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        base = await enter(tab, folder)
        for path in ("/", "/methods", ECHO, "/rollouts", "/callers", "/audit"):
            await tab.goto(base + path)
            assert await tab.run(LOW_CONTRAST) == [], path
            assert await tab.run(UNNAMED) == [], path


def until_compared(folder: Folder) -> None:
    """Call until a pair was compared: on a busy machine the two sides may run too far apart."""
    until(lambda: call(folder, "hello") and client.ask(folder.control, "GET", "/v1/diff?method=echo"))


# Elements whose text has less than 4.5 : 1 to its background, after https://www.w3.org/TR/WCAG21/#dfn-contrast-ratio.
LOW_CONTRAST = """
(() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
  const back = (each) => {
    for (; each; each = each.parentElement) {
      const found = rgb(getComputedStyle(each).backgroundColor);
      if (found.length < 4 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll("body *")]
    .filter((each) => [...each.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()))
    .map((each) => [each, light(rgb(getComputedStyle(each).color)), light(back(each))])
    .filter(([, one, two]) => (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05) < 4.5)
    .map(([each]) => each.outerHTML.slice(0, 80));
})()
"""
UNNAMED = """
[...document.querySelectorAll("input:not([type=hidden]), select, button:not([hidden])")]
  .filter((each) => !(each.labels && each.labels.length) && !each.textContent.trim())
  .map((each) => each.outerHTML)
"""
