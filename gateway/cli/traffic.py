"""Commands about what clients call: who they are, and a recording of it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, BinaryIO
from urllib.parse import urlencode

import typer
from rich.text import Text

from gateway.cli import client
from gateway.cli.app import (
    DEFAULT_SOCKET,
    FAILED,
    MOVING,
    UNREACHABLE,
    UNUSABLE,
    JsonOption,
    SocketOption,
    app,
    ask,
    fail,
)
from gateway.cli.output import count, err, moment, number, out, print_json, table
from gateway.core.admin.records import IDENTITIES, OTHERS

STDOUT = Path("-")
WIDE = 100  # columns of a terminal that has room for both moments


@app.command(rich_help_panel=MOVING)
def clients(
    method: Annotated[
        str | None, typer.Argument(metavar="[METHOD]", help="Only of this method or pattern: VM.start, 'VM.*'.")
    ] = None,
    socket: SocketOption = DEFAULT_SOCKET,
    service: Annotated[str | None, typer.Option(help="Only of this service.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only who has called within: 90s, 10m, 24h.")
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show who still calls what over which protocol, the latest first: whom switching something off would hit.

    All that is not mapped is one: `<unmapped>`. A user is known where the login went through this gateway.

    Examples: `xcp-gateway clients --since 24h`, `xcp-gateway clients 'VM.*' --service xapi`
    """
    earliest = 0.0 if since is None else time.time() - seconds(since)
    given = {"method": method, "service": service, "since": earliest, "limit": 10_000}
    asked = {name: value for name, value in given.items() if value is not None}
    rows = ask(socket, "GET", f"/v1/clients?{urlencode(asked)}")
    if as_json:
        print_json(rows)
    elif not rows:
        out.print(f"nobody has called {method or 'anything'}{f' within {since}' if since else ''}", markup=False)
    else:
        _show_clients(rows)
        if any(OTHERS in (row["agent"], row["peer"]) for row in rows):
            told = (
                f"{OTHERS}: callers told together, beyond {IDENTITIES} of one peer and protocol or 10,000 rows in all"
            )
            out.print(told, style="yellow", markup=False, soft_wrap=True)


@app.command(rich_help_panel=MOVING)
def record(
    patterns: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PATTERN...]", help="Methods: VM.get_record, 'VM.*', group:NAME; default: all."),
    ] = None,
    socket: SocketOption = DEFAULT_SOCKET,
    out_file: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="Where to; - is standard output.", show_default=False)
    ] = ...,  # type: ignore[assignment]  # typer's way to say that it must be given
    calls: Annotated[int, typer.Option(help="At most so many calls.", min=1, max=1_000_000)] = 1_000,
    for_: Annotated[str, typer.Option("--for", metavar="TIME", help="At most for so long: 90s, 10m, 2h.")] = "10m",
    size: Annotated[str, typer.Option(metavar="SIZE", help="At most so much: 512KiB, 64MiB.")] = "64MiB",
    *,
    writes: Annotated[
        bool, typer.Option("--writes", help="Also calls that change something; else only reads are recorded.")
    ] = False,
) -> None:
    """Record what clients of this gateway call, as lines of JSON for `replay`. No client waits for it.

    Sessions and everything that the mapping redacts are left out. It ends at the first of its bounds, or with Ctrl-C.
    What cannot be kept is counted: calls that came faster than they could be written, and calls over 64 KiB.

    Examples: `xcp-gateway record --out calls.jsonl`,
    `xcp-gateway record 'VM.get_*' --out vm.jsonl --calls 200 --for 5m`
    """
    request = {"patterns": patterns or [], "calls": calls, "seconds": seconds(for_), "size": _size(size)}
    taking = _RecordingWriter(out_file)
    try:
        client.stream(socket, "POST", "/v1/record", {**request, "writes": writes}, taking.line)
    except client.UnreachableError as error:
        taking.close()
        fail(str(error), UNREACHABLE)
    except client.RefusedError as error:
        fail(str(error), FAILED)
    except OSError as error:
        fail(f"{out_file}: {error.strerror or error}", UNUSABLE)
    except KeyboardInterrupt:
        taking.ended = taking.ended or {"end": "stopped"}
    taking.close()
    taking.tell()


class _RecordingWriter:
    """A recording on its way into its file, which nobody but its owner can read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._calls = 0
        self._bytes = 0
        self.ended: Mapping[str, Any] | None = None

    def line(self, line: bytes) -> None:
        """Write one line as it comes."""
        from gateway.core.routing.call_record import parse

        if self._file is None:
            self._file = self._open()
            err.print(_begins(parse(line)), markup=False)
        self._file.write(line + b"\n")
        self._file.flush()
        self._bytes += len(line) + 1
        document = parse(line)
        if "end" in document:
            self.ended = document
        elif "recording" not in document:
            self._calls += 1

    def close(self) -> None:
        """Nothing more comes."""
        if self._file is not None and self._path != STDOUT:
            self._file.close()

    def tell(self) -> None:
        """What came of it."""
        ended = self.ended or {"end": "the gateway has gone"}
        place = "" if self._path == STDOUT else f" in {self._path}"
        err.print(
            f"{count(self._calls, 'call')}, {number(self._bytes)} bytes{place}: {ended['end']}",
            markup=False,
            soft_wrap=True,
        )
        for name, why in _LOST.items():
            if ended.get(name):
                err.print(
                    f"  not recorded: {count(ended[name], 'call')} {why}", style="yellow", markup=False, soft_wrap=True
                )
        raise typer.Exit(0 if self.ended else FAILED)

    def _open(self) -> BinaryIO:
        if self._path == STDOUT:
            return sys.stdout.buffer
        return os.fdopen(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")


_LOST = {"no_room": "that came faster than they could be written", "too_large": "larger than 64 KiB"}


def _begins(header: Mapping[str, Any]) -> str:
    what = "calls" if header["writes"] else "reads"
    return f"recording {what} of {count(len(header['methods']), 'method')}; Ctrl-C ends it"


def seconds(text: str) -> float:
    """A duration that was given; the command ends here when it is none."""
    from gateway.core.rpc import units

    try:
        return units.seconds(text)
    except ValueError as error:
        fail(str(error), UNUSABLE)


def _size(text: str) -> int:
    from gateway.core.rpc import units

    try:
        return units.size(text)
    except ValueError as error:
        fail(str(error), UNUSABLE)


def _show_clients(rows: Sequence[Mapping[str, Any]]) -> None:
    """What no client tells of itself has no column; a domain is in PEER."""
    told = [name for name in ("agent", "user") if any(row[name] for row in rows)]
    moments = ["last"] if out.is_terminal and out.width < WIDE else ["first", "last"]
    with table("METHOD", "PROTOCOL", "PEER", *map(str.upper, told), "CALLS", *map(str.upper, moments)) as shown:
        for row in rows:
            name = row["method"] if row["method"] == row["service"] else f"{row['service']}/{row['method']}"
            cells = (name, *(row[key] for key in ("protocol", "peer", *told)), number(row["count"]))
            shown.add_row(*map(Text, map(_printable, (*cells, *(moment(row[each]) for each in moments)))))
    out.print()
    for protocol in sorted({row["protocol"] for row in rows}):
        out.print(_summary(protocol, [row for row in rows if row["protocol"] == protocol]), markup=False)


def _summary(protocol: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Whether anybody needs a protocol, in a line."""
    peers = len({(row["peer"], row["agent"], row["user"], row["domid"]) for row in rows})
    methods = len({(row["service"], row["method"]) for row in rows})
    last = moment(max(row["last"] for row in rows))
    return f"{protocol}: {count(peers, 'caller')}, {count(methods, 'method')}, last {last}"


def _printable(text: str) -> str:
    """What a client says of itself moves no cursor."""
    from gateway.mapping.problem import printable

    return printable(text)
