from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from adapters.http.client.request import RequestHeads, parse_url, request_head
from adapters.http.messages import HOP_BY_HOP, end_to_end
from gateway.core.rpc.model import Headers, RequestMetadata
from tests.kit.cases import each_case


def test_a_url_says_host_port_and_path() -> None:
    found = parse_url("http://[::1]:8080/RPC2?a=b")
    assert (found.host, found.port, found.path, found.socket, found.tls) == ("::1", 8080, "/RPC2?a=b", "", None)
    assert found.named == b"[::1]:8080"
    assert (parse_url("http://xen").port, parse_url("https://xen").port) == (80, 443)
    found = parse_url("http+unix:///var/lib/xcp/xapi")
    assert (found.socket, found.path) == ("/var/lib/xcp/xapi", "")
    found = parse_url("http+unix:///var/lib/xcp/xapi:/RPC2")
    assert (found.socket, found.path) == ("/var/lib/xcp/xapi", "/RPC2")


@each_case(
    "url", ["http://", "ftp://xen", "http+unix://x", "http+unix:///x:y", "http://me:word@xen", "http://xen:99999/"]
)
def test_another_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"expected http|Port out of range"):
        parse_url(url)


def test_certificates_are_verified_unless_told_otherwise_and_a_ca_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        parse_url("https://xen", ca_file=str(tmp_path / "none.pem"))
    trusting, strict = parse_url("https://xen", verify=False).tls, parse_url("https://xen").tls
    assert trusting is not None
    assert strict is not None
    assert (strict.verify_mode, strict.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert (trusting.verify_mode, trusting.check_hostname) == (ssl.CERT_NONE, False)


XEN = parse_url("http://xen:80")


def laid_out(*headers: tuple[bytes, bytes], body: bytes = b"body", verb: str = "POST", target: str = "/RPC2") -> bytes:
    return request_head(XEN, len(body), RequestMetadata(verb, target, headers)) + body


HOST = (b"Host", b"x")
EXPECTED = b"POST /RPC2 HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"


@each_case(
    ("written", "expected"),
    [
        (
            laid_out((b"HOST", b"old name"), (b"content-LENGTH", b"04"), (b"Cookie", b"\xff")),
            b"POST /RPC2 HTTP/1.1\r\nHOST: old name\r\ncontent-LENGTH: 04\r\nCookie: \xff\r\n\r\nbody",
        ),
        (laid_out(HOST, (b"Connection", b"close"), (b"Expect", b"100-continue"), (b"Content-Length", b"4")), EXPECTED),
        (laid_out(HOST, (b"Transfer-Encoding", b"chunked")), EXPECTED),
        (laid_out((b"Content-Length", b"2"), HOST), EXPECTED),
        (laid_out(HOST, body=b"", verb="GET"), b"GET /RPC2 HTTP/1.1\r\nHost: x\r\n\r\n"),
        (laid_out(HOST, body=b""), b"POST /RPC2 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"),
        (laid_out(verb="GET", body=b"", target=""), b"GET / HTTP/1.1\r\nHost: xen:80\r\n\r\n"),
        (
            request_head(XEN, 0, RequestMetadata("GET", "/", (HOST,)), host=b"other", close=True),
            b"GET / HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n",
        ),
        (
            request_head(parse_url("http://xen/RPC2"), 0, RequestMetadata("GET", "/other?x", (HOST,))),
            b"GET /RPC2 HTTP/1.1\r\nHost: x\r\n\r\n",
        ),
    ],
)
def test_a_request_is_written(written: bytes, expected: bytes) -> None:
    assert written == expected


# Headers


PLAIN = ((b"Host", b"xen"), (b"X-Odd", b"\xff"), (b"x-odd", b""))


@each_case(
    ("header", "kept"),
    [
        *(((name.title(), b"x"), PLAIN) for name in sorted(HOP_BY_HOP)),
        ((b"Connection", b"close, X-ODD"), PLAIN[:1]),
        ((b"Connection", b"host"), PLAIN),  # what a message needs goes on
    ],
)
def test_headers_of_the_message_go_on_in_their_order_and_spelling(header: tuple[bytes, bytes], kept: Headers) -> None:
    assert end_to_end((header, *PLAIN)) == kept


def test_requests_that_share_their_metadata_share_their_head_where_their_bodies_are_as_long() -> None:
    heads = RequestHeads(XEN, b"", close=False)
    shared = RequestMetadata("POST", "/", (HOST, (b"Content-Length", b"4")))
    first = heads.of(shared, 4)
    assert heads.of(shared, 4) is first
    assert heads.of(shared, 5).endswith(b"Content-Length: 5\r\n\r\n")
    for number in range(200):  # the ids of metadata that is gone are given to others
        other = RequestMetadata("POST", f"/{number}", (HOST,))
        assert heads.of(other, 4).startswith(b"POST /%d " % number)
