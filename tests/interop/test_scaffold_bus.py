"""`scaffold bus` against services on a private bus: a well-behaved one, and one that lists objects without end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from dbus_fast import Message, Variant
from dbus_fast.aio import MessageBus

from gateway.scaffold import bus as scaffold_bus
from tests.kit.buses import private_bus
from tests.kit.command import outcome, succeed
from tests.kit.programs import TIMEOUT

pytestmark = pytest.mark.bus

NAME = "org.example.Shop"
ROOT = "/org/example/Shop"
Answer = Callable[[Message], Message | bool | None]


@contextmanager
def service(answer: Answer) -> Iterator[str]:
    """A service that answers each call by this function, in a thread with a loop of its own; yields the bus address."""
    with private_bus() as bus:
        ready, loop = threading.Event(), asyncio.new_event_loop()

        async def serve() -> None:
            connection = await MessageBus(bus_address=bus.address).connect()
            connection.add_message_handler(answer)
            await connection.request_name(NAME)
            ready.set()
            await stopped.wait()
            connection.disconnect()
            await connection.wait_for_disconnect()  # type: ignore[no-untyped-call]  # theirs

        stopped = asyncio.Event()
        thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
        thread.start()
        try:
            assert ready.wait(TIMEOUT)
            yield bus.address
        finally:
            loop.call_soon_threadsafe(stopped.set)
            thread.join(TIMEOUT)
            loop.close()


def scaffold(address: str, folder: Path, *words: str) -> tuple[int, str, str]:
    return outcome("scaffold", "bus", NAME, "--address", address, "--output", folder, *words)


BOOK = """<interface name="org.example.Book1"><method name="Read"/>
<property name="Id" type="s" access="read"/></interface>"""
MANAGER = '<interface name="org.freedesktop.DBus.ObjectManager"/>'
SHOP = """<interface name="org.example.Shop1">
<method name="GetBooks"><arg type="ao" direction="out"/></method></interface>"""


def tree(xml: dict[str, str], asked: list[str] | None = None) -> Answer:
    """Answer introspection from these documents; three books are found by other means than the tree."""

    def answer(call: Message) -> Message | None:
        if asked is not None and call.destination == NAME:
            asked.append(f"{call.path} {call.member}")
        if call.member == "Introspect":
            found = xml.get(str(call.path))
            if found is None:
                return Message.new_error(call, "org.freedesktop.DBus.Error.UnknownObject", "no such object")
            return Message.new_method_return(call, "s", [f"<node>{found}</node>"])
        if call.member == "GetManagedObjects":
            listed = {f"{ROOT}/books/one": {"org.example.Book1": {"Id": Variant("s", "one")}}}
            return Message.new_method_return(call, "a{oa{sa{sv}}}", [listed])
        if call.member == "GetAll" and call.body == ["org.example.Book1"]:
            values = {"Id": Variant("s", str(call.path)[-3:]), "Next": Variant("o", f"{ROOT}/books/two")}
            return Message.new_method_return(call, "a{sv}", [values])
        if call.member == "GetBooks":
            return Message.new_method_return(call, "ao", [[f"{ROOT}/books/six"]])
        return None

    return answer


def test_objects_are_found_in_managers_properties_and_results(tmp_path: Path) -> None:
    books = dict.fromkeys((f"{ROOT}/books/one", f"{ROOT}/books/two", f"{ROOT}/books/six"), BOOK)
    asked: list[str] = []
    with service(tree({ROOT: MANAGER + SHOP, **books}, asked)) as address:
        code, _, notes = scaffold(address, tmp_path, "--service", "shop")
        assert (code, "--follow calls org.example.Shop1.GetBooks" in notes) == (0, True), notes
        assert f"{ROOT}/books/two Introspect" in asked
        assert not {f"{ROOT} GetBooks", f"{ROOT}/books/six Introspect"} & {*asked}
        text = (tmp_path / "shop.yaml").read_text()
        entry = f"interface: org.example.Book1, params: [{{name: book, object: {ROOT}/books}}]"
        assert f"book.id: {{property: Id, {entry}}}" in text
        assert f'#   object_path: "{ROOT}/books/{{id}}", params: [id], escape: none' in text
        assert "book.next: {property: Next" in text  # the introspection data does not have it
        code, _, notes = scaffold(address, tmp_path, "--service", "shop", "--follow", "--force")
        assert (code, "--follow" in notes) == (0, False)
        assert f"{ROOT}/books/six Introspect" in asked


def test_a_tree_without_end_is_looked_at_up_to_a_limit(tmp_path: Path) -> None:
    def endless(call: Message) -> Message | None:
        if call.member == "Introspect":
            children = "".join(f'<node name="n{number}"/>' for number in range(50))
            return Message.new_method_return(call, "s", [f"<node>{SHOP}{children}</node>"])
        return None

    with service(endless) as address:
        code, _, notes = scaffold(address, tmp_path, "--max-objects", "120")
    assert (code, "stopped after 120 objects: --max-objects takes more" in notes) == (0, True)
    text = (tmp_path / "shop.yaml").read_text()
    assert "params: [{name: shop, object: /}], effect: read}" in text
    assert "shop.root.get_books: {member: GetBooks, effect: read}" in text


def test_what_cannot_be_read_is_said_and_the_rest_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaffold_bus, "TIMEOUT", 0.5)
    inner = tree({ROOT: f'{SHOP}<node name="broken"/><node name="silent"/>', f"{ROOT}/broken": "<interface"})

    def silent(call: Message) -> Message | bool | None:
        return True if call.path == f"{ROOT}/silent" else inner(call)  # True: handled, without an answer

    with service(silent) as address:
        code, _, notes = scaffold(address, tmp_path)
    assert code == 0, notes
    assert f"{ROOT}/broken: introspection data, line 1: invalid XML" in notes
    assert f"{ROOT}/silent could not be introspected: no answer within" in notes
    assert "shop.get_books" in (tmp_path / "shop.yaml").read_text()


def test_texts_of_a_service_become_no_lines_of_the_files(tmp_path: Path) -> None:
    """Names in a body are checked by no bus: they may be anything."""
    evil = "x&#10;  evil: {member: Evil}"
    arguments = f'<arg name="{evil}" type="v" direction="in"/><arg name="{evil}" type="s" direction="in"/>'
    odd = f'<method name="Odd">{arguments}</method>'
    plain = f'<method name="Set"><arg name="{evil}" type="v" direction="in"/></method>'
    inner = tree({ROOT: f'{MANAGER}<interface name="org.example.Shop1">{odd}{plain}</interface>'})

    def answer(call: Message) -> Message | bool | None:
        if call.member == "GetManagedObjects":
            bad = {"org.example.Bad\n  evil: 1": {"A": Variant("s", "x")}, "org.example.B1": {"\n": Variant("s", "")}}
            return Message.new_method_return(call, "a{oa{sa{sv}}}", [{ROOT: bad}])
        return inner(call)

    with service(answer) as address:
        code, _, notes = scaffold(address, tmp_path)
    assert code == 0, notes
    text = (tmp_path / "shop.yaml").read_text()
    assert "evil:" in text
    assert not [line for line in text.splitlines() if line.startswith("  evil")]
    assert 'params: ["x\\U0000000a  evil: {member: Evil}"]' in text
    assert succeed("check", tmp_path) == "2 methods in 1 file: no problems (schema and IDL)\n"


def test_a_service_that_does_not_answer_ends_the_walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaffold_bus, "TIMEOUT", 0.2)
    children = "".join(f'<node name="n{number}"/>' for number in range(50))
    inner = tree({ROOT: SHOP + children})
    with service(lambda call: inner(call) if call.path == ROOT else call.destination == NAME) as address:
        code, _, notes = scaffold(address, tmp_path)
    assert (code, "stopped after 5 calls without an answer" in notes) == (0, True), notes


def test_what_cannot_be_looked_at_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    none = f"{NAME} has no interface of its own at {ROOT} or /: name an object that has one with --object"
    path = "expected an object path such as /org/example/Service, got 'x'"
    monkeypatch.setattr("gateway.check.BUS_TIMEOUT", 0.05)
    with private_bus() as bus, service(tree({})) as address:
        for where, words, status, expected in (
            (address, (), 1, none),
            (address, ("--object", "x"), 2, path),
            (bus.address, (), 1, NAME),  # has no owner there
            ("unix:path=/nowhere/bus", (), 1, "cannot connect to unix:path=/nowhere/bus: No such file or directory"),
        ):
            code, out, message = scaffold(where, tmp_path, *words)
            assert (code, out, expected in message, [*tmp_path.iterdir()]) == (status, "", True, []), message
    code, _, message = outcome("scaffold", "bus", NAME, "--config", tmp_path / "none.toml")
    assert (code, "or name the bus with --address" in message) == (2, True)


def test_the_bus_of_the_config_is_taken(tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    sections = '[bus.a]\naddress = "{}"\nservices = ["{}"]\n[listener.rpc]\nbind = ["tcp:127.0.0.1:0"]\n'
    sections += '[mappings]\ndirectories = ["m"]\n'
    with service(tree({ROOT: SHOP})) as address:
        config.write_text(sections.format(address, "org.example.*"))
        line = ("scaffold", "bus", NAME, "--config", config, "-o", tmp_path / "m")
        assert (outcome(*line)[0], (tmp_path / "m/shop.yaml").exists()) == (0, True)
        config.write_text(sections.format(address, "org.other.*"))
        code, _, message = outcome(*line)
        assert (code, f"has {NAME}: add it to `services`" in message) == (2, True)
