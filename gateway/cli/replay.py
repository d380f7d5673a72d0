"""`xcp-gateway replay`: send recorded calls to both sides, compare the outcomes, and print a summary."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import msgspec
import typer
from msgspec import Struct, field
from rich.text import Text

from gateway.cli.app import (
    DEFAULT_SOCKET,
    FAILED,
    UNUSABLE,
    Commands,
    JsonOption,
    SocketOption,
    ask,
    fail,
    flag,
    option,
    positional,
)
from gateway.cli.output import count, err, number, out, pair, print_fitted, print_json, table
from gateway.cli.output import seconds as in_words

commands = Commands()

TIMEOUT = 86_400.0  # seconds for one batch; the gateway limits each call
BATCH = 20  # calls of one request, and their bytes
BATCH_BYTES = 256 * 1024
LONGEST = 768 * 1024  # bytes of one call
MAX_DIFFS = 5  # mismatches that are shown of one method
NAMED = 5  # methods that are listed for one reason
DAMAGED = 20  # damaged lines that are listed

COUNTED = ("equal", "ignored", "different", "error_different", "too_large", "unanswered", "skipped")

Document: TypeAlias = Mapping[str, Any]


@commands.command()
def replay(
    file: Annotated[Path, positional("FILE", "A recording of `xcp-gateway record`.")],
    socket: SocketOption = DEFAULT_SOCKET,
    values: Annotated[
        list[str] | None, option("PLACE=VALUE", "A redacted value: session=OpaqueRef:1; repeatable.", "--value")
    ] = None,
    rate: Annotated[float, typer.Option(help="The greatest number of calls a second.", min=0.001, max=100_000)] = 50.0,
    max_diffs: Annotated[int, typer.Option(help="The number of mismatches shown of each method.", min=0)] = MAX_DIFFS,
    *,
    writes: Annotated[bool, flag("--writes", "Replay calls that write too. EACH OF THEM RUNS TWICE.")] = False,
    noise: Annotated[
        bool, flag("--noise", "Run legacy twice; ignore fields that differ between its two responses.")
    ] = False,
    as_json: JsonOption = False,
    json_lines: Annotated[
        bool, flag("--json-lines", "Print one JSON document for each call, and one for the whole.")
    ] = False,
) -> None:
    """Send recorded calls to the legacy service and to D-Bus, compare the outcomes, and show the mismatches.

    Modes are ignored, no client is affected, and rollouts do not count the calls. Comparison rules and redactions of
    the mapping apply. A call is skipped if a redacted value is not given with --value, or if it writes.

    Exit status 0 only if something was compared, nothing differs, and every line could be read.

    Examples: `xcp-gateway replay calls.jsonl --value session=OpaqueRef:1234`,
    `xcp-gateway replay calls.jsonl --value 'SR.create:config.password=secret' --rate 5 --noise`
    """
    given: dict[str, str] = {}
    for text in values or ():
        place, equals, value = text.partition("=")
        if not equals or not place:
            fail(f"--value: expected PLACE=VALUE, such as session=OpaqueRef:1, got '{text}'", UNUSABLE)
        given[place] = value
    recording = _read(file)
    _warn(recording, socket, writes=writes)
    outcome = ReplayTally()
    options = {"given": given, "writes": writes, "noise": noise}
    shown: Counter[str] = Counter()
    try:
        for line, result in _results(socket, recording.calls, options, rate):
            outcome.add(result)
            if json_lines:
                _print_line({"line": line, **result})
            elif not as_json and result["pair"] is not None:
                _show_mismatch(result, shown, max_diffs)
    except KeyboardInterrupt:
        err.print(f"stopped after {outcome.count()} of {count(len(recording.calls), 'call')}", style="red")
        outcome.stopped = True
    damaged = [{"line": line, "why": why} for line, why in recording.damaged]
    if json_lines or as_json:
        (_print_line if json_lines else print_json)({"methods": outcome.rows(), "damaged": damaged})
    else:
        _show(outcome, recording)
    raise typer.Exit(0 if outcome.is_proof and not recording.damaged else FAILED)


class RecordingFile(Struct):
    """A recording: calls with their line numbers, and damaged lines with the error. `is_whole`: it has an end."""

    file: Path
    header: Document | None = None
    calls: list[tuple[int, Document]] = field(default_factory=list)
    damaged: list[tuple[int, str]] = field(default_factory=list)
    is_whole: bool = False


def load(file: Path, lines: Iterable[bytes]) -> RecordingFile:
    """Parse the lines of a recording. A damaged line is noted and skipped."""
    from gateway.core.routing import call_record as lines_of

    recording = RecordingFile(file)
    for number_, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            if len(text) > LONGEST:
                raise ValueError(f"is longer than {LONGEST} bytes")  # noqa: TRY301
            document = lines_of.parse(text.rstrip(b"\r\n"))
        except ValueError as error:
            recording.damaged.append((number_, str(error)))
            continue
        if "recording" in document:
            recording.header = document
        elif "end" in document:
            recording.is_whole = True
        else:
            recording.calls.append((number_, document))
    return recording


def _read(file: Path) -> RecordingFile:
    try:
        with file.open("rb") as lines:
            recording = load(file, lines)
    except OSError as error:
        fail(f"{file}: {error.strerror or error}", UNUSABLE)
    for line, why in recording.damaged[:DAMAGED]:
        err.print(f"{file}:{line}: {why}", style="red")
    if len(recording.damaged) > DAMAGED:
        err.print(f"{file}: and {len(recording.damaged) - DAMAGED} more damaged lines", style="red")
    if not recording.calls:
        fail(f"{file}: the recording contains no calls", UNUSABLE)
    return recording


def _warn(recording: RecordingFile, socket: Path, *, writes: bool) -> None:
    live = ask(socket, "GET", "/v1/status")["revision"]
    header = recording.header
    if header is None:
        err.print(f"note: {recording.file} has no header line")
    elif header.get("revision") != live:
        err.print(f"note: recorded with revision {header.get('revision')} of the mapping; revision {live} is live")
    if not recording.is_whole:
        err.print(f"note: {recording.file} has no end line: the recording was interrupted")
    if writes:
        changing = Counter(
            f"{call['service']}/{call['method']}" for _, call in recording.calls if call.get("effect") != "read"
        )
        named = ", ".join(f"{name} ({times})" for name, times in sorted(changing.items())) or "none known"
        warning = f"WARNING: --writes: calls that write RUN TWICE, once on each side: {named}"
        err.print(warning, style="bold reverse red")


def _results(
    socket: Path, calls: Sequence[tuple[int, Document]], options: Document, rate: float
) -> Iterator[tuple[int, Document]]:
    """Send the calls at `rate` a second and yield the result of each."""
    began, sent = time.monotonic(), 0
    for batch in batches(calls, rate):
        time.sleep(max(0.0, began + sent / rate - time.monotonic()))
        request = {**options, "calls": [call for _, call in batch]}
        results = ask(socket, "POST", "/v1/replay", request, timeout=TIMEOUT)
        yield from zip((line for line, _ in batch), results, strict=True)
        sent += len(batch)


def batches(calls: Sequence[tuple[int, Document]], rate: float) -> Iterator[list[tuple[int, Document]]]:
    """Split calls into requests, each for about a fifth of a second."""
    from gateway.core.routing.call_record import call_of

    most = max(1, min(BATCH, int(rate / 5)))
    batch: list[tuple[int, Document]] = []
    size = 0
    for line, document in calls:
        call = call_of(document)
        length = len(msgspec.json.encode(call))
        if batch and (len(batch) == most or size + length > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append((line, call))
        size += length
    if batch:
        yield batch


class MethodTally(Struct):
    """Counts and latencies of one method."""

    verdicts: Counter[str] = field(default_factory=Counter)
    took: dict[str, list[float]] = field(default_factory=lambda: {"legacy": [], "dbus": []})  # seconds

    def row(self) -> dict[str, Any]:
        """As JSON."""
        times = {side: {f"p{part}": quantile(took, part) for part in (50, 99)} for side, took in self.took.items()}
        return {"calls": self.verdicts.total(), **{name: self.verdicts[name] for name in COUNTED}, **times}


class ReplayTally:
    """Counts of all methods, and the reasons for calls that were not compared."""

    def __init__(self) -> None:
        self.methods: dict[tuple[str, str], MethodTally] = {}
        self.reasons: dict[tuple[str, str], Counter[str]] = {}  # verdict and why -> of which methods
        self.missing: set[str] = set()
        self.stopped = False

    def add(self, result: Document) -> None:
        """Count one result."""
        method = self.methods.setdefault((result["service"], result["method"]), MethodTally())
        method.verdicts[result["verdict"]] += 1
        for side, took in method.took.items():
            if result[side] is not None:
                took.append(result[side])
        if result["why"]:
            methods = self.reasons.setdefault((result["verdict"], result["why"]), Counter())
            methods[f"{result['service']}/{result['method']}"] += 1
        self.missing.update(result["missing"])

    def rows(self) -> list[dict[str, Any]]:
        """One JSON object for each method."""
        named = sorted(self.methods.items())
        return [{"service": service, "method": method, **each.row()} for (service, method), each in named]

    def count(self, *verdicts: str) -> int:
        """The number of calls with one of these verdicts; of all without any."""
        return sum(each.verdicts[name] for each in self.methods.values() for name in verdicts or COUNTED)

    @property
    def is_proof(self) -> bool:
        """Whether something was compared and everything agrees."""
        agreed, skipped = self.count("equal", "ignored"), self.count("skipped")
        return agreed > 0 and self.count() == agreed + skipped and not self.stopped


def quantile(took: Sequence[float], part: int) -> float | None:
    """The percentile `part` of these durations."""
    if not took:
        return None
    ordered = sorted(took)
    return ordered[max(0, -(-len(ordered) * part // 100) - 1)]


def _print_line(document: Document) -> None:
    print(msgspec.json.encode(document).decode())  # noqa: T201


def _show_mismatch(result: Document, shown: Counter[str], most: int) -> None:
    from gateway.cli import diff

    name = f"{result['service']}/{result['method']}"
    shown[name] += 1
    if shown[name] <= most:
        print_fitted(diff.show(result["pair"]))
        out.print()
    elif shown[name] == most + 1:
        out.print(f"{name}: more mismatches; --max-diffs shows more, --json-lines all", style="dim")
        out.print()


# Verdict -> column. Columns of the second kind are shown if they count anything.
_ALWAYS = {"calls": "CALLS", "equal": "EQUAL", "different": "DIFFERENT"}
_SOMETIMES = {
    "ignored": "IGNORED",
    "error_different": "ERRORS DIFFER",
    "too_large": "TOO LARGE",
    "unanswered": "NO ANSWER",
    "skipped": "SKIPPED",
}


def _show(outcome: ReplayTally, recording: RecordingFile) -> None:
    rows = outcome.rows()
    heads = {**_ALWAYS, **{name: head for name, head in _SOMETIMES.items() if any(row[name] for row in rows)}}
    timed = any(row["legacy"]["p50"] is not None for row in rows)
    with table("METHOD", *heads.values(), *(("P50", "P99") if timed else ())) as shown:
        for row in rows:
            counts = (Text(number(row[name]), _STYLES.get(name, "") if row[name] else "dim") for name in heads)
            cells = [Text(f"{row['service']}/{row['method']}"), *counts]
            times = (pair(*(in_words(row[side][part]) for side in ("legacy", "dbus"))) for part in ("p50", "p99"))
            shown.add_row(*cells, *(map(Text, times) if timed else ()))
    for (verdict, why), methods in sorted(outcome.reasons.items()):
        more = f" and {len(methods) - NAMED} more" if len(methods) > NAMED else ""
        names = ", ".join(sorted(methods)[:NAMED]) + more
        out.print(f"{number(methods.total())} {verdict}: {why}: {names}", style="yellow")
    if outcome.missing:
        wanted = " ".join(f"--value {place}=VALUE" for place in sorted(outcome.missing))
        out.print(f"give redacted values with: {wanted}")
    damaged, differ = len(recording.damaged), outcome.count("different", "error_different")
    agreed, unanswered = outcome.count("equal", "ignored"), outcome.count("unanswered")
    parts = [f"{number(agreed + differ)} of {count(outcome.count(), 'call')} compared"]
    parts.append(
        f"{number(differ)} differ{'s' * (differ == 1)}" if differ else "nothing differs" if agreed else "no result"
    )
    parts += [f"{number(unanswered)} not answered"] if unanswered else []
    parts += [f"{count(damaged, 'damaged line')} left out"] if damaged else []
    out.print(", ".join(parts), style="bold" if outcome.is_proof and not damaged else "bold red")


_STYLES = {"different": "yellow", "error_different": "red", "too_large": "red", "unanswered": "red"}
