"""Tokens of another process: a client that goes on with one has every object and no other."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.admin.records import SavedLog
from gateway.core.rpc.model import Value
from gateway.events import saved
from gateway.events.changes import BEGINNING, EVERYTHING, ChangeLog, ObjectId, Token, Wanted, change_since, digest_of
from gateway.events.saved import LogSaver, RecalledLogs
from gateway.state import tables
from gateway.state.store import StateStore
from tests.kit.cases import each_case
from tests.kit.programs import TIMEOUT

VM1, VM2, HOST = ("vm", "1"), ("vm", "2"), ("host", "1")


class Gateway:
    """The change log of one process, which begins with the objects that there are."""

    last_epoch = 0

    def __init__(self, state: StateStore, objects: dict[ObjectId, Value], most_deleted: int = 10_000) -> None:
        Gateway.last_epoch += 1
        self.log = ChangeLog(1000, Gateway.last_epoch, lambda _: None, most_deleted)
        self.saver = LogSaver("xapi", self.log, state, lambda: True)
        self.recalled = RecalledLogs("xapi", self.log, state)
        for object_id, value in objects.items():
            self.put(object_id, value)

    def put(self, object_id: ObjectId, value: Value) -> None:
        self.log.put(object_id, lambda: value)

    async def told(self, token: Token, wanted: Wanted = EVERYTHING) -> list[tuple[str, str, Value]] | None:
        """What a client with a token of another process gets; None: it begins anew."""
        missed = await self.recalled.missed_since(token, wanted)
        return missed and [(operation, state.id[1], state.record) for operation, state in missed.changes]


class Client:
    """A client that reads from any of the processes."""

    def __init__(self) -> None:
        self.objects: dict[ObjectId, Value] = {}
        self.token = BEGINNING

    async def read(self, gateway: Gateway) -> None:
        log, token = gateway.log, self.token
        missed = None if log.can_continue(token) else await gateway.recalled.missed_since(token, EVERYTHING)
        if missed is None and not log.can_continue(token):
            token = BEGINNING
            self.objects.clear()
        changes = [change_since(each, token.generation) for each in log.since(token.generation, EVERYTHING)]
        for operation, state in changes if missed is None else missed.changes:
            if operation == "del":
                del self.objects[state.id]
            else:
                assert operation == "add" or state.id in self.objects
                self.objects[state.id] = state.record
        self.token = log.token


@asynccontextmanager
async def stored(folder: Path | None) -> AsyncIterator[StateStore]:
    path = folder and folder / "state.db"
    async with asyncio.timeout(TIMEOUT), StateStore(path) as state:
        yield state


@pytest.fixture
async def state(tmp_path: Path) -> AsyncIterator[StateStore]:
    async with stored(tmp_path) as made:
        yield made


async def written(state: StateStore, objects: dict[ObjectId, Value]) -> Gateway:
    """A process that has written its log."""
    made = Gateway(state, objects)
    await made.saver.save()
    return made


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 3), st.integers(0, 1)),
        st.tuples(st.sampled_from(["remove", "touch"]), st.integers(0, 3), st.just(0)),
        st.tuples(st.sampled_from(["save", "read", "kill", "stop"]), st.integers(0, 1), st.just(0)),
    ),
    max_size=60,
)


@given(STEPS, st.integers(1, 3))
def test_whatever_is_saved_and_whoever_dies_a_client_has_every_object_and_no_other(
    steps: list[tuple[str, int, int]], most_deleted: int
) -> None:
    asyncio.run(play(steps, most_deleted))


async def play(steps: list[tuple[str, int, int]], most_deleted: int) -> None:
    """Two processes share a state file and see the same changes; a client reads from one or the other."""
    async with stored(None) as state:
        truth: dict[ObjectId, Value] = {}
        gateways = [Gateway(state, truth, most_deleted) for _ in range(2)]
        client = Client()
        for step, number, value in steps:
            object_id = ("vm", str(number))
            match step:
                case "put":
                    truth[object_id] = value
                    for each in gateways:
                        each.put(object_id, value)
                case "remove":
                    truth.pop(object_id, None)
                    for each in gateways:
                        each.log.remove(object_id)
                case "touch":
                    gateways[0].log.touch(object_id)
                case "save":
                    await gateways[number].saver.save()
                case "read":
                    await client.read(gateways[number])
                    assert client.objects == truth
                case _:
                    if step == "stop":
                        await gateways[number].saver.save()
                    gateways[number] = Gateway(state, truth, most_deleted)
        await client.read(gateways[0])
        assert client.objects == truth
        assert gateways[0].log.count("vm") == len(truth)


async def test_a_change_that_was_told_but_not_saved_may_have_been_undone_so_nothing_is_certain(
    state: StateStore,
) -> None:
    before = await written(state, {VM1: "on"})
    certain = before.log.token
    before.put(VM1, "off")  # told, and then the process is killed
    after = Gateway(state, {VM1: "on"})
    assert await after.told(before.log.token) is None
    assert await after.told(certain) == []


async def test_an_object_that_changes_while_the_log_is_saved_counts_as_changed(
    state: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saved, "SLICE", 0.0)  # others are served after each object
    before = Gateway(state, {VM1: "a", VM2: "b", HOST: "c"})
    token = before.log.token
    saving = asyncio.get_running_loop().create_task(before.saver.save())
    while before.log.changed_since(0, EVERYTHING)[0]._digest is None:  # noqa: ASYNC110 - no one tells it
        await asyncio.sleep(0)
    before.put(VM1, "A")
    before.put(VM2, "B")
    before.log.remove(HOST)
    await saving
    after = Gateway(state, {VM1: "a", VM2: "b", HOST: "c"})
    assert {("mod", "2", "b"), ("mod", "1", "c")} <= set(await after.told(token) or [])
    assert await after.told(before.log.token) is None


async def test_what_a_log_has_written_is_written_again_where_it_has_gone(state: StateStore, tmp_path: Path) -> None:
    before = await written(state, {VM1: "a", VM2: "b"})
    with closing(sqlite3.connect(tmp_path / "state.db")) as db, db:
        db.execute("DELETE FROM event_log")
        db.execute("DELETE FROM event_object")
    before.put(VM2, "B")
    await before.saver.save(may_be_whole=False)
    assert await Gateway(state, {VM1: "a", VM2: "B"}).told(before.log.token) is None
    await before.saver.save()
    assert await Gateway(state, {VM1: "a", VM2: "B"}).told(before.log.token) == []


async def test_tokens_that_are_invented_or_of_many_processes_have_no_log_read_again(
    state: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    class Counted(saved.WrittenLog):
        def __init__(self, found: SavedLog, log: ChangeLog) -> None:
            made.append(found.epoch)
            super().__init__(found, log)

    monkeypatch.setattr(saved, "WrittenLog", Counted)
    tokens = []
    for number in range(tables.MOST_LOGS):
        before = await written(state, {VM1: number})
        tokens.append(before.log.token)
    after = Gateway(state, {VM1: 0})
    for _ in range(3):
        for token in tokens:
            assert await after.told(token) is not None
            for invented in (token._replace(generation=0), token._replace(generation=10**20 - 1)):
                await after.told(invented)
    assert sorted(made) == sorted(token.epoch for token in tokens)


async def test_logs_of_other_processes_are_forgotten_when_they_are_not_used(
    state: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saved, "MOST_RECALLED", 4)
    tokens = []
    for number in range(saved.MOST_RECALLED + 1):
        before = await written(state, {VM1: number})
        tokens.append(before.log.token)
    after = Gateway(state, {VM1: 0})
    for token in tokens:
        assert await after.told(token) is not None
    assert len(after.recalled._known) == saved.MOST_RECALLED
    for _ in range(2):
        after.recalled.forget_unused()
    assert after.recalled._known == {}
    assert await after.told(tokens[0]) == []


async def test_a_log_with_too_many_objects_is_not_written(state: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved, "MOST_OBJECTS", 1)
    before = await written(state, {VM1: "a", VM2: "b"})
    assert await Gateway(state, {VM1: "a", VM2: "b"}).told(before.log.token) is None


async def test_without_the_file_nothing_is_certain(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"damaged" * 1000)
    async with stored(tmp_path) as state:
        before = await written(state, {VM1: "a"})
        assert await Gateway(state, {VM1: "a"}).told(before.log.token) is None


@each_case(
    ("one", "other"),
    [
        (1, True),
        (1, 1.0),
        (b"a", "a"),
        ([1, 2], [2, 1]),
        ({}, None),
        ({"a": 1}, {"b": 1}),
        ({"a": 1}, {"a": 1, "b": 1}),
    ],
)
def test_records_that_differ_have_other_digests(one: Value, other: Value) -> None:
    assert digest_of(one) != digest_of(other)


def test_a_digest_leaves_out_the_order_of_a_dict_and_is_missing_where_there_is_none() -> None:
    assert digest_of({"a": 1, "b": {"c": 2, "d": 3}}) == digest_of({"b": {"d": 3, "c": 2}, "a": 1})
    assert digest_of(2**70) is None
    assert digest_of("\ud800") is None
    assert tables.LARGEST < 10**20, "a token has twenty digits"
