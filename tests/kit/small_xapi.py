"""A legacy xapi in the small, in threads: sessions over XML-RPC and JSON-RPC, exports, imports, redirects, consoles.

It is the upstream of tests with client programs of others. A body is made of BLOCK, so that any size has a known hash.
"""

from __future__ import annotations

import hashlib
import json
import threading
import xmlrpc.client
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

BLOCK = bytes(range(256)) * 1024  # 256 KiB
GREETING = b"RFB 003.008\n"
MESSAGE = 8  # bytes that a console reads at a time
UPDATE = b"\xff" * 4096  # what it sends back behind each of them
GOODBYE = b"bye\n"  # the last of a console whose client has ended its direction
POOL = "OpaqueRef:pool"
RECORD = {"uuid": "2c1f9c56", "name_label": "Süd & Nord", "master": "OpaqueRef:host", "other_config": {}}
COORDINATOR = "localhost"  # the host that a pool member names in HOST_IS_SLAVE


def digest(size: int) -> str:
    """Return the SHA-256 of a body of this size."""
    found = hashlib.sha256()
    for at in range(0, size, len(BLOCK)):
        found.update(BLOCK[: size - at])
    return found.hexdigest()


class SmallXapi(ThreadingHTTPServer):
    """The server. While `is_slave` is set, the next login is answered with HOST_IS_SLAVE."""

    daemon_threads = False
    is_slave = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.heads: list[tuple[str, str]] = []  # method and target of each request

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is not an error."""

    def call(self, method: str, params: list[Any]) -> tuple[Any, list[str]]:
        """The value of a call, or the error."""
        if method == "session.login_with_password":
            if self.is_slave:
                self.is_slave = False
                return None, ["HOST_IS_SLAVE", COORDINATOR]
            return (
                ("OpaqueRef:session", [])
                if params[:2] == ["root", "secret"]
                else (None, ["SESSION_AUTHENTICATION_FAILED"])
            )
        values = {
            "session.logout": "",
            "system.listMethods": ["pool.get_all_records", "session.login_with_password"],
            "pool.get_all": [POOL],
            "pool.get_all_records": {POOL: RECORD},
            "pool.get_name_label": RECORD["name_label"],
        }
        return (values[method], []) if method in values else (None, ["MESSAGE_METHOD_UNKNOWN", method])


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    timeout = 900  # seconds; a console of the long form is open for ten minutes
    server: SmallXapi

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the standard library's name
        """Write nothing."""

    def parse_request(self) -> bool:
        whole = super().parse_request()
        if whole:
            self.server.heads.append((self.command, self.path))
        return whole

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/jsonrpc":
            request = json.loads(body)
            value, error = self.server.call(request["method"], request["params"])
            answer: dict[str, Any] = {"jsonrpc": "2.0", "id": request["id"]}
            answer |= {"error": {"code": 1, "message": error[0], "data": error[1:]}} if error else {"result": value}
            self._send(200, json.dumps(answer).encode(), "application/json")
            return
        params, method = xmlrpc.client.loads(body.decode())
        value, error = self.server.call(method or "", list(params))
        status = {"Status": "Failure", "ErrorDescription": error} if error else {"Status": "Success", "Value": value}
        bare = value if method == "system.listMethods" else status
        self._send(200, xmlrpc.client.dumps((bare,), methodresponse=True).replace("\n", "").encode(), "text/xml")

    def do_GET(self) -> None:
        if self.path.startswith("/elsewhere"):
            self.send_response(302, "Found")
            self.send_header("Location", f"http://{COORDINATOR}:{self.server.server_port}/export?size=3")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        size = int(parse_qs(urlsplit(self.path).query)["size"][0])
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(size))
        self.end_headers()
        for at in range(0, size, len(BLOCK)):
            self.wfile.write(BLOCK[: size - at])

    def do_PUT(self) -> None:
        found = hashlib.sha256()
        for piece in self._body():
            found.update(piece)
        self._send(200, found.hexdigest().encode(), "text/plain")

    def do_CONNECT(self) -> None:
        self.close_connection = True
        self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n" + GREETING)
        while len(message := self.rfile.read(MESSAGE)) == MESSAGE:
            self.wfile.write(message + UPDATE)
        self.wfile.write(GOODBYE)

    def _body(self) -> Iterator[bytes]:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            left = int(self.headers["Content-Length"])
            while left and (piece := self.rfile.read(min(left, len(BLOCK)))):
                left -= len(piece)
                yield piece
            return
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _send(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def small_xapi() -> Iterator[SmallXapi]:
    """Run one on a port of its own; it ends when every connection has ended."""
    server = SmallXapi()
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1})
    serving.start()
    try:
        yield server
    finally:
        server.shutdown()
        serving.join()
        server.server_close()
