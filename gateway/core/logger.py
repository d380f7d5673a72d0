"""What the gateway tells its log: events, each with fields, as records of the standard `logging` module.

`gateway.ops.log` writes them as lines. Until it is configured, warnings and errors go to standard error as plain text.
"""

from __future__ import annotations

import logging

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
