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

    async def call(member: str, signature: str, value: Any) -> Any:
        path, interface = "/org/xen/xcp/bench", "org.xen.xcp.bench.Echo1"
        reply = await bus.call(Message("org.xen.xcp.bench", path, interface, member, signature=signature, body=[value]))
        assert reply is not None
        return reply.body[0]

    async def serve(method: str, value: Any) -> Any:
        if method == "say":
            return await call("Say", "s", value)
        entries = {key: Variant(SIGNATURES[type(one)], one) for key, one in value.items()}
        return {key: one.value for key, one in (await call("Echo", "a{sv}", entries)).items()}

    async def json_rpc(request: web.Request) -> web.Response:
        call = msgspec.json.decode(await request.read())
        answer = {"jsonrpc": "2.0", "result": await serve(call["method"], call["params"][0]), "id": call["id"]}
        return web.Response(body=msgspec.json.encode(answer), content_type="application/json")

    async def xml_rpc(request: web.Request) -> web.Response:
        params, method = xmlrpc.client.loads(await request.read())
        text = xmlrpc.client.dumps((await serve(str(method), params[0]),), methodresponse=True)
        return web.Response(body=text.encode(), content_type="text/xml")

    application = web.Application()
    application.router.add_post("/jsonrpc", json_rpc)
    application.router.add_post("/RPC2", xml_rpc)
    return application


uvloop.install()
web.run_app(main(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), print=None, access_log=None)
