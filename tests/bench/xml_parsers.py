"""Which XML parser reads XML-RPC quickest: `python tests/bench/xml_parsers.py` prints the table of decision 0003.

Every row turns the same bytes into the same values: a typical call, and a get_all_records reply of about 200 KiB.
lxml is measured where it is installed. Then our whole path beside the standard library's.
"""

from __future__ import annotations

import sys
import time
import xmlrpc.client
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder, XMLParser
from xml.parsers import expat

sys.path.insert(0, str(Path(__file__).parents[2]))

from adapters.codecs.xmlrpc import Codec
from adapters.codecs.xmlrpc_parser import tree
from adapters.codecs.xmlrpc_reader import SCALARS, value
from gateway.core.rpc.model import Call, Envelope, MessageLimits, Reply, Value

try:
    etree: Any = import_module("lxml.etree")
except ImportError:
    etree = None

SECONDS = 0.5  # for each cell, of which the best run counts
LIMITS = MessageLimits()
FINAL = True

RECORD: dict[str, Value] = {
    "uuid": "4f0c6d2e-aaaa-bbbb-cccc-000000000001",
    "name_label": "web & mail",
    "name_description": "the <first> machine",
    "memory_static_max": "4294967296",
    "VCPUs_max": "4",
    "is_a_template": False,
    "tags": ["a", "b"],
    "other_config": {"auto_poweron": "true", "base": ""},
    "load": 0.25,
    "order": 5,
}
PARAMS: tuple[Any, ...] = ("OpaqueRef:4f0c6d2e", {"name": "vm", "vcpus": 4, "live": True, "ref": "OpaqueRef:7"}, 7)
RECORDS: dict[str, Value] = {f"OpaqueRef:{at}": RECORD for at in range(180)}

CALL = xmlrpc.client.dumps(PARAMS, "VM.start_on").encode()
REPLY = xmlrpc.client.dumps(({"Status": "Success", "Value": RECORDS},), methodresponse=True).encode()


class Events:
    """The least that handlers written in Python must do to build the values."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.names: list[str] = []
        self.values: list[Any] = []
        self.marks: list[int] = []
        self.typed = False

    def start(self, tag: str, _attributes: object) -> None:
        self.text.clear()
        if tag in ("struct", "array"):
            self.marks.append(len(self.values))
        self.typed = False

    def end(self, tag: str) -> None:
        if tag == "value":
            if not self.typed:
                self.values.append("".join(self.text))
        elif tag == "name":
            self.values.append("".join(self.text))
        elif tag in SCALARS:
            self.values.append(SCALARS[tag]("".join(self.text)))
        elif tag in ("struct", "array"):
            at = self.marks.pop()
            items = self.values[at:]
            self.values[at:] = [dict(zip(items[::2], items[1::2], strict=True)) if tag == "struct" else items]
        self.typed = tag != "name"

    def data(self, text: str) -> None:
        self.text.append(text)

    def close(self) -> list[Any]:
        return self.values


def standard_library(body: bytes) -> list[Any]:
    return list(xmlrpc.client.loads(body)[0])


def expat_events(body: bytes) -> list[Any]:
    events = Events()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.ordered_attributes = True
    parser.StartElementHandler = events.start
    parser.EndElementHandler = events.end
    parser.CharacterDataHandler = events.data
    parser.Parse(body, FINAL)
    return events.close()


def etree_events(body: bytes) -> list[Any]:
    parser = XMLParser(target=Events())
    parser.feed(body)
    read: Any = parser.close()
    return list(read)


def expat_tree(body: bytes) -> list[Any]:
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.Parse(body, FINAL)
    return _values(builder.close())


def lxml_tree(body: bytes) -> list[Any]:
    parser = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False, remove_comments=True)
    return _values(etree.fromstring(body, parser))


def etree_tree(body: bytes) -> list[Any]:
    """What the codec does, its search for a DOCTYPE and its limits included."""
    return _values(tree(body, LIMITS))


def _values(root: Element) -> list[Any]:
    params = root.find("params")
    assert params is not None
    return [value(param[0], LIMITS.depth) for param in params]


ROWS: dict[str, Callable[[bytes], list[Any]]] = {
    "xmlrpc.client.loads": standard_library,
    "pyexpat, handlers in Python": expat_events,
    "xml.etree, target in Python": etree_events,
    "pyexpat into a C TreeBuilder, tree read once": expat_tree,
    **({"lxml.etree, tree read once": lxml_tree} if etree is not None else {}),
    "xml.etree, its own C tree, read once (chosen)": etree_tree,
}


def best(run: Callable[[], object]) -> float:
    """Microseconds of the quickest run."""
    quickest, stop = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < stop:
        start = time.perf_counter()
        run()
        quickest = min(quickest, time.perf_counter() - start)
    return quickest * 1e6


def main() -> None:
    sys.stdout.write(f"{'microseconds':48}{f'call, {len(CALL)} B':>16}{f'reply, {len(REPLY) // 1024} KiB':>16}\n")
    for name, read in ROWS.items():
        assert read(CALL) == standard_library(CALL)
        assert read(REPLY) == standard_library(REPLY)
        sys.stdout.write(f"{name:48}{best(partial(read, CALL)):16.1f}{best(partial(read, REPLY)):16.0f}\n")
    codec, one = Codec(LIMITS), Envelope((Call("m"),))
    small, large = Reply({"Status": "Success", "Value": "OpaqueRef:4f0c6d2e"}), Reply({"Value": RECORDS})
    pairs = {
        "loads + dumps of a call and its answer": (
            lambda: (xmlrpc.client.loads(CALL), xmlrpc.client.dumps((small.value,), methodresponse=True).encode()),
            lambda: (codec.decode(CALL), codec.encode(one, [small])),
        ),
        "loads + dumps of the large reply": (
            lambda: (xmlrpc.client.loads(REPLY), xmlrpc.client.dumps((large.value,), methodresponse=True).encode()),
            lambda: (codec.decode_outcome(REPLY), codec.encode(one, [large])),
        ),
    }
    for name, (theirs, ours) in pairs.items():
        sys.stdout.write(f"{name:48}{best(theirs) / best(ours):16.2f} times as quick as xmlrpc.client\n")


if __name__ == "__main__":
    main()
