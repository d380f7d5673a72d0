"""The demo's clients that ask in a xenstore: nodes they write, what is called for them, which nodes answer."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from typing import Any

from demo.old_squeezed import RpcError, Squeezed
from demo.show import Show, is_
from demo.stage import Stage

PATIENCE = 60.0  # seconds for an answer
MEMORY = str(2 * 2**20)  # KiB that `web` has


def squeezed(stage: Stage, show: Show) -> None:
    """squeezed's client of 2009, on PyPI's pyxs: it asks in a transaction, watches, reads the answer, removes both."""
    client = "pyxs"

    def call(function: str, **arguments: str) -> Callable[[], object]:
        def ask() -> object:
            with Squeezed(str(stage.store)) as asking:
                try:
                    return asking.call(function, **arguments)
                except RpcError as error:
                    return f"code {error.code}: {error.description}"

        return ask

    session = {"session_id": "demo"}
    show(
        client, "/squeezed/rpc/request/login/ID: service_name=demo", "Memory1.Login",
        call("login", service_name="demo"), is_(session),
    )  # fmt: skip
    reserved = show(
        client, "/squeezed/rpc/request/reserve-memory/ID: session_id=demo kib=262144", "Memory1.ReserveMemory",
        call("reserve-memory", kib="262144", **session), lambda answer: list(answer) == ["reservation_id"],
    )  # fmt: skip
    given = {**session, "domid": "7", **(reserved if isinstance(reserved, dict) else {})}
    show(
        client, "/squeezed/rpc/request/transfer-reservation-to-domain/ID: session_id=demo reservation_id=... domid=7",
        "Memory1.TransferReservationToDomain", call("transfer-reservation-to-domain", **given), is_({}),
    )  # fmt: skip
    show(
        client, "/squeezed/rpc/request/reserve-memory/ID: session_id=demo", "", call("reserve-memory", **session),
        is_("code 3: kib"),
    )  # fmt: skip


def tools(stage: Stage, show: Show) -> None:
    """Debian's xenstore-write and xenstore-watch: mailboxes of a device model and a guest, a node of squeezed's."""
    client = "xenstore-write"
    model = "/local/domain/0/device-model/1"
    write(stage, f"{model}/state", "running")
    for command, state, member in (("save", "paused", "Save"), ("continue", "running", "Continue")):
        show(
            client, f"{model}/command {command}", f"DeviceModel1.{member}",
            mailbox(stage, f"{model}/command", command, f"{model}/state", state), is_(state),
        )  # fmt: skip
    write(
        stage, "/local/domain/1/name", "web"
    )  # the toolstack's work: squeezed shows nothing of domains that are not there
    target = "/local/domain/1/memory/target"
    show(
        client, f"{target} 1, too little: squeezed refuses, and shows again what is", "Properties.Set",
        mailbox(stage, target, "1", target, MEMORY), is_(MEMORY),
    )  # fmt: skip
    shutdown = "/local/domain/1/control/shutdown"
    show(
        client, f"{shutdown} poweroff", "Control1.Shutdown", mailbox(stage, shutdown, "poweroff", shutdown, ""), is_("")
    )


def write(stage: Stage, path: str, value: str) -> None:
    """Debian's xenstore-write."""
    subprocess.run(["xenstore-write", path, value], env=environment(stage), check=True, capture_output=True)


def read(stage: Stage, path: str) -> str | None:
    """Debian's xenstore-read; None: there is no such node."""
    done = subprocess.run(["xenstore-read", path], env=environment(stage), check=False, capture_output=True, text=True)
    return done.stdout.removesuffix("\n") if done.returncode == 0 else None


def mailbox(stage: Stage, path: str, word: str, answer: str, wanted: str) -> Callable[[], str | None]:
    """Write a word, and read the node of the answer whenever xenstore-watch tells of it, until it is what is wanted."""

    def ask() -> str | None:
        # It tells of the watch itself, of our own word where that is the same node, and then of the answer.
        watch = ["timeout", f"{PATIENCE:g}", "xenstore-watch", answer]
        with subprocess.Popen(watch, env=environment(stage), stdout=subprocess.PIPE, text=True) as watching:
            assert watching.stdout is not None
            watching.stdout.readline()
            write(stage, path, word)
            found = None
            while found != wanted and watching.stdout.readline():
                found = read(stage, answer)
            watching.terminate()
        return found

    return ask


def environment(stage: Stage) -> dict[str, Any]:
    """Where the tools find the store."""
    return {**os.environ, "XENSTORED_PATH": str(stage.store)}


CLIENTS = (squeezed, tools)
