"""The client of the admin API: answers, errors, streams, and sockets without a gateway."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Sequence
from pathlib import Path

import pytest
from aiohttp import web
from typer.testing import CliRunner

from gateway.cli import app, client

CUT = b"cut\n"


async def serve(path: Path, answer: web.Response | Sequence[bytes]) -> web.AppRunner:
    """An answer, or the parts of one."""

    async def handler(request: web.Request) -> web.StreamResponse:
        if isinstance(answer, web.Response):
            return answer
        response = web.StreamResponse()
        await response.prepare(request)
        for part in answer:
            await response.write(part)
            if part == CUT:
                assert request.transport is not None
                request.transport.abort()
        return response

    application = web.Application()
    application.router.add_route("*", "/{any:.*}", handler)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.UnixSite(runner, str(path)).start()
    return runner


def test_nobody_there_is_said_with_the_sockets_name(tmp_path: Path) -> None:
    with pytest.raises(client.UnreachableError, match=r"no gateway answers on .*/control: is it running\?"):
        client.ask(tmp_path / "control", "GET", "/v1/status")


def test_a_socket_that_the_user_may_not_open_is_told_from_a_gateway_that_does_not_run() -> None:
    told = str(client.not_connected(Path("/run/admin"), PermissionError(errno.EACCES, "Permission denied")))
    assert told.startswith("you may not connect to /run/admin: only root, the gateway's user")


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
    with pytest.raises(client.UnreachableError, match="is not xcp-gateway"):
        await asyncio.to_thread(client.ask, tmp_path / "control", "GET", "/v1/status")
    await runner.cleanup()


# Answers that are lines


async def lines(path: Path) -> list[bytes]:
    found: list[bytes] = []
    await asyncio.to_thread(client.stream, path, "POST", "/v1/record", {}, found.append)
    return found


async def test_lines_come_whole_however_they_were_sent(tmp_path: Path) -> None:
    parts = [b'{"a":', b"1}\n{}\n\n", b"x" * 300_000, b"\n", b"\n"]
    runner = await serve(tmp_path / "control", parts)
    assert await lines(tmp_path / "control") == [b'{"a":1}', b"{}", b"x" * 300_000]
    await runner.cleanup()


async def test_lines_that_are_refused_are_told_in_the_gateways_own_words(tmp_path: Path) -> None:
    runner = await serve(tmp_path / "control", web.json_response({"error": "too many"}, status=409))
    with pytest.raises(client.RefusedError, match=r"^too many$"):
        await lines(tmp_path / "control")
    await runner.cleanup()


async def test_lines_of_something_else_are_no_gateways(tmp_path: Path) -> None:
    runner = await serve(tmp_path / "control", web.Response(text="<html>", status=404))
    with pytest.raises(client.UnreachableError, match="is not xcp-gateway"):
        await lines(tmp_path / "control")
    await runner.cleanup()


async def test_a_gateway_that_goes_in_the_middle_is_told(tmp_path: Path) -> None:
    runner = await serve(tmp_path / "control", [b"one\n", CUT])
    with pytest.raises(client.UnreachableError, match="has closed the connection"):
        await lines(tmp_path / "control")
    await runner.cleanup()


def test_nobody_there_is_said_of_lines_too(tmp_path: Path) -> None:
    with pytest.raises(client.UnreachableError, match="is it running"):
        client.stream(tmp_path / "control", "POST", "/v1/record", {}, print)


async def test_a_gateway_that_is_gone_leaves_the_outcome_of_a_task_unknown_and_says_how_to_ask(tmp_path: Path) -> None:
    """It has answered with the task, and accepts no further connection."""
    control = tmp_path / "control"

    async def handler(_: web.Request) -> web.Response:
        control.unlink()
        return web.json_response({"value": "OpaqueRef:t"}, headers={"Connection": "close"})

    application = web.Application()
    application.router.add_route("POST", "/v1/call", handler)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.UnixSite(runner, str(control)).start()
    words = ["call", "VM.start", "OpaqueRef:s", "--wait", "--socket", str(control)]
    done = await asyncio.to_thread(CliRunner().invoke, app, words)
    await runner.cleanup()
    told = " ".join(done.stderr.split())
    assert done.exit_code == 1
    assert told.startswith("the outcome of OpaqueRef:t is unknown: no gateway answers on")
    assert told.endswith("`xcp-gateway call task.get_record SESSION OpaqueRef:t` asks again")
