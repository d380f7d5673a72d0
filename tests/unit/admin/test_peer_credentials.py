"""Who is let in; another user's real connection is tested in tests/interop/test_access.py."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path
from typing import Any

import pytest

from gateway.admin.peer_credentials import rights, user_name
from gateway.config import Config, ConfigError, parse
from gateway.core.admin.access import Principals
from tests.kit.admin import serving

ME = pwd.getpwuid(os.geteuid())
GROUP = grp.getgrall()[0]


def config(**control: Any) -> Config:
    sections = {"bus": {"b": {"address": "tcp:", "services": ["x"]}}, "listener": {"l": {"bind": ["tcp:h:1"]}}}
    return parse({**sections, "mappings": {"directories": ["m"]}, "admin": control}, Path("/etc/gateway.toml"))


def test_by_default_nobody_else_is_let_in() -> None:
    found = rights(config())
    assert (found.own, found.shared) == (os.geteuid(), False)


def test_names_and_numbers_of_users_and_groups_are_looked_up() -> None:
    found = rights(
        config(read=[ME.pw_name, "uid:4711"], change=[f"user:{ME.pw_name}", f"group:{GROUP.gr_name}", "gid:4712"])
    )
    assert found.read == Principals(frozenset({ME.pw_uid, 4711}))
    assert found.change == Principals(frozenset({ME.pw_uid}), frozenset({GROUP.gr_gid, 4712}))


@pytest.mark.parametrize(
    ("control", "says"),
    [
        ({"read": ["no-such-user-x"]}, "/etc/gateway.toml: $.admin.read[0]: there is no user 'no-such-user-x'"),
        ({"change": ["root", "group:no-x"]}, "/etc/gateway.toml: $.admin.change[1]: there is no group 'no-x'"),
    ],
)
def test_a_name_that_is_not_there_is_told_with_its_place(control: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        rights(config(**control))
    assert str(wrong.value) == says


@pytest.mark.parametrize("entry", ["", "uid:root", "gid:", "role:admin", "group:", "a b"])
def test_an_entry_that_is_none_is_told_by_the_config(entry: str) -> None:
    with pytest.raises(ConfigError, match=r"\$\.admin\.read\[0\]"):
        config(read=[entry])


def test_a_number_without_a_name_has_none() -> None:
    assert user_name(ME.pw_uid) == ME.pw_name
    assert user_name(3_999_999_999) == ""


async def test_who_asks_is_known_by_the_kernel(tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        await api.ask("POST", "/v1/rollback", {})
        assert api.state.overrides[0].who == ME.pw_name
