"""The legacy services, beside the new ones: the same state behind the old protocols.

    legacy_twin.py xapi     --address unix:path=/run/xcp/bus --listen tcp:127.0.0.1:8081 --listen unix:/run/xcp/old/xapi
    legacy_twin.py xenopsd  --address unix:path=/run/xcp/bus --listen unix:/run/xcp/old/xenopsd --switches twin.json

    legacy_twin.py squeezed --address unix:path=/run/xcp/bus --store /run/xenstored/socket --root /squeezed

xapi is a whole server (XML-RPC at every path, JSON-RPC 1.0 and 2.0 at /jsonrpc); squeezed, xenopsd and storage are
xapi-idl sockets: XML-RPC, or with --json JSON-RPC 1.0. With --store squeezed is what it was before: requests are nodes
of a xenstore. --switches names a file that makes a twin misbehave while it runs: legacy_switches.py says how. It prints
a line with its addresses when it is ready.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import legacy_squeezed
import legacy_storage
import legacy_wire
import legacy_xapi
import legacy_xenopsd
from legacy_calls import UNKNOWN_OBJECT, Errors, Method, failure
from legacy_http import Answer, Handler, Request, listen
from legacy_switches import SilentError, Switches
from legacy_wire import Failure
from service import Bus, Error

IDL: Mapping[str, tuple[Callable[[Bus], Mapping[str, Method]], Errors]] = {
    "squeezed": (legacy_squeezed.methods, legacy_squeezed.ERRORS),
    "xenopsd": (legacy_xenopsd.methods, legacy_xenopsd.ERRORS),
    "storage": (legacy_storage.methods, legacy_storage.ERRORS),
}
Call = Callable[[str, list[Any]], Awaitable[Any]]


def idl_call(service: str, bus: Bus, switches: Switches) -> Call:
    """How a xapi-idl service answers one call: the result, or a Failure with its error."""
    make, errors = IDL[service]
    methods = make(bus)

    async def call(name: str, params: list[Any]) -> Any:
        method = methods.get(name)
        if method is None:
            raise SilentError(name)  # an exception that no interface maps: the server closes
        positional, named = _apart(method, params)
        switches.note(name, params)
        await switches.before(name, ["Internal_error", "switched to fail"])
        try:
            result = await method(*positional, **named)
        except (TypeError, ValueError, KeyError) as error:
            raise SilentError(name) from error  # what cannot be unmarshalled
        except Error as error:
            raise _idl_failure(error, errors, {**named}) from None
        return switches.after(name, result)

    return call


def _apart(method: Method, params: list[Any]) -> tuple[list[Any], dict[str, Any]]:
    """Named parameters are the members of the first struct; unknown ones are ignored."""
    if not params or not isinstance(params[0], dict):
        return params, {}
    known = inspect.signature(method).parameters
    return params[1:], {name: item for name, item in params[0].items() if name in known}


def _idl_failure(error: Error, errors: Errors, named: Mapping[str, Any]) -> Failure:
    if error.type == UNKNOWN_OBJECT:
        if "vdi" in named or "vdi_tp" in named:
            return Failure(["Vdi_does_not_exist", named.get("vdi", named.get("vdi_tp"))])
        kind = "SR" if "sr" in named else "VM"
        return Failure(["Does_not_exist", [kind, named.get("sr", named.get("id"))]])
    return failure(error, errors, lambda name, text: ["Internal_error", f"{name}: {text}"])


def idl_handler(call: Call, *, json: bool) -> Handler:
    """XML-RPC, or JSON-RPC 1.0 whose answers have the id 0."""

    async def handle(request: Request) -> Answer:
        read = legacy_wire.read_json(request.body)[:2] if json else legacy_wire.read_xml(request.body)
        try:
            result = await call(*read)
        except Failure as failed:
            error = failed.error
            return Answer(legacy_wire.json_failure(error, 0, two=False) if json else legacy_wire.xml_failure(error))
        return Answer(legacy_wire.json_success(result, 0, two=False) if json else legacy_wire.xml_success(result))

    return handle


def xapi_call(bus: Bus, switches: Switches) -> Call:
    """How xapi answers one call."""
    xapi = legacy_xapi.Xapi(bus)
    methods = xapi.methods()

    async def call(name: str, params: list[Any]) -> Any:
        if name == "system.listMethods":
            return sorted({*methods, name})
        if name not in legacy_xapi.SESSIONLESS and params:
            await xapi.check(params[0])
        method = methods.get(name)
        if method is None:
            raise Failure(["MESSAGE_METHOD_UNKNOWN", name])
        _count(name, method, params)
        switches.note(name, params)
        await switches.before(name, ["INTERNAL_ERROR", "switched to fail"])
        try:
            result = await method(*params)
        except Error as error:
            raise failure(error, legacy_xapi.ERRORS, lambda type_, text: ["INTERNAL_ERROR", type_, text]) from None
        except (ValueError, KeyError) as error:
            raise Failure(["INTERNAL_ERROR", str(error)]) from None
        return switches.after(name, result)

    return call


def _count(name: str, method: Method, params: list[Any]) -> None:
    """The numbers leave out the session."""
    session = name not in legacy_xapi.SESSIONLESS
    try:
        inspect.signature(method).bind(*params)
    except TypeError:
        known = inspect.signature(method).parameters.values()
        required = sum(each.default is inspect.Parameter.empty for each in known) - session
        counts = [str(required), str(len(params) - session)]
        raise Failure(["MESSAGE_PARAMETER_COUNT_MISMATCH", name, *counts]) from None


def xapi_handler(call: Call) -> Handler:
    """Every path is XML-RPC but /jsonrpc; GET / returns a page."""

    async def handle(request: Request) -> Answer:
        path = request.path.partition("?")[0]
        if request.verb in ("GET", "HEAD"):
            if path == "/":
                return Answer(b"<html><body>XCP sample toolstack</body></html>", "text/html")
            return Answer(b"<html><body><h1>HTTP 403 forbidden</h1></body></html>", "text/html", "403 Forbidden")
        if request.verb == "OPTIONS":
            return Answer(b"", "text/plain")
        if request.verb != "POST":
            return Answer(b"", "text/html", "501 Method Not Implemented")
        return await (_answer_json(call, request) if path == "/jsonrpc" else _answer_xml(call, request))

    return handle


async def _answer_xml(call: Call, request: Request) -> Answer:
    name, params = legacy_wire.read_xml(request.body)
    try:
        result = await call(name, params)
    except Failure as failed:
        return Answer(legacy_wire.xml_failure(failed.error), "text/xml")
    bare = name == "system.listMethods"
    return Answer(legacy_wire.xml_bare(result) if bare else legacy_wire.xml_success(result), "text/xml")


async def _answer_json(call: Call, request: Request) -> Answer:
    name, params, identity, two = legacy_wire.read_json(request.body)
    try:
        result = await call(name, params)
    except Failure as failed:
        return Answer(legacy_wire.json_failure(failed.error, identity, two=two), "application/json")
    return Answer(legacy_wire.json_success(result, identity, two=two), "application/json")


async def serve_store(address: str, store: str, root: str, switches: Switches) -> None:
    """Serve squeezed of 2009 in a xenstore until the store or the bus ends."""
    import legacy_store  # needs pyxs, which nothing else here does

    bus = await Bus(address).connect()
    call = idl_call("squeezed", bus, switches)
    loop = asyncio.get_running_loop()

    def ask(method: str, params: list[Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(call(method, params), loop).result()

    def ready() -> None:
        print(f"xenstore:{root}", flush=True)  # noqa: T201 - who starts it reads this

    await loop.run_in_executor(None, legacy_store.serve, store, root, ask, ready)


async def serve(service: str, address: str, listening: list[str], switches: Switches, *, json: bool) -> None:
    """Serve the legacy service until the bus ends."""
    bus = await Bus(address).connect()
    if service == "xapi":
        handler = xapi_handler(xapi_call(bus, switches))
    else:
        handler = idl_handler(idl_call(service, bus, switches), json=json)
    servers = [await listen(each, handler, idl=service != "xapi") for each in listening]
    print(*map(_address, servers), flush=True)  # noqa: T201 - who starts it reads this
    try:
        await bus.wait_for_disconnect()
    except (EOFError, OSError):
        return


def _address(server: asyncio.Server) -> str:
    name = server.sockets[0].getsockname()
    return f"unix:{name}" if isinstance(name, str) else f"tcp:{name[0]}:{name[1]}"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("service", choices=("xapi", *IDL))
    parser.add_argument("--address", default=os.environ.get("DBUS_SESSION_BUS_ADDRESS"), help="address of the bus")
    parser.add_argument("--listen", action="append", default=[], help="tcp:HOST:PORT or unix:/PATH; may be repeated")
    parser.add_argument("--store", help="squeezed: the socket of a xenstore, in place of --listen")
    parser.add_argument("--root", default="/squeezed", help="squeezed: the node below which requests are written")
    parser.add_argument("--switches", type=Path, help="a JSON file that makes it misbehave; need not exist")
    parser.add_argument("--calls", type=Path, help="a file for a line of JSON about each call")
    parser.add_argument("--json", action="store_true", help="JSON-RPC 1.0 in place of XML-RPC")
    said = parser.parse_args()
    if not said.address:
        parser.error("no bus: give --address")
    if not said.listen and not said.store:
        parser.error("nobody can reach it: give --listen")
    if said.store:
        asyncio.run(serve_store(said.address, said.store, said.root, Switches(said.switches, said.calls)))
        return
    asyncio.run(serve(said.service, said.address, said.listen, Switches(said.switches, said.calls), json=said.json))


if __name__ == "__main__":
    main()
