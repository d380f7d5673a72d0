"""What the gateway tells its log: events, each with fields, as records of the standard `logging` module.

`gateway.ops.log` writes them as lines. Until it is configured, warnings and errors go to standard error as plain text.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable

FIELDS = "event_fields"  # the attribute of a record that holds the fields of its event


class Logger:
    """Writes events: a fixed text for people to search for, and fields for what differs."""

    __slots__ = ("_logger",)

    def __init__(self, name: str = "gateway") -> None:
        self._logger = logging.getLogger("gateway" if name == "gateway" else f"gateway.{name}")

    def debug(self, event: str, **fields: object) -> None:
        """An event that helps to find a fault of the gateway."""
        self._logger.debug("%s", event, extra={FIELDS: fields})

    def info(self, event: str, **fields: object) -> None:
        """An event of normal work."""
        self._logger.info("%s", event, extra={FIELDS: fields})

    def warning(self, event: str, **fields: object) -> None:
        """An event that an operator should know of."""
        self._logger.warning("%s", event, extra={FIELDS: fields})

    def error(self, event: str, **fields: object) -> None:
        """An event that an operator has to act on."""
        self._logger.error("%s", event, extra={FIELDS: fields})

    def exception(self, event: str, **fields: object) -> None:
        """A bug: the error with the traceback of the exception that is being handled."""
        self._logger.error("%s", event, extra={FIELDS: fields}, exc_info=True)


# Lines that repeat

MOST_KEYS = 1024  # that are kept; with more the oldest line is forgotten, and may be written again early


class LogLimiter:
    """Lets one line through in `interval` seconds for each key, and counts what it holds back."""

    def __init__(self, interval: float, now: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval
        self._now = now
        self._lines: dict[Hashable, tuple[float, int]] = {}  # when the last line was written, and the number since

    def occurred(self, key: Hashable = None) -> int:
        """How often it has happened since its last line, this time included; 0: no line is due."""
        now = self._now()
        known = self._lines.get(key)
        if known is not None and now - known[0] < self._interval:
            self._lines[key] = known[0], known[1] + 1
            return 0
        if known is None and len(self._lines) >= MOST_KEYS:
            del self._lines[next(iter(self._lines))]
        self._lines.pop(key, None)  # the key moves to the end
        self._lines[key] = now, 0
        return 1 if known is None else known[1] + 1
