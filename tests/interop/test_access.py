"""Who may ask and who may change, as the kernel tells a running gateway: other users are other processes."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.kit.gateway import Folder, gateway_process
from tests.kit.programs import TIMEOUT

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")

READER, CHANGER, STRANGER = 54_001, 54_002, 54_003  # users that no host has
GROUP = 54_100
DOOR = 54_101  # can open the socket

# A client that is somebody else: the interpreter and the socket's folder are opened before root is given up.
ASK = """
import http.client, json, os, socket, sys
connection = http.client.HTTPConnection("gateway")
path, uid, gids, verb, target, body = json.loads(sys.argv[1])
os.setgroups(gids); os.setgid(uid); os.setuid(uid)
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect(path)
connection.request(verb, target, body)
answer = connection.getresponse()
print(json.dumps([answer.status, json.loads(answer.read())]))
"""


# A command that is somebody else. It runs once as root: what it imports may be where no other user may read.
COMMAND = """
import os, sys
from gateway.cli import app
uid = int(sys.argv.pop(1))
app(standalone_mode=False)
os.setgroups([]); os.setgid(uid); os.setuid(uid)
app()
"""


def ask(folder: Folder, uid: int, gids: Sequence[int], verb: str, target: str, body: object = None) -> tuple[int, Any]:
    asked = [str(folder.control), uid, list(gids), verb, target, None if body is None else json.dumps(body)]
    command = [sys.executable, "-c", ASK, json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.returncode == 0, done.stderr
    status, answer = json.loads(done.stdout)
    return status, answer


@pytest.fixture(scope="module")
def folder(empty_bus: str) -> Iterator[Folder]:
    """Not below pytest's folder, which no other user may enter."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o711)
        folder = Folder(path)
        folder.buses({"toolstack": (empty_bus, "org.example.*")})
        lists = f'read = ["uid:{READER}"]\nchange = ["gid:{GROUP}"]\ngroup = "gid:{DOOR}"\n'
        folder.config.write_text(folder.config.read_text().replace("[admin]\n", f"[admin]\n{lists}"))
        with gateway_process(folder.config):
            yield folder


def test_the_socket_is_open_to_its_group_and_a_command_of_another_user_says_so(folder: Folder) -> None:
    found = folder.control.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o660, DOOR)
    command = [sys.executable, "-c", COMMAND, str(STRANGER), "status", "--socket", str(folder.control)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.stderr.startswith(f"you may not connect to {folder.control}: only root, ")
    assert done.returncode == 69


def test_a_stranger_asks_for_health_alone_and_a_reader_changes_nothing(folder: Folder) -> None:
    assert ask(folder, STRANGER, [DOOR], "GET", "/healthz") == (200, {"alive": True})
    assert ask(folder, STRANGER, [DOOR], "GET", "/v1/status")[0] == 403
    status, answer = ask(folder, READER, [DOOR], "POST", "/v1/mode", {"pattern": "echo", "mode": "off"})
    assert (status, "may not change anything here" in answer["error"]) == (403, True)
    assert ask(folder, READER, [DOOR], "GET", "/v1/modes") == (200, [])


def test_who_is_in_a_group_of_the_list_may_change_and_is_named_in_the_audit(folder: Folder) -> None:
    change = {"pattern": "echo", "mode": "off", "why": "test"}
    assert ask(folder, CHANGER, [DOOR], "POST", "/v1/mode", change)[0] == 403
    assert ask(folder, CHANGER, [DOOR, GROUP], "POST", "/v1/mode", change)[0] == 200
    _, (mode,) = ask(folder, CHANGER, [DOOR, GROUP], "GET", "/v1/modes")
    assert (mode["pattern"], mode["who"], mode["why"]) == ("toy/echo", f"uid {CHANGER}", "test")
    assert ask(folder, 0, [], "POST", "/v1/mode/clear", {"pattern": "echo"})[0] == 200
    _, entries = ask(folder, READER, [DOOR], "GET", "/v1/audit")
    assert [entry["who"] for entry in entries] == ["root", f"uid {CHANGER}"]
