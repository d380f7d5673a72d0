"""Makes a twin misbehave while it runs: slow, wrong, noisy, failing, silent.

A JSON file says how, read again whenever it changes: a method or a pattern -> what is wrong with it.

    {"VM.get_record": {"wrong": {"name_label": "not this"}}, "VM.*": {"slow": 0.2, "fail": 0.1, "noisy": ["tags"]}}

slow: seconds before it answers. held: it answers once the file no longer says so. fail: the share of calls that fail
(0.5: every second one). error: what they fail with. silent: the connection is closed without an answer. wrong: a path
in the result -> what stands there instead. noisy: paths in the result that are different every time. In a path `*` is
every member or item; "" is the result itself.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from legacy_wire import Failure


class SilentError(Exception):
    """The call is to get no answer at all."""


class Switches:
    """The faults of each method, as the file says now."""

    def __init__(self, file: Path | None, calls: Path | None = None) -> None:
        self._file = file
        self._log = calls
        self._seen: tuple[int, int] | None = None
        self._rules: Mapping[str, Mapping[str, Any]] = {}
        self._calls: dict[str, int] = {}
        self._noise = 0

    def note(self, method: str, params: Any) -> None:
        """Record a call, when the file asks for it."""
        if self._log is not None:
            line = {"when": time.time(), "method": method, "params": params}
            with self._log.open("a") as file:
                file.write(f"{json.dumps(line, default=str)}\n")

    async def before(self, method: str, failure: Any) -> None:
        """Be slow, fail or be silent; `failure`: this service's form of an internal error."""
        rules = self._of(method)
        self._calls[method] = count = self._calls.get(method, 0) + 1
        await asyncio.sleep(float(rules.get("slow", 0)))
        while self._of(method).get("held"):  # noqa: ASYNC110 - the file tells nobody
            await asyncio.sleep(0.02)
        if rules.get("silent"):
            raise SilentError(method)
        share = float(rules.get("fail", 0))
        if int(count * share) > int((count - 1) * share):
            raise Failure(rules.get("error", failure))

    def after(self, method: str, result: Any) -> Any:
        """Return the result with its faults."""
        rules = self._of(method)
        for path, instead in rules.get("wrong", {}).items():
            result = _put(result, path.split(".") if path else [], lambda _, instead=instead: instead)
        for path in rules.get("noisy", ()):
            result = _put(result, path.split(".") if path else [], self._noisy)
        return result

    def _noisy(self, item: Any) -> Any:
        self._noise += 1
        if isinstance(item, bool):
            return bool(self._noise % 2)
        if isinstance(item, (int, float)):
            return item + self._noise
        return f"{item} {self._noise}" if isinstance(item, str) else [*item, str(self._noise)]

    def _of(self, method: str) -> Mapping[str, Any]:
        self._read()
        found: dict[str, Any] = {}
        for pattern, rules in sorted(self._rules.items(), key=lambda rule: len(rule[0])):
            if fnmatchcase(method, pattern):
                found |= rules
        return found

    def _read(self) -> None:
        if self._file is None:
            return
        try:
            status = self._file.stat()
            if (status.st_mtime_ns, status.st_ino) != self._seen:
                self._rules = json.loads(self._file.read_text())
                self._seen = (status.st_mtime_ns, status.st_ino)
        except FileNotFoundError:
            self._rules, self._seen = {}, None
        except ValueError:
            return  # it is being written; the next call reads it again


def _put(result: Any, path: list[str], change: Any) -> Any:
    """The same with something changed at a path; an unknown path changes nothing."""
    if not path:
        return change(result)
    step, rest = path[0], path[1:]
    if isinstance(result, dict):
        return {key: _put(item, rest, change) if step in ("*", key) else item for key, item in result.items()}
    if isinstance(result, list):
        return [_put(item, rest, change) if step in ("*", str(at)) else item for at, item in enumerate(result)]
    return result
