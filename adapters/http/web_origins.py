"""The web pages and host names that a listener serves; CORS for those pages (fetch.spec.whatwg.org). Pure.

A browser sends the request of a page to any address that the page names, with the user's network access. Such a
request has an Origin or Sec-Fetch-Site header, which a page can neither set nor leave out.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from adapters.http.request import HttpRefusal, HttpRequest
from gateway.core.rpc.model import Fault, FaultCode

ANY = "*"
_FOREIGN = frozenset({b"cross-site", b"same-site"})
_MAX_AGE = 600  # seconds that a browser may keep the answer to a preflight
_NAMES = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z, \t-]{0,1024}")
_FORBIDDEN = "requests of web pages from {} are not served here: list the origin in `origins` of this listener"
_FOREIGN_HOST = HttpRefusal(
    Fault(FaultCode.ACCESS_DENIED, "the request names a host that is not in `hosts` of this listener")
)


class WebOrigins:
    """The rules of one listener. `answers`: the gateway writes CORS headers, because the config has none."""

    def __init__(self, origins: Collection[str] = (), hosts: Collection[str] = (), *, answers: bool = True) -> None:
        self._origins = frozenset(origin.lower().encode() for origin in origins)
        self._any = ANY in origins
        self._hosts = frozenset(host.lower().encode() for host in hosts)
        self._answers = answers
        self.checks_hosts = bool(self._hosts)  # every request must be checked, and not only one with an origin

    def check(self, request: HttpRequest) -> HttpRefusal | None:
        """The reason to refuse a request, or None; sets `cors` of a request from a listed page."""
        read = request.read
        if self._hosts:
            names = (read.get(b"host"), request.authority) if request.authority else (read.get(b"host"),)
            if not all(name is not None and self._is_ours(name.lower()) for name in names):
                return _FOREIGN_HOST
        origin = read.get(b"origin")
        if origin is None:
            site = read.get(b"sec-fetch-site")
            return None if site not in _FOREIGN or self._any else _forbidden("another site")
        if not self._any and origin.lower() not in self._origins:
            return _forbidden(f"'{origin.decode('latin-1')[:200]}'")
        if self._answers:
            allowed = ANY if self._any else origin.decode("latin-1")
            request.cors = f"Access-Control-Allow-Origin: {allowed}\r\nVary: Origin\r\n"
        return None

    def preflight(self, request: HttpRequest, *, any_method: bool) -> str | None:
        """The header lines of the response to a preflight; None where the request is not a preflight."""
        method = request.read.get(b"access-control-request-method")
        if method is None or request.method != "OPTIONS" or b"origin" not in request.read:
            return None
        headers = request.read.get(b"access-control-request-headers", b"")
        lines = f"Access-Control-Allow-Methods: {_token(method) if any_method else 'POST'}\r\n"
        if headers and _NAMES.fullmatch(headers):
            lines += f"Access-Control-Allow-Headers: {headers.decode('ascii')}\r\n"
        return f"{lines}Access-Control-Max-Age: {_MAX_AGE}\r\n"

    def _is_ours(self, host: bytes) -> bool:
        """By name, or by name and port where the list has a port."""
        return host in self._hosts or re.sub(rb":\d*$", b"", host) in self._hosts


def _token(method: bytes) -> str:
    return method.decode("ascii") if re.fullmatch(rb"[A-Z-]{1,32}", method) else "POST"


def _forbidden(page: str) -> HttpRefusal:
    return HttpRefusal(Fault(FaultCode.ACCESS_DENIED, _FORBIDDEN.format(page)))
