"""Fuzz targets for answers of legacy services, as codecs and the HTTP client read them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from adapters.codecs import CODECS
from adapters.http.client.connection import LOST, ClientConnection, TooLargeError
from adapters.limits import Quota
from gateway.core.interfaces import Codec
from gateway.core.rpc.model import Answer, Fault, FaultCode, Outcome, Reply
from tests.fuzz.target import Check, DeadWire, Target, in_pieces, told
from tests.unit.codecs import corpus

BETWEEN = b"\n--\n"  # between a message and its answer
LIMIT = 1000  # bytes of an answer


def _codec(name: str) -> Check:
    """Any answer gives an outcome for each entry, and our own answer is read unchanged."""
    codec: Codec = CODECS[name]()

    def check(body: bytes) -> str:
        message, _, answer = body.partition(BETWEEN)
        envelope = codec.decode(message)
        outcomes = codec.decode_answers(answer, envelope)
        assert len(outcomes) == len(envelope.entries)
        said: list[Outcome] = [entry if isinstance(entry, Fault) else Reply(1) for entry in envelope.entries]
        ours = codec.decode_answers(codec.encode(envelope, said) or b"", envelope)
        assert len(ours) == len(said)
        assert all(isinstance(one, Fault) == isinstance(other, Fault) for one, other in zip(ours, said, strict=True))
        return " ".join(sorted({_said(outcome) for outcome in outcomes}))

    return check


def _said(outcome: Outcome) -> str:
    """The text of a legacy service is not checked; our own messages are."""
    if isinstance(outcome, Reply):
        return f"reply {type(outcome.value).__name__}"
    return outcome.code.name if outcome.code is not FaultCode.PARSE_ERROR else told(outcome.message)


class _Http:
    """Connections that receive any bytes, and then their end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, plug: socket.socket) -> None:
        self._loop = loop
        self._plug = plug

    def check(self, body: bytes) -> str:
        """One answer gives at most one, in one piece and in many."""
        whole, pieces = (self._loop.run_until_complete(self._answer(each)) for each in ([body], in_pieces(body, 5)))
        if isinstance(whole, Answer) and isinstance(pieces, Answer):
            assert whole == pieces
        return f"{_short(whole)} {_short(pieces)}"

    async def _answer(self, pieces: Sequence[bytes]) -> Answer | str:
        connection = ClientConnection(self._loop, tls=True)
        connection.connection_made(DeadWire({"socket": self._plug}))
        assert connection.start(b"POST / HTTP/1.1\r\n\r\n", bodiless=False)
        quota = Quota()
        reading = asyncio.ensure_future(connection.answer(LIMIT, quota))
        for piece in pieces:
            connection.data_received(piece)
            await asyncio.sleep(0)
        connection.connection_lost(None)
        try:
            answer = await reading
        except LOST:
            return "lost"
        except TooLargeError as error:
            return told(str(error))
        assert not quota.buffered
        assert len(answer.body or b"") <= LIMIT
        assert not connection.is_reusable
        return answer


def _short(answer: Answer | str) -> str:
    if isinstance(answer, str):
        return answer
    return f"{answer.status} {len(answer.headers)} {len(answer.body or b'') > 0}"


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x\r\nc\r\n0\r\nT: 1\r\n\r\n"
HTTP = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.0 500 Oh\r\nX: y\r\nx: z\r\n\r\nuntil the end",
    b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED,
    b"HTTP/1.1 204 No Content\r\nConnection: close\r\nContent-Encoding: gzip\r\n\r\n",
)
HTTP_TOKENS = (
    *(b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\0", b"\xff", b":", b" ", b"\t"),
    *(b"HTTP/1.1 ", b"HTTP/9.9 ", b"101", b"304"),
    *(b"Content-Length: 0", b"Content-Length: -1", b"Content-Length: 99999999999999999999", b"Connection: keep-alive"),
    *(b"Transfer-Encoding: chunked, gzip", b"Upgrade: websocket", b"ffffffffffffffff\r\n", b"0\r\n\r\n", b"x" * 1000),
)
XML = (
    corpus.XMLRPC_CALL + BETWEEN + b"<methodResponse><params><param><value>1</value></param></params></methodResponse>",
    b"<methodCall><methodName>system.multicall</methodName><params><param><value><array><data><value><struct><member>"
    b"<name>methodName</name><value>m</value></member><member><name>params</name><value><array><data/></array></value>"
    b"</member></struct></value></data></array></value></param></params></methodCall>"
    + BETWEEN
    + b"<methodResponse><params>"
    b"<param><value><array><data><value><array><data><value>1</value></data></array></value></data></array></value></param>"
    b"</params></methodResponse>",
)
JSON = (
    corpus.JSONRPC_CALL + BETWEEN + b'{"jsonrpc":"2.0","result":1,"id":1}',
    b'[{"jsonrpc":"2.0","method":"m","id":1},{"jsonrpc":"2.0","method":"m"},{"jsonrpc":"2.0","method":"m","id":"a"}]'
    + BETWEEN
    + b'[{"jsonrpc":"2.0","result":1,"id":"a"},{"jsonrpc":"2.0","error":{"code":1,"message":"m"},"id":1}]',
    b'{"method":"m","params":[],"id":null}' + BETWEEN + b'{"result":null,"error":{"any":1},"id":null}',
)


@contextmanager
def targets(xml: Sequence[bytes], json: Sequence[bytes]) -> Iterator[Mapping[str, Target]]:
    """Return all targets, with the tokens of both codecs."""
    loop, (plug, other) = asyncio.new_event_loop(), socket.socketpair()
    with plug, other:
        yield {
            "answers-xmlrpc": Target(XML, [*xml, BETWEEN], _codec("xmlrpc")),
            "answers-jsonrpc": Target(JSON, [*json, BETWEEN], _codec("jsonrpc")),
            "answers-http": Target(HTTP, HTTP_TOKENS, _Http(loop, plug).check),
        }
    loop.close()
