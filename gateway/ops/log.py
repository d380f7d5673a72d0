"""The log on standard error: console lines on a terminal, else one JSON object a line.

One line for each call, without its values and without the text of an error, which may repeat a value. A line that
cannot be written is counted and lost; the call goes on.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from select import PIPE_BUF
from typing import Annotated, Any, Literal, TextIO

import msgspec
from msgspec import Meta

from gateway.core.dbus.names import printable
from gateway.core.logger import FIELDS, Logger
from gateway.core.migration.modes import Side
from gateway.core.routing.route import CallFinished, CallListener, Route
from gateway.core.rpc.model import Fault, Peer, Reply, ended, is_shared
from gateway.core.rpc.units import short

MOST_KNOWN = 4096  # lines whose fixed parts are kept

FLUSH_INTERVAL = 0.05  # seconds that the line of a call may wait, so that a busy gateway writes many at once

LONGEST = 100  # characters of a text that the client chooses: its agent and the id of its request

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")

_LEVELS: Mapping[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


_worker = 0  # the number of this process, where there are several


class _Lines:
    """Writes lines to a stream and counts lines that are lost because the stream is closed or full."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._waiting: list[CallLine | tuple[float, float, KnownLine]] = []  # or time and ms of a known one
        self._second, self._date = 0, b""  # the last one written
        self.lost = 0

    def info(self, line: str) -> None:
        """Write a line now, after the waiting ones."""
        self._write(f"{line}\n", 1)

    def soon(self, line: CallLine | tuple[float, float, KnownLine]) -> None:
        """Write the line of a call within FLUSH_INTERVAL, together with others; it is encoded then."""
        if not self._waiting:
            asyncio.get_running_loop().call_later(FLUSH_INTERVAL, self._write)
        self._waiting.append(line)

    def _write(self, last: str = "", count: int = 0) -> None:
        """Write the waiting lines, and `count` more."""
        lines, self._waiting = self._waiting, []
        try:
            text = b"".join(map(self._encoded, lines)).decode() + last if lines else last
            for piece in _whole_lines(text) if _worker else (text,):
                self._stream.write(piece)
                self._stream.flush()
        except (OSError, ValueError):
            self.lost += len(lines) + count

    def _encoded(self, line: CallLine | tuple[float, float, KnownLine]) -> bytes:
        if isinstance(line, CallLine):
            return _encode(line) + b"\n"
        when, ms, known = line
        second = int(when)
        if second != self._second:
            self._second, self._date = second, f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}".encode()
        micro = int((when - second) * 1e6)
        return b'{"timestamp":"%b.%06dZ%b%b%b\n' % (self._date, micro, known.before, repr(ms).encode(), known.after)


def _whole_lines(text: str) -> Iterator[str]:
    """Pieces of whole lines that several processes can write to one pipe without mixing them (PIPE_BUF, pipe(7))."""
    piece = ""
    for line in text.split("\n")[:-1]:  # and not at U+0085 or U+2028, which a client may send
        if piece and len(piece.encode()) + len(line.encode()) + 1 > PIPE_BUF:
            yield piece
            piece = ""
        piece += f"{line}\n"
    yield piece


class _Handler(logging.Handler):
    """Writes records as lines: those of the gateway with their fields, those of adapters and libraries with a name."""

    def __init__(self, lines: _Lines, level: int, *, console: bool) -> None:
        super().__init__(level)
        self.lines = lines
        self.console = console
        self._line = _console_line if console else _json_line

    def emit(self, record: logging.LogRecord) -> None:
        fields = getattr(record, FIELDS, None)
        event = {"logger": record.name} if fields is None else dict(fields)
        error = _formatted(record.exc_info) if record.exc_info else ""
        self.lines.info(self._line(record, event, error))


_formatted = logging.Formatter().formatException


def _json_line(record: logging.LogRecord, fields: dict[str, Any], error: str) -> str:
    fields["event"] = record.getMessage()
    fields["level"] = record.levelname.lower()
    fields["timestamp"] = datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z")
    if _worker:
        fields["worker"] = _worker
    if error:
        fields["exception"] = error
    return msgspec.json.encode(fields, enc_hook=str).decode()


_COLOURS = {"debug": "32", "info": "32", "warning": "33", "error": "31", "critical": "31"}  # of a terminal, ECMA-48
_SPECIAL = re.compile(r"[\s=\"']")


def _console_line(record: logging.LogRecord, fields: dict[str, Any], error: str) -> str:
    """A line for people: time, level, event, and the fields in the order of their names."""
    coloured = sys.stderr.isatty()

    def shown(text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if coloured else text

    if _worker:
        fields["worker"] = _worker
    level = record.levelname.lower()
    time = shown(datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S.%f"), "2")
    event = shown(f"{printable(record.getMessage()):<30}", "1")
    values = (f"{shown(name, '36')}={shown(_console_value(fields[name]), '35')}" for name in sorted(fields))
    line = " ".join((time, f"[{shown(f'{level:<8}', _COLOURS.get(level, '0'))}]", event, *values)).rstrip()
    return f"{line}\n{error}" if error else line


def _console_value(value: object) -> str:
    """A value without control characters, in quotes where its end could not be seen."""
    text = value if isinstance(value, str) else short(value) if isinstance(value, float) else repr(value)
    return printable(repr(text) if isinstance(value, str) and (not text or _SPECIAL.search(text)) else text)


def configure(form: Literal["auto", "console", "json"] = "auto", level: str = "info", *, worker: int = 0) -> None:
    """Set up the log in one of its two forms. `worker`: the number of this process, if it is one of several.

    The gateway and its adapters are logged at the level of the config, libraries from warning on.
    """
    global _worker  # noqa: PLW0603 - one for the process, as its standard error is
    _worker = worker
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    root = logging.getLogger()
    root.handlers = [handler for handler in root.handlers if not isinstance(handler, _Handler)]
    root.addHandler(_Handler(_Lines(sys.stderr), _LEVELS[level], console=console))
    for name in ("gateway", "adapters"):
        logging.getLogger(name).setLevel(_LEVELS[level])


def _handler() -> _Handler | None:
    """The handler that `configure` has set."""
    return next((handler for handler in logging.getLogger().handlers if isinstance(handler, _Handler)), None)


def lines_lost() -> int:
    """Return the number of lost lines."""
    handler = _handler()
    return handler.lines.lost if handler is not None else 0


class CallLine(msgspec.Struct, omit_defaults=True):
    """The JSON line of one call. Fields without a value are left out."""

    timestamp: Annotated[datetime, Meta(description="When the call ended, in UTC.")]
    level: Annotated[str, Meta(description="`info`.")]
    event: Annotated[str, Meta(description="`call`.")]
    service: Annotated[
        str, Meta(description="The service, as in the mapping; `<unmapped>` for a call without a mapping.")
    ]
    method: Annotated[str, Meta(description="The method, as in the mapping; `<unmapped>` otherwise.")]
    side: Annotated[
        Side | Literal[""], Meta(description="The side that served: legacy or dbus; empty: the gateway itself.")
    ]
    outcome: Annotated[
        str, Meta(description="`ok`, `redirect`, a fault code, or `unknown` or `withdrawn` if the client left.")
    ]
    ms: Annotated[float, Meta(description="Milliseconds from the arrival of the call to its outcome.")]
    peer: Annotated[str, Meta(description="The address of the client, or its Unix socket or domain.")]
    listener: Annotated[str, Meta(description="The [listener.NAME].")] = ""
    path: Annotated[str, Meta(description="The endpoint; of a streamed request its own path, without the query.")] = ""
    protocol: Annotated[str, Meta(description="`xmlrpc`, `jsonrpc`, `xenstore`; `http` or `tunnel` for streams.")] = ""
    uid: Annotated[int | None, Meta(description="The user at the other end of a Unix socket.")] = None
    domid: Annotated[int | None, Meta(description="The domain that wrote a request into a xenstore.")] = None
    user: Annotated[str, Meta(description="The user of the session, if the login passed this gateway.")] = ""
    agent: Annotated[str, Meta(description="The User-Agent, at most 100 characters.")] = ""
    request_id: Annotated[
        str, Meta(description="X-Request-Id, else the trace of `traceparent`, at most 100 characters.")
    ] = ""
    error: Annotated[str, Meta(description="The name of the error of a fault, if it is a name.")] = ""
    worker: Annotated[int, Meta(description="The number of the process, where there are several workers.")] = 0


class KnownLine(msgspec.Struct, frozen=True, eq=False):
    """The line of a call that succeeded, but for its time and its milliseconds, and what it was made of."""

    route: Route
    peer: Peer
    extensions: Mapping[str, object]
    side: Side | None
    before: bytes  # the milliseconds, from the end of the time on
    after: bytes


class KnownLines:
    """The lines of calls that share route, peer and extensions: they differ in time and milliseconds only."""

    def __init__(self, write: Callable[[CallLine | tuple[float, float, KnownLine]], None]) -> None:
        self._write = write
        self._known: dict[tuple[int, int, int], KnownLine] = {}  # by the ids of what they are made of

    def listen(self, finished: CallFinished) -> None:
        """Write the line of a call."""
        route, call = finished.route, finished.call
        peer, extensions = call.peer, call.extensions
        if not isinstance(finished.outcome, Reply):
            self._write(_line(finished))
            return
        known = self._known.get((id(route), id(peer), id(extensions)))
        if (
            known is None
            or known.route is not route
            or known.peer is not peer
            or known.extensions is not extensions
            or known.side is not finished.side
        ):
            if not is_shared(extensions):
                self._write(_line(finished))
                return
            known = self._learn(finished)
        self._write((_time(), round(finished.seconds * 1000, 2), known))

    def _learn(self, finished: CallFinished) -> KnownLine:
        route, call = finished.route, finished.call
        line = _line(finished)
        line.ms = 0.0
        before, _, after = _encode(line).partition(b'"ms":0.0')  # quotes within values are escaped
        before = before[before.index(b'","level":') :] + b'"ms":'
        known = KnownLine(route, call.peer, call.extensions, finished.side, before, after)
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        self._known[id(route), id(call.peer), id(call.extensions)] = known
        return known


def call_log() -> CallListener | None:
    """The listener that writes a line for each call; None where the log's level leaves these lines out.

    A line has the method as mapped, the side, how the call ended, milliseconds, the caller and where it came in. A busy
    gateway writes thousands of them a second, so in JSON they are not made records.
    """
    handler = _handler()
    if handler is None or handler.level > logging.INFO:
        return None
    if not handler.console:
        return KnownLines(handler.lines.soon).listen
    info = _log.info

    def readable(finished: CallFinished) -> None:
        fields = msgspec.structs.asdict(_line(finished))
        given = {name: value for name, value in fields.items() if name not in _OWN and value not in ("", None)}
        info("call", **{**given, "side": finished.side.value if finished.side is not None else ""})

    return readable


_log = Logger()
_OWN = frozenset({"timestamp", "level", "event"})  # that the handler writes itself
_now, _time = datetime.now, time.time


def _line(finished: CallFinished) -> CallLine:
    call, outcome, route = finished.call, finished.outcome, finished.route
    peer, known = call.peer, call.extensions.get
    return CallLine(
        _now(UTC),
        "info",
        "call",
        route.service,
        route.method,
        finished.side or "",
        "ok" if isinstance(outcome, Reply) else ended(outcome),
        round(finished.seconds * 1000, 2),
        peer.address,
        known("listener", ""),  # type: ignore[arg-type]  # all of these are text
        known("path", ""),  # type: ignore[arg-type]
        known("protocol", ""),  # type: ignore[arg-type]
        peer.uid,
        peer.domid,
        known("user", ""),  # type: ignore[arg-type]
        str(known("agent", ""))[:LONGEST],
        str(known("request_id", ""))[:LONGEST],
        outcome.name if isinstance(outcome, Fault) and _NAME.fullmatch(outcome.name) else "",  # if it is a name
        _worker,
    )


_encode = msgspec.json.Encoder().encode
