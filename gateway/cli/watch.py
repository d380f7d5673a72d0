"""The command watch: objects as they change, old and new value."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any

from rich.text import Text

from gateway.cli import client
from gateway.cli.app import DEFAULT_SOCKET, Commands, JsonOption, SocketOption, ask, failing, flag, positional
from gateway.cli.output import count, err, out

commands = Commands()

LONGEST = 200  # characters of one value
STYLES: Mapping[str, str] = {"add": "green", "mod": "yellow", "del": "red"}
_NOTHING = object()  # the value of a field that is not there


@commands.command()
def watch(
    what: Annotated[str, positional("[CLASS|OBJECT]", "VM, or VM/OpaqueRef:...; default: every class.")] = "*",
    socket: SocketOption = DEFAULT_SOCKET,
    *,
    first: Annotated[bool, flag("--all", "Show what there is too, and not only changes.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show objects as they change, each field with its old and new value, until Ctrl-C.

    Objects are those of the classes of the mapping files, as clients of event.from see them. Secrets are redacted.

    Examples: `xcp-gateway watch VM`, `xcp-gateway watch --json | jq .changes`
    """

    def missing() -> list[str]:
        reasons: list[str] = ask(socket, "GET", "/readyz")["reasons"]
        return [f"the gateway is not ready, so changes may be missing: {each}" for each in reasons]

    watcher = Watcher(first=first, as_json=as_json, what=what, missing=missing)
    with suppress(KeyboardInterrupt, BrokenPipeError), failing():
        client.stream(socket, "POST", "/v1/watch", {"what": what}, watcher.line)


class Watcher:
    """Remembers the records, and prints what is different in new ones. `missing`: why changes may not be seen."""

    def __init__(
        self, *, first: bool, as_json: bool, what: str = "*", missing: Callable[[], Sequence[str]] = tuple
    ) -> None:
        self._what = what
        self._missing = missing
        self._records: dict[tuple[str, str], Mapping[str, Any]] = {}
        self._shows = first
        self._as_json = as_json

    def line(self, line: bytes) -> None:
        """Take one line of the stream."""
        event = json.loads(line)
        if "ready" in event:
            self._shows = True
            if not self._as_json:
                err.print(f"watching {count(event['ready'], 'object')}; Ctrl-C ends it", style="dim")
                there = [] if event["ready"] or "/" not in self._what else [f"there is no {self._what} now"]
                for note in (*there, *self._missing()):
                    err.print(f"note: {note}", style="yellow")
            return
        key = event["class"].lower(), event["ref"]
        before, after = self._records.get(key, {}), event.get("snapshot") or {}
        if event["operation"] == "del":
            self._records.pop(key, None)
        else:
            self._records[key] = after
        changes = dict(changed(before, after))
        if self._shows and (changes or event["operation"] != "mod"):  # a heartbeat changes nothing
            self._show(event, before, changes)

    def _show(
        self, event: Mapping[str, Any], before: Mapping[str, Any], changes: Mapping[str, tuple[Any, Any]]
    ) -> None:
        if self._as_json:
            plain = {name: {"old": _plain(old), "new": _plain(new)} for name, (old, new) in changes.items()}
            shown = {name: event[name] for name in ("operation", "class", "ref", "id")}
            sys.stdout.write(json.dumps({**shown, "changes": plain}, separators=(",", ":")) + "\n")
            sys.stdout.flush()
            return
        out.print(head(event, before, datetime.now().astimezone()))
        if event["operation"] == "mod":
            for name, (old, new) in changes.items():
                out.print(difference(name, old, new))


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """The fields that differ, each with its old and new value."""
    for name in {**before, **after}:
        old, new = before.get(name, _NOTHING), after.get(name, _NOTHING)
        if old != new:
            yield name, (old, new)


def head(event: Mapping[str, Any], before: Mapping[str, Any], now: datetime) -> Text:
    """The line of an object: time, what has happened, class, name, reference."""
    record = event.get("snapshot") or before
    operation = event["operation"]
    return Text.assemble(
        (now.strftime("%H:%M:%S "), "dim"),
        (operation, STYLES[operation]),
        f" {event['class']} ",
        (str(record.get("name_label", "")), "bold"),
        (f" {event['ref']}", "dim"),
    )


def difference(name: str, old: Any, new: Any) -> Text:
    """The line of a field."""
    return Text.assemble((f"    {name}: ", "cyan"), (_short(old), "red"), " -> ", (_short(new), "green"))


def _plain(value: Any) -> Any:
    return None if value is _NOTHING else value


def _short(value: Any) -> str:
    text = "(none)" if value is _NOTHING else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
