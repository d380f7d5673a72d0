from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from adapters.http.client_connection import parse_url, write_request
from gateway.core.rpc.model import RequestMetadata


def test_a_url_says_host_port_and_path() -> None:
    found = parse_url("http://[::1]:8080/RPC2?a=b")
    assert (found.host, found.port, found.path, found.socket, found.is_tls) == ("::1", 8080, "/RPC2?a=b", "", False)
    assert found.named == b"[::1]:8080"


def test_ports_have_defaults() -> None:
    assert (parse_url("http://xen").port, parse_url("https://xen").port) == (80, 443)


def test_a_unix_socket_may_have_a_path_of_requests() -> None:
    found = parse_url("http+unix:///var/lib/xcp/xapi")
    assert (found.socket, found.path) == ("/var/lib/xcp/xapi", "")
    found = parse_url("http+unix:///var/lib/xcp/xapi:/RPC2")
    assert (found.socket, found.path) == ("/var/lib/xcp/xapi", "/RPC2")


@pytest.mark.parametrize(
    "url", ["http://", "ftp://xen", "http+unix://x", "http+unix:///x:y", "http://me:word@xen", "http://xen:99999/"]
)
def test_another_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"expected http|Port out of range"):
        parse_url(url)


def test_certificates_are_verified_unless_told_otherwise() -> None:
    trusting, strict = parse_url("https://xen", verify=False).tls, parse_url("https://xen").tls
    assert trusting is not None
    assert strict is not None
    assert (strict.verify_mode, strict.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert (trusting.verify_mode, trusting.check_hostname) == (ssl.CERT_NONE, False)


def test_a_ca_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        parse_url("https://xen", ca_file=str(tmp_path / "none.pem"))


XEN = parse_url("http://xen:80")


def laid_out(*headers: tuple[bytes, bytes], body: bytes = b"body", verb: str = "POST", target: str = "/RPC2") -> bytes:
    return write_request(XEN, body, RequestMetadata(verb, target, headers))


def test_a_request_is_written_as_the_client_wrote_it() -> None:
    headers = ((b"HOST", b"old name"), (b"content-LENGTH", b"04"), (b"Cookie", b"\xff"))
    assert (
        laid_out(*headers) == b"POST /RPC2 HTTP/1.1\r\nHOST: old name\r\ncontent-LENGTH: 04\r\nCookie: \xff\r\n\r\nbody"
    )


def test_what_concerns_the_clients_connection_is_not_sent_on() -> None:
    got = laid_out((b"Host", b"x"), (b"Connection", b"close"), (b"Expect", b"100-continue"), (b"Content-Length", b"4"))
    assert got == b"POST /RPC2 HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"


def test_a_length_is_told_where_the_client_told_none_or_another() -> None:
    chunked = laid_out((b"Host", b"x"), (b"Transfer-Encoding", b"chunked"))
    assert chunked == b"POST /RPC2 HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"
    inflated = laid_out((b"Content-Length", b"2"), (b"Host", b"x"))
    assert inflated == b"POST /RPC2 HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"


def test_a_request_without_content_gets_a_length_only_where_one_is_expected() -> None:
    assert laid_out((b"Host", b"x"), body=b"", verb="GET") == b"GET /RPC2 HTTP/1.1\r\nHost: x\r\n\r\n"
    assert laid_out((b"Host", b"x"), body=b"") == b"POST /RPC2 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"


def test_a_host_is_said_where_the_client_said_none_or_the_config_says_another() -> None:
    assert laid_out(verb="GET", body=b"") == b"GET /RPC2 HTTP/1.1\r\nHost: xen:80\r\n\r\n"
    got = write_request(XEN, b"", RequestMetadata("GET", "/", ((b"Host", b"x"),)), host=b"other")
    assert got == b"GET / HTTP/1.1\r\nHost: other\r\n\r\n"


def test_a_path_in_the_url_comes_before_the_clients() -> None:
    assert write_request(parse_url("http://xen/RPC2"), b"", RequestMetadata("GET", "/other?x")).startswith(
        b"GET /RPC2 HTTP/1.1\r\n"
    )
    assert write_request(XEN, b"", RequestMetadata("GET", "")).startswith(b"GET / HTTP/1.1\r\n")


def test_a_connection_for_one_request_says_so() -> None:
    assert write_request(XEN, b"", RequestMetadata("GET", "/"), close=True).endswith(b"\r\nConnection: close\r\n\r\n")
