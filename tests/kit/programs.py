"""The programs that a test may run: those that scripts/setup installs, and those of every Debian."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TIMEOUT = 60.0  # seconds until a test that waits gives up
SYSTEM = ("/bin/", "/sbin/", "/usr/")  # programs elsewhere belong to a test or to .venv
XEN = "/usr/lib/xen-"  # of the package that scripts/setup finds by its version
ESSENTIAL = frozenset({"bash", "cat", "echo", "false", "prlimit", "sh", "sleep", "test", "timeout", "true", "uname"})
SOUGHT = frozenset({"python3", "unshare"})  # a test that runs one looks for it first, and is skipped without it


def promised(which: str = "--programs") -> Mapping[str, str]:
    """Program -> its package, as scripts/setup installs them; `--optional`: those without which tests are skipped."""
    done = subprocess.run([ROOT / "scripts/setup", which], capture_output=True, text=True, check=True)
    return dict(line.split() for line in done.stdout.splitlines())


def forbid_others() -> None:
    """Make this process fail an assertion when it starts another program."""
    known = promised().keys() | promised("--optional").keys() | ESSENTIAL | SOUGHT

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen":
            path = (arguments[3] or os.environ).get("PATH")  # in the environment of the program
            program = shutil.which(os.fsdecode(arguments[0]), path=path) or os.fsdecode(arguments[0])
            of_system = "/" not in program or (program.startswith(SYSTEM) and program != sys.executable)
            if of_system and not program.startswith(XEN):
                assert Path(program).name in known, (
                    f"{program}: not in PACKAGE of scripts/setup; add it there with its package"
                )

    sys.addaudithook(look)
