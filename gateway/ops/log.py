"""One line a call, readable on a terminal, JSON for machines; never a value of a call, nor the text of an error."""

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

TIME_FORMAT = 0.05  # seconds that the line of a call may wait for others, so that a busy gateway writes once for many

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")

_LEVELS: Mapping[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


class _Lines:
    """Writes lines to a stream; a stream that is gone or full loses lines, never the call that is logged."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._waiting: list[str] = []
        self.lost = 0

    def info(self, line: str) -> None:
        """Write a line now, after those that wait."""
        self._waiting.append(line)
        self._write()

    debug = warning = error = critical = info

    def soon(self, line: str) -> None:
        """Write a line with those that come within the next moment: the lines of calls, of which there are many."""
        if not self._waiting:
            asyncio.get_running_loop().call_later(TIME_FORMAT, self._write)
        self._waiting.append(line)

    def _write(self) -> None:
        lines, self._waiting = self._waiting, []
        try:
            self._stream.write("".join(f"{line}\n" for line in lines))
            self._stream.flush()
        except (OSError, ValueError):
            self.lost += len(lines)


class _Forward(logging.Handler):
    """What adapters and libraries log by the standard library's means, as lines like all others."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        structlog.get_logger().log(
            record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info or None
        )


def configure(form: Literal["auto", "console", "json"] = "auto", level: str = "info") -> None:
    """Send every line to standard error, in one of the two forms."""
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
    """What somebody else wrote moves no cursor on a terminal; in JSON it is escaped anyway."""
    return {key: printable(value) if isinstance(value, str) else value for key, value in event.items()}


def _forward(level: int) -> None:
    """Adapters speak at the level of the config, libraries when they have to warn."""
    root = logging.getLogger()
    root.handlers = [handler for handler in root.handlers if not isinstance(handler, _Forward)]
    root.addHandler(_Forward())
    logging.getLogger("adapters").setLevel(level)


def lines_lost() -> int:
    """How many lines could not be written so far."""
    lines = structlog.get_config()["logger_factory"]()
    return lines.lost if isinstance(lines, _Lines) else 0


class _CallLine(msgspec.Struct, omit_defaults=True):
    """The line of one call, as JSON."""

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
    """The far side's name for an error, if it is one; a client's word may have no room for it."""
    return outcome.name if isinstance(outcome, Fault) and _NAME.fullmatch(outcome.name) else ""


_encode = msgspec.json.Encoder().encode


def _json(_logger: object, _name: str, event: MutableMapping[str, Any]) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()
