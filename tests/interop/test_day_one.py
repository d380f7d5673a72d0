"""Day one: a gateway without a mapping between client programs of others and a legacy server. Nothing changes for them.

The long form is `make day-one`: DAY_ONE_SIZE=4GiB for the export and the import, DAY_ONE_TUNNEL=600s for the console.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import XenAPI

from gateway.core.rpc import units
from tests.kit.gateway import Process, configured
from tests.kit.programs import ROOT, TIMEOUT, resident_bytes, until
from tests.kit.raw_server import read_exactly, read_head, read_to_end
from tests.kit.small_xapi import BLOCK, GOODBYE, GREETING, RECORD, UPDATE, SmallXapi, digest, small_xapi

SIZE = units.size(os.environ.get("DAY_ONE_SIZE", "256MiB"))
TUNNEL = units.seconds(os.environ.get("DAY_ONE_TUNNEL", "3s"))
MEMORY = 80 * 1024**2  # bytes that the gateway may take at most, whatever passes
LABEL = str(RECORD["name_label"])
NODE_MODULES = Path(os.environ.get("DAY_ONE_NODE_MODULES", ROOT / ".state/programs/node/node_modules"))

CONFIG = """\
grace = "60s"
[listener.rpc]
bind = ["tcp:127.0.0.1:0"]
unmapped = "passthrough"
upstream = "xapi"
tunnels = ["/console"]
tunnel_grace = "4s"
[upstream.xapi]
url = "{url}"
dialect = "xenapi"
idle = "100ms"
"""


class Front:
    """A running gateway in front of a legacy xapi."""

    def __init__(self, xapi: SmallXapi, process: Process) -> None:
        self.xapi = xapi
        self.process = process
        self.url = process.url

    def series(self, start: str, least: float = 0) -> float:
        """The sum of the samples of /metrics that begin so, once it is at least this."""
        return until(lambda: self.process.series(start), lambda found: found >= least)

    def clients(self, agent: str, protocol: str = "http", **least: int) -> dict[str, int]:
        """What `clients` says of one agent, in sum, once it is at least this: calls are counted after their answers."""
        names = ("count", "received", "sent", "redirects")

        def read() -> dict[str, int]:
            rows = [row for row in self.process.ask("GET", "/v1/clients") if re.match(agent, row["agent"])]
            return {name: sum(row[name] for row in rows if row["protocol"] == protocol) for name in names}

        least.setdefault("count", 1)
        return until(read, lambda found: all(found[name] >= number for name, number in least.items()))

    @property
    def peak(self) -> int:
        """The most memory that the gateway has had, in bytes."""
        return resident_bytes(self.process.pid, "VmHWM")


@contextmanager
def front(folder: Path, mapping: str = "") -> Iterator[Front]:
    files = {"xapi.yaml": mapping} if mapping else {}
    with small_xapi() as xapi, configured(folder, CONFIG, files, url=xapi.url) as process:
        yield Front(xapi, process)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with front(tmp_path_factory.mktemp("day-one")) as running:
        yield running


def test_xenapi_of_pypi_works_and_is_counted(gateway: Front) -> None:
    gateway.xapi.is_slave = True
    with XenAPI.Session(gateway.url) as session:
        with pytest.raises(XenAPI.Failure, match="HOST_IS_SLAVE") as refused:
            session.xenapi.login_with_password("root", "secret", "1.0", "day one")
        assert refused.value.details == ["HOST_IS_SLAVE", "localhost"]
        session.xenapi.login_with_password("root", "secret", "1.0", "day one")
        assert session.xenapi.pool.get_name_label(session.xenapi.pool.get_all()[0]) == LABEL
        with pytest.raises(XenAPI.Failure, match="MESSAGE_METHOD_UNKNOWN"):
            session.xenapi.VM.fly()
        session.xenapi.session.logout()
    seen = gateway.clients("xmlrpclib|Python-xmlrpc", count=6)
    assert seen["received"] > 0
    assert seen["sent"] > 0


EXPOSED = """\
mapping: 1
service: xapi
legacy: {upstream: xapi}
unmapped: passthrough
expose: [{listener: rpc, path: /RPC2, codec: xmlrpc, dialect: xenapi}]
methods: {}
"""


def test_an_answer_of_a_pool_member_is_a_redirect_where_it_is_read(tmp_path: Path) -> None:
    with front(tmp_path, EXPOSED) as gateway, xmlrpc.client.ServerProxy(gateway.url + "/RPC2") as old:
        gateway.xapi.is_slave = True
        assert old.session.login_with_password("root", "secret") == {
            "Status": "Failure",
            "ErrorDescription": ["HOST_IS_SLAVE", "localhost"],
        }
        old.session.login_with_password("root", "secret")
        seen = gateway.clients("Python-xmlrpc", "xmlrpc", count=2)
        assert (seen["count"], seen["redirects"]) == (2, 1)
        assert gateway.series('xcp_gateway_calls_total{method="<unmapped>",outcome="redirect"') == 1
        gateway.process.wait_until(lambda lines: ("redirect", "HOST_IS_SLAVE") in map(outcome, lines))


def outcome(line: dict[str, Any]) -> tuple[str, str]:
    """The outcome and the error of a line of the log."""
    return line.get("outcome", ""), line.get("error", "")


XEN_API = """\
import { pathToFileURL } from 'node:url'
const [modules, url] = process.argv.slice(2)
const { createClient } = await import(pathToFileURL(modules + '/xen-api/index.mjs'))
const found = {}
for (const transport of ['auto', 'json-rpc', 'xml-rpc']) {
  const xapi = createClient({ url, auth: { user: 'root', password: 'secret' }, transport, watchEvents: false })
  await xapi.connect()
  const response = await xapi.getResource('/export', { query: { size: '1000' }, task: false })
  const put = await xapi.putResource(Buffer.alloc(1000), '/import', { task: false })
  found[transport] = [xapi.pool.name_label, (await response.body.arrayBuffer()).byteLength, put === undefined]
  await xapi.disconnect()
}
console.log(JSON.stringify(found))
process.exit(0)
"""


def test_xen_api_of_npm_works(gateway: Front, tmp_path: Path) -> None:
    if shutil.which("node") is None or not (NODE_MODULES / "xen-api").exists():
        pytest.skip("npm's xen-api is not here; `make day-one` installs it where there is npm")
    program = tmp_path / "client.mjs"
    program.write_text(XEN_API)
    gateway.xapi.is_slave = True  # the client goes to the host that is named, which is this gateway again
    command: list[str | Path] = ["node", program, NODE_MODULES, gateway.url]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {name: [LABEL, 1000, True] for name in ("auto", "json-rpc", "xml-rpc")}
    gateway.clients("undici|node|^$|http-request-plus", count=12)


def curl(*words: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["curl", "-sS", "--max-time", "60", *words], capture_output=True, check=True, **options)


def test_a_redirect_reaches_curl_as_it_is_and_is_counted_as_one(gateway: Front) -> None:
    direct = curl("-i", f"{gateway.xapi.url}/elsewhere").stdout
    through = curl("-i", f"{gateway.url}/elsewhere").stdout

    def lines(answer: bytes) -> set[bytes]:
        return {line for line in answer.split(b"\r\n") if not line.lower().startswith(b"date:")}

    assert lines(through) == lines(direct)
    assert f"Location: http://localhost:{gateway.xapi.server_port}/export?size=3".encode() in lines(through)
    assert gateway.clients("curl", redirects=1)["redirects"] == 1
    assert gateway.series('xcp_gateway_calls_total{method="<unmapped>",outcome="redirect"') == 1
    followed = curl("-L", f"{gateway.url}/elsewhere").stdout  # the upstream's own address
    assert followed == BLOCK[:3]


def test_an_export_passes_byte_for_byte_in_bounded_memory(gateway: Front) -> None:
    before = gateway.series('xcp_gateway_streamed_bytes_total{direction="sent",listener="rpc",protocol="http"')
    started, found, size = time.monotonic(), hashlib.sha256(), 0
    with subprocess.Popen(["curl", "-sSf", f"{gateway.url}/export?size={SIZE}"], stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        while piece := client.stdout.read(len(BLOCK)):
            found.update(piece)
            size += len(piece)
    assert (client.returncode, size, found.hexdigest()) == (0, SIZE, digest(SIZE))
    sent = gateway.series(
        'xcp_gateway_streamed_bytes_total{direction="sent",listener="rpc",protocol="http"', before + SIZE
    )
    assert sent - before == SIZE
    gateway.clients("curl", sent=SIZE)
    report("export", SIZE, started, gateway)
    assert gateway.peak <= MEMORY


@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_an_import_passes_byte_for_byte_in_bounded_memory(gateway: Front, framing: str) -> None:
    before = gateway.series('xcp_gateway_streamed_bytes_total{direction="received",listener="rpc",protocol="http"')
    length = [] if framing == "chunked" else ["-H", f"Content-Length: {SIZE}", "-H", "Transfer-Encoding:"]
    command = ["curl", "-sSf", "-T", "-", *length, f"{gateway.url}/import?sr=1"]
    started = time.monotonic()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        for at in range(0, SIZE, len(BLOCK)):
            client.stdin.write(BLOCK[: SIZE - at])
        client.stdin.close()
        answer = client.stdout.read()
    assert (client.returncode, answer) == (0, digest(SIZE).encode())
    received = gateway.series(
        'xcp_gateway_streamed_bytes_total{direction="received",listener="rpc",protocol="http"', before + SIZE
    )
    assert received - before == SIZE
    gateway.clients("curl", received=SIZE)
    report(f"import ({framing})", SIZE, started, gateway)
    assert gateway.peak <= MEMORY


class Console:
    """A client of a console: it sends a message, and reads the update that answers it."""

    def __init__(self, port: int) -> None:
        self.connection = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self.connection.sendall(b"CONNECT /console?uuid=1 HTTP/1.0\r\nUser-Agent: vnc\r\n\r\n")
        assert b" 200 " in read_head(self.connection).partition(b"\r\n")[0]
        assert read_exactly(self.connection, len(GREETING)) == GREETING
        self.messages = 0

    def exchange(self) -> None:
        """Send one message; its answer must come."""
        message = b"%08d" % self.messages
        self.connection.sendall(message)
        assert read_exactly(self.connection, 8 + len(UPDATE)) == message + UPDATE
        self.messages += 1

    def end(self) -> None:
        """End its direction, and read the goodbye to the end."""
        self.connection.shutdown(socket.SHUT_WR)
        assert read_to_end(self.connection) == GOODBYE
        self.connection.close()

    @property
    def received(self) -> int:
        """Bytes that it has got so far."""
        return len(GREETING) + self.messages * (8 + len(UPDATE))


def test_a_console_lives_across_reloads_and_ends_politely_with_the_drain(tmp_path: Path) -> None:
    with front(tmp_path) as gateway:
        short = Console(gateway.process.port)
        short.exchange()
        short.end()
        seen = gateway.clients("vnc", "tunnel")
        assert seen == {"count": 1, "received": 8, "sent": short.received + len(GOODBYE), "redirects": 0}

        console, started, reloads = Console(gateway.process.port), time.monotonic(), 0
        while (past := time.monotonic() - started) < TUNNEL or reloads < 3:
            console.exchange()
            if past >= (reloads + 1) * TUNNEL / 5:
                reload(gateway, reloads)
                reloads += 1
            time.sleep(min(1.0, TUNNEL / 20))
        console.exchange()
        assert gateway.series("xcp_gateway_tunnels_open") == 1
        assert gateway.series("xcp_gateway_tunnels_total") == 2
        carried = gateway.series('xcp_gateway_streamed_bytes_total{direction="sent",listener="rpc",protocol="tunnel"')
        assert carried == short.received + len(GOODBYE) + console.received
        peak = gateway.peak

        stopped = time.monotonic()
        gateway.process.signal(signal.SIGTERM)
        console.exchange()  # the drain leaves it alone for `tunnel_grace`
        assert read_to_end(console.connection) == GOODBYE  # then its upstream sees the end, and has the last word
        console.connection.close()
        assert gateway.process.wait() == 0
        gateway.process.wait_for("stopped, nothing in flight")  # long before `grace`
        say(
            f"console: {console.messages} messages in {stopped - started:.0f} s across {reloads} reloads, ended "
            f"{time.monotonic() - stopped:.1f} s after the stop, peak memory {peak / 1024**2:.0f} MiB"
        )
        assert peak <= MEMORY


def reload(gateway: Front, number: int) -> None:
    """Change an upstream's setting, reload, and wait until it is done."""
    config = gateway.process.config
    config.write_text(re.sub(r'idle = ".*"', f'idle = "{number + 1}s"', config.read_text()))
    gateway.process.signal(signal.SIGHUP)
    gateway.process.wait_until(lambda lines: [line.get("event") for line in lines].count("reloaded") > number)


def report(what: str, size: int, started: float, gateway: Front) -> None:
    """Print figures: pytest shows them in the long form."""
    speed = size / (time.monotonic() - started) / 1024**2
    say(f"{what}: {size / 1024**2:.0f} MiB, {speed:.0f} MiB/s, peak memory {gateway.peak / 1024**2:.0f} MiB")


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
