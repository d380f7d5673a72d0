"""The demo's calls, made and kept instead of shown; and a stage on which nothing is."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

from demo.show import Right
from demo.stage import Stage

ROOT = Path(__file__).parents[2]
NOWHERE = Path("/nowhere")
STANDARD = {"ObjectManager.GetManagedObjects", "Properties.Get", "Properties.GetAll", "Properties.Set"}


class One(NamedTuple):
    """A call that was made."""

    client: str
    call: str
    target: str
    answer: Any
    right: Right
    by: Collection[str]


Asked = list[One]


class Asking:
    """A Show that shows nothing: it makes every call and keeps what came of it."""

    def __init__(self) -> None:
        self.asked: Asked = []

    def __call__(
        self, client: str, call: str, target: str, ask: Callable[[], Any], right: Right, by: Collection[str] = ()
    ) -> Any:
        try:
            answer = ask()
        except Exception as error:  # noqa: BLE001 - as the demo does
            answer = error
        self.asked.append(One(client, call, target, answer, right, by))
        return answer


def nowhere(url: str = "", store: Path = NOWHERE, directory: Path = NOWHERE) -> Stage:
    """Paths that lead nowhere, but for these."""
    return Stage(directory, "", url, unix=NOWHERE, store=store, control=NOWHERE, config=NOWHERE, log=NOWHERE)


def members() -> set[str]:
    """Every method of the toolstack's IDL, as interface.member, and those that every service has."""
    return STANDARD | {
        f"{interface}.{member}"
        for path in (ROOT / "mappings/idl").glob("*.xml")
        for interface, body in re.findall(
            r'<interface name="[\w.]*?(\w+)">(.*?)</interface>', path.read_text(), re.DOTALL
        )
        for member in re.findall(r'<method name="(\w+)"', body)
    }
