"""What people report of real clients (tests/wire/reports/), said to a running gateway: it says what its codecs say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from http.client import HTTPConnection

import pytest

from adapters.codecs import CODECS
from gateway.core.rpc.model import Fault, Reply, Value
from tests.kit.buses import private_bus
from tests.kit.gateway import Folder, gateway_process
from tests.kit.mappings import write_type_methods
from tests.kit.programs import TIMEOUT
from tests.kit.toy_service import toy_service
from tests.kit.values import Case, cases, exactly, value_of, xmlrpc_call

PATHS = {"xmlrpc": "/types.xml", "jsonrpc": "/types.json"}
LARGEST = 2**64 - 1  # of an integer on the bus


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HTTPConnection]:
    folder = Folder(tmp_path_factory.mktemp("reports"))
    with private_bus() as bus, toy_service(bus.address, "org.example.toy"):
        folder.buses({"toolstack": (bus.address, "org.example.*")})
        write_type_methods(folder.mappings, ["v"])
        with (
            gateway_process(folder.config) as process,
            closing(HTTPConnection("127.0.0.1", process.port, timeout=TIMEOUT)) as client,
        ):
            client.connect()
            yield client


def _answer(client: HTTPConnection, codec: str, body: bytes, charset: str = "") -> bytes:
    kind = CODECS[codec]().content_type + (f"; charset={charset}" if charset else "")
    client.request("POST", PATHS[codec], body, {"Content-Type": kind})
    return client.getresponse().read()


def _has_variant(value: Value) -> bool:
    """Whether D-Bus can say it where no type is given (docs/types.md, "Variants")."""
    if isinstance(value, int):
        return value <= LARGEST
    return value is not None and not isinstance(value, datetime)


@pytest.mark.parametrize("case", cases("xmlrpc_values"))
def test_a_value_goes_to_a_service_and_back_or_is_refused_in_words(client: HTTPConnection, case: Case) -> None:
    codec = CODECS["xmlrpc"]()
    outcome = codec.decode_outcome(_answer(client, "xmlrpc", xmlrpc_call("plain:v", case["value"])))
    if "is" in case and _has_variant(value_of(case["is"])):
        if isinstance(case["is"], int) and case["is"] > 2**63 - 1:
            assert isinstance(outcome, Fault)  # XML-RPC's i8 cannot bring it back
            assert "an integer of 64 bits" in outcome.message
        else:
            assert exactly(outcome) == exactly(Reply(value_of(case["is"])))
        return
    assert isinstance(outcome, Fault)
    assert case.get("refused", "expected ") in outcome.message


@pytest.mark.parametrize("case", [case for case in cases("messages") if "request" in case.values[0]])
def test_a_message_is_answered_entry_by_entry(client: HTTPConnection, case: Case) -> None:
    """No method is mapped: each entry that can be read is answered with that."""
    body = case["request"].encode(case.get("encoding", "utf-8"))
    answer = _answer(client, case["codec"], body, case.get("charset", "")).decode()
    for entry in case["entries"]:
        if entry.get("oneway"):
            assert not answer
        else:
            told = entry.get("words", f"unknown method '{entry.get('method')}'")
            assert told in answer.replace("&lt;", "<").replace("&gt;", ">").replace('\\"', '"')
