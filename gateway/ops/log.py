"""The log on standard error: console lines on a terminal, else one JSON object a line.

One line for each call, without its values and without the text of an error, which may repeat a value. A line that
cannot be written is counted and lost; the call goes on.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

import msgspec
import structlog

from gateway.core.dbus.names import printable
from gateway.core.routing.route import CallFinished, CallListener
from gateway.core.rpc.model import Fault, Outcome, ended

FLUSH_INTERVAL = 0.05  # seconds that the line of a call may wait, so that a busy gateway writes many at once

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")

_LEVELS: Mapping[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


class _Lines:
    """Writes lines to a stream and counts lines that are lost because the stream is closed or full."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._waiting: list[str] = []
        self.lost = 0

    def info(self, line: str) -> None:
        """Write a line now, after the waiting ones."""
        self._waiting.append(line)
        self._write()

    debug = warning = error = critical = info

    def soon(self, line: str) -> None:
        """Write a line within FLUSH_INTERVAL, together with others."""
        if not self._waiting:
            asyncio.get_running_loop().call_later(FLUSH_INTERVAL, self._write)
        self._waiting.append(line)

    def _write(self) -> None:
        lines, self._waiting = self._waiting, []
        try:
            self._stream.write("".join(f"{line}\n" for line in lines))
            self._stream.flush()
        except (OSError, ValueError):
            self.lost += len(lines)


class _Forward(logging.Handler):
    """Passes records of the logging module (adapters, libraries) to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        structlog.get_logger().log(
            record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info or None
        )


def configure(form: Literal["auto", "console", "json"] = "auto", level: str = "info") -> None:
    """Set up the log in one of its two forms."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S.%f" if console else "iso", utc=not console),
    ]
    renderer: list[structlog.typing.Processor] = (
        [_escaped, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
        if console
        else [structlog.processors.format_exc_info, _json]
    )
    lines = _Lines(sys.stderr)
    structlog.configure(
        processors=[*processors, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *_: lines,
    )
    _forward(_LEVELS[level])


def _escaped(_logger: object, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Escape control characters for a terminal; JSON escapes them anyway."""
    return {key: printable(value) if isinstance(value, str) else value for key, value in event.items()}


def _forward(level: int) -> None:
    """Log adapters at the level of the config, libraries from warning on."""
    root = logging.getLogger()
    root.handlers = [handler for handler in root.handlers if not isinstance(handler, _Forward)]
    root.addHandler(_Forward())
    logging.getLogger("adapters").setLevel(level)


def lines_lost() -> int:
    """Return the number of lost lines."""
    lines = structlog.get_config()["logger_factory"]()
    return lines.lost if isinstance(lines, _Lines) else 0


class _CallLine(msgspec.Struct, omit_defaults=True):
    """The JSON line of one call."""

    timestamp: datetime
    level: str
    event: str
    method: str
    side: str
    outcome: str
    ms: float
    peer: str
    error: str = ""


def call_log() -> CallListener | None:
    """The listener that writes a line for each call; None where the log's level leaves these lines out.

    A line has the method as mapped, the side, how the call ended, milliseconds, and the peer. A busy gateway writes
    thousands of them a second, so in JSON they bypass structlog's processors.
    """
    logger = structlog.get_logger().bind()
    if not logger.is_enabled_for(logging.INFO):
        return None
    if structlog.get_config()["processors"][-1] is _json:
        return _as_json(structlog.get_config()["logger_factory"]().soon)
    info = logger.info

    def readable(finished: CallFinished) -> None:
        outcome, side = finished.outcome, finished.side.value if finished.side is not None else ""
        ms, peer = round(finished.seconds * 1000, 2), finished.call.peer.address
        error = {"error": name} if (name := _error(outcome)) else {}
        info("call", method=finished.route.method, side=side, outcome=ended(outcome), ms=ms, peer=peer, **error)

    return readable


def _as_json(write: Callable[[str], None]) -> CallListener:
    def write_line(finished: CallFinished) -> None:
        outcome, side = finished.outcome, finished.side.value if finished.side is not None else ""
        ms, peer = round(finished.seconds * 1000, 2), finished.call.peer.address
        method = finished.route.method
        line = _CallLine(datetime.now(UTC), "info", "call", method, side, ended(outcome), ms, peer, _error(outcome))
        write(_encode(line).decode())

    return write_line


def _error(outcome: Outcome) -> str:
    """The error name of a fault, unless it contains other characters than a name."""
    return outcome.name if isinstance(outcome, Fault) and _NAME.fullmatch(outcome.name) else ""


_encode = msgspec.json.Encoder().encode


def _json(_logger: object, _name: str, event: MutableMapping[str, Any]) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()
