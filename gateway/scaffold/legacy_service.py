"""Asks a legacy service for its methods: `system.listMethods`, `system.methodSignature` and `system.methodHelp`.

(http://xmlrpc-c.sourceforge.net/introspection.html) The server is trusted no further than its answers: their size and
number are bounded, and what they say becomes names and types of a file that a person reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

import aiohttp

from gateway import wiring
from gateway.core.dbus.signature import Type, parse_one
from gateway.core.rpc.model import Call, Fault, Value
from gateway.scaffold import SourceError
from gateway.scaffold.legacy import ANY, LegacyMethod, LegacyParameter, array, dictionary, zero

MAX_METHODS = 5000
MAX_ANSWER = 8 * 1024**2  # bytes
TIMEOUT = 10.0  # seconds for one call
MOST_AT_ONCE = 4  # calls

# The names of types in signatures (XML-RPC), and what some servers write in their place.
TYPES: dict[str, Type] = {
    **dict.fromkeys(("int", "i4"), parse_one("i")),
    **dict.fromkeys(("i8", "long"), parse_one("x")),
    **dict.fromkeys(("boolean", "bool"), parse_one("b")),
    **dict.fromkeys(("double", "float"), parse_one("d")),
    **dict.fromkeys(("string", "str"), parse_one("s")),
    **dict.fromkeys(("base64", "bytes"), parse_one("ay")),
    **dict.fromkeys(("array", "list"), array(ANY)),
    **dict.fromkeys(("struct", "dict"), dictionary(ANY)),
    **dict.fromkeys(("dateTime.iso8601", "dateTime", "datetime"), parse_one("x")),
}
MOMENTS = frozenset({"dateTime.iso8601", "dateTime", "datetime"})
VOID = frozenset({"nil", "void", "null", "None", ""})

Progress = Callable[[int, int], object]  # methods that were asked about, of all


async def ask(url: str, codec: str, progress: Progress = lambda _asked, _all: None) -> list[LegacyMethod]:
    """The methods that a server lists; raises SourceError."""
    server = _Server(url, codec)
    async with server.session() as session:
        names = await server.answer(session, "system.listMethods")
        if isinstance(names, Fault):
            raise SourceError(f"{url}: system.listMethods: {names.message}")
        if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
            raise SourceError(f"{url}: system.listMethods: expected a list of names")
        if len(names) > MAX_METHODS:
            raise SourceError(f"{url}: system.listMethods: expected at most {MAX_METHODS} names, got {len(names)}")
        limit = asyncio.Semaphore(MOST_AT_ONCE)
        asked = 0

        async def about(name: str) -> LegacyMethod:
            nonlocal asked
            async with limit:
                signatures = await server.answer(session, "system.methodSignature", name)
                text = await server.answer(session, "system.methodHelp", name)
            asked += 1
            progress(asked, len(names))
            return method(name, signatures, text if isinstance(text, str) else "")

        return list(await asyncio.gather(*(about(str(name)) for name in dict.fromkeys(names))))


def method(name: str, signatures: Value, documentation: str = "") -> LegacyMethod:
    """A method with its signatures, each a list of types: the result, then the parameters.

    Some servers write a signature as text with commas, or answer a text ("signatures not supported").
    """
    found = []
    for each in signatures if isinstance(signatures, list) else ():
        words = each.split(",") if isinstance(each, str) else each
        if isinstance(words, list) and words and all(isinstance(word, str) for word in words):
            found.append([str(word).strip() for word in words])
    about = " ".join(documentation.split())
    if not found:
        decide = ["parameters and result: the server does not tell them"]
        return LegacyMethod(name, (), ANY, documentation=about, decide=decide)
    fewest, most = min(map(len, found)), max(map(len, found))
    decide = ["names of the parameters"] if most > 1 else []
    decide += ["defaults"] if most > fewest else []
    parameters = []
    for at in range(1, most):
        kind, form = _type({each[at] for each in found if len(each) > at})
        parameters.append(LegacyParameter(f"arg{at}", kind, None if at < fewest else zero(kind), format=form))
    results = {each[0] for each in found}
    kind, form = _type(results)
    return LegacyMethod(name, parameters, None if results <= VOID else kind, form, about, decide)


def _type(words: set[str]) -> tuple[Type, str]:
    """The D-Bus type for the types of all signatures, any value where they differ; and its format in the mapping."""
    kind = TYPES.get(next(iter(words)), ANY) if len(words) == 1 else ANY
    return kind, "datetime" if words <= MOMENTS else ""


class _Server:
    """A legacy service over HTTP, or over a Unix socket: http+unix://%2Frun%2Fx/path."""

    def __init__(self, url: str, codec: str) -> None:
        self.url = url
        self._codec = wiring.client_codec(codec)
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https", "http+unix") or not parts.netloc:
            raise SourceError(f"expected an http, https or http+unix URL, got {url!a}")
        self._socket = unquote(parts.netloc) if parts.scheme == "http+unix" else ""
        self._target = f"http://localhost{parts.path}" if self._socket else url

    def session(self) -> aiohttp.ClientSession:
        connector = aiohttp.UnixConnector(self._socket) if self._socket else aiohttp.TCPConnector()
        return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=TIMEOUT))

    async def answer(self, session: aiohttp.ClientSession, name: str, *params: Value) -> Any:
        """The result of a call, without XenAPI's struct of Status and Value; or its fault."""
        body = self._codec.encode_call(Call(name, params))
        headers = {"Content-Type": self._codec.content_type}
        try:
            async with session.post(self._target, data=body, headers=headers, allow_redirects=False) as response:
                content = await response.content.read(MAX_ANSWER + 1)
                while content and len(content) <= MAX_ANSWER and not response.content.at_eof():
                    content += await response.content.read(MAX_ANSWER + 1 - len(content))
                if response.status >= 300:
                    raise SourceError(f"{self.url}: {name}: HTTP {response.status}")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            reason = str(error) or f"no answer within {TIMEOUT:.0f} s"
            raise SourceError(f"{self.url}: {name}: {reason}") from error
        if len(content) > MAX_ANSWER:
            raise SourceError(f"{self.url}: {name}: the answer is larger than {MAX_ANSWER} bytes")
        outcome = self._codec.decode_outcome(content)
        value = outcome if isinstance(outcome, Fault) else outcome.value
        return value["Value"] if isinstance(value, dict) and value.keys() == {"Status", "Value"} else value
