"""Runs the demo: shows each call, what the bus saw of it and its answer, and says how many were right."""

from __future__ import annotations

import shlex
import signal
import socket
from collections.abc import Callable
from typing import Any, NoReturn

from rich.console import Console
from rich.text import Text

from gateway.demo.monitor import Monitor, MonitorError
from gateway.demo.stage import Stage, StageError, stage

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
        self, client: str, call: str, target: str, ask: Callable[[], Any], right: Callable[[Any], bool]
    ) -> Any:
        """Make one call; `target` is how the wanted method call ends, empty when none may be made."""
        try:
            answer = ask()
        except Exception as error:  # noqa: BLE001 - whatever a foreign client raises is a wrong answer, shown as such
            answer = error
        seen = [str(one) for one in self._monitor.since_last_time()]
        fits = any(one.endswith(target) for one in seen) if target else not seen
        good = fits and _is_right(answer, right)
        self.right += good
        self.wrong += not good
        _out.print(
            Text.assemble(("  ✓ " if good else "  ✗ ", "green" if good else "bold red"), (f"{client:14}", "cyan"), call)
        )
        for one in seen or ["(nothing on the bus)"]:
            _out.print(Text(f"      bus     {one}", "dim"), soft_wrap=True)
        text = repr(answer)
        _out.print(Text(f"      answer  {text if len(text) <= WIDTH else text[:WIDTH] + ' ...'}"), soft_wrap=True)
        return answer


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
    from gateway.demo.calls import CLIENTS

    _out.print(
        f"bus      {running.bus}\ngateway  {running.url}  (mappings: all six services; legacy clients as they are)\n"
    )
    with Monitor(running.bus) as monitor:
        showing = Showing(monitor)
        for client in CLIENTS:
            _out.print(Text((client.__doc__ or "").rstrip("."), "bold"), soft_wrap=True)
            client(running, showing)
            _out.print()
    style = "bold red" if showing.wrong else "bold green"
    _out.print(f"{showing.right} of {showing.total} calls went where they should and were answered right", style=style)
    return 1 if showing.wrong else 0


def _stay(running: Stage) -> NoReturn:
    control = f"--socket {shlex.quote(str(running.control))}"
    _out.print(
        f"""\
Running until Ctrl-C. The gateway's log: {running.log}

  A legacy client:   curl -d '{{"jsonrpc":"2.0","id":1,"method":"perfmon.status"}}' {running.url}/perfmon/jsonrpc
  What is mapped:    xcp-gateway routes {control}
  One call:          xcp-gateway call SR.list dbg --path /storage --explain {control}
  What the bus sees: dbus-monitor --address {running.bus} "type='method_call'"
  How it does:       xcp-gateway status {control}
  The config:        {running.config}
""",
        markup=False,
        soft_wrap=True,
    )
    while True:
        signal.pause()
