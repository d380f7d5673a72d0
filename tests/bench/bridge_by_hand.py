"""What one would write in an afternoon: aiohttp, msgspec, dbus-fast, uvloop, xmlrpc.client; no checks of any kind."""

import sys
import xmlrpc.client
from typing import Any

import msgspec
import uvloop
from aiohttp import web
from dbus_fast import BusType, Message, Variant
from dbus_fast.aio import MessageBus

SIGNATURES = {bool: "b", int: "x", float: "d", str: "s"}


async def main(address: str) -> web.Application:
    bus = await MessageBus(bus_type=BusType.SESSION, bus_address=address).connect()

    async def echo(values: dict[str, Any]) -> dict[str, Any]:
        body = [{key: Variant(SIGNATURES[type(value)], value) for key, value in values.items()}]
        path, interface = "/org/xen/xcp/bench", "org.xen.xcp.bench.Echo1"
        reply = await bus.call(Message("org.xen.xcp.bench", path, interface, "Echo", signature="a{sv}", body=body))
        assert reply is not None
        return {key: value.value for key, value in reply.body[0].items()}

    async def json_rpc(request: web.Request) -> web.Response:
        call = msgspec.json.decode(await request.read())
        answer = {"jsonrpc": "2.0", "result": await echo(call["params"][0]), "id": call["id"]}
        return web.Response(body=msgspec.json.encode(answer), content_type="application/json")

    async def xml_rpc(request: web.Request) -> web.Response:
        params, _ = xmlrpc.client.loads(await request.read())
        values: Any = params[0]
        text = xmlrpc.client.dumps((await echo(values),), methodresponse=True)
        return web.Response(body=text.encode(), content_type="text/xml")

    application = web.Application()
    application.router.add_post("/jsonrpc", json_rpc)
    application.router.add_post("/RPC2", xml_rpc)
    return application


uvloop.install()
web.run_app(main(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), print=None, access_log=None)
