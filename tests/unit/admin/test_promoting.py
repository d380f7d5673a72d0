"""The paths for promotion; what is behind them is tested in tests/unit/migration/test_promote.py."""

from __future__ import annotations

from pathlib import Path

from tests.kit.admin import serving


async def test_what_could_be_written_is_told_and_what_is_needless_taken_back(tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        await api.ask("POST", "/v1/mode", {"pattern": "VM.get_state", "mode": "shadow"})
        status, plan = await api.ask("GET", "/v1/promotion")
        (file,) = plan["files"]
        assert (status, file["sha256"], file["methods"][0]["after"]) == (200, "toy", "shadow")
        assert await api.ask("POST", "/v1/promoted", {"pattern": "*"}) == (200, [])
        status, answer = await api.ask("GET", "/v1/promotion?pattern=VM.nope")
        assert status == 422
        assert answer["error"].startswith("no mapped method")
