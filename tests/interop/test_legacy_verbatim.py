"""In front of a legacy service with nothing mapped the gateway is not seen: the same bytes arrive at both ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from tests.kit.gateway import configured
from tests.kit.toolstack import Twin, twin
from tests.kit.upstreams import Message, Tap, dialled, wiretap
from tests.unit.codecs import hostile_jsonrpc, hostile_xmlrpc

CONFIG = """\
[listener.rpc]
bind = ["tcp:127.0.0.1:0"]
unmapped = "passthrough"
upstream = "old"
[upstream.old]
url = "{url}"
idle = "100ms"
dialect = "xenapi"
speaks = ["jsonrpc"]
"""

# Nothing is mapped, but messages are read: whose call is it, and what came of it?
ENDPOINTS = """\
mapping: 1
service: xapi
legacy: {upstream: old}
unmapped: passthrough
expose:
  - {listener: rpc, path: /, codec: xmlrpc, dialect: xenapi}
  - {listener: rpc, path: /jsonrpc, codec: jsonrpc, dialect: xenapi}
methods: {}
"""

GOLDEN = Path(__file__).parents[1] / "wire"


@contextmanager
def invisible(url: str, folder: Path, **files: str) -> Iterator[int]:
    """A gateway in front of a legacy service, with mapping files or none; gives its port."""
    with configured(folder, CONFIG, {f"{name}.yaml": text for name, text in files.items()}, url=url) as process:
        yield process.port


# Generated: any request, any answer

TOKEN = st.from_regex(r"X-[A-Za-z0-9!#$%&'*+.^_`|~-]{1,12}", fullmatch=True).map(str.encode)
TEXT = st.from_regex(rb"[!-~\x80-\xff]([\t -~\x80-\xff]{0,20}[!-~\x80-\xff])?", fullmatch=True)
KNOWN = st.sampled_from(
    [
        (b"COOKIE", b"session_id=OpaqueRef:a; b=c"),
        (b"Authorization", b"Basic cm9vdDp4"),
        (b"content-TYPE", b"text/xml"),
        (b"Accept-Encoding", b"gzip, identity"),
        (b"Content-Encoding", b"gzip"),
        (b"user-agent", b"xmlrpclib.py/1.0.1"),
        (b"Originator", b"xapi"),
        (b"Empty", b""),
    ]
)
HEADERS = st.lists(KNOWN | st.tuples(TOKEN, TEXT), max_size=6, unique_by=lambda header: header[0].lower())
TARGETS = st.from_regex(r"/[A-Za-z0-9._~!$&'()*+,;=:@%/-]{0,20}(\?[A-Za-z0-9=&%/?+-]{0,20})?", fullmatch=True)
BODIES = st.binary(max_size=200) | st.sampled_from(
    [
        b"<?xml version='1.0'?>\n<methodCall><methodName>VM.start</methodName><params/></methodCall>",
        b'{"method":"VM.start","params":["\\ud800"],"id":1}',
        b'{"jsonrpc": "2.0", "method": "a"}',
        b'[{"jsonrpc":"2.0","method":"a","id":1}]',
        b"<methodCall><methodName>broken",
        b"0000000000000053{}",
    ]
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, str]:
    verb = draw(st.sampled_from(["POST", "POST", "GET", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH"]))
    body = draw(BODIES) if verb in ("POST", "PUT", "PATCH") else b""
    one = draw(st.booleans())
    lines = [b"%b %b HTTP/1.%d" % (verb.encode(), draw(TARGETS).encode(), one)]
    headers = [(b"Host", b"old.example"), *draw(HEADERS), (b"Connection", b"keep-alive")]
    if verb in ("POST", "PUT", "PATCH"):
        headers.insert(draw(st.integers(0, len(headers))), (b"content-length", b"%d" % len(body)))
    lines += [b"%b: %b" % header for header in headers]
    return b"\r\n".join((*lines, b"", body)), verb


@st.composite
def answers(draw: st.DrawFn) -> tuple[bytes, bool]:
    """An answer as its bytes, and whether the connection ends with it."""
    status = draw(st.sampled_from([200, 200, 200, 201, 204, 302, 304, 401, 404, 500, 501, 599]))
    reason = draw(st.from_regex(rb"[!-~\x80-\xff]{0,10}", fullmatch=True))
    body = b"" if status in (204, 304) else draw(st.binary(max_size=300))
    headers = draw(HEADERS)
    how = draw(st.sampled_from(["length", "chunks", "end"])) if status not in (204, 304) else "none"
    if how == "length":
        headers.insert(draw(st.integers(0, len(headers))), (b"content-length", b"%d" % len(body)))
    elif how == "chunks":
        headers.append((b"Transfer-Encoding", b"chunked"))
        body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:]) if part) + b"0\r\n\r\n"
    head = b"\r\n".join((b"HTTP/1.1 %d %b" % (status, reason), *(b"%b: %b" % header for header in headers), b"", b""))
    return head + body, how == "end"


@pytest.fixture(scope="module")
def tap() -> Iterator[Tap]:
    with wiretap() as running:
        yield running


@pytest.fixture(scope="module")
def port(tap: Tap, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with invisible(f"http://127.0.0.1:{tap.port}", tmp_path_factory.mktemp("gateway")) as port:
        yield port


def through(port: int, tap: Tap, request: bytes, verb: str) -> tuple[Message, Message]:
    """The answer, and what the legacy server saw."""
    with dialled(port) as (connection, reader):
        connection.sendall(request)
        return reader.answer(bodiless=verb == "HEAD"), tap.seen.pop()


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(request=requests(), answer=answers())
def test_any_request_and_any_answer_arrive_as_they_were_sent(
    port: int, tap: Tap, request: tuple[bytes, str], answer: tuple[bytes, bool]
) -> None:
    written, verb = request
    tap.answer, tap.ends = answer
    if verb == "HEAD":
        tap.answer = tap.answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    direct, seen_directly = through(tap.port, tap, written, verb)
    passed, seen_through = through(port, tap, written, verb)
    assert seen_through.carried() == seen_directly.carried()
    assert passed.carried() == direct.carried()


# Recorded: what clients really send, and what nobody should, to the old xapi


@pytest.fixture(scope="module")
def xapi(toolstack_bus: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twin]:
    with twin("xapi", toolstack_bus, tmp_path_factory.mktemp("twin"), tcp=True) as old:
        yield old


@pytest.fixture(scope="module", params=[{}, {"xapi": ENDPOINTS}], ids=["no mapping", "nothing mapped"])
def front(xapi: Twin, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[int]:
    with invisible(xapi.url, tmp_path_factory.mktemp("front"), **request.param) as port:
        yield port


def _recorded() -> Iterator[tuple[str, bytes, str]]:
    for kind, path in (("xmlrpc", "/RPC2"), ("jsonrpc", "/jsonrpc")):
        for file in sorted((GOLDEN / kind).glob("*.yaml")):
            for case in YAML(typ="safe", pure=True).load(file.read_text()):
                yield path, str(case.get("request", case.get("request_base64"))).encode(), case["title"]
    yield from (("/", body, title) for title, body, *_ in hostile_xmlrpc.REFUSED)
    yield from (("/jsonrpc", body, title) for title, body, *_ in hostile_jsonrpc.HOSTILE)


@pytest.mark.bus
def test_recorded_and_hostile_messages_get_old_xapis_own_answer(xapi: Twin, front: int) -> None:
    direct_port, count = int(xapi.url.rpartition(":")[2]), 0
    for path, body, title in _recorded():
        request = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(body), body)
        answers = []
        for port in (direct_port, front):
            with dialled(port) as (connection, reader):
                connection.sendall(request)
                answers.append(reader.answer().carried())
        assert answers[0] == answers[1], title
        count += 1
    assert count > 100
