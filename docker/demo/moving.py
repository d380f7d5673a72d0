"""One read method moves from the old xapi to D-Bus and back; an operator's commands between a client's calls."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import XenAPI
from rich.text import Text

from demo.calls import PASSWORD, USER, WEB
from demo.show import GATEWAY, OLD, Printed, Show, is_
from demo.stage import Stage
from gateway.cli import client as control

METHOD = "VM.get_record"
DB = "OpaqueRef:22222222-bbbb-4bbb-8bbb-000000000002"
FIELD = "memory_static_max"
OF_WEB, OF_DB = str(2 * 2**30), str(4 * 2**30)  # bytes
KIB = str(2 * 2**20)  # the planted fault: the old xapi tells the memory of `web` in KiB
SHARE = "75"  # per cent of the VMs; `web` is one of them, `db` is not: the hash of method and VM says so
INDENT = 6  # columns that are not the command's
PATIENCE = 60.0  # seconds for an observation to be counted


def moving(stage: Stage, show: Show) -> None:
    """One method moves: VM.get_record, from the old xapi (XML-RPC, as it is) to D-Bus, and back."""
    session = XenAPI.Session(stage.url)
    show(
        "XenAPI", "session.login_with_password(root, ...)", "Session1.Login",
        lambda: session.login_with_password(USER, PASSWORD, "1.0", "demo") or session._session,  # noqa: SLF001
        lambda answer: str(answer).startswith("OpaqueRef:"), by=(GATEWAY,),
    )  # fmt: skip
    operate, get = _operating(stage, show), _getting(session, show)
    operate("-> legacy", "mode", METHOD, "legacy", "--why", "as on day one")
    get("web", WEB, OF_WEB, OLD)

    # The legacy service answers, D-Bus is asked afterwards: what differs is named.
    operate("-> shadow", "mode", METHOD, "shadow")
    stage.switches.write_text(json.dumps({METHOD: {"wrong": {FIELD: KIB}}}))
    get("web", WEB, KIB, OLD, GATEWAY, after=lambda: _compared(stage))
    operate(f"$.{FIELD}", "diff", METHOD)
    stage.switches.unlink()
    operate("deleted mismatches", "diff", METHOD, "--reset")
    get("web", WEB, OF_WEB, OLD, GATEWAY, after=lambda: _compared(stage))
    operate("equal so far", "status", METHOD)

    # A share of the VMs: each VM is always on the same side.
    operate("-> canary", "mode", METHOD, "canary", "--percent", SHARE)
    get("web", WEB, OF_WEB, GATEWAY)
    get("db", DB, OF_DB, OLD)
    operate("served by legacy", "explain", METHOD, "--key", DB)

    operate("-> dbus", "mode", METHOD, "dbus")
    get("db", DB, OF_DB, GATEWAY)
    operate("-> legacy", "rollback", "--all", "--why", "it was a demo")
    get("db", DB, OF_DB, OLD)


def _operating(stage: Stage, show: Show) -> Callable[..., object]:
    def operate(said: str, *words: str) -> object:
        """One command, which must print this."""

        def right(answer: str) -> bool:
            return said in Text.from_ansi(answer).plain

        return show("xcp-gateway", shlex.join(words), "", lambda: run(stage, *words), right)

    return operate


def _getting(session: Any, show: Show) -> Callable[..., object]:
    def get(name: str, vm: str, wanted: str, *by: str, after: Callable[[], object] | None = None) -> object:
        """A client's call that these sides run."""

        def ask() -> object:
            record = session.xenapi.VM.get_record(vm)
            if after is not None:
                after()
            return record[FIELD]

        return show("XenAPI", f'{METHOD}({name})["{FIELD}"]', "Properties.GetAll", ask, is_(wanted), by)

    return get


def run(stage: Stage, *words: str) -> Printed:
    """One of our own commands, as an operator gives it; what it printed."""
    width = shutil.get_terminal_size().columns - INDENT
    colours = {"FORCE_COLOR": "1"} if sys.stdout.isatty() else {}
    command = [sys.executable, "-m", "gateway", *words, "--socket", str(stage.control)]
    environment = {**os.environ, **colours, "COLUMNS": str(width)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return Printed(done.stdout + done.stderr)


def _compared(stage: Stage) -> None:
    """Wait until a comparison is counted: the client has its answer before."""
    end = time.monotonic() + PATIENCE
    while not control.ask(stage.control, "GET", f"/v1/methods?pattern={METHOD}")[0]["comparisons"]:
        if time.monotonic() > end:
            raise TimeoutError(f"no answer to {METHOD} was compared within {PATIENCE:g} s")
        time.sleep(0.05)


CLIENTS = (moving,)
