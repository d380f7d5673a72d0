"""The client of the admin API: answers, errors, streams, and sockets without a gateway."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.cli import client
from tests.kit.command import command

CUT = b"cut\n"


@asynccontextmanager
async def serving(path: Path, answer: Callable[[], web.Response] | Sequence[bytes]) -> AsyncIterator[None]:
    """An answer to every request, or the parts of one."""

    async def handler(request: web.Request) -> web.StreamResponse:
        if callable(answer):
            return answer()
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
    yield
    await runner.cleanup()


async def lines(path: Path) -> list[bytes]:
    found: list[bytes] = []
    await asyncio.to_thread(client.stream, path, "POST", "/v1/record", {}, found.append)
    return found


async def answer(path: Path) -> object:
    return await asyncio.to_thread(client.ask, path, "GET", "/v1/status")


async def test_nobody_there_is_said_with_the_sockets_name(tmp_path: Path) -> None:
    for ask in (answer, lines):
        with pytest.raises(client.UnreachableError, match=r"no gateway answers on .*/control: is it running\?"):
            await ask(tmp_path / "control")
    told = str(client.not_connected(Path("/run/admin"), PermissionError(errno.EACCES, "Permission denied")))
    assert told.startswith("you may not connect to /run/admin: only root, the gateway's user")
    assert told.endswith(
        "name yourself in `read` or `change`, and a group of yours in `group`, then restart the gateway"
    )


@pytest.mark.parametrize(
    ("ask", "served", "expected"),
    [
        (answer, ({"ready": True}, 200), {"ready": True}),
        (answer, ({"error": "no such endpoint"}, 422), (client.RefusedError, r"^no such endpoint$")),
        (answer, ("<html>", 200), (client.UnreachableError, "is not xcp-gateway")),
        # However they were sent, lines come whole.
        (lines, [b'{"a":', b"1}\n{}\n\n", b"x" * 300_000, b"\n", b"\n"], [b'{"a":1}', b"{}", b"x" * 300_000]),
        (lines, ({"error": "too many"}, 409), (client.RefusedError, r"^too many$")),
        (lines, ("<html>", 404), (client.UnreachableError, "is not xcp-gateway")),
        (lines, [b"one\n", CUT], (client.UnreachableError, "has closed the connection")),
    ],
)
async def test_an_answer_an_error_of_the_gateway_and_something_else_on_the_socket(
    ask: Callable[[Path], Awaitable[object]], served: Any, expected: Any, tmp_path: Path
) -> None:
    def whole() -> web.Response:
        content, status = served
        return web.Response(text=content if isinstance(content, str) else json.dumps(content), status=status)

    async with serving(tmp_path / "control", whole if isinstance(served, tuple) else served):
        if isinstance(expected, tuple):
            error, words = expected
            with pytest.raises(error, match=words) as caught:
                await ask(tmp_path / "control")
            assert getattr(caught.value, "status", served[1]) == served[1]
        else:
            assert await ask(tmp_path / "control") == expected


async def test_a_gateway_that_is_gone_leaves_the_outcome_of_a_task_unknown_and_says_how_to_ask(tmp_path: Path) -> None:
    """It has answered with the task, and accepts no further connection."""
    control = tmp_path / "control"

    def task() -> web.Response:
        control.unlink()
        return web.json_response({"value": "OpaqueRef:t"}, headers={"Connection": "close"})

    async with serving(control, task):
        done = await asyncio.to_thread(command, "call", "VM.start", "OpaqueRef:s", "--wait", socket=control)
    told = " ".join(done.stderr.split())
    assert done.exit_code == 1
    assert told.startswith("the outcome of OpaqueRef:t is unknown: no gateway answers on")
    assert told.endswith("`xcp-gateway call task.get_record SESSION OpaqueRef:t` asks again")
