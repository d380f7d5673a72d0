"""Runs the demo: shows each call, what the bus saw of it and its answer, and says how many were right."""

from __future__ import annotations

import shlex
import signal
import socket
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any, NoReturn

from rich.console import Console
from rich.table import Table
from rich.text import Text

from demo.monitor import Monitor, MonitorError, Seen
from demo.show import SIDES, Printed
from demo.stage import Stage, StageError, stage

WIDTH = 160  # characters of an answer that are shown

_out = Console(highlight=False)


class Showing:
    """Shows each call, what the bus saw of it and its answer; counts what was right."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self.right = 0
        self.wrong = 0

    @property
    def total(self) -> int:
        """How many calls were made."""
        return self.right + self.wrong

    def __call__(
        self,
        client: str,
        call: str,
        target: str,
        ask: Callable[[], Any],
        right: Callable[[Any], bool],
        by: Collection[str] = (),
    ) -> Any:
        """Make one call and judge it; see show.Show."""
        try:
            answer = ask()
        except Exception as error:  # noqa: BLE001 - whatever a foreign client raises is a wrong answer, shown as such
            answer = error
        seen = self._monitor.since_last_time()
        good = went_right(seen, target, by) and _is_right(answer, right)
        self.right += good
        self.wrong += not good
        _print_call(client, call, good=good)
        _print_seen(seen, silent=isinstance(answer, Printed))
        _print_answer(answer)
        return answer


def went_right(seen: Sequence[Seen], target: str, by: Collection[str]) -> bool:
    """Whether the wanted method call was made, and by whom it should be."""
    fits = any(str(one).endswith(target) for one in seen) if target else not seen
    return fits and (not by or {one.sender for one in seen} & SIDES == set(by))


def _print_call(client: str, call: str, *, good: bool) -> None:
    mark = ("  ✓ ", "green") if good else ("  ✗ ", "bold red")
    _print("", Text.assemble(mark, (f"{client:16}", "cyan")), Text(call))


def _print_seen(seen: Sequence[Seen], *, silent: bool) -> None:
    """`silent`: what makes no method call by its nature need not say so."""
    lines = [str(one) for one in seen]
    for line in lines or ([] if silent else ["(nothing on the bus)"]):
        _print("      ", Text("bus     ", "dim"), Text(line, "dim"))


def _print_answer(answer: Any) -> None:
    if isinstance(answer, Printed):
        for line in Text.from_ansi(answer).split():
            line.rstrip()
            _print("      ", Text(), line)
        return
    text = repr(answer)
    _print("      ", Text("answer  "), Text(text if len(text) <= WIDTH else text[:WIDTH] + " ..."))


def _print(indent: str, label: Text, text: Text) -> None:
    """A line; in a terminal that is too narrow for it, what is left stands below its begin."""
    if not _out.is_terminal:
        _out.print(Text.assemble(indent, label, text), soft_wrap=True)
        return
    line = Table.grid(padding=0)
    line.add_column(no_wrap=True)
    line.add_column(overflow="fold")
    line.add_row(Text.assemble(indent, label), text)
    _out.print(line)


def _is_right(answer: Any, right: Callable[[Any], bool]) -> bool:
    try:
        return not isinstance(answer, Exception) and right(answer)
    except (LookupError, TypeError, AttributeError, ValueError):  # it is not even of the expected kind
        return False


def run(*, stay: bool) -> int:
    """Run the demo; returns the exit status: 0 only when every call went where it should and its answer was right.

    SIGTERM ends it as Ctrl-C does, whenever it comes: all that was started is stopped.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with stage(port=_port(8080) if stay else 0) as running:
            return _stay(running) if stay else _show(running)
    except (StageError, MonitorError) as error:
        _out.print(str(error), style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        return 0 if stay else 130
    finally:
        signal.signal(signal.SIGTERM, before)


def _port(wanted: int) -> int:
    """This port, or any (0) when it is taken."""
    with socket.socket() as probe:
        return wanted if probe.connect_ex(("127.0.0.1", wanted)) else 0


def _show(running: Stage) -> int:
    from demo import calls, moving, store_calls

    _out.print(Text(_HEAD.format(running, store="none" if running.no_store else running.store)), soft_wrap=True)
    with Monitor(running.bus) as monitor:
        showing = Showing(monitor)
        for client in (*calls.CLIENTS, *store_calls.CLIENTS, *moving.CLIENTS):
            _out.print()
            _out.print(Text((client.__doc__ or "").rstrip("."), "bold"), soft_wrap=True)
            if client in store_calls.CLIENTS and running.no_store:
                _out.print(Text(f"  left out, there is no xenstore here: {running.no_store}", "yellow"), soft_wrap=True)
                continue
            client(running, showing)
    style = "bold red" if showing.wrong else "bold green"
    _out.print()
    _out.print(f"{showing.right} of {showing.total} calls went where they should and were answered right", style=style)
    return 1 if showing.wrong else 0


_HEAD = """\
bus       {0.bus}
gateway   {0.url}  (all mapping files; legacy clients as they are)
xenstore  {store}"""


def _stay(running: Stage) -> NoReturn:
    control = f"--socket {shlex.quote(str(running.control))}"
    _out.print(Text(_TO_TRY.format(running, control=control, vm=_VM)), soft_wrap=True)
    missing = f"  (There is no xenstore here: {running.no_store})\n"
    store = missing if running.no_store else _IN_STORE.format(running)
    _out.print(Text(store), soft_wrap=True)
    _out.print(Text(f"  The config:        {running.config}\n"), soft_wrap=True)
    while True:
        signal.pause()


_VM = "OpaqueRef:11111111-aaaa-4aaa-8aaa-000000000001"
_TO_TRY = """\
Running until Ctrl-C. The gateway's log: {0.log}

  A legacy client:   curl -d '{{"jsonrpc":"2.0","id":1,"method":"perfmon.status"}}' {0.url}/perfmon/jsonrpc
  What is mapped:    xcp-gateway routes {control}
  One call:          xcp-gateway call SR.list dbg --path /storage --explain {control}
  What the bus sees: dbus-monitor --address {0.bus} "type='method_call'"
  How it does:       xcp-gateway status {control}

  Both sides of a method, the old xapi and D-Bus:
    the mode         xcp-gateway mode set VM.get_record shadow {control}
    a session        curl -d '{{"jsonrpc":"2.0","id":1,"method":"session.login_with_password",\
"params":["root","xenroot"]}}' {0.url}/jsonrpc
    a call           curl -d '{{"jsonrpc":"2.0","id":2,"method":"VM.get_record","params":["SESSION","{vm}"]}}' \
{0.url}/jsonrpc
    a planted fault  echo '{{"VM.get_record": {{"wrong": {{"name_label": "nobody"}}}}}}' > {0.switches}
    the mismatches   xcp-gateway diff {control}
    a rollout        xcp-gateway mode clear VM.get_record {control}
                     xcp-gateway rollout start VM.get_record {control}
    the way back     xcp-gateway rollback --all {control}
"""

_IN_STORE = """\
  A client in the xenstore:
    where it is      export XENSTORED_PATH={0.store}
    a request        xenstore-write /squeezed/rpc/request/echo/1/hello world
    its answer       xenstore-ls /squeezed/rpc
"""


if __name__ == "__main__":
    sys.exit(run(stay="--stay" in sys.argv[1:]))
