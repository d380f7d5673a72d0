"""Gives up root for the user the config names, once every socket is bound; knows no socket."""

from __future__ import annotations

import os
import pwd
from collections.abc import Sequence
from pathlib import Path


def become(name: str, files: Sequence[Path]) -> None:
    """Be that user for good, with its groups, and let it own `files`; raises PermissionError that says why not.

    A file that was given to another group than ours stays that group's.
    """
    account = _account(name)
    if os.geteuid() == account.pw_uid != 0:
        return
    if os.geteuid() != 0:
        raise PermissionError(f"user = '{name}': only root can change to it, and this is uid {os.geteuid()}")
    try:
        for file in files:
            group = account.pw_gid if file.lstat().st_gid == os.getegid() else -1
            os.chown(file, account.pw_uid, group, follow_symlinks=False)
        os.initgroups(name, account.pw_gid)
        os.setgid(account.pw_gid)
        _check_folders(account, [file for file in files if file.is_socket()])
        os.setuid(account.pw_uid)
    except OSError as error:
        raise PermissionError(f"user = '{name}': cannot change to it: {error.strerror or error}") from error
    assert os.getresuid() == (account.pw_uid,) * 3  # nothing of root is left
    assert os.getresgid() == (account.pw_gid,) * 3


def _account(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise PermissionError(f"user = '{name}': there is no such user") from None


def _check_folders(account: pwd.struct_passwd, sockets: Sequence[Path]) -> None:
    """Raise unless the user may remove its socket files when it stops."""
    os.seteuid(account.pw_uid)
    try:
        for file in sockets:
            if not os.access(file.parent, os.W_OK | os.X_OK, effective_ids=True):
                raise PermissionError(f"it could not remove {file} at stop: the folder is not its own")
    finally:
        os.seteuid(0)
