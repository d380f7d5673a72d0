"""The demo's calls, recorded instead of printed; and an environment in which nothing runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

from demo.environment import Environment
from demo.report import Expectation
from tests.kit.programs import ROOT

MISSING = Path("/nowhere")
STANDARD = {"ObjectManager.GetManagedObjects", "Properties.Get", "Properties.GetAll", "Properties.Set"}


class RecordedCall(NamedTuple):
    """One call of the demo, with its answer and what was expected of it."""

    client: str
    call: str
    target: str
    answer: Any
    expected: Expectation
    senders: Collection[str]


RecordedCalls = list[RecordedCall]


class CallRecorder:
    """A CallCheck that prints nothing: it makes every call and records the answer."""

    def __init__(self) -> None:
        self.calls: RecordedCalls = []

    def __call__(
        self,
        client: str,
        call: str,
        target: str,
        make_call: Callable[[], Any],
        expected: Expectation,
        senders: Collection[str] = (),
    ) -> Any:
        try:
            answer = make_call()
        except Exception as error:  # noqa: BLE001 - as the demo does
            answer = error
        self.calls.append(RecordedCall(client, call, target, answer, expected, senders))
        return answer


def unreachable_environment(url: str = "", store: Path = MISSING, directory: Path = MISSING) -> Environment:
    """An environment whose paths do not exist, but for those given."""
    return Environment(directory, "", url, unix=MISSING, store=store, admin=MISSING, config=MISSING, log=MISSING)


def members() -> set[str]:
    """Return every method of the toolstack's IDL as interface.member, and those that every service has."""
    return STANDARD | {
        f"{interface}.{member}"
        for path in (ROOT / "mappings/idl").glob("*.xml")
        for interface, body in re.findall(
            r'<interface name="[\w.]*?(\w+)">(.*?)</interface>', path.read_text(), re.DOTALL
        )
        for member in re.findall(r'<method name="(\w+)"', body)
    }
