"""WebSocket (RFC 6455) over one exchange: the handshake, and text messages in both directions.

The frames are wsproto's. There are no extensions, so the size of a frame is the size of its content. A message is at
most as long as a request body may be, and counts as held until the next one is read. Frames are written one message
after the other, each when the kernel has taken the one before: what a client does not read stays where it is made. The
event loop serves others after each message and after some frames: a frame may be 6 bytes long, so one read of a socket
may have ten thousands of them.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode
from binascii import Error as Base64Error

from wsproto.frame_protocol import CloseReason, Frame, FrameProtocol, Opcode, ParseFailed
from wsproto.utilities import generate_accept_token

from gateway.core import interfaces
from gateway.core.interfaces import HttpExchange
from gateway.core.rpc.model import Answer, Headers

VERSION = b"13"
KEY_BYTES = 16
CLOSE_TIMEOUT = 2.0  # seconds that a client has to read the end
FRAMES_AT_ONCE = 32  # frames that are read before the event loop serves others
TEXT = "text/plain"
_FRAMES = FrameProtocol(client=False, extensions=[])  # writes whole messages, so it keeps nothing of one


async def open_websocket(exchange: HttpExchange, max_message: int) -> WebSocket | Answer:
    """Accept a handshake; the answer says why it is refused (RFC 6455 section 4.2)."""
    headers = {name.lower(): value.strip() for name, value in exchange.metadata.headers}
    key, version = headers.get(b"sec-websocket-key", b""), headers.get(b"sec-websocket-version", b"")
    if headers.get(b"upgrade", b"").lower() != b"websocket" or exchange.metadata.verb != "GET":
        return _refusal(400, "Bad Request", "expected GET with Upgrade: websocket")
    if version != VERSION:
        shown = version[:20].decode("latin-1")
        text = f"found Sec-WebSocket-Version: {shown or 'none'}; expected 13"
        return _refusal(426, "Upgrade Required", text, ((b"Sec-WebSocket-Version", VERSION),))
    if not _is_key(key):
        return _refusal(400, "Bad Request", "expected a Sec-WebSocket-Key of 16 bytes in base64")
    accepted = (
        (b"Upgrade", b"websocket"),
        (b"Connection", b"Upgrade"),
        (b"Sec-WebSocket-Accept", generate_accept_token(key)),
    )
    await exchange.respond(
        Answer(None, "", status=101, reason="Switching Protocols", headers=accepted), opens_tunnel=True
    )
    return WebSocket(exchange, max_message)


def _is_key(key: bytes) -> bool:
    try:
        return len(b64decode(key, validate=True)) == KEY_BYTES
    except Base64Error:
        return False


def _refusal(status: int, reason: str, text: str, more: Headers = ()) -> Answer:
    headers = ((b"Content-Type", TEXT.encode()), *more)
    return Answer(f"{text}\n".encode(), TEXT, None, status, reason, headers)


class WebSocket(interfaces.MessageChannel):
    """One open WebSocket."""

    __slots__ = (
        "_end", "_exchange", "_frames_read", "_input", "_is_closed", "_is_read", "_max", "_message", "_unreleased",
        "_writing",
    )  # fmt: skip

    def __init__(self, exchange: HttpExchange, max_message: int) -> None:
        self._exchange = exchange
        self._max = max_message
        self._input = FrameProtocol(client=False, extensions=[])  # one for writing is shared
        self._writing = asyncio.Lock()
        self._message = bytearray()  # what has come of it
        self._unreleased = 0  # bytes of messages that were received
        self._frames_read = 0
        self._end: tuple[int, str] | None = None  # the code and reason to send, once nothing more is received
        self._is_read = False  # nothing more is received
        self._is_closed = False

    @property
    def held(self) -> int:
        """See MessageChannel."""
        return self._unreleased + len(self._message)

    def release(self, size: int) -> None:
        """See MessageChannel."""
        self._unreleased -= size
        self._exchange.hold(self.held)

    async def receive(self) -> bytes | None:
        """See MessageChannel."""
        await asyncio.sleep(0)
        while not self._is_read:
            try:
                for frame in self._input.received_frames():
                    self._frames_read += 1
                    if self._frames_read % FRAMES_AT_ONCE == 0:
                        await asyncio.sleep(0)
                    message = await self._handle(frame)
                    if message is not None or self._is_read:
                        return message
            except ParseFailed as failed:  # a frame breaks the protocol
                self._refuse(failed.code, str(failed))
                return None
            data = await self._exchange.read()
            if not data:
                self._is_read = True
            else:
                self._input.receive_bytes(data)
        return None

    async def _handle(self, frame: Frame) -> bytes | None:
        """A frame has come; returns the message that it ends."""
        match frame.opcode, frame.payload:
            case Opcode.PING, bytes(payload):
                await self._write(_FRAMES.pong(payload))
            case Opcode.CLOSE, (int(code), str(reason)):
                self._is_read, self._end = True, (code, reason)
            case Opcode.BINARY, _:
                self._refuse(CloseReason.UNSUPPORTED_DATA, "expected text messages, got a binary one")
            case Opcode.TEXT, str(text):
                return self._add(text, is_last=frame.message_finished)
            case _:
                pass
        return None

    def _add(self, text: str, *, is_last: bool) -> bytes | None:
        self._message += text.encode()
        if len(self._message) > self._max:
            self._refuse(CloseReason.MESSAGE_TOO_BIG, f"expected messages of at most {self._max} bytes")
            return None
        if not self._exchange.hold(self.held):
            self._refuse(CloseReason.TRY_AGAIN_LATER, "too many bytes are held (max_buffered), try again")
            return None
        if not is_last:
            return None
        message, self._message = bytes(self._message), bytearray()
        self._unreleased += len(message)
        return message

    def _refuse(self, code: int, why: str) -> None:
        self._message = bytearray()
        self._is_read, self._end = True, (code, why)

    async def send(self, message: bytes) -> None:
        """See MessageChannel."""
        await self._write(_FRAMES.send_data(message.decode()))

    async def probe(self) -> None:
        """See MessageChannel."""
        await self._write(_FRAMES.ping())

    async def close(self, why: str = "") -> None:
        """See MessageChannel."""
        if self._is_closed:
            return
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                code, reason = self._end or (CloseReason.GOING_AWAY, why[:100])
                await self._write(_FRAMES.close(code, reason), is_last=True)
                await self._exchange.finish()
        except TimeoutError:
            self._exchange.abort()
        self._is_closed = True

    async def _write(self, frame: bytearray, *, is_last: bool = False) -> None:
        async with self._writing:
            if self._is_closed:
                return
            self._is_closed = is_last
            await self._exchange.write(bytes(frame))
