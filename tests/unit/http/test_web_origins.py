"""Web pages and names of the host, over the wire."""

from __future__ import annotations

from adapters.http.web_origins import WebOrigins
from gateway.core.rpc.model import Answer
from tests.kit.cases import each_case
from tests.kit.clients import post
from tests.kit.listeners import CONTENT_TYPE, Echo, Fixed
from tests.unit.http.listening import ask, talking

PAGE = "https://admin.example"
PREFLIGHT = (
    f"OPTIONS /a HTTP/1.1\r\nHost: gateway\r\nOrigin: {PAGE}\r\n"
    "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: content-type\r\n\r\n"
).encode()


@each_case(
    "lines",
    [
        ("Origin: https://evil.example", "Content-Type: text/plain"),
        ("Origin: null",),
        ("origin: https://admin.example.evil.example",),
        ("Origin: https://admin.example", "Origin: https://evil.example"),
        ("Sec-Fetch-Site: cross-site",),
        ("sec-fetch-site: same-site",),
    ],
)
async def test_a_web_page_that_is_not_listed_reaches_nothing(lines: tuple[str, ...]) -> None:
    echo, rest = Echo(), Echo()
    async with talking(echo, passthrough=rest, web=WebOrigins([PAGE])) as wire:
        reply = await ask(wire, post(b"x", "/", *lines))
        assert (reply.status, reply.headers["content-type"]) == (403, CONTENT_TYPE)  # in the client's protocol
        assert reply.body.startswith(b"access_denied: requests of web pages from ")
        assert "access-control-allow-origin" not in reply.headers
        reply = await ask(wire, post(b"x", "/", *lines).replace(b"POST", b"PUT"))
        assert (reply.status, reply.headers["content-type"]) == (403, "text/plain")
        assert (
            await ask(
                wire, post(b"", "/", *lines, "Access-Control-Request-Method: POST").replace(b"POST /", b"OPTIONS /")
            )
        ).status == 403
    assert echo.seen == rest.seen == []


async def test_a_listed_page_may_ask_and_call() -> None:
    echo = Echo()
    async with talking(echo, web=WebOrigins([PAGE])) as wire:
        reply = await ask(wire, PREFLIGHT)
        assert reply.status == 204
        assert dict(reply.headers, date="") == {
            "access-control-allow-origin": PAGE,
            "vary": "Origin",
            "access-control-allow-methods": "POST",
            "access-control-allow-headers": "content-type",
            "access-control-max-age": "600",
            "date": "",
        }
        reply = await ask(wire, post(b"x", "/", f"Origin: {PAGE}", "Sec-Fetch-Site: cross-site"))
        assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, PAGE)
        assert reply.headers["vary"] == "Origin"
    assert [body for body, _ in echo.seen] == [b"x"]


@each_case(
    ("origins", "line", "told"),
    [
        (["*"], "Origin: null", "*"),
        (["*"], "Origin: http://anywhere", "*"),
        (["*"], "Sec-Fetch-Site: cross-site", None),
        ([], "Sec-Fetch-Site: same-origin", None),
        ([], "Sec-Fetch-Site: none", None),
        ([], "X: y", None),
    ],
)
async def test_any_page_may_call_where_the_listener_says_so_and_who_is_no_foreign_page_everywhere(
    origins: list[str], line: str, told: str | None
) -> None:
    async with talking(web=WebOrigins(origins)) as wire:
        reply = await ask(wire, post(b"x", "/", line))
    assert (reply.status, reply.headers.get("access-control-allow-origin")) == (200, told)


async def test_headers_of_the_config_are_not_written_twice() -> None:
    headers = {"Access-Control-Allow-Origin": "*"}
    async with talking(headers=headers, web=WebOrigins([PAGE], answers=False)) as wire:
        await wire.send(post(b"x", "/", f"Origin: {PAGE}", "Connection: close"))
        assert (await wire.rest()).lower().count(b"access-control-allow-origin") == 1


@each_case("says", [(), ((b"Access-Control-Allow-Origin", b"https://its.own"),)])
async def test_a_legacy_services_answer_gets_cors_headers_only_where_it_has_none_and_a_page_asks(
    says: tuple[tuple[bytes, bytes], ...],
) -> None:
    answer = Answer(b"x", "text/xml", None, 200, "OK", says)
    async with talking(Fixed(answer), web=WebOrigins([PAGE])) as wire:
        await wire.send(post(b"x"))
        assert ("access-control-allow-origin" in (await wire.reply()).headers) == bool(says)
        reply = await ask(wire, post(b"x", "/", f"Origin: {PAGE}"))
    assert reply.headers["access-control-allow-origin"] == ("https://its.own" if says else PAGE)


async def test_a_preflight_for_what_passes_names_the_method_that_is_asked_for_and_other_options_pass() -> None:
    rest = Echo()
    async with talking(passthrough=rest, web=WebOrigins([PAGE])) as wire:
        for asked, told in ((b"PUT", "PUT"), (b"x y", "POST")):
            reply = await ask(wire, PREFLIGHT.replace(b"Method: POST", b"Method: " + asked))
            assert reply.headers["access-control-allow-methods"] == told
        options = f"OPTIONS * HTTP/1.1\r\nHost: gateway\r\nOrigin: {PAGE}\r\n\r\n"
        assert (await ask(wire, options.encode())).status == 200
    assert [each.verb for each in rest.carried] == ["OPTIONS"]


@each_case(
    ("host", "target", "served"),
    [
        *((host, "/", True) for host in (b"gateway", b"GateWay:8080", b"other:99", b"[::1]:80")),
        *((host, "/", False) for host in (b"other", b"other:98", b"evil.example", b"")),
        (b"gateway", "http://evil.example/", False),
        (b"gateway", "http://gateway:80/", True),
    ],
)
async def test_a_host_that_is_not_listed_is_not_served(host: bytes, target: str, served: bool) -> None:
    async with talking(web=WebOrigins(hosts=["gateway", "other:99", "[::1]"]), needs_host=False) as wire:
        line = b"Host: " + host if host else b"X: y"
        reply = await ask(wire, post(b"x", target).replace(b"Host: gateway", line))
        assert reply.status == (200 if served else 403)
