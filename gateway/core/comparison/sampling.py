"""Sampling of comparisons: `compare: {share: 10%, at_most: 200/s}` says how many calls of a method are compared.

A hash of the call and of its number among the calls of its method decides, never the load of the moment: quiet moments
are not preferred. Above `at_most` the share shrinks to what the rate of the last second allows, so the sample stays
spread over the whole second.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from math import inf

from msgspec import Struct

from gateway.core.rpc.model import Call

_RATE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)/s", re.ASCII)
_HASHED = 64  # characters of each parameter that are hashed


class Sampling(Struct, frozen=True):
    """`share`: from 0 to 1; `at_most`: calls a second."""

    share: float = 1.0
    at_most: float = inf

    def __str__(self) -> str:
        """As in the mapping: "10%, at most 200/s"."""
        return f"{self.share * 100:g}%" + (f", at most {self.at_most:g}/s" if self.at_most < inf else "")


EVERY_CALL = Sampling()


def parse_rate(text: str) -> float:
    """Calls a second: "200/s" -> 200.0; raises ValueError."""
    match = _RATE.fullmatch(text.strip())
    if match is None or float(match[1]) <= 0:
        raise ValueError(f"expected a number of calls a second such as 200/s, got {text!r}")
    return float(match[1])


class Sampler:
    """The choice for the calls of one method."""

    def __init__(self) -> None:
        self._number = 0
        self._since = -inf
        self._calls = self._chosen = 0
        self._rate = 0.0

    def choose(self, sampling: Sampling, subject: str, call: Call, now: float) -> bool:
        """Whether to compare this call. `subject`: service and method; `now`: seconds of a monotonic clock."""
        if sampling == EVERY_CALL:
            return True
        if now - self._since >= 1:
            self._rate = self._calls / (now - self._since)
            self._since, self._calls, self._chosen = now, 0, 0
        self._number += 1
        self._calls += 1
        share = min(sampling.share, sampling.at_most / max(self._rate, self._calls))
        if self._chosen >= sampling.at_most:
            return False
        given = [str(each)[:_HASHED] for each in (*call.params, *call.named.values()) if isinstance(each, str | int)]
        hashed = "\0".join([subject, str(self._number), *given]).encode("utf-8", "surrogatepass")
        if int.from_bytes(blake2b(hashed, digest_size=8).digest(), "big") / 2**64 >= share:
            return False
        self._chosen += 1
        return True
