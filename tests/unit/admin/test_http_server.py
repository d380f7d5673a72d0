"""The socket of the admin API: its permissions, and sockets that other processes use or have left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket as sockets
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.admin.http_server import AdminServer
from gateway.core.admin.access import AccessRules, Principals
from tests.kit.admin import Api, ask, serving

OURS = AccessRules(os.geteuid())


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    folder = tmp_path / "deep"
    async with serving(folder) as api:
        yield api


def server(path: Path, api: Api, rights: AccessRules = OURS) -> AdminServer:
    return AdminServer(path, api.toy, api.steering, api.traffic, rights)


async def test_only_the_owner_can_open_the_socket(api: Api) -> None:
    assert stat.S_IMODE(api.socket.stat().st_mode) == 0o600


async def test_its_group_can_open_it_too_once_the_config_names_others_and_nobody_else_ever(
    api: Api, tmp_path: Path
) -> None:
    shared = server(tmp_path / "shared", api, AccessRules(0, read=Principals(uids=frozenset({1234}))))
    shared.bind()
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o660
    await shared.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to any group")
async def test_it_is_given_to_the_group_of_the_config(api: Api, tmp_path: Path) -> None:
    given = AdminServer(tmp_path / "given", api.toy, api.steering, api.traffic, OURS, group=54_321)
    given.bind()
    found = (tmp_path / "given").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o660, 54_321)
    await given.stop()


async def test_a_socket_that_another_gateway_answers_on_is_not_taken_over(api: Api) -> None:
    with pytest.raises(OSError, match="another gateway answers on this admin socket"):
        await server(api.socket, api).start()
    assert (await api.ask("GET", "/healthz"))[0] == 200


async def test_a_socket_left_behind_by_a_dead_gateway_is_replaced(api: Api, tmp_path: Path) -> None:
    path = tmp_path / "control"
    with sockets.socket(sockets.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    second = server(path, api)
    await second.start()
    assert (await ask(path, "GET", "/healthz"))[0] == 200
    await second.stop()
    assert not path.exists()


async def test_a_socket_that_is_bound_answers_once_it_is_started_and_is_nobody_elses_before(
    api: Api, tmp_path: Path
) -> None:
    path = tmp_path / "deeper" / "control"
    second = server(path, api)
    second.bind()
    assert second.made == (path.parent, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(OSError, match="another gateway answers on this admin socket"):
        server(path, api).bind()
    asking = asyncio.ensure_future(ask(path, "GET", "/healthz"))
    await second.start()
    assert (await asking)[0] == 200
    await second.stop()
    await second.stop()
    assert not path.exists()


async def test_a_socket_whose_queue_is_full_is_in_use_and_asking_does_not_wait(api: Api, tmp_path: Path) -> None:
    path = tmp_path / "busy"
    with contextlib.ExitStack() as stack:
        busy = stack.enter_context(sockets.socket(sockets.AF_UNIX))
        busy.bind(str(path))
        busy.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                waiting = stack.enter_context(sockets.socket(sockets.AF_UNIX))
                waiting.setblocking(False)
                waiting.connect(str(path))
        with pytest.raises(OSError, match="another gateway answers on this admin socket"):
            server(path, api).bind()
        assert path.is_socket()


async def test_a_socket_that_cannot_be_asked_is_left_alone(api: Api, tmp_path: Path) -> None:
    path = tmp_path / "other"
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(OSError, match=r"cannot tell whether .* is in use: Protocol wrong type for socket"):
            server(path, api).bind()
    assert path.is_socket()


async def test_stop_leaves_the_socket_of_another_gateway_that_has_taken_the_place(api: Api, tmp_path: Path) -> None:
    path = tmp_path / "control"
    first = server(path, api)
    first.bind()
    path.unlink()
    with sockets.socket(sockets.AF_UNIX) as other:
        other.bind(str(path))
        await first.stop()
        assert path.is_socket()
