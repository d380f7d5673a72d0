"""What the gateway has told its log in this process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from gateway.core.logger import FIELDS


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[str, Mapping[str, Any]]]:
    """The events so far, with their fields: warnings and errors, and with the level of the logger set others too."""
    return [(record.getMessage(), getattr(record, FIELDS)) for record in caplog.records if hasattr(record, FIELDS)]
