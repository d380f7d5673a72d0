"""Where an old service is, from its url, and how a request to it is written; opens nothing.

`http://host:port/path`, `https://host:port/path`, `http+unix:///socket` and `http+unix:///socket:/path`.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

from adapters.transports import http_headers
from gateway.core.model import Carried

PORTS = {"http": 80, "https": 443}
_WITH_CONTENT = frozenset({"POST", "PUT", "PATCH"})  # a length is expected of them, RFC 9110 section 8.6
_OURS = (b"expect",)  # the listener has answered it


@dataclass(frozen=True, slots=True)
class Site:
    """An address. `path`: where every request goes; empty: where the client sent it."""

    url: str
    socket: str = ""
    host: str = ""
    port: int = 0
    path: str = ""
    named: bytes = b"localhost"  # Host, where the client said none
    tls: ssl.SSLContext | None = None

    @property
    def is_tls(self) -> bool:
        """Whether it is reached over TLS."""
        return self.tls is not None


def site(url: str, *, ca_file: str | None = None, verify: bool = True) -> Site:
    """Read a url; raises ValueError saying what is wrong with it, OSError when the CA file cannot be read."""
    scheme, _, rest = url.partition("://")
    if scheme == "http+unix":
        socket, _, path = rest.partition(":")
        if not socket.startswith("/") or (path and not path.startswith("/")):
            raise ValueError(f"expected http+unix:///SOCKET or http+unix:///SOCKET:/PATH, got {url!r}")
        return Site(url, socket=socket, path=path)
    parts = urlsplit(url)
    if scheme not in PORTS or not parts.hostname or parts.username or parts.fragment:
        raise ValueError(f"expected http://HOST:PORT/PATH, https://HOST:PORT/PATH or http+unix:///SOCKET, got {url!r}")
    port = parts.port or PORTS[scheme]
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    tls = _tls(ca_file, verify=verify) if scheme == "https" else None
    return Site(url, host=parts.hostname, port=port, path=path, named=parts.netloc.encode("ascii"), tls=tls)


def _tls(ca_file: str | None, *, verify: bool) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_file)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def lay_out(site: Site, body: bytes, carried: Carried, *, host: bytes = b"", close: bool = False) -> bytes:
    """A whole request: the client's headers as they are, but for what concerns its connection and not the message."""
    headers = http_headers.without(http_headers.end_to_end(carried.headers), *_OURS)
    if host:
        headers = http_headers.without(headers, b"host")
    if host or not http_headers.has(headers, b"host"):
        headers = ((b"Host", host or site.named), *headers)
    target = site.path or carried.target or "/"
    own = b"Connection: close\r\n" if close else b""
    start = f"{carried.verb} {target} HTTP/1.1\r\n".encode("utf-8", "surrogateescape")
    return b"%b%b%b\r\n%b" % (start, http_headers.lines(_measured(headers, body, carried.verb)), own, body)


def _measured(headers: http_headers.Headers, body: bytes, verb: str) -> http_headers.Headers:
    """With the length of the body: as the client wrote it unless that is another now."""
    said = http_headers.first(headers, b"content-length")
    if said is None:
        wanted = body or verb in _WITH_CONTENT
        return (*headers, (b"Content-Length", b"%d" % len(body))) if wanted else headers
    if said.isdigit() and int(said) == len(body):
        return headers
    return (*http_headers.without(headers, b"content-length"), (b"Content-Length", b"%d" % len(body)))
