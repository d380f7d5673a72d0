"""Every hostile body of each protocol, with the fault it must get; knows no gateway."""

from __future__ import annotations

from collections.abc import Iterator

from tests.unit.codecs import hostile_jsonrpc, hostile_xmlrpc
from tests.unit.codecs.hostile_xmlrpc import PARSE, Hostile

XMLRPC_CALL = (
    b'<?xml version="1.0"?><methodCall><methodName>m</methodName><params><param><value>'
    b"<struct><member><name>\xc3\xa9</name><value><array><data><value><i4>-1</i4></value>"
    b"<value>&amp;<!-- c --></value></data></array></value></member></struct>"
    b"</value></param></params></methodCall>"
)
JSONRPC_CALL = (
    b'{"jsonrpc":"2.0","method":"m","params":["a\\"[{:,\\u00e9\xc3\xa9",'
    b'{"b":[1,-2.5e3,true,null]},"\\ud83d\\ude00"],"id":"x"}'
)


def truncations(body: bytes) -> Iterator[Hostile]:
    """Every proper beginning of a good message."""
    return ((f"cut at byte {end}", body[:end], PARSE, "") for end in range(len(body)))


XMLRPC = (*hostile_xmlrpc.REFUSED, *truncations(XMLRPC_CALL))
JSONRPC = (*hostile_jsonrpc.HOSTILE, *truncations(JSONRPC_CALL))
