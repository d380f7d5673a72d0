"""Programs started and stopped, and load from wrk, for every row. Knows nothing of what is measured."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import tempfile
import time
import xmlrpc.client
from collections.abc import Iterator
from typing import IO

import msgspec

VALUES = {"uuid": "8a5b2c1e-7f7d-4a53-9f0c-000000000001", "memory": 4_294_967_296, "running": True, "share": 0.25}

REQUESTS = {
    "JSON-RPC": ("/jsonrpc", "application/json", msgspec.json.encode(
        {"jsonrpc": "2.0", "method": "echo", "params": [{**VALUES, "memory": 4096}], "id": 1}
    ).decode()),
    "XML-RPC": ("/RPC2", "text/xml", xmlrpc.client.dumps(({**VALUES, "memory": 4096},), "echo")),
}  # fmt: skip


@contextlib.contextmanager
def started(*command: str, ready: str | None = None, stderr: IO[bytes] | int = subprocess.DEVNULL) -> Iterator[None]:
    """Run a program for the time of the block; `ready` is the first line to wait for on its standard output."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    assert process.stdout is not None
    try:
        if ready is not None and ready not in process.stdout.readline():
            raise RuntimeError(f"{command[0]} did not start")
        yield
    finally:
        process.terminate()
        process.communicate(timeout=20)


def wait_for_port(port: int, seconds: float = 20) -> None:
    """Wait until something accepts on a port."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port}")


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def wrk(port: int, protocol: str, connections: int, seconds: float) -> tuple[float, str]:
    """Calls per second and the 99th percentile that wrk saw; every answer must be 200 and hold the echoed text."""
    path, content_type, body = REQUESTS[protocol]
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(
            f'wrk.method="POST"; wrk.headers["Content-Type"]="{content_type}"\nwrk.body=[==[{body}]==]\n'
            f'local bad=0\nfunction response(status,_,b) if status~=200 or not b:find("{VALUES["uuid"]}",1,true) '
            "then os.exit(1) end end\n"
        )
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "-s", script.name]
        shown = subprocess.run([*command, f"http://127.0.0.1:{port}{path}"], capture_output=True, text=True, check=True)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", shown.stdout)
    tail = re.search(r"^\s+99%\s+(\S+)", shown.stdout, re.MULTILINE)
    if rate is None or tail is None or "Non-2xx" in shown.stdout:
        raise RuntimeError(shown.stdout + shown.stderr)
    return float(rate[1]), tail[1]
