"""What the commands see when they ask a gateway, or nobody."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiohttp import web

from gateway.control import client


async def serve(path: Path, answer: web.Response) -> web.AppRunner:
    async def handler(_request: web.Request) -> web.Response:
        return answer

    application = web.Application()
    application.router.add_route("*", "/{any:.*}", handler)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.UnixSite(runner, str(path)).start()
    return runner


def test_nobody_there_is_said_with_the_sockets_name(tmp_path: Path) -> None:
    with pytest.raises(client.UnreachableError, match=r"no gateway answers on .*/control: is it running\?"):
        client.ask(tmp_path / "control", "GET", "/v1/status")


async def test_an_error_of_the_gateway_is_told_in_its_own_words(tmp_path: Path) -> None:
    runner = await serve(tmp_path / "control", web.json_response({"error": "no such endpoint"}, status=422))
    with pytest.raises(client.RefusedError, match=r"^no such endpoint$"):
        await asyncio.to_thread(client.ask, tmp_path / "control", "POST", "/v1/call", {"method": "x"})
    await runner.cleanup()


async def test_an_answer_is_decoded(tmp_path: Path) -> None:
    runner = await serve(tmp_path / "control", web.json_response({"ready": True}))
    assert await asyncio.to_thread(client.ask, tmp_path / "control", "GET", "/v1/status") == {"ready": True}
    await runner.cleanup()


async def test_something_else_on_the_socket_is_no_gateway(tmp_path: Path) -> None:
    runner = await serve(tmp_path / "control", web.Response(text="<html>"))
    with pytest.raises(client.UnreachableError, match="is no xcp-gateway"):
        await asyncio.to_thread(client.ask, tmp_path / "control", "GET", "/v1/status")
    await runner.cleanup()
