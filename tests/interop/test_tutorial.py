"""Every command of docs/tutorial.md is run, every file of it is used, and every output it shows is the real one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.programs import ROOT, TIMEOUT, free_port

TUTORIAL = ROOT / "docs/tutorial.md"
MARK = "== output of the next block =="
CLEAN_UP = "trap 'kill $(jobs -p) \"${BUS_PID:-}\" 2> /dev/null || true' EXIT"

pytestmark = pytest.mark.bus


def test_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    blocks = re.findall(r"^```(\w+) ?(\S*)\n(.*?)^```$", read_tutorial(), re.MULTILINE | re.DOTALL)
    script, expected = [CLEAN_UP, "set -eum"], []
    for position, (language, file, text) in enumerate(blocks):
        if file:
            script.append(f"cat > {file} <<'END OF {file}'\n{text}END OF {file}")
        elif language == "sh":
            script += [f"echo '{MARK}'", text]
            shown = blocks[position + 1 : position + 2]
            expected.append(shown[0][2] if shown and shown[0][0] == "text" else "")
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=4 * TIMEOUT,
        check=False,
    )
    log = tmp_path / "gateway.log"
    assert done.returncode == 0, done.stdout + done.stderr + (log.read_text() if log.exists() else "")
    assert [each.strip("\n") for each in done.stdout.split(f"{MARK}\n")[1:]] == [each.strip("\n") for each in expected]
    assert {language for language, _, _ in blocks} == {"python", "sh", "text", "toml", "yaml"}, "each kind has its use"


def read_tutorial() -> str:
    """The text, with a free port in the place of its own."""
    return TUTORIAL.read_text().replace("127.0.0.1:8080", f"127.0.0.1:{free_port()}")
