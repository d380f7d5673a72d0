"""Which JSON library for JSON-RPC: `python tests/bench/json_libraries.py` prints the tables of decision 0002.

First what each library makes of what a strict reader must notice, then the speed of each, and of our whole path, for a
typical call and its answer and for a get_all_records reply of about 200 KiB. orjson is measured where it is installed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

sys.path.insert(0, str(Path(__file__).parents[2]))

from adapters.codecs.json_reader import JsonError, read
from adapters.codecs.json_writer import write
from adapters.codecs.jsonrpc import Codec
from gateway.core.rpc.model import MessageLimits, Reply, Value

SECONDS = 0.4  # for each cell, of which the best run counts
LIMITS = MessageLimits()

CALL = (
    b'{"jsonrpc":"2.0","method":"VM.start","params":["OpaqueRef:0a1b2c3d-0000-4000-8000-0123456789ab","vm-1",false,4],'
    b'"id":17}'
)
RESULT: Value = {"uuid": "0a1b2c3d-0000-4000-8000-0123456789ab", "memory": 2**32, "state": "Running", "load": 0.25}
RECORDS: Value = {
    f"OpaqueRef:{UUID(int=at)}": {
        "uuid": str(UUID(int=at)),
        "name_label": f"vm {at}",
        "memory_static_max": str(2**32 + at),
        "power_state": "Running",
        "is_a_template": False,
        "VCPUs_max": 4,
        "affinity": f"OpaqueRef:{UUID(int=at + 1)}",
        "other_config": {"auto_poweron": "true", "mac": "00:16:3e:00:00:01"},
        "load": at / 4,
    }
    for at in range(540)
}

ODDITIES = {
    "2**64": b"18446744073709551616",
    "10**30": b"1" + b"0" * 30,
    "5,000 digits": b"1" * 5000,
    "NaN": b"NaN",
    "1e400": b"1e400",
    "100,000 [": b"[" * 100_000,
    "a member twice": b'{"a":1,"a":2}',
    "half a pair": b'"\\ud800"',
    "a byte order mark": b"\xef\xbb\xbf1",
}
VALUES = {"2**64": 2**64, "10**30": 10**30, "NaN": float("nan"), "half a pair": "\ud800"}


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a member twice")
    return members


def libraries() -> dict[str, tuple[Callable[[bytes], Any], Callable[[Any], bytes]]]:
    found: dict[str, tuple[Callable[[bytes], Any], Callable[[Any], bytes]]] = {
        "json": (json.loads, compact),
        "json, members checked": (partial(json.loads, object_pairs_hook=unique), compact),
        "msgspec": (msgspec.json.decode, msgspec.json.encode),
    }
    try:
        orjson = import_module("orjson")
        found["orjson"] = (orjson.loads, orjson.dumps)
    except ImportError:
        pass
    found["ours (on msgspec)"] = (partial(read, limits=LIMITS), write)
    return found


def outcome(run: Callable[[], object]) -> str:
    try:
        made = run()
    except JsonError as refused:
        return f"refused: {refused.code.value}"
    except Exception as error:  # noqa: BLE001 - which one is raised is the finding
        return type(error).__name__
    shown = repr(made)
    return shown if len(shown) < 26 else f"{shown[:16]}... ({len(shown)})"


def best(run: Callable[[], object]) -> float:
    """Microseconds of the quickest run."""
    quickest, stop = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < stop:
        start = time.perf_counter()
        run()
        quickest = min(quickest, time.perf_counter() - start)
    return quickest * 1e6


def line(name: str, *cells: object) -> None:
    sys.stdout.write(f"{name:34}" + "".join(f"{cell:>26}" for cell in cells) + "\n")


def main() -> None:
    found = libraries()
    line("reading", *found)
    for name, body in ODDITIES.items():
        line(name, *(outcome(partial(decode, body)) for decode, _ in found.values()))
    line("writing")
    for name, value in VALUES.items():
        line(name, *(outcome(partial(encode, value)) for _, encode in found.values()))

    answer = {"jsonrpc": "2.0", "result": RESULT, "id": 17}
    reply = msgspec.json.encode({"jsonrpc": "2.0", "result": RECORDS, "id": 17})
    line("microseconds", "call read", "answer written", f"{len(reply) // 1024} KiB read", "written")
    for name, (decode, encode) in found.items():
        runs = (partial(decode, CALL), partial(encode, answer), partial(decode, reply), partial(encode, RECORDS))
        line(name, *(f"{best(run):.2f}" for run in runs))
    codec = Codec(LIMITS)
    envelope = codec.decode(CALL)
    small, large = (Reply(RESULT),), (Reply(RECORDS),)
    path = (
        partial(codec.decode, CALL),
        partial(codec.encode, envelope, small),
        partial(codec.decode_outcome, reply),
        partial(codec.encode, envelope, large),
    )
    line("the codec: calls and outcomes", *(f"{best(run):.2f}" for run in path))


if __name__ == "__main__":
    main()
