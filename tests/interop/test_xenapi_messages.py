"""Every message of XenAPI's datamodel through a real gateway to the sample toolstack, over both codecs.

Each message answers by its type, or is in docs/compatibility.md with the reason. Records have every field, of its type.
"""

from __future__ import annotations

import http.client
import json
import re
import xmlrpc.client
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

import pytest

from demo.environment import Environment, start_environment
from gateway.scaffold import xenapi
from gateway.scaffold.xenapi import DatamodelClass, DatamodelField, DatamodelMessage, DatamodelType
from tests.kit.programs import ROOT, TIMEOUT
from tests.kit.toolstack import load

pytestmark = pytest.mark.bus

NULL = "OpaqueRef:NULL"
CONTENT = (ROOT / "docker/toolstack/xenapi_classes.json").read_bytes()
CLASSES = {each.name: each for each in xenapi.read(CONTENT)}
NAMES = [f"{cls['name']}.{message['name']}" for cls in json.loads(CONTENT) for message in cls["messages"]]
RELATIONS: Sequence[tuple[str, str]] = load(ROOT / "docker/toolstack/xenapi/relations.py").RELATIONS
WAITS = ("event.",)  # they wait, and have tests of their own
# Answers that say that a message is not served, or that something went wrong.
NO_ANSWER = (
    *("MESSAGE_METHOD_UNKNOWN", "MESSAGE_PARAMETER_COUNT_MISMATCH"),
    *("INTERNAL_ERROR", "NOT_IMPLEMENTED", "SESSION_INVALID"),
)
# What would end the walk, or objects that later messages need: these come last.
LAST = (
    *("destroy", "forget", "eject", "logout", "local_logout", "logout_subject_identifier", "pool_destroy", "cancel"),
    *("pool_force_destroy", "force_destroy", "db_forget", "destroy_many", "declare_dead", "revert", "data_destroy"),
)
# Parameters that need a certain value.
GIVEN: Mapping[str, Any] = {
    "data_source": "memory",
    "plugin": "echo",
    "fn": "main",
    "type": "nfs",
    "edition": "xcp-ng",
    "cert": "-----BEGIN CERTIFICATE-----",
    "certificate": "-----BEGIN CERTIFICATE-----",
    "obj_uuid": "11111111-aaaa-4aaa-8aaa-000000000001",
}
# Members of a record that no other object of the class may have.
MADE_UP: Mapping[str, Any] = {"bridge": "", "MAC": "", "userdevice": "autodetect", "device": "autodetect"}
LABEL = {"VM": "web"}  # the objects that are not the first ones of their class


@pytest.fixture(scope="module", params=["xmlrpc", "jsonrpc"])
def walk(request: pytest.FixtureRequest) -> Iterator[Walk]:
    with start_environment() as running:
        wire = Wire(running, request.param)
        yield Walk(wire)
        wire.connection.close()


class Refusal(Exception):  # noqa: N818 - it is an answer
    """A failure of XenAPI."""


class Wire:
    """One codec: calls, and how values of a type look in it."""

    def __init__(self, running: Environment, codec: str) -> None:
        self.xml = codec == "xmlrpc"
        self.connection = http.client.HTTPConnection(running.url.removeprefix("http://"), timeout=TIMEOUT)

    def ask(self, method: str, *params: Any) -> Any:
        if self.xml:
            body = xmlrpc.client.dumps(params, method)
            [answer], _ = xmlrpc.client.loads(self._post("/", body))
            if method == "system.listMethods":
                return answer
            assert isinstance(answer, dict), answer
            if answer["Status"] == "Failure":
                raise Refusal(*answer["ErrorDescription"])
            return answer["Value"]
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = json.loads(self._post("/jsonrpc", json.dumps(request)))
        if "error" in answer:
            raise Refusal(answer["error"]["message"], *answer["error"]["data"])
        return answer["result"]

    def _post(self, path: str, body: str) -> bytes:
        self.connection.request("POST", path, body.encode())
        return self.connection.getresponse().read()

    def fits(self, kind: DatamodelType, value: Any) -> bool:
        if kind.kind == "set":
            return isinstance(value, list) and all(self.fits(kind.items[0], each) for each in value)
        if kind.kind == "map":
            return isinstance(value, dict) and all(self.fits(kind.items[1], each) for each in value.values())
        if kind.kind == "record":
            return self.is_record(CLASSES[kind.name], value)
        if kind.kind == "datetime":
            shown = str(value)
            return isinstance(value, xmlrpc.client.DateTime if self.xml else str) and bool(MOMENT.fullmatch(shown))
        if kind.kind == "int":
            return bool(re.fullmatch(r"-?\d+", value)) if self.xml else type(value) is int
        expected = {"float": float, "bool": bool, "void": str}.get(kind.kind, str)
        if kind.kind == "float" and not self.xml:
            return type(value) in (int, float)
        return type(value) is expected and (kind.kind != "void" or value == "")

    def is_record(self, cls: DatamodelClass, value: Any) -> bool:
        """Whether a record has every field of its class, and no other, each of its type."""
        fields = {field.name: field.type for field in cls.fields}
        optional = {name for name, kind in fields.items() if kind.kind == "option"}
        assert isinstance(value, dict), (cls.name, value)
        assert fields.keys() - value.keys() <= optional, (cls.name, fields.keys() - value.keys())
        assert value.keys() <= fields.keys(), (cls.name, value.keys() - fields.keys())
        for name, each in value.items():
            assert self.fits(fields[name], each), (cls.name, name, fields[name], each)
        return True


MOMENT = re.compile(r"\d{8}T\d\d:\d\d:\d\dZ")


class Walk:
    """Calls messages with parameters that fit."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.served = set(wire.ask("system.listMethods"))
        self.session = wire.ask("session.login_with_password", "root", "xenroot")
        self.ask("VM.start", self.one("VM", "web"), False, False)  # it has guest metrics then

    def ask(self, method: str, *params: Any) -> Any:
        try:
            return self.wire.ask(method, self.session, *params)
        except Refusal as refusal:
            if refusal.args[0] != "SESSION_INVALID":
                raise
            self.session = self.wire.ask("session.login_with_password", "root", "xenroot")
            return self.wire.ask(method, self.session, *params)

    def one(self, cls: str, label: str = "") -> str:
        """The reference of an object of a class; the null reference when there is none."""
        if cls == "session":
            return str(self.session)
        if f"{cls}.get_all" not in self.served:
            return NULL
        refs = self.ask(f"{cls}.get_by_name_label", label) if label else self.all(cls)
        return str(refs[0]) if refs else NULL

    def all(self, cls: str) -> list[str]:
        if cls == "user":  # has no get_all
            return [self.ask("session.get_this_user", self.session)]
        return list(self.ask(f"{cls}.get_all"))

    def value(self, name: str, kind: DatamodelType, cls: DatamodelClass) -> Any:
        if name in GIVEN and kind.kind == "string":
            return GIVEN[name]
        if kind.kind == "ref":
            return self.one(kind.name, LABEL.get(kind.name, ""))
        if kind.kind == "enum":
            return cls.enums[kind.name][0]
        if kind.kind == "datetime":
            return xmlrpc.client.DateTime("20260101T00:00:00Z") if self.wire.xml else "20260101T00:00:00Z"
        if kind.kind == "record":
            return self.record(CLASSES[kind.name])
        simple: dict[str, Any] = {"int": "7" if self.wire.xml else 7, "float": 1.0, "bool": False, "set": [], "map": {}}
        return simple.get(kind.kind, "walk")

    def record(self, cls: DatamodelClass) -> dict[str, Any]:
        """A record for a new object: where a class has one, its first object's."""
        refs = self.all(cls.name)
        found = dict(self.ask(f"{cls.name}.get_record", refs[0])) if refs else {}
        for field in cls.fields:
            found.setdefault(field.name, self.value(field.name, field.type, cls))
        return {**found, **{name: value for name, value in MADE_UP.items() if name in found}}


def messages(cls: DatamodelClass) -> Iterator[DatamodelMessage]:
    """Those that are D-Bus methods, the harmful ones last."""
    yield from sorted(cls.messages, key=lambda message: message.name in LAST)


@cache
def listed() -> dict[str, str]:
    """Message -> reason, of docs/compatibility.md; `VMPP.*` are all messages of a class."""
    rows = re.findall(r"^\| (`.+`) \| (.+?) \|$", (ROOT / "docs/compatibility.md").read_text(), re.MULTILINE)
    given = [(name, reason) for names, reason in rows for name in re.findall(r"`(\w+\.[\w*]+)`", names)]
    return {name: reason for pattern, reason in given for name in NAMES if fnmatchcase(name, pattern)}


def test_every_message_is_served_or_listed_with_a_reason(walk: Walk) -> None:
    assert len(NAMES) == len(set(NAMES)) == 1828
    unserved = {name for name in NAMES if name not in walk.served}
    assert unserved - listed().keys() == set()
    assert len(listed().keys() & walk.served) == len(listed()) - len(unserved)


def test_a_message_that_was_removed_says_so_in_every_spelling(walk: Walk) -> None:
    unserved = {name for name in NAMES if name not in walk.served}
    removed = sorted(name for name in unserved if listed()[name].startswith("removed"))
    assert len(removed) > 80
    for name in removed:
        for form in (name, name.replace(".", "_"), f"Async.{name}", f"InternalAsync.{name}"):
            with pytest.raises(Refusal) as refusal:
                walk.ask(form)
            assert refusal.value.args == ("MESSAGE_REMOVED",), form
    for form in ("VM.snapshot_with_quiesces", "VM_no.snapshot_with_quiesce", "VMPPs.get_all", "Async.VMPP"):
        with pytest.raises(Refusal) as refusal:
            walk.ask(form)
        assert refusal.value.args == ("MESSAGE_METHOD_UNKNOWN", form)
    with pytest.raises(Refusal) as refusal:
        walk.wire.ask("VMPP.get_all", "OpaqueRef:none")
    assert refusal.value.args == ("SESSION_INVALID", "OpaqueRef:none")


def test_records_of_every_class_have_every_field_of_its_type(walk: Walk) -> None:
    seen = set()
    for name, cls in CLASSES.items():
        if f"{name}.get_all_records" not in walk.served:
            continue
        records = walk.ask(f"{name}.get_all_records")
        assert records.keys() == set(walk.all(name))
        for ref, record in records.items():
            assert walk.wire.is_record(cls, record)
            assert walk.ask(f"{name}.get_by_uuid", record["uuid"]) == ref
        for ref in list(records)[:1]:
            assert walk.ask(f"{name}.get_record", ref) == records[ref]
            seen.add(name)
    assert len(seen) == 56


def test_every_field_is_read_and_written_by_its_messages(walk: Walk) -> None:
    answered = 0
    for name, cls in CLASSES.items():
        if f"{name}.get_all_records" not in walk.served:
            continue
        for ref in walk.all(name)[:1]:
            record = walk.ask(f"{name}.get_record", ref)
            for field in cls.fields:
                answered += read_and_write(walk, name, field, ref, record[field.name])
    assert answered > 900


def read_and_write(walk: Walk, cls: str, field: DatamodelField, ref: str, recorded: Any) -> int:
    if listed().get(f"{cls}.get_{field.name}", "").startswith("removed"):
        return 0
    value = walk.ask(f"{cls}.get_{field.name}", ref)
    assert walk.wire.fits(field.type, value), (cls, field.name, value)
    assert value == recorded, (cls, field.name)
    if not field.writable:
        return 1
    assert walk.ask(f"{cls}.set_{field.name}", ref, value) == ""
    assert walk.ask(f"{cls}.get_{field.name}", ref) == value
    if field.type.kind == "map" and f"{cls}.add_to_{field.name}" in walk.served:
        assert walk.ask(f"{cls}.add_to_{field.name}", ref, "walk", "on") == ""
        with pytest.raises(Refusal, match="MAP_DUPLICATE_KEY"):
            walk.ask(f"{cls}.add_to_{field.name}", ref, "walk", "on")
        assert walk.ask(f"{cls}.remove_from_{field.name}", ref, "walk") == ""
    if field.type.kind == "set" and f"{cls}.add_{field.name}" in walk.served:
        assert walk.ask(f"{cls}.add_{field.name}", ref, "walk") == ""
        assert walk.ask(f"{cls}.get_{field.name}", ref) == [*value, "walk"]
        assert walk.ask(f"{cls}.remove_{field.name}", ref, "walk") == ""
    assert walk.ask(f"{cls}.get_{field.name}", ref) == value
    return 4 if field.type.kind in ("set", "map") else 2


def test_every_other_message_answers_by_its_type(walk: Walk) -> None:
    done = refused = 0
    for last in (False, True):
        for name, cls in CLASSES.items():
            for message in messages(cls):
                full = f"{name}.{message.name}"
                if full in walk.served and (message.name in LAST) == last and not full.startswith(WAITS):
                    success = answers(walk, cls, message)
                    done, refused = done + success, refused + (not success)
    assert done > 440, (done, refused)
    assert inconsistencies(walk) == []


def inconsistencies(walk: Walk) -> list[str]:
    """The relations whose two sides differ, and the references to objects that do not exist."""
    relations = [pair for pair in RELATIONS if not any(side.startswith("VMPP.") for side in pair)]
    names = {side.split(".")[0] for pair in relations for side in pair}
    pool = {name: walk.ask(f"{name}.get_all_records") for name in names}
    found = []
    for side, other in relations:
        (cls, field), (far, back) = side.split("."), other.split(".")
        there = {(ref, each) for ref, record in pool[cls].items() for each in refs(record[field])}
        here = {(each, ref) for ref, record in pool[far].items() for each in refs(record[back])}
        found += [f"{side} <-> {other}: {pair}" for pair in there ^ here]
        found += [f"{side}: {each} does not exist" for _, each in there if each not in pool[far]]
    return found


def refs(value: str | list[str]) -> list[str]:
    return [each for each in (value if isinstance(value, list) else [value]) if each not in (NULL, "")]


def answers(walk: Walk, cls: DatamodelClass, message: DatamodelMessage) -> bool:
    """Whether a message succeeds; it fails as XenAPI does, or the test fails."""
    name = f"{cls.name}.{message.name}"
    own = [] if message.static else [walk.one(cls.name, LABEL.get(cls.name, ""))]
    if name.startswith("session.") and message.static:
        return True  # logging in and out have tests of their own
    params = [*own, *(walk.value(each, kind, cls) for each, kind in message.parameters)]
    refusal: tuple[Any, ...] = ()
    result = None
    try:
        result = walk.ask(name, *params)
    except Refusal as refused:
        refusal = refused.args
    if name in listed():
        assert refusal == ("NOT_IMPLEMENTED", name)
    elif refusal:
        served = refusal[0] not in NO_ANSWER or refusal == ("MESSAGE_METHOD_UNKNOWN", "walk")  # an extension
        dead = refusal[0] == "HANDLE_INVALID" and NULL not in json.dumps(params, default=str)
        assert served, (name, params, refusal)
        assert not dead, (name, params, refusal)
    else:
        assert walk.wire.fits(message.result, result), (name, message.result, result)
    return not refusal
