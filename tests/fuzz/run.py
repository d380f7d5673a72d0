"""Fuzzes every parser of foreign input for a bounded time: `python -m tests.fuzz.run [TARGET ...]`.

It prints its seed, and each failing input as a Python literal, shortened. It is not part of `make test`.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

from tests.fuzz.mutate import Chance, mutated
from tests.fuzz.target import Check, Target
from tests.fuzz.targets import targets

SLOW = 2.0  # seconds for one input, past which it is reported
SHRINKING = 10.0  # seconds for making one failing input shorter
POOL = 2000  # inputs that are kept because they had a new result


def main() -> int:
    """Run the targets one after the other; 1 when an input failed."""
    with targets() as known:
        options = _options(sorted(known))
        chosen = options.targets or sorted(known)
        _say(f"seed {options.seed}, {options.seconds:g} s for {', '.join(chosen)}")
        failed = [
            name
            for name in chosen
            if not _run(name, known[name], Random(f"{options.seed} {name}"), options.seconds / len(chosen))
        ]
    _say(f"failed: {', '.join(failed)} (FUZZ_SEED={options.seed})" if failed else "nothing failed")
    return 1 if failed else 0


def _options(names: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"any of {', '.join(names)}; all, when left out")
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("FUZZ_SECONDS", "60")), help="for all")
    parser.add_argument("--seed", default=os.environ.get("FUZZ_SEED") or str(Random().getrandbits(32)))
    options = parser.parse_args()
    if unknown := set(options.targets) - set(names):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    return options


def _run(name: str, target: Target, random: Random, seconds: float) -> bool:
    """Return whether every input passed. An input with a new result is mutated further."""
    pool = list(target.seeds)
    chance = Chance(random, target.tokens, pool)
    seen: set[str] = set()
    runs = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        body = pool[runs] if runs < len(target.seeds) else mutated(chance)
        runs += 1
        failure, came = _tried(target.check, body)
        if failure:
            shorter = _shortest(target.check, body, failure)
            _say(f"{name}: failed after {runs} inputs\n{_tried(target.check, shorter)[0] or failure}input: {shorter!r}")
            return False
        if came not in seen and len(pool) < len(target.seeds) + POOL:
            seen.add(came)
            pool.append(body)
    _say(f"{name}: {runs} inputs, {len(seen)} different endings")
    return True


def _tried(check: Check, body: bytes) -> tuple[str, str]:
    """Return why the input failed, or its result."""
    try:
        with _patience():
            return "", check(body)
    except Exception:  # noqa: BLE001 - any exception is a finding
        return traceback.format_exc(limit=-6), ""


@contextmanager
def _patience() -> Iterator[None]:
    def too_slow(*_: object) -> None:
        raise TimeoutError(f"took longer than {SLOW:g} s")

    signal.signal(signal.SIGALRM, too_slow)
    signal.setitimer(signal.ITIMER_REAL, SLOW)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _shortest(check: Check, body: bytes, failure: str) -> bytes:
    """Leave out parts, large ones first, as long as it fails in the same place."""
    size = len(body)
    end = time.monotonic() + SHRINKING
    while size := size // 2:
        at = 0
        while at < len(body) and time.monotonic() < end:
            shorter = body[:at] + body[at + size :]
            if _place(_tried(check, shorter)[0]) == _place(failure):
                body = shorter
            else:
                at += size
    return body


def _place(failure: str) -> str:
    """Return where an exception was raised; its text may depend on the input."""
    return "".join(line for line in failure.splitlines() if line.startswith("  File"))


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
