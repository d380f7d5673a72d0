"""The admin API's socket: who may use it, who asks."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import os
import pwd
import socket as sockets
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.admin.handlers import application
from gateway.admin.peer_credentials import rights, unknown_names, user_name
from gateway.admin.sockets import AdminServer, AdminSocket
from gateway.config import Config, ConfigError, parse
from gateway.core.admin.access import AccessRules, Principals
from tests.kit.admin import Api, ask, serving
from tests.kit.cases import each_case

OURS = AccessRules(os.geteuid())


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(tmp_path / "deep") as api:
        yield api


def server(path: Path, api: Api, *, shared: bool = False) -> AdminServer:
    file = AdminSocket(path, shared=shared)
    return AdminServer(file, lambda: application(api.toy, api.admin_service, api.traffic, OURS))


async def test_a_socket_that_is_bound_answers_once_it_is_started_and_is_nobody_elses_before(
    api: Api, tmp_path: Path
) -> None:
    path = tmp_path / "deeper" / "control"
    second = server(path, api)
    second.bind()
    assert second.made == (path.parent, path)
    shared = AdminSocket(tmp_path / "shared", shared=True)
    with sockets.socket(sockets.AF_UNIX) as left_behind:  # by a gateway that has died
        left_behind.bind(str(shared.path))
    shared.bind().close()
    assert [stat.S_IMODE(each.stat().st_mode) for each in (path, shared.path)] == [0o600, 0o660]
    with pytest.raises(OSError, match=r"cannot listen on the admin socket .*: another gateway answers there"):
        server(path, api).bind()
    asking = asyncio.ensure_future(ask(path, "GET", "/healthz"))
    await second.start()
    assert (await asking)[0] == 200
    for _ in range(2):
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
        with pytest.raises(OSError, match=r"cannot listen on the admin socket .*: another gateway answers there"):
            server(path, api).bind()
        assert path.is_socket()


async def test_a_socket_that_cannot_be_asked_is_left_alone(api: Api, tmp_path: Path) -> None:
    path = tmp_path / "other"
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(OSError, match=r"cannot listen on the admin socket .*: Protocol wrong type for socket"):
            server(path, api).bind()
    assert path.is_socket()


def test_a_folder_that_cannot_be_made_is_told_with_what_to_do() -> None:
    says = r"socket /sys/x/admin: .*; in \[admin\] set `socket` to a path where this user may create files, or run"
    with pytest.raises(OSError, match=says):
        AdminSocket(Path("/sys/x/admin")).bind()


async def test_stop_leaves_the_socket_of_another_gateway_that_has_taken_the_place(api: Api, tmp_path: Path) -> None:
    path = tmp_path / "control"
    first = server(path, api)
    first.bind()
    path.unlink()
    with sockets.socket(sockets.AF_UNIX) as other:
        other.bind(str(path))
        await first.stop()
        assert path.is_socket()


# Peers


ME = pwd.getpwuid(os.geteuid())
GROUP = grp.getgrall()[0]


def config(user: str = ME.pw_name, **control: Any) -> Config:
    sections: dict[str, Any] = {
        "bus": {"b": {"address": "tcp:", "services": ["x"]}},
        "listener": {"l": {"bind": ["tcp:h:1"]}},
    }
    sections["mappings"] = {"directories": ["m"]}
    return parse({**sections, "user": user, "admin": control}, Path("/etc/gateway.toml"), unknown_names)


def test_names_and_numbers_of_users_and_groups_are_looked_up() -> None:
    found = rights(config())
    assert (found.own, found.shared) == (os.geteuid(), False)  # by default nobody else is let in
    assert (user_name(ME.pw_uid), user_name(3_999_999_999)) == (ME.pw_name, "")
    found = rights(
        config(read=[ME.pw_name, "uid:4711"], change=[f"user:{ME.pw_name}", f"group:{GROUP.gr_name}", "gid:4712"])
    )
    assert found.read == Principals(frozenset({ME.pw_uid, 4711}))
    assert found.change == Principals(frozenset({ME.pw_uid}), frozenset({GROUP.gr_gid, 4712}))


@each_case(
    ("control", "says"),
    [
        ({"user": "no-such-user"}, "user: unknown user 'no-such-user'"),
        ({"read": ["no-such-user-x"]}, "admin.read[0]: unknown user 'no-such-user-x'"),
        ({"change": ["root", "group:no-x"]}, "admin.change[1]: unknown group 'no-x'"),
        *(({"read": [entry]}, "admin.read[0]: ") for entry in ("", "uid:root", "gid:", "role:admin", "group:", "a b")),
    ],
)
def test_a_name_that_is_not_there_or_none_is_told_with_its_place(control: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        config(**control)
    assert str(wrong.value).startswith(f"/etc/gateway.toml:1:1: {says}")
