"""One line a call, readable on a terminal, JSON for machines; never a value of a call."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal

import msgspec
import structlog

from gateway.core.model import Call, Fault, Outcome

_LEVELS: Mapping[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def configure(form: Literal["auto", "console", "json"] = "auto", level: str = "info") -> None:
    """Send every line to standard error, in one of the two forms."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S.%f" if console else "iso", utc=not console),
    ]
    renderer: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
        if console
        else [structlog.processors.format_exc_info, _json]
    )
    structlog.configure(
        processors=[*processors, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def note_call(method: str, call: Call, outcome: Outcome, seconds: float) -> None:
    """Write the line of one call: method as mapped, how it ended, milliseconds, who asked."""
    ended = outcome.code.value if isinstance(outcome, Fault) else "ok"
    _calls.info("call", method=method, outcome=ended, ms=round(seconds * 1000, 2), peer=call.peer.address)


def _json(_logger: object, _name: str, event: MutableMapping[str, Any]) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()


_calls = structlog.get_logger("call")
