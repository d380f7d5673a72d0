"""What every path shares."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gateway.admin.http import json
from gateway.core.admin.records import Rejected, StateRefused
from tests.kit.admin import ask, serving


@pytest.mark.parametrize(
    ("refused", "status"),
    [(Rejected("no such method"), 422), (StateRefused("disk full"), 503), (StateRefused("outrun", conflict=True), 409)],
)
def test_a_refusal_has_the_status_of_its_reason(refused: StateRefused, status: int) -> None:
    answer = json(refused)
    assert answer.status == status
    assert isinstance(answer.body, bytes)
    assert msgspec.json.decode(answer.body) == {"error": refused.why}


async def test_a_bug_is_told_without_its_text(tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        api.toy.failure = RuntimeError("a secret")
        assert await ask(api.socket, "POST", "/v1/call", b'{"method": "x"}') == (500, {"error": "internal error"})
