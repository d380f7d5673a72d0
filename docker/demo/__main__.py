"""The demo: starts everything, makes each call of each client, and prints what happened (`xcp-gateway demo`).

`python -m demo` shows the calls, and ends with status 0 only when each went where it should and was answered right.
`python -m demo --stay` leaves everything running and prints commands to try. With `--json` it prints one JSON document
instead: the calls, or with `--stay` the addresses, or the error.
"""

from __future__ import annotations

import json
import shlex
import signal
import socket
import sys
from pathlib import Path
from typing import NoReturn

from rich.text import Text

from demo.environment import Environment, StartError, start_environment
from demo.report import Monitor, MonitorError, Reporter, out


def run(*, stay: bool, as_json: bool = False) -> int:
    """Run the demo; return its exit status. SIGTERM ends it as Ctrl-C does: everything that was started is stopped."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    out.quiet = as_json
    try:
        with start_environment(port=_free_port(8080) if stay else 0) as environment:
            if stay:
                _stay(environment, as_json=as_json)
            return _show_calls(environment, as_json=as_json)
    except (StartError, MonitorError) as error:
        out.print(str(error), style="red", markup=False, soft_wrap=True)
        return _ended(1, str(error), as_json=as_json)
    except KeyboardInterrupt:
        return 0 if stay else _ended(130, "interrupted", as_json=as_json)
    finally:
        out.quiet = False
        signal.signal(signal.SIGTERM, before)


def _ended(status: int, error: str, *, as_json: bool) -> int:
    if as_json:
        _print_json({"error": error, "status": status})
    return status


def _print_json(document: object) -> None:
    print(json.dumps(document, indent=2, ensure_ascii=False), flush=True)


def _free_port(wanted: int) -> int:
    """Return this port, or 0 (any) when it is in use."""
    with socket.socket() as probe:
        return wanted if probe.connect_ex(("127.0.0.1", wanted)) else 0


def _show_calls(environment: Environment, *, as_json: bool) -> int:
    from demo.http_clients import HTTP_CLIENTS
    from demo.migration import MIGRATION
    from demo.programs import ansible, why_no_ansible
    from demo.xenstore_clients import XENSTORE_CLIENTS

    store = "none" if environment.no_store else environment.store
    out.print(Text(_HEAD.format(environment, store=store)), soft_wrap=True)
    skipped = {}
    with Monitor(environment.bus) as monitor:
        reporter = Reporter(monitor)
        for client in (*HTTP_CLIENTS, ansible, *XENSTORE_CLIENTS, *MIGRATION):
            out.print()
            out.print(Text((client.__doc__ or "").rstrip("."), "bold"), soft_wrap=True)
            if client in XENSTORE_CLIENTS and environment.no_store:
                why = f"there is no xenstore: {environment.no_store}"
            elif client is ansible and (command := why_no_ansible()):
                why = f"it is not installed: {command}"
            else:
                client(environment, reporter)
                continue
            out.print(Text(f"  skipped, {why}", "yellow"), soft_wrap=True)
            skipped[client.__name__] = why
    style = "bold red" if reporter.wrong else "bold green"
    out.print()
    total = f"{reporter.right} of {reporter.total} calls went where they should and were answered right"
    out.print(total, style=style)
    if as_json:
        trouble = {"error": total, "status": 1} if reporter.wrong else {}
        _print_json({**trouble, "calls": reporter.calls, "skipped": skipped})
    return 1 if reporter.wrong else 0


_HEAD = """\
bus       {0.bus}
gateway   {0.url}  (all mapping files; unmodified legacy clients)
xenstore  {store}"""


def _stay(environment: Environment, *, as_json: bool) -> NoReturn:
    if as_json:
        names = ("bus", "url", "admin", "config", "log", "store")
        _print_json({name: str(getattr(environment, name)) for name in names} | {"no_store": environment.no_store})
    programs, admin = shlex.quote(str(Path(sys.executable).parent)), shlex.quote(str(environment.admin))
    out.print(Text(_TO_TRY.format(environment, programs=programs, admin=admin, vm=_VM)), soft_wrap=True)
    missing = f"  (There is no xenstore: {environment.no_store})\n"
    out.print(Text(missing if environment.no_store else _IN_STORE.format(environment)), soft_wrap=True)
    out.print(Text(f"  The config:        {environment.config}\n"), soft_wrap=True)
    while True:
        signal.pause()


_VM = "OpaqueRef:11111111-aaaa-4aaa-8aaa-000000000001"
_TO_TRY = """\
Running until Ctrl-C. The gateway's log: {0.log}
In another terminal, so that each command finds this gateway:

  export PATH={programs}:"$PATH" XCP_GATEWAY_SOCKET={admin}

  A legacy client:   curl -d '{{"jsonrpc":"2.0","id":1,"method":"perfmon.status"}}' {0.url}/perfmon/jsonrpc
  Mapped methods:    xcp-gateway routes
  One call:          xcp-gateway call SR.list dbg --path /storage --explain
  Calls on the bus:  dbus-monitor --address {0.bus} "type='method_call'"
  Status:            xcp-gateway status   # of the legacy services only xapi runs here
  A web page:        xcp-gateway web

  Both sides of a method, the old xapi and D-Bus:
    set the mode     xcp-gateway mode set VM.get_record shadow
    a session        SESSION=$(curl -s -d '{{"jsonrpc":"2.0","id":1,"method":"session.login_with_password",\
"params":["root","xenroot"]}}' {0.url}/jsonrpc | grep -o 'OpaqueRef:[^"]*')
    a call           curl -d '{{"jsonrpc":"2.0","id":2,"method":"VM.get_record","params":["'$SESSION'","{vm}"]}}' \
{0.url}/jsonrpc
    plant a fault    echo '{{"VM.get_record": {{"wrong": {{"name_label": "nobody"}}}}}}' > {0.switches}
    the differences  xcp-gateway diff   # after another call
    repair           rm {0.switches}
    a rollout        xcp-gateway mode clear VM.get_record
                     xcp-gateway rollout start VM.get_record
    the way back     xcp-gateway rollback --all
"""

_IN_STORE = """\
  A client in the xenstore:
    the store        export XENSTORED_PATH={0.store}
    a request        xenstore-write /squeezed/rpc/request/echo/1/hello world
    its answer       xenstore-ls /squeezed/rpc
"""


if __name__ == "__main__":
    sys.exit(run(stay="--stay" in sys.argv[1:], as_json="--json" in sys.argv[1:]))
