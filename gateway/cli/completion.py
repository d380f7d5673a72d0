"""Words for the completion of a shell: methods, groups, patterns and services of the running gateway, and modes.

A shell waits for the answer, so a gateway that does not answer at once gives no words, and never an error.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from gateway.cli import client
from gateway.cli.app import DEFAULT_SOCKET

TIMEOUT = 1.0  # seconds for the gateway
MODES = ("legacy", "shadow", "canary", "dbus", "off")

Complete = Callable[[Any, str], list[str]]


def patterns(ctx: Any, incomplete: str) -> list[str]:
    """Names of methods, with and without their service, and groups."""
    rows = _rows(ctx, "/v1/methods")
    groups = (f"group:{row['group']}" for row in rows if row["group"])
    qualified = (f"{row['service']}/{row['method']}" for row in rows if "/" in incomplete)
    return _matching(incomplete, (*(row["method"] for row in rows), *groups, *qualified))


def mode_words(ctx: Any, incomplete: str) -> list[str]:
    """The next word of `mode [set|clear] [METHOD] [MODE]`."""
    given = list(ctx.params.get("words") or ())
    verb = given[0] if given and given[0] in ("set", "clear") else ""
    position = len(given) - bool(verb)
    if position == 0:
        return [*([] if verb else _matching(incomplete, ("set", "clear"))), *patterns(ctx, incomplete)]
    return _matching(incomplete, MODES) if position == 1 and verb != "clear" else []


def rollouts(ctx: Any, incomplete: str) -> list[str]:
    """Names of rollouts, and of what could have one."""
    known = (row["name"] for row in _rows(ctx, "/v1/rollouts"))
    return [*_matching(incomplete, known), *patterns(ctx, incomplete)]


def _names(path: str, key: str) -> Complete:
    """The values of a key in the rows of an answer."""

    def complete(ctx: Any, incomplete: str) -> list[str]:
        return _matching(incomplete, (row[key] for row in _rows(ctx, path)))

    return complete


methods = _names("/v1/methods", "method")
services = _names("/v1/methods", "service")
listeners = _names("/v1/routes", "listener")  # with a mapped method


def _rows(ctx: Any, path: str) -> list[dict[str, Any]]:
    socket = ctx.params.get("socket") or os.environ.get("XCP_GATEWAY_SOCKET") or DEFAULT_SOCKET
    try:
        rows: list[dict[str, Any]] = client.ask(Path(socket), "GET", path, timeout=TIMEOUT)
    except (client.UnreachableError, client.RefusedError, TimeoutError):
        return []
    return rows


def _matching(incomplete: str, words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(word for word in words if word.startswith(incomplete)))
