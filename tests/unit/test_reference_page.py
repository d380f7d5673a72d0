"""docs/reference.md: it is what the code says, and nothing of the code is missing in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gateway import config
from gateway.core.rpc.model import FAULTS, FaultCode
from gateway.ops.metrics import SERIES
from tests.kit.programs import ROOT, TIMEOUT

SCRIPT = ROOT / "scripts/reference.py"


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs/reference.md").read_text()


def test_the_page_is_the_one_that_the_code_makes(page: str, tmp_path: Path) -> None:
    print_it = f"import runpy; print(runpy.run_path({str(SCRIPT)!r})['page'](), end='')"
    made = subprocess.run([sys.executable, "-c", print_it], capture_output=True, text=True, check=True, timeout=TIMEOUT)
    assert made.stdout == page, "run: .venv/bin/python scripts/reference.py"


def test_each_key_code_and_series_is_in_it(page: str) -> None:
    sections = config.schema()["properties"]
    for name in ("bus", "listener", "upstream"):
        for key in sections[name]["additionalProperties"]["properties"]:
            assert f"| `{key}` | " in page, key
    for code in FaultCode:
        assert f"| `{code.value}` | {FAULTS[code][0]} | " in page
    for name in SERIES:
        assert f"| `{name}` | " in page
    assert "--worker" not in page, "help hides this option: only the supervisor uses it"


def test_the_manual_has_the_same(tmp_path: Path) -> None:
    subprocess.run([sys.executable, SCRIPT, "--man", tmp_path], check=True, timeout=TIMEOUT)
    keys = (tmp_path / "man5/gateway.toml.5").read_text()
    assert keys.startswith('.TH GATEWAY.TOML 5 "')
    for key in config.schema()["properties"]["listener"]["additionalProperties"]["properties"]:
        assert f"\n.B {key}\n" in keys, key
