"""Every type from a client's bytes to a service and back: codec, mapping, type gate, backend, broker, all of them real.

The clients are Python's own: json, and the reader of xmlrpc.client. What the type gate does is in
test_types_over_the_bus.py; here nothing may be lost around it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import xmlrpc.client
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from adapters.codecs import xmlrpc as codec
from gateway.core.dbus.signature import parse_one
from gateway.core.dbus.target import Variants
from gateway.core.rpc.model import Call, Value
from gateway.server import Gateway
from tests.kit.buses import private_bus
from tests.kit.cases import expect
from tests.kit.clients import Wire, connect, post
from tests.kit.gateway import Folder
from tests.kit.mappings import echo_of, write_type_methods
from tests.kit.toy_service import toy_service
from tests.kit.values import exactly, fitting, nested

LAW = settings(max_examples=75, deadline=None)
VARIANTS = st.sampled_from(("plain", "typed"))
BASIC = "ybnqiuxtdsog"
# fmt: off
SIGNATURES = (
    *BASIC, "v", "ay", "av", "aay", "a{say}", "a{yay}", "aaaaas", "((((y))))", "(ayaay)",
    *(f"a{code}" for code in BASIC[1:]),
    *(f"a{{{code}v}}" for code in BASIC),
    "(" + BASIC + ")", "(v(v))", "a(sv)", "a{s(uv)}", "a{oa{sa{sv}}}", "a{ta{da{ba{gs}}}}",
)
# fmt: on
SIGNATURE = st.sampled_from(SIGNATURES)


# What a mapping puts around a value counts for its depth too.
AROUND_IDL = """\
<node><interface name="org.example.Toy1">
  <method name="Echo">
    <arg name="value" type="a{sv}" direction="in"/><arg name="same" type="a{sv}" direction="out"/>
  </method>
  <property name="Any" type="v" access="readwrite"/>
</interface></node>
"""
AROUND = f"""\
  "gathered": {{member: Echo, idl: around.xml, params: [item], args: {{value: {{gather: {{name: item}}}}}}}}
  "named": {{member: Echo, idl: type-{SIGNATURES.index("a(sv)")}.xml, params: [{{name: value, struct: [name, item]}}]}}
  "set": {{set_property: Any, idl: around.xml, params: [value]}}
"""


class Client:
    """One connection to a gateway that runs in this process."""

    def __init__(self, runner: asyncio.Runner, wire: Wire) -> None:
        self._runner = runner
        self._wire = wire

    def json(self, method: str, value: Value) -> dict[str, Any]:
        """The whole response."""
        request = {"jsonrpc": "2.0", "method": method, "params": [value], "id": 1}
        return expect(dict, json.loads(self._post("/types.json", json.dumps(request).encode())))

    def xml(self, method: str, value: Value) -> object:
        body = codec.Codec().encode_call(Call(method, (value,)))
        (result,), _ = xmlrpc.client.loads(self._post("/types.xml", body).decode(), use_builtin_types=True)
        return result

    def _post(self, path: str, body: bytes) -> bytes:
        return self._runner.run(self._exchange(post(body, path)))

    async def _exchange(self, request: bytes) -> bytes:
        await self._wire.send(request)
        return (await self._wire.reply()).body


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = Folder(tmp_path_factory.mktemp("types"))
    (folder.mappings / "around.xml").write_text(AROUND_IDL)
    write_type_methods(folder.mappings, SIGNATURES, more=AROUND)
    with private_bus() as bus, toy_service(bus.address, "org.example.toy"), asyncio.Runner() as runner:
        folder.buses({"toolstack": (bus.address, "org.example.*")})
        stack = AsyncExitStack()
        yield runner.run(_client(runner, stack, folder))
        runner.run(stack.aclose())


async def _client(runner: asyncio.Runner, stack: AsyncExitStack, folder: Folder) -> Client:
    gateway = await stack.enter_async_context(Gateway(folder.config))
    return Client(runner, await stack.enter_async_context(connect(gateway.addresses()[0])))


@LAW
@given(data=st.data(), signature=SIGNATURE, variants=VARIANTS)
def test_what_xml_rpc_can_say_comes_back_equal(
    client: Client, data: DataObject, signature: str, variants: Variants
) -> None:
    value = data.draw(fitting(parse_one(signature), variants))
    assume(_xml_can_say(value))
    assert exactly(client.xml(echo_of(signature, variants), value)) == exactly(value)


@LAW
@given(data=st.data(), signature=SIGNATURE, variants=VARIANTS)
def test_what_json_can_say_comes_back_equal_with_bytes_as_base64(
    client: Client, data: DataObject, signature: str, variants: Variants
) -> None:
    value = _as_json(data.draw(fitting(parse_one(signature), variants)))
    assume(_json_can_say(value))
    assert exactly(client.json(echo_of(signature, variants), value)["result"]) == exactly(value)


@pytest.mark.parametrize("text", ["nan", "inf", "-inf"])
def test_a_number_that_the_protocol_has_not_goes_to_the_service_and_is_refused_on_its_way_back(
    client: Client, text: str
) -> None:
    error = client.json("legacy:d", text)["error"]
    assert (error["code"], error["message"]) == (-32008, f"$.result: expected a finite number, got {text}")
    with pytest.raises(xmlrpc.client.Fault, match=f"finite number, got {text}"):
        client.xml("legacy:d", text)


def test_a_value_may_not_be_deeper_for_what_the_mapping_puts_around_it(client: Client) -> None:
    """One level more, and a broker would hang up, with all calls in flight."""
    fits, deeper = nested(30, "x"), nested(31, "x")
    assert client.json("gathered", fits)["result"] == {"name": fits}
    assert client.json("named", [{"name": "a", "item": fits}])["result"] == [["a", fits]]
    assert "nested" not in client.json("set", fits)["error"]["message"], "the service has no properties"
    refused: dict[str, Value] = {"gathered": deeper, "named": [{"name": "a", "item": deeper}], "set": deeper}
    for method, value in refused.items():
        error = client.json(method, value)["error"]
        assert (error["code"], "at most 63 nested containers" in error["message"]) == (-32602, True)


def _xml_can_say(value: Value) -> bool:
    try:
        codec.Codec().encode_call(Call("m", (value,)))
    except ValueError:
        return False
    return True


def _as_json(value: Value) -> Value:
    """As docs/types.md has it; what has no form in JSON becomes some text."""
    match value:
        case bytes():
            return base64.b64encode(value).decode()
        case list():
            return [_as_json(item) for item in value]
        case dict():
            return {key: _as_json(item) for key, item in value.items()}
        case bool() | int() | float() | str() | None:
            return value
    return value.isoformat()


def _json_can_say(value: Value) -> bool:
    match value:
        case float():
            return math.isfinite(value)
        case str():
            return value.encode(errors="replace").decode() == value
        case list():
            return all(map(_json_can_say, value))
        case dict():
            return all(_json_can_say(key) and _json_can_say(item) for key, item in value.items())
    return True
