"""An export, an import and a console through a gateway: `python -m tests.bench.streaming --size 4GiB --tunnel 600s`.

Prints how fast bodies pass, whether each byte arrived, and the peak of the gateway's memory. The tunnel carries a
message each second while the gateway reloads every minute, and ends when the gateway is told to stop.
"""

from __future__ import annotations

import argparse
import hashlib
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

from gateway.core.rpc import units
from tests.kit.gateway import Process, gateway_process
from tests.kit.raw_server import raw_server, read_exactly, read_head, read_to_end

BLOCK = bytes(range(256)) * 1024  # 256 KiB
OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
CONFIG = """\
[listener.rpc]
bind = ["unix:{folder}/rpc"]
unmapped = "passthrough"
upstream = "old"
tunnels = ["/console"]
[upstream.old]
url = "{url}"
[mappings]
directories = ["."]
[admin]
socket = "{folder}/control"
[log]
format = "json"
"""


def main() -> int:
    """Run all three; 1 when a byte was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=units.size, default=units.size("1GiB"))
    parser.add_argument("--tunnel", type=units.seconds, default=5.0)
    options = parser.parse_args()
    size: int = options.size

    def export(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(OK % size)
        _send(connection, size)

    def take(connection: socket.socket) -> str:
        read_head(connection)
        return _receive(connection, size)

    with tempfile.TemporaryDirectory() as name, raw_server(Path(name) / "old") as upstream:
        folder = Path(name)
        (folder / "gateway.toml").write_text(CONFIG.format(url=upstream.url, folder=folder))
        with gateway_process(folder / "gateway.toml") as gateway:
            _say(f"at first: {_memory(gateway)}")
            expected = _digest(size)

            upstream.serve = export
            with _client(folder) as client:
                started = time.perf_counter()
                client.sendall(b"GET /export HTTP/1.1\r\nHost: a\r\n\r\n")
                read_head(client)
                found = _receive(client, size)
                exported = _report("export", size, started, found == expected, gateway)

            upstream.serve = take
            with _client(folder) as client:
                started = time.perf_counter()
                client.sendall(b"PUT /import HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
                _send(client, size)
                result = upstream.result()
                imported = _report("import", size, started, result == expected, gateway)

            upstream.serve = _echo
            carried = _tunnel(folder, gateway, options.tunnel)
    return 0 if exported and imported and carried else 1


def _report(name: str, size: int, started: float, is_whole: bool, gateway: Process) -> bool:
    speed = size / (time.perf_counter() - started) / 1024**2
    _say(f"{name}: {speed:.0f} MiB/s, {'byte for byte' if is_whole else 'DAMAGED'}, {_memory(gateway)}")
    return is_whole


def _tunnel(folder: Path, gateway: Process, seconds: float) -> bool:
    started, reloads, messages = time.monotonic(), 0, 0
    with _client(folder) as client:
        client.sendall(b"CONNECT /console?uuid=1 HTTP/1.0\r\nHost: a\r\n\r\n")
        read_head(client)
        while time.monotonic() - started < seconds:
            message = b"%08d" % messages
            client.sendall(message)
            if read_exactly(client, len(message)) != message:
                _say("tunnel: DAMAGED")
                return False
            messages += 1
            if time.monotonic() - started > 60 * (reloads + 1):
                gateway.signal(signal.SIGHUP)
                reloads += 1
            time.sleep(1.0)
        stopped = time.monotonic()
        gateway.signal(signal.SIGTERM)
        rest = read_to_end(client)
    _say(
        f"tunnel: {messages} messages in {stopped - started:.0f} s across {reloads} reloads, {_memory(gateway)}; "
        f"cut {time.monotonic() - stopped:.1f} s after the stop"
    )
    return rest == b""


def _echo(connection: socket.socket) -> None:
    read_head(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while data := connection.recv(65536):
        connection.sendall(data)


def _client(folder: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(60)
    client.connect(str(folder / "rpc"))
    return client


def _digest(size: int) -> str:
    found = hashlib.sha256()
    for at in range(0, size, len(BLOCK)):
        found.update(BLOCK[: size - at])
    return found.hexdigest()


def _send(connection: socket.socket, size: int) -> None:
    for at in range(0, size, len(BLOCK)):
        connection.sendall(BLOCK[: size - at])


def _receive(connection: socket.socket, size: int) -> str:
    found, buffer = hashlib.sha256(), bytearray(256 * 1024)
    while size and (count := connection.recv_into(buffer, min(size, len(buffer)))):
        found.update(memoryview(buffer)[:count])
        size -= count
    return found.hexdigest() if not size else f"{size} bytes are missing"


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _memory(gateway: Process) -> str:
    lines = Path(f"/proc/{gateway.pid}/status").read_text().splitlines()
    peak = next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)
    return f"peak memory {peak / 1024:.0f} MiB"


if __name__ == "__main__":
    raise SystemExit(main())
