"""The table of all commands. The module of a command is imported when the command is called; help reads only the table.

A new command stands here with its module, its group in `--help`, and the first sentence of its docstring.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from typer.core import TyperCommand

GATEWAY, FILES, MIGRATION = "Gateway", "Mapping files", "Migration"  # groups of commands in --help


class ListedCommand(NamedTuple):
    """One command: its module in this package, its group, and its summary."""

    module: str
    group: str
    summary: str


# Group, module, and its commands; in this order they are listed.
_LISTED: Sequence[tuple[str, str, Mapping[str, str]]] = (
    (GATEWAY, "run", {
        "run": "Run the gateway until SIGTERM or Ctrl-C; SIGHUP loads config and mapping files again.",
    }),
    (GATEWAY, "daemon", {
        "call": "Make one call through the running gateway, as a legacy client would.",
        "reload": "Load config and mapping files again and print the live revision. With any problem nothing changes.",
        "status": "Show revision, listeners, buses, services, and each method that has a legacy service.",
        "web": "Print the address of the web page. It lets its first visitor in as you, within a minute.",
        "demo": "Run a private bus, a sample toolstack and a gateway, call it with real clients, and show the "
        "messages on the bus.",
    }),
    (GATEWAY, "watch", {
        "watch": "Show objects as they change, each field with its old and new value, until Ctrl-C.",
    }),
    (FILES, "files", {
        "check": "Check the config and its mapping files, or these files, and with --live the running services.",
        "schema": "Print the JSON Schema of mapping files, for editors.",
        "routes": "List every mapped method: protocol, endpoint, D-Bus target, and the line of its mapping file.",
        "docs": "Write reference pages: a page for each endpoint, with every method, its errors, and examples of "
        "calls.",
    }),
    (FILES, "scaffold", {
        "scaffold": "Write IDL and a mapping file from the description of an API.",
    }),
    (MIGRATION, "mode", {
        "mode": "Show, set or clear the mode of methods.",
        "explain": "Explain which side would serve a call, and why. The call is not made.",
        "diff": "Show mismatches: calls whose outcomes differ between the two sides. Secrets are redacted.",
        "audit": "List decisions, the newest first: time, person or rollout, reason, and the numbers of the decision.",
        "rollback": "Set every method to legacy at once and end all rollouts. A method that a person has set to off "
        "stays off.",
    }),
    (MIGRATION, "promote", {
        "promote": "Write modes that were set at run time into the mapping files.",
    }),
    (MIGRATION, "replay", {
        "replay": "Send recorded calls to the legacy service and to D-Bus, compare the outcomes, and show the "
        "mismatches.",
    }),
    (MIGRATION, "traffic", {
        "clients": "List the callers of each method by protocol, the latest first.",
        "record": "Record calls of clients as JSON lines for `replay`. No client waits for it.",
    }),
    (MIGRATION, "mode", {
        "rollout": "Migrate a method or a group step by step (shadow, canary, dbus), and roll back on a breach.",
    }),
)  # fmt: skip
COMMANDS: Mapping[str, ListedCommand] = {
    name: ListedCommand(module, group, summary) for group, module, listed in _LISTED for name, summary in listed.items()
}


class LoadedCommands(Mapping[str, Any]):
    """The commands by name. A command is made, and its module imported, when it is looked up; names import nothing."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        from typer.main import get_group

        if name not in self._made:
            module = import_module(f"gateway.cli.{COMMANDS[name].module}")
            self._made.update(get_group(module.commands).commands)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


def summaries() -> dict[str, Any]:
    """All commands, with no more than help and completion show of them in a list."""
    return {
        name: TyperCommand(name, help=entry.summary, rich_help_panel=entry.group) for name, entry in COMMANDS.items()
    }
