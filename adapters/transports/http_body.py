"""Reads the body of one request under limits of size and time, and inflates it; knows no endpoint."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from aiohttp import HttpVersion11, StreamReader, web

from adapters.transports.http_connection import Connection, HttpLimits
from adapters.transports.room import Held
from gateway.core.model import Fault, FaultCode

# Content-Encoding -> the wbits of zlib (RFC 9110 section 8.4.1; deflate is zlib's format, RFC 1950)
ENCODINGS: Mapping[str, int] = {"gzip": 31, "x-gzip": 31, "deflate": 15}

FAULT_STATUS: Mapping[FaultCode, int] = {
    FaultCode.INVALID_REQUEST: 400,
    FaultCode.TIMEOUT: 408,
    FaultCode.TOO_LARGE: 413,
    FaultCode.BUSY: 503,
}
_LENGTH_REQUIRED = 411
_UNSUPPORTED_ENCODING = 415
_EXPECTATION_FAILED = 417


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a message does not reach its endpoint; `status` only where it says more than FAULT_STATUS."""

    fault: Fault
    status: int = 0

    @property
    def http_status(self) -> int:
        """The status that HTTP has for it."""
        return self.status or FAULT_STATUS[self.fault.code]


BUSY = Refusal(Fault(FaultCode.BUSY, "too many calls at once, try again"))


def _invalid(message: str, status: int = 0) -> Refusal:
    return Refusal(Fault(FaultCode.INVALID_REQUEST, message), status)


def _too_large(limit: int) -> Refusal:
    return Refusal(Fault(FaultCode.TOO_LARGE, f"the body is larger than {limit} bytes"))


async def read(
    request: web.BaseRequest,
    connection: Connection,
    limits: HttpLimits,
    held: Held,
    *,
    plain: bool,
    inflated: bool = True,
) -> bytes | Refusal:
    """The body, inflated unless it is to stay as it is, and counted in `held`.

    `plain` refuses what old xapi does: no Content-Length, and Expect.
    """
    headers, body = request.headers, request.content
    refusal = _check(headers, limits.body, held, plain=plain)
    if refusal is not None:
        return refusal
    if body.is_eof():  # the usual case: it came along with the head
        content: bytes | Refusal = _at_once(body, limits.body, held)
    else:
        if "Expect" in headers and request.version >= HttpVersion11:  # RFC 9110 section 10.1.1
            await connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        content = await _in_time(body, connection, limits, held)
    if "Content-Encoding" not in headers or isinstance(content, Refusal) or not inflated:
        return content
    larger = inflate(content, ", ".join(headers.getall("Content-Encoding")), limits.body)
    return larger if isinstance(larger, Refusal) else _hold(larger, held)


def _hold(content: bytes, held: Held) -> bytes | Refusal:
    if not held.fits(len(content)):
        return BUSY
    held.become(len(content))
    return content


def _check(headers: Mapping[str, str], limit: int, held: Held, *, plain: bool) -> Refusal | None:
    """What the head alone tells."""
    length = headers.get("Content-Length")
    if length is not None and int(length) > limit:
        return _too_large(limit)
    if plain and length is None:
        return _invalid("Content-Length is required", _LENGTH_REQUIRED)
    expect = headers.get("Expect")
    if expect is not None and (plain or expect.lower() != "100-continue"):
        return _invalid("Expect is not supported", _EXPECTATION_FAILED)
    return None if length is None or held.fits(int(length)) else BUSY


def _at_once(body: StreamReader, limit: int, held: Held) -> bytes | Refusal:
    if body.total_bytes > limit:
        return _too_large(limit)
    return _hold(body.read_nowait(), held)


async def _in_time(body: StreamReader, connection: Connection, limits: HttpLimits, held: Held) -> bytes | Refusal:
    try:
        async with asyncio.timeout(limits.body_timeout):
            return await _in_parts(body, connection, limits.body, held)
    except TimeoutError:
        return Refusal(Fault(FaultCode.TIMEOUT, f"the body did not arrive within {limits.body_timeout:g} s"))
    except (web.RequestPayloadError, ConnectionError):
        return _invalid("the body is broken")


async def _in_parts(body: StreamReader, connection: Connection, limit: int, held: Held) -> bytes | Refusal:
    parts: list[bytes] = []
    while not body.at_eof():
        if connection.is_broken(body):
            return _invalid("the body is broken")
        parts.append(await body.readany())
        if body.total_bytes > limit:
            return _too_large(limit)
        size = held.size + len(parts[-1])
        if not held.fits(size):
            return BUSY
        held.become(size)
    return b"".join(parts)


def inflate(content: bytes, encoding: str, limit: int) -> bytes | Refusal:
    """Undo a Content-Encoding without ever holding more than `limit` bytes of the result (and one)."""
    name = encoding.strip().lower()
    if name == "identity":
        return content
    if name not in ENCODINGS:
        known = ", ".join((*ENCODINGS, "identity"))
        return _invalid(f"Content-Encoding: expected one of {known}", _UNSUPPORTED_ENCODING)
    inflater = zlib.decompressobj(ENCODINGS[name])
    try:
        inflated = inflater.decompress(content, limit + 1)
    except zlib.error:
        return _invalid(f"the body is no valid {name}")
    if len(inflated) > limit:
        return _too_large(limit)
    if not inflater.eof or inflater.unused_data:  # one gzip member: many small ones would cost time out of proportion
        return _invalid(f"the body is no single, whole {name} stream")
    return inflated
