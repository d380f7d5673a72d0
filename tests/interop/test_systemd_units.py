"""The unit files, held against systemd's own checks, the real command line and the defaults of the config."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import xmlrpc.client
from pathlib import Path

import msgspec
import typer

from gateway.cli import app
from gateway.config import Config
from gateway.core.rpc import units
from tests.kit.buses import private_bus
from tests.kit.gateway import Folder, gateway_process
from tests.kit.programs import TIMEOUT
from tests.kit.toy_service import toy_service

UNITS = Path(__file__).parents[2] / "docker/systemd"
SERVICE, SOCKET = UNITS / "xcp-gateway.service", UNITS / "xcp-gateway.socket"
EXPOSURE = 1.5  # of 10, as systemd-analyze counts; what is left is that it speaks over the network


def values(unit: Path, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", unit.read_text(), re.MULTILINE)


def analyze(*words: object) -> subprocess.CompletedProcess[str]:
    line = ["systemd-analyze", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, timeout=TIMEOUT, check=False)


def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    for unit in (SERVICE, SOCKET):
        (tmp_path / unit.name).write_text(unit.read_text().replace("/opt/xcp-gateway/bin/xcp-gateway", sys.executable))
    done = analyze("verify", tmp_path / SERVICE.name, tmp_path / SOCKET.name)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_service_may_do_little(tmp_path: Path) -> None:
    done = analyze("security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE * 10:.0f}", SERVICE)
    assert done.returncode == 0, done.stdout


def test_the_units_fit_the_command_line_and_the_defaults_of_the_config() -> None:
    group = typer.main.get_command(app)
    for key in ("ExecStart", "ExecReload"):
        (line,) = values(SERVICE, key)
        program, name, *options = shlex.split(line)
        assert Path(program).name == "xcp-gateway"
        assert not group.commands[name].make_context(name, options).args  # type: ignore[attr-defined] # it is a group
    assert line.endswith(f"--socket /run/{values(SERVICE, 'RuntimeDirectory')[0]}/admin")
    grace = next(field.default for field in msgspec.structs.fields(Config) if field.name == "grace")
    assert units.seconds(values(SERVICE, "TimeoutStopSec")[0]) > grace
    assert (values(SOCKET, "FileDescriptorName"), SERVICE.stem) == (["rpc"], SOCKET.stem)


# prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN), from Linux 6.3 on: what MemoryDenyWriteExecute= does.
DENY_WRITE_EXECUTE = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(65, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


def test_no_library_needs_memory_that_is_writable_and_executable(tmp_path: Path) -> None:
    assert values(SERVICE, "MemoryDenyWriteExecute") == ["yes"]
    folder = Folder(tmp_path)
    with private_bus() as bus, toy_service(bus.address, "org.example.toy"):
        folder.buses({"toolstack": (bus.address, "org.example.*")})
        with (
            gateway_process(folder.config, through=[sys.executable, "-c", DENY_WRITE_EXECUTE]) as process,
            xmlrpc.client.ServerProxy(f"{process.url}/RPC2") as client,
        ):
            assert client.echo("a") == "a"
