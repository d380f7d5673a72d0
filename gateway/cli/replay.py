"""The command that sends recorded calls to both sides, and what it says of the answers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import msgspec
import typer
from rich.text import Text

from gateway.cli.app import DEFAULT_SOCKET, FAILED, MOVING, UNUSABLE, SocketOption, app, ask, fail
from gateway.cli.output import count, err, number, out, pair, table
from gateway.cli.output import seconds as in_words

TIMEOUT = 86_400.0  # seconds for one batch; the gateway holds the deadline of each call
BATCH = 20  # calls of one request, and their bytes
BATCH_BYTES = 256 * 1024
LONGEST = 768 * 1024  # bytes of one call
PAIRS = 5  # differing pairs that are shown of one method
NAMED = 5  # methods to which the same has happened
DAMAGED = 20  # damaged lines that are named

COUNTED = ("equal", "ignored", "different", "error_different", "too_large", "unanswered", "skipped")

Document: TypeAlias = Mapping[str, Any]


@app.command(rich_help_panel=MOVING)
def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `record` has written.")],
    socket: SocketOption = DEFAULT_SOCKET,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PLACE=VALUE",
            help="In place of what was redacted: session=OpaqueRef:1; as often as needed.",
        ),
    ] = None,
    rate: Annotated[float, typer.Option(help="At most so many calls a second.", min=0.001, max=100_000)] = 50.0,
    pairs: Annotated[int, typer.Option(help="Differing pairs that are shown of each method.", min=0)] = PAIRS,
    *,
    writes: Annotated[
        bool, typer.Option("--writes", help="Also calls that change something. EACH OF THEM RUNS TWICE.")
    ] = False,
    noise: Annotated[
        bool,
        typer.Option("--noise", help="Call the legacy side twice: what it varies in is not a difference."),
    ] = False,
    json_lines: Annotated[
        bool, typer.Option("--json-lines", help="One JSON document a call, and one for the whole; for machines.")
    ] = False,
) -> None:
    """Send recorded calls to the legacy service and to D-Bus, compare their answers, and show where they differ.

    Modes play no part in it, no client is in it, and nothing moves by it: it is for the time before the first percent.
    The rules and redactions of the mapping hold. A call is skipped and counted where a redacted value is not given
    with --set, and where running it twice may do harm.

    Exit status 0 only when something was compared, nothing differs, and every line could be read.

    Examples: `xcp-gateway replay calls.jsonl --set session=OpaqueRef:1234`,
    `xcp-gateway replay calls.jsonl --set 'SR.create:config.password=secret' --rate 5 --noise`
    """
    given = _given(set_ or [])
    recording = _read(file)
    _warn(recording, socket, writes=writes)
    outcome = ReplayTally()
    asked = {"given": given, "writes": writes, "noise": noise}
    shown: Counter[str] = Counter()
    try:
        for line, result in _results(socket, recording.calls, asked, rate):
            outcome.add(result)
            if json_lines:
                _print_line({"line": line, **result})
            elif result["pair"] is not None:
                _show_pair(result, shown, pairs)
    except KeyboardInterrupt:
        err.print(f"stopped after {outcome.total} of {count(len(recording.calls), 'call')}", style="red")
        outcome.stopped = True
    if json_lines:
        damaged = [{"line": line, "why": why} for line, why in recording.damaged]
        _print_line({"methods": outcome.rows(), "damaged": damaged})
    else:
        _show(outcome, recording)
    raise typer.Exit(0 if outcome.is_proof and not recording.damaged else FAILED)


# The file


@dataclass(slots=True)
class RecordingFile:
    """What a file holds: calls with the numbers of their lines, and lines that are none."""

    file: Path
    header: Document | None = None
    calls: list[tuple[int, Document]] = field(default_factory=list)
    damaged: list[tuple[int, str]] = field(default_factory=list)
    is_whole: bool = False


def load(file: Path, lines: Iterable[bytes]) -> RecordingFile:
    """Read the lines of a recording; what is damaged costs its own line."""
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
        err.print(f"{file}:{line}: {why}", style="red", markup=False, soft_wrap=True)
    if len(recording.damaged) > DAMAGED:
        more = f"{file}: and {len(recording.damaged) - DAMAGED} more damaged lines"
        err.print(more, style="red", markup=False, soft_wrap=True)
    if not recording.calls:
        fail(f"{file}: there is no call in it", UNUSABLE)
    return recording


def _given(said: Sequence[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for text in said:
        place, equals, value = text.partition("=")
        if not equals or not place:
            fail(f"--set: expected PLACE=VALUE, such as session=OpaqueRef:1, got '{text}'", UNUSABLE)
        given[place] = value
    return given


def _warn(recording: RecordingFile, socket: Path, *, writes: bool) -> None:
    live = ask(socket, "GET", "/v1/status")["revision"]
    header = recording.header
    if header is None:
        err.print(f"note: {recording.file} has no first line that says what it is", markup=False, soft_wrap=True)
    elif header.get("revision") != live:
        text = f"note: recorded with revision {header.get('revision')} of the mapping; revision {live} is live"
        err.print(text, markup=False, soft_wrap=True)
    if not recording.is_whole:
        note = f"note: {recording.file} has no last line: its recording did not end by itself"
        err.print(note, markup=False, soft_wrap=True)
    if writes:
        changing = Counter(
            f"{call['service']}/{call['method']}" for _, call in recording.calls if call.get("effect") != "read"
        )
        named = ", ".join(f"{name} ({times})" for name, times in sorted(changing.items())) or "none that is known of"
        text = f"WARNING: --writes: calls that change something RUN TWICE, once on each side: {named}"
        err.print(text, style="bold reverse red", markup=False, soft_wrap=True)


# The calls


def _results(
    socket: Path, calls: Sequence[tuple[int, Document]], asked: Document, rate: float
) -> Iterator[tuple[int, Document]]:
    """What came of each call, no more of them a second than `rate`."""
    began, sent = time.monotonic(), 0
    for batch in batches(calls, rate):
        time.sleep(max(0.0, began + sent / rate - time.monotonic()))
        request = {**asked, "calls": [call for _, call in batch]}
        results = ask(socket, "POST", "/v1/replay", request, timeout=TIMEOUT)
        yield from zip((line for line, _ in batch), results, strict=True)
        sent += len(batch)


def batches(calls: Sequence[tuple[int, Document]], rate: float) -> Iterator[list[tuple[int, Document]]]:
    """Some calls at a time, about a fifth of a second's."""
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


# What came of them


@dataclass(slots=True)
class MethodTally:
    """The calls of one method."""

    verdicts: Counter[str] = field(default_factory=Counter)
    legacy: list[float] = field(default_factory=list)  # seconds
    dbus: list[float] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """For machines."""
        times = {side: {f"p{part}": quantile(took, part) for part in (50, 99)} for side, took in self._sides()}
        return {"calls": self.verdicts.total(), **{name: self.verdicts[name] for name in COUNTED}, **times}

    def _sides(self) -> tuple[tuple[str, list[float]], ...]:
        return ("legacy", self.legacy), ("dbus", self.dbus)


class ReplayTally:
    """What came of all calls."""

    def __init__(self) -> None:
        self.methods: dict[tuple[str, str], MethodTally] = {}
        self.reasons: dict[tuple[str, str], Counter[str]] = {}  # verdict and why -> of which methods
        self.missing: set[str] = set()
        self.stopped = False

    def add(self, result: Document) -> None:
        """One call more."""
        method = self.methods.setdefault((result["service"], result["method"]), MethodTally())
        method.verdicts[result["verdict"]] += 1
        for took, seconds in ((method.legacy, result["legacy"]), (method.dbus, result["dbus"])):
            if seconds is not None:
                took.append(seconds)
        if result["why"]:
            methods = self.reasons.setdefault((result["verdict"], result["why"]), Counter())
            methods[f"{result['service']}/{result['method']}"] += 1
        self.missing.update(result["missing"])

    def rows(self) -> list[dict[str, Any]]:
        """A row for each method, for machines."""
        named = sorted(self.methods.items())
        return [{"service": service, "method": method, **each.row()} for (service, method), each in named]

    def count(self, *verdicts: str) -> int:
        """How many calls came to one of these."""
        return sum(method.verdicts[verdict] for method in self.methods.values() for verdict in verdicts)

    @property
    def total(self) -> int:
        """All of them."""
        return self.count(*COUNTED)

    @property
    def is_proof(self) -> bool:
        """Something was compared, and all of that agrees."""
        agreed, not_so = self.count("equal", "ignored"), self.total - self.count("equal", "ignored", "skipped")
        return agreed > 0 and not not_so and not self.stopped


def quantile(took: Sequence[float], part: int) -> float | None:
    """The least of these seconds that so many per cent of them are within."""
    if not took:
        return None
    ordered = sorted(took)
    return ordered[max(0, -(-len(ordered) * part // 100) - 1)]


# How it is shown


def _print_line(document: Document) -> None:
    print(msgspec.json.encode(document).decode())  # noqa: T201


def _show_pair(result: Document, shown: Counter[str], most: int) -> None:
    from gateway.cli import diff

    name = f"{result['service']}/{result['method']}"
    shown[name] += 1
    if shown[name] <= most:
        out.print(diff.show(result["pair"]))
        out.print()
    elif shown[name] == most + 1:
        out.print(f"{name}: more of them differ; --pairs shows more, --json-lines all", style="dim", markup=False)
        out.print()


# What a column is of -> how it is headed. Of the second kind only those with something in them.
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
    with table("METHOD", *heads.values(), *(("P50 OLD/NEW", "P99 OLD/NEW") if timed else ())) as shown:
        for row in rows:
            cells = [Text(f"{row['service']}/{row['method']}"), *(_cell(name, row[name]) for name in heads)]
            times = (pair(*(in_words(row[side][part]) for side in ("legacy", "dbus"))) for part in ("p50", "p99"))
            shown.add_row(*cells, *(map(Text, times) if timed else ()))
    for (verdict, why), methods in sorted(outcome.reasons.items()):
        text = f"{number(methods.total())} {verdict}: {why}: {_named(methods)}"
        out.print(text, style="yellow", markup=False, soft_wrap=True)
    if outcome.missing:
        wanted = " ".join(f"--set {place}=VALUE" for place in sorted(outcome.missing))
        out.print(f"what was redacted can be given: {wanted}", markup=False, soft_wrap=True)
    text, style = _verdict(outcome, len(recording.damaged))
    out.print(text, style=style, markup=False)


def _named(methods: Counter[str]) -> str:
    first = ", ".join(sorted(methods)[:NAMED])
    return first if len(methods) <= NAMED else f"{first} and {len(methods) - NAMED} more"


_STYLES = {"different": "yellow", "error_different": "red", "too_large": "red", "unanswered": "red"}


def _cell(name: str, times: int) -> Text:
    return Text(number(times), _STYLES.get(name, "") if times else "dim")


def _verdict(outcome: ReplayTally, damaged: int) -> tuple[str, str]:
    agreed, differ = outcome.count("equal", "ignored"), outcome.count("different", "error_different")
    said = [f"{number(agreed + differ)} of {count(outcome.total, 'call')} compared"]
    said.append(
        f"{number(differ)} differ{'s' * (differ == 1)}"
        if differ
        else "nothing differs"
        if agreed
        else "that proves nothing"
    )
    if outcome.count("unanswered"):
        said.append(f"{number(outcome.count('unanswered'))} not answered")
    if damaged:
        said.append(f"{count(damaged, 'damaged line')} left out")
    return ", ".join(said), "bold" if outcome.is_proof and not damaged else "bold red"
