"""`xcp-gateway demo`, whole: it proves what it says, fails when something is wrong, and leaves nothing."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from demo.environment import PROGRAMS
from tests.kit.cases import present
from tests.kit.programs import ROOT, TIMEOUT

pytestmark = pytest.mark.bus


def demo(checkout: Path = ROOT, *options: str, **environment: str) -> tuple[int, str]:
    """Run it; its exit status and what it shows."""
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "demo", *options],
        cwd=checkout,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=4 * TIMEOUT,
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stdout


def counted(shown: str) -> tuple[int, int]:
    """How many calls were right, and how many there were; the last line says it."""
    line = shown.splitlines()[-1]
    match = re.fullmatch(r"(\d+) of (\d+) calls went where they should and were answered right", line)
    assert match is not None, line
    return int(match[1]), int(match[2])


def test_without_a_xenstore_it_says_so_and_does_the_rest(tmp_path: Path) -> None:
    for program in (*PROGRAMS, "cc"):
        found = present(shutil.which(program))
        (tmp_path / program).symlink_to(found)
    status, shown = demo(PATH=str(tmp_path))
    right, total = counted(shown)
    assert shown.count("skipped, there is no xenstore: apt-get install xenstore-utils") == 2
    assert right == total >= 35
    assert status == 0


def test_a_program_can_read_what_is_missing(tmp_path: Path) -> None:
    status, shown = demo(ROOT, "--json", PATH=str(tmp_path))
    document = json.loads(shown)
    assert (status, document["status"], document.keys()) == (1, 1, {"error", "status"})
    assert "programs that are not installed" in document["error"]
    assert "apt-get install curl dbus-bin dbus-daemon" in document["error"]


WRONG = {
    "docker/toolstack/xenapi/store.py": ('["name_label"] == label', '["name_label"] != label'),
    "mappings/squeezed-xenstore.yaml": ("transfer-reservation-to-domain:", "transfer-reservation:"),
}


def test_each_thing_that_is_wrong_is_one_wrong_call_and_makes_it_fail_and_a_program_can_read_it(tmp_path: Path) -> None:
    """All other calls go where they should: tests/test_install.py has a demo without a wrong one."""
    for folder in ("gateway", "adapters", "docker", "mappings"):
        shutil.copytree(ROOT / folder, tmp_path / folder)  # with its bytecode
    for file, (old, new) in WRONG.items():
        text = (tmp_path / file).read_text()
        assert text.count(old) == 1
        (tmp_path / file).write_text(text.replace(old, new))
    status, shown = demo(tmp_path, "--json")
    document = json.loads(shown)
    answers = [each["right"] for each in document["calls"]]
    assert (status, len(answers) >= 45, answers.count(False)) == (1, True, len(WRONG)), shown
    assert sorted(document["calls"][0]) == ["answer", "bus", "call", "client", "right"]
    assert document.keys() >= {"calls", "skipped"}


def test_stay_prints_commands_that_work_as_they_are_and_leaves_nothing_at_sigterm() -> None:
    labels = ("set the mode", "a session", "plant a fault", "a call", "repair")
    with demo_process("--stay") as process:
        text = ""
        while "The config:" not in text:
            text += present(process.stdout).readline()
        export, folder = present(re.search(r"export .*=(.*)/admin", text)).group(0, 1)
        curl = present(re.search(r"curl -d .*", text))[0]  # also starts a service
        lines = [curl, *(present(re.search(rf"{label}  +(.*)", text))[1] for label in labels)]
        # On a busy machine the two sides of a call may run too far apart to be compared.
        seen = f"until {{ {lines[4]}; xcp-gateway diff; }} | grep -A1 nobody; do :; done"
        shown = subprocess.run(
            ["bash", "-ec", "\n".join([export.strip(), *lines, seen, "xcp-gateway promote --why test"])],
            env={**os.environ, "PATH": "/usr/bin:/bin"},  # the programs of the gateway are put before it
            capture_output=True,
            text=True,
            timeout=4 * TIMEOUT,
            check=False,
        )
        for told in ('"result"', '"nobody"', f"+++ {folder}/mappings/xapi.yaml"):  # and no file of the checkout
            assert told in shown.stdout, shown
        started = processes_of(folder)
        assert len(started) >= 5, "bus, xenstored, old xapi, gateway, and a service"
        process.terminate()
        assert process.wait(TIMEOUT) == 0
        assert all(map(has_ended, started))
        assert not Path(folder).exists()


def test_sigterm_while_it_starts_leaves_nothing() -> None:
    with demo_process() as process:
        while (bus := child(process.pid, "dbus-daemon")) is None:
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 130
        assert has_ended(bus)


@contextmanager
def demo_process(*options: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "gateway", "demo", *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


def child(pid: int, program: str) -> int | None:
    """The child process of a process that runs this program."""
    with suppress(FileNotFoundError, ProcessLookupError):
        for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if Path(f"/proc/{number}/comm").read_text().strip() == program:
                return int(number)
    return None


def processes_of(directory: str) -> list[int]:
    """Those that name a folder in their command line or environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            said = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            if directory.encode() in said:
                found.append(int(entry.name))
    return found


def has_ended(pid: int) -> bool:
    """Whether it ends before our patience does."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], TIMEOUT)[0])
    finally:
        os.close(descriptor)
