"""Giving up root, in a process of its own; with sockets and a bus it is tried in tests/interop/test_process.py."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.ops import process

ROOT = Path(__file__).parents[3]
NOBODY = pwd.getpwnam("nobody")
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


def attempt(lines: str) -> str:
    """What a Python process prints that imports `process` and then does this."""
    script = (
        f"import os\nfrom gateway.ops import process\n{lines}\nprint(os.getresuid(), os.getresgid(), os.getgroups())"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr.splitlines()[-1]).strip()


@AS_ROOT
def test_nothing_of_root_is_left() -> None:
    groups = sorted(os.getgrouplist("nobody", NOBODY.pw_gid))
    uid, gid = NOBODY.pw_uid, NOBODY.pw_gid
    assert attempt("process.become('nobody', [])") == f"{(uid,) * 3} {(gid,) * 3} {groups}"


@AS_ROOT
def test_files_are_handed_over_and_links_are_not_followed(tmp_path: Path) -> None:
    precious, link = tmp_path / "precious", tmp_path / "link"
    precious.write_text("")
    link.symlink_to(precious)
    attempt(f"from pathlib import Path\nprocess.become('nobody', [Path({str(link)!r})])")
    assert link.lstat().st_uid == NOBODY.pw_uid
    assert precious.stat().st_uid == 0


@AS_ROOT
def test_a_file_that_was_given_to_a_group_stays_that_groups(tmp_path: Path) -> None:
    ours, given = tmp_path / "ours", tmp_path / "given"
    for file, group in ((ours, os.getegid()), (given, 54_321)):
        file.write_text("")
        os.chown(file, -1, group)
    attempt(f"from pathlib import Path\nprocess.become('nobody', [Path({str(ours)!r}), Path({str(given)!r})])")
    assert [(file.stat().st_uid, file.stat().st_gid) for file in (ours, given)] == [
        (NOBODY.pw_uid, NOBODY.pw_gid),
        (NOBODY.pw_uid, 54_321),
    ]


@AS_ROOT
def test_an_ordinary_user_cannot_become_another() -> None:
    says = attempt("os.setuid(65533)\nprocess.become('nobody', [])")
    assert says == "PermissionError: user = 'nobody': only root can change to it, and this is uid 65533"


def test_who_is_that_user_already_stays_so() -> None:
    me = pwd.getpwuid(os.geteuid())
    assert attempt(f"process.become({me.pw_name!r}, [])").startswith(f"{(me.pw_uid,) * 3} ")


def test_a_user_that_does_not_exist_is_named() -> None:
    with pytest.raises(PermissionError, match=r"^user = 'no-such-user': the user does not exist$"):
        process.become("no-such-user", [])
