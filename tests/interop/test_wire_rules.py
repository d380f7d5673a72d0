"""Each rule of the wire of XenAPI and of xapi's daemons, end to end: a request over a socket, and its answer.

wire_rules.yaml has the rows; those of a section run in their order. A reference that a row keeps is used by later ones.
"""

from __future__ import annotations

import json
import re
import xmlrpc.client
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from demo.environment import Environment, start_environment
from demo.http_clients import WEB
from tests.kit.cases import Failures
from tests.kit.clients import UnixConnection

pytestmark = pytest.mark.bus

RULES: Mapping[str, Any] = YAML(typ="safe", pure=True).load(Path(__file__).with_name("wire_rules.yaml"))
KEYS = {"title", "at", "verb", "headers", "call", "body", "answer", "raw", "status", "has", "keep"}
AT = {"xml": "rpc /", "json": "rpc /jsonrpc", "json1": "rpc /jsonrpc"}


class Wire:
    """Requests to the sockets of a gateway. `known`: what stands for `=NAME` in a row."""

    def __init__(self, running: Environment) -> None:
        self._directory = running.directory
        self.known = {"web": WEB, "large": "x" * (300 * 1024 + 1)}
        _, _, body = self.send({"at": "xml", "call": ["session.login_with_password", "root", "xenroot"]})
        self.known["session"] = str(read(body)["Value"])
        for name, *call in (["pool", "pool.get_all"], ["template", "VM.get_by_name_label", "Debian Bookworm 12"]):
            _, _, body = self.send({"at": "xml", "call": [call[0], "=session", *call[1:]]})
            self.known[name] = read(body)["Value"][0]

    def filled(self, value: Any) -> Any:
        """A value with `=NAME` replaced; inside a text too."""
        if isinstance(value, str):
            return re.sub("=(" + "|".join(self.known) + r")\b", lambda found: self.known[found[1]], value)
        if isinstance(value, list):
            return [self.filled(item) for item in value]
        return {name: self.filled(item) for name, item in value.items()} if isinstance(value, dict) else value

    def send(self, row: Mapping[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of the answer to the request of a row."""
        listener, path = AT.get(row["at"], row["at"]).split()
        body = self.filled(row.get("body", ""))
        if "call" in row:
            method, *params = self.filled(row["call"])
            body = json.dumps({"jsonrpc": "2.0", "method": method, "params": params, "id": 1})
            if not path.endswith("jsonrpc"):
                body = xmlrpc.client.dumps(tuple(map(as_text, params)), method, allow_none=True)
        connection = UnixConnection(self._directory / listener)
        try:
            connection.request(row.get("verb", "POST"), path, body.encode(), row.get("headers", {}))
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()


def as_text(value: Any) -> Any:
    """An integer that the standard library does not write is text."""
    return str(value) if type(value) is int and abs(value) >= 2**31 else value


def read(body: bytes) -> Any:
    """What an answer says, whatever its codec."""
    if body.startswith(b"{"):
        return json.loads(body)
    [answer], _ = xmlrpc.client.loads(body)
    return answer


def outcome(body: bytes) -> Any:
    """The value of an answer, or its error as a list."""
    answer = read(body)
    error = answer.get("ErrorDescription", answer.get("error"))
    if isinstance(error, dict):
        return [error["message"], *error["data"]]
    return error if error is not None else answer.get("Value", answer.get("result"))


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    with start_environment() as running:
        yield Wire(running)


@pytest.mark.parametrize("section", RULES)
def test_each_rule_of_the_wire_holds(wire: Wire, section: str) -> None:
    failures = Failures()
    for row in RULES[section]:
        with failures.of(row["title"]):
            assert row.keys() <= KEYS
            status, headers, body = wire.send(row)
            assert status == row.get("status", 200), body
            assert headers.items() >= row.get("has", {}).items()
            if "answer" in row:
                assert outcome(body) == wire.filled(row["answer"])
            assert wire.filled(row.get("raw", "")) in body.decode()
            if "keep" in row:
                wire.known[row["keep"]] = str(outcome(body))
    failures.tell()
