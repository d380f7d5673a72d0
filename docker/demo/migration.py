"""One read method migrates from the old xapi to D-Bus and back: an operator's commands between a client's calls."""

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

from demo.environment import Environment
from demo.http_clients import PASSWORD, USER, WEB
from demo.report import GATEWAY, OLD, CallCheck, CommandOutput, equals
from gateway.cli import client

METHOD = "VM.get_record"
DB = "OpaqueRef:22222222-bbbb-4bbb-8bbb-000000000002"
FIELD = "memory_static_max"
OF_WEB, OF_DB = str(2 * 2**30), str(4 * 2**30)  # bytes
KIB = str(2 * 2**20)  # the planted fault: the old xapi returns the memory of `web` in KiB
SHARE = "75"  # per cent of the VMs: by the hash of method and VM, `web` is among them and `db` is not
INDENT = 6  # columns before the output of a command
TIMEOUT = 60.0  # seconds for an observation to be counted

_Call = Callable[[], object]


def migrate(environment: Environment, check: CallCheck) -> None:
    """One method migrates: VM.get_record, from the old xapi (XML-RPC, passed through) to D-Bus, and back."""
    session = XenAPI.Session(environment.url)
    check(
        "XenAPI", "session.login_with_password(root, ...)", "Session1.Login",
        lambda: session.login_with_password(USER, PASSWORD, "1.0", "demo") or session._session,  # noqa: SLF001
        lambda answer: str(answer).startswith("OpaqueRef:"), senders=(GATEWAY,),
    )  # fmt: skip
    operate, get = _operator(environment, check), _client(session, check)
    operate("-> legacy", "mode", METHOD, "legacy", "--why", "as on day one")
    get("web", WEB, OF_WEB, OLD)

    # The legacy service serves, D-Bus is called afterwards, and the differences are shown.
    operate("-> shadow", "mode", METHOD, "shadow")
    environment.switches.write_text(json.dumps({METHOD: {"wrong": {FIELD: KIB}}}))
    get("web", WEB, KIB, OLD, GATEWAY, after=lambda call: _wait_for_comparison(environment, call))
    operate(f"$.{FIELD}", "diff", METHOD)
    environment.switches.unlink()
    operate("deleted mismatches", "diff", METHOD, "--reset")
    get("web", WEB, OF_WEB, OLD, GATEWAY, after=lambda call: _wait_for_comparison(environment, call))
    operate("equal", "status", METHOD)

    # A share of the VMs: each VM is always on the same side.
    operate("-> canary", "mode", METHOD, "canary", "--percent", SHARE)
    get("web", WEB, OF_WEB, GATEWAY)
    get("db", DB, OF_DB, OLD)
    operate("canary at", "explain", METHOD, "--key", DB)

    operate("-> dbus", "mode", METHOD, "dbus")
    get("db", DB, OF_DB, GATEWAY)
    operate("-> legacy", "rollback", "--all", "--why", "it was a demo")
    get("db", DB, OF_DB, OLD)


def _operator(environment: Environment, check: CallCheck) -> Callable[..., object]:
    def operate(printed: str, *words: str) -> object:
        """Run a command; its output must contain `printed`."""

        def expected(answer: str) -> bool:
            return printed in Text.from_ansi(answer).plain

        return check("xcp-gateway", shlex.join(words), "", lambda: run(environment, *words), expected)

    return operate


def _client(session: Any, check: CallCheck) -> Callable[..., object]:
    def get(name: str, vm: str, wanted: str, *senders: str, after: Callable[[_Call], object] | None = None) -> object:
        """Make a client's call; these programs must call D-Bus. `after` is run then, with the call to repeat it."""

        def make_call() -> object:
            record = session.xenapi.VM.get_record(vm)
            if after is not None:
                after(lambda: session.xenapi.VM.get_record(vm))
            return record[FIELD]

        return check("XenAPI", f'{METHOD}({name})["{FIELD}"]', "Properties.GetAll", make_call, equals(wanted), senders)

    return get


def run(environment: Environment, *words: str) -> CommandOutput:
    """Run a command of xcp-gateway as an operator does; return its output."""
    width = shutil.get_terminal_size().columns - INDENT
    colours = {"FORCE_COLOR": "1"} if sys.stdout.isatty() else {}
    command = [sys.executable, "-m", "gateway", *words, "--socket", str(environment.admin)]
    variables = {**os.environ, **colours, "COLUMNS": str(width)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    return CommandOutput(done.stdout + done.stderr)


def _wait_for_comparison(environment: Environment, call: _Call) -> None:
    """Wait until a comparison is counted; the client has its answer earlier.

    On a busy machine the two sides may run too far apart to be compared: then the call is made again.
    """
    end, left_out = time.monotonic() + TIMEOUT, 0
    while not (row := client.ask(environment.admin, "GET", f"/v1/methods?pattern={METHOD}")[0])["comparisons"]:
        if time.monotonic() > end:
            raise TimeoutError(f"no answer to {METHOD} was compared within {TIMEOUT:g} s")
        if (now := sum(row["not_compared"].values())) > left_out:
            left_out = now
            call()
        time.sleep(0.05)


MIGRATION = (migrate,)
