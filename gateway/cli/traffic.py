"""Commands for the calls of clients: clients and record."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, BinaryIO, NoReturn

import typer
from rich.text import Text

from gateway.cli import client, completion
from gateway.cli.app import (
    DEFAULT_SOCKET,
    FAILED,
    UNUSABLE,
    Commands,
    JsonOption,
    SocketOption,
    ask,
    fail,
    failing,
    flag,
    option,
    parsed,
    positional,
)
from gateway.cli.output import NOTHING, count, err, moment, number, out, print_json, table
from gateway.core.rpc import units

commands = Commands()

STDOUT = Path("-")
WIDE = 100  # columns of a terminal that shows FIRST too


@commands.command()
def clients(
    method: Annotated[
        str | None, positional("METHOD", "A method or a pattern: VM.start, 'VM.*'; default: all.", completion.patterns)
    ] = None,
    socket: SocketOption = DEFAULT_SOCKET,
    service: Annotated[
        str | None, option("NAME", "Only methods of this service.", autocompletion=completion.services)
    ] = None,
    since: Annotated[str | None, option("TIME", "Only callers of the last: 90s, 10m, 24h.")] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """List the callers of each method by protocol, the latest first.

    Calls without a mapping are counted together as `<unmapped>`. USER is known if the login passed this gateway.
    RECEIVED and SENT are bytes of streamed bodies and tunnels, REDIRECTS answers that name another host.

    Examples: `xcp-gateway clients --since 24h`, `xcp-gateway clients 'VM.*' --service xapi`
    """
    from gateway.core.admin.records import IDENTITIES, OTHERS

    earliest = 0.0 if since is None else time.time() - parsed(units.seconds, since)
    rows = ask(socket, "GET", "/v1/clients", method=method, service=service, since=earliest, limit=10_000)
    if as_json:
        print_json(rows)
    elif not rows:
        out.print(f"no calls of {method or 'any method'}{f' within {since}' if since else ''}")
    else:
        _show_clients(rows)
        if any(OTHERS in (row["agent"], row["peer"]) for row in rows):
            note = f"{OTHERS}: further callers, beyond {IDENTITIES} of one peer and protocol or 10,000 rows in all"
            out.print(note, style="yellow")


@commands.command()
def record(
    patterns: Annotated[
        list[str] | None,
        positional("PATTERN", "Methods: VM.get_record, 'VM.*', group:NAME; default: all.", completion.patterns),
    ] = None,
    socket: SocketOption = DEFAULT_SOCKET,
    out_file: Annotated[
        Path, option("FILE", "The file; - is standard output.", "--out", "-o", show_default=False)
    ] = ...,  # type: ignore[assignment]  # typer: a required option
    calls: Annotated[int, typer.Option(help="The number of calls after which it ends.", min=1, max=1_000_000)] = 1_000,
    duration: Annotated[str, option("TIME", "The time after which it ends: 90s, 10m, 2h.")] = "10m",
    max_size: Annotated[str, option("SIZE", "The size after which it ends: 512KiB, 64MiB.", "--size")] = "64MiB",
    *,
    writes: Annotated[bool, flag("--writes", "Record calls that write too; default: only reads.")] = False,
    force: Annotated[bool, flag("--force", "Replace a file that exists; what is in it is lost.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Record calls of clients as JSON lines for `replay`. No client waits for it.

    Sessions and values that the mapping redacts are left out. It ends at the first limit, or with Ctrl-C. Calls that
    are too fast or larger than 64 KiB are not recorded, but counted.

    Examples: `xcp-gateway record --out calls.jsonl`,
    `xcp-gateway record 'VM.get_*' --out vm.jsonl --calls 200 --duration 5m`
    """
    request = {"patterns": patterns or [], "calls": calls, "seconds": parsed(units.seconds, duration)}
    request["size"] = parsed(units.size, max_size)
    if as_json and out_file == STDOUT:
        fail("--json: the recording is on standard output, expected another --out", UNUSABLE)
    if out_file.is_file() and not force:
        fail(f"{out_file} exists: --force replaces it, --out names another file", FAILED)
    writer = _RecordingWriter(out_file, as_json=as_json)
    try:
        with closing(writer), failing():
            client.stream(socket, "POST", "/v1/record", {**request, "writes": writes}, writer.line)
    except OSError as error:  # of a full disk, by `close` too
        fail(f"{out_file}: {error.strerror or error}", UNUSABLE)
    except KeyboardInterrupt:
        writer.ended = writer.ended or {"end": "stopped"}
    writer.report()


class _RecordingWriter:
    """Writes a recording to its file, which only its owner can read."""

    def __init__(self, path: Path, *, as_json: bool) -> None:
        self._path = path
        self._as_json = as_json
        self._file: BinaryIO | None = None
        self._calls = 0
        self._bytes = 0
        self.ended: Mapping[str, Any] | None = None

    def line(self, line: bytes) -> None:
        from gateway.core.routing.call_record import parse

        document = parse(line)
        if self._file is None:
            is_stdout = self._path == STDOUT
            opened = -1 if is_stdout else os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            self._file = sys.stdout.buffer if is_stdout else os.fdopen(opened, "wb")
            if not self._as_json:
                kind = "calls" if document["writes"] else "reads"
                err.print(f"recording {kind} of {count(len(document['methods']), 'method')}; stop with Ctrl-C")
        self._file.write(line + b"\n")
        self._file.flush()
        self._bytes += len(line) + 1
        if "end" in document:
            self.ended = document
        elif "recording" not in document:
            self._calls += 1

    def close(self) -> None:
        if self._file is not None and self._path != STDOUT:
            self._file.close()

    def report(self) -> NoReturn:
        """Print how it ended and end the command."""
        ended = self.ended or {"end": _CUT}
        if self._as_json:
            trouble: Mapping[str, object] = {} if self.ended else {"error": _CUT, "status": FAILED}
            lost = {name: ended.get(name, 0) for name in _LOST}
            counted = {"file": str(self._path), "calls": self._calls, "bytes": self._bytes}
            print_json({**trouble, **counted, "end": ended["end"], **lost})
            raise typer.Exit(0 if self.ended else FAILED)
        place = "" if self._path == STDOUT else f" in {self._path}"
        err.print(f"{count(self._calls, 'call')}, {number(self._bytes)} bytes{place}: {ended['end']}")
        for name, why in _LOST.items():
            if ended.get(name):
                err.print(f"  not recorded: {count(ended[name], 'call')} {why}", style="yellow")
        raise typer.Exit(0 if self.ended else FAILED)


_CUT = "the gateway has closed the connection"
_LOST = {"no_room": "too fast to be written", "too_large": "larger than 64 KiB"}


def _show_clients(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print one row for each caller, and a summary for each protocol. A column without any value is left out."""
    known = [name for name in ("agent", "user") if any(row[name] for row in rows)]
    moments = ["last"] if out.is_terminal and out.width < WIDE else ["first", "last"]
    counted = [name for name in ("redirects", "received", "sent") if any(row[name] for row in rows)]
    columns = ("METHOD", "PROTOCOL", "PEER", *known, "CALLS", *counted, *moments)
    with table(*map(str.upper, columns)) as shown:
        for row in rows:
            name = row["method"] if row["method"] == row["service"] else f"{row['service']}/{row['method']}"
            cells = (name, *(row[key] for key in ("protocol", "peer", *known)), number(row["count"]))
            cells += tuple(number(row[each]) if row["method"] == row["service"] else NOTHING for each in counted)
            shown.add_row(*map(Text, (*cells, *(moment(row[each]) for each in moments))))
    out.print()
    for protocol in sorted({row["protocol"] for row in rows}):
        those = [row for row in rows if row["protocol"] == protocol]
        peers = len({(row["peer"], row["agent"], row["user"], row["domid"]) for row in those})
        methods = len({(row["service"], row["method"]) for row in those})
        last = moment(max(row["last"] for row in those))
        out.print(f"{protocol}: {count(peers, 'caller')}, {count(methods, 'method')}, last {last}")
