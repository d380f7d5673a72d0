"""One exposed path: requests found, each answered once, whatever happens in between. With a store in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import pytest

from adapters.limits import Quota
from adapters.xenstore.client.wire import Asked, Operation, Permissions
from adapters.xenstore.server import delivery, state
from adapters.xenstore.server.endpoint import XenstoreEndpoint
from adapters.xenstore.server.state import (
    RESPONSE_TTL,
    Admission,
    ExposedEndpoint,
    SharedContext,
    StoreLimits,
    claim_path,
)
from gateway.core.rpc.model import (
    NO_METADATA,
    Answer,
    Call,
    Fault,
    FaultCode,
    Outcome,
    Peer,
    Reply,
    RequestMetadata,
    Value,
)
from gateway.core.xenstore.paths import HOUR, Domains, Exposure, StateWords, template
from tests.kit.cases import each_case
from tests.kit.listeners import AnsweringEndpoint
from tests.kit.memory_store import MemoryStore

REQUESTS, RESPONSES = "/svc/rpc/request", "/svc/rpc/response"
IDLE = 40  # turns of the loop without anything to do: more than any look at the store takes
SHUTDOWN = "/local/domain/5/control/shutdown"


async def turns(count: int = IDLE) -> None:
    """Let the loop go on."""
    for _ in range(count):
        await asyncio.sleep(0)


class World:
    """A store, one exposed path in it, and who answers there."""

    def __init__(
        self, store: MemoryStore, offer: ExposedEndpoint, endpoint: AnsweringEndpoint, limits: StoreLimits
    ) -> None:
        self.store = store
        self.endpoint = endpoint
        self.told: list[str] = []
        self.now = 0.0
        self.slept = asyncio.Semaphore(0)
        self.paused: list[float] = []
        self.shared = SharedContext(store, Admission(limits, Quota()), self.told.append, lambda: self.now, self._pause)
        self.exposed = XenstoreEndpoint(offer, self.shared)

    async def _pause(self, seconds: float) -> None:
        """The clock goes on at once, but to the next look for expired responses when the test says so."""
        if seconds == HOUR:
            await self.slept.acquire()
            return
        self.now += seconds
        if seconds:
            self.paused.append(seconds)
        await asyncio.sleep(0)

    def refuse(self, name: str, *paths: str) -> None:
        """Refuse to write these nodes from now on, and no others."""
        self.store.refuse = lambda operation, path: name if operation is Operation.WRITE and path in paths else None

    def is_up(self) -> bool:
        """Whether all was looked through since the store came."""
        return self.exposed.is_up

    async def quiet(self) -> None:
        """Wait until everything that has changed was looked at, and nothing is being answered."""
        idle = 0
        while idle < IDLE:
            await asyncio.sleep(0)
            busy = (
                self.shared.running
                or self.exposed._to_scan
                or any(watch._changed for watch in self.store._watches.values())
            )
            idle = 0 if busy else idle + 1

    def put(self, node: str, permissions: Permissions | None = None, /, **arguments: str) -> None:
        """A request of the style `tree`, as it is when its transaction is committed."""
        path = f"{REQUESTS}/{node}"
        for name, value in arguments.items():
            self.store.put(f"{path}/{name}", value)
        if permissions is not None:
            self.store.put(path, b"", permissions)
        self.store.put(path)

    async def hold(self, *nodes: str, **arguments: str) -> None:
        """Make requests that are being called until `endpoint.open` is set."""
        self.endpoint.open.clear()
        for node in nodes:
            self.put(node, **arguments)
        for _ in nodes:
            await self.endpoint.begun.acquire()

    def response(self, node: str) -> dict[str, bytes] | None:
        """The keys of an answer; None when there is none."""
        path = f"{RESPONSES}/{node}"
        return self.store.below(path) if path in self.store.tree else None

    def error(self, node: str) -> bytes:
        """The words of an answer that is an error."""
        return self.store.below(f"{RESPONSES}/{node}")["description"]


@asynccontextmanager
async def world(
    style: str = "tree",
    path: str = "/svc",
    outcome: Callable[[Call], Outcome] | None = None,
    store: MemoryStore | None = None,
    limits: StoreLimits | None = None,
    **said: Any,
) -> AsyncIterator[World]:
    said.setdefault("domains", Domains(everyone=True))
    endpoint = AnsweringEndpoint() if outcome is None else AnsweringEndpoint(outcome)
    offer = ExposedEndpoint(Exposure(style, template(path), **said), endpoint, frozenset({"write", "poweroff"}))
    made = World(store or MemoryStore(), offer, endpoint, limits or StoreLimits())
    made.exposed.start()
    try:
        await made.quiet()
        yield made
    finally:
        await made.exposed.close()
        await stop(made)
        await made.store.stop()


async def stop(made: World) -> None:
    """As a gateway ends at once: what is in flight is cut off."""
    await made.exposed.close()
    tasks = list(made.shared.tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def made() -> AsyncIterator[World]:
    async with world() as made:
        yield made


async def test_a_request_is_answered_once_however_often_its_nodes_change(made: World) -> None:
    assert made.store.tree["/svc/pid"][0].isdigit()
    for _ in range(3):
        made.put("read/1", a="x")
        await made.quiet()
        made.store.put(REQUESTS)
        await made.quiet()
    assert made.response("read/1") == {"a": b"x"}
    (call,) = made.endpoint.calls
    assert (call.method, call.named, call.peer.domid, call.peer.address) == ("read", {"a": "x"}, 0, "domain 0")


async def test_a_write_is_claimed_before_it_is_made_and_no_longer_when_it_is_answered(made: World) -> None:
    await made.hold("write/1", "read/1")
    assert made.store.tree[claim_path(f"{REQUESTS}/write/1")][0] == f"{REQUESTS}/write/1".encode()
    assert claim_path(f"{REQUESTS}/read/1") not in made.store.tree
    made.endpoint.open.set()
    await made.quiet()
    assert claim_path(f"{REQUESTS}/write/1") not in made.store.tree
    assert made.response("write/1") == {}


async def test_a_claim_on_a_request_that_is_gone_is_removed() -> None:
    store = MemoryStore()
    for node in (f"{REQUESTS}/write/1", "/other/rpc/request/write/1"):
        store.put(claim_path(node), node)
    async with world(store=store):
        assert claim_path(f"{REQUESTS}/write/1") not in store.tree
        assert claim_path("/other/rpc/request/write/1") in store.tree


async def test_an_answer_waits_for_the_store_and_is_not_written_for_a_client_that_has_left(made: World) -> None:
    await made.hold("write/1", "write/2", a="x")
    with made.store.away():
        made.store.drop(f"{REQUESTS}/write/2")
        made.endpoint.open.set()
        await turns(20)
    await made.quiet()
    assert (made.response("write/1"), made.response("write/2")) == ({"a": b"x"}, None)
    assert claim_path(f"{REQUESTS}/write/2") not in made.store.tree
    assert len(made.endpoint.calls) == 2


@each_case("when", ["after the answer", "and is looked at before the client asks again", "while it is made"])
async def test_a_write_is_not_made_again_for_a_client_that_asks_again_since_the_store_forgot_all(when: str) -> None:
    async with world() as made:
        await made.hold("write/1", a="x")
        if when != "while it is made":
            made.endpoint.open.set()
            await made.quiet()
        made.store.tree = {"/": made.store.tree["/"]}
        with made.store.away():
            made.endpoint.open.set()
        await made.quiet()
        if when.startswith("and is looked at"):
            for watch in made.store._watches.values():  # an event from before, handled now
                watch.notify(f"{REQUESTS}/write/1")
            await made.quiet()
        assert made.response("write/1") is None
        made.put("write/1", a="x")
        made.put("read/1", a="x")
        await made.quiet()
        assert made.response("write/1") == {"a": b"x"}
        assert [call.method for call in made.endpoint.calls] == ["write", "read"]


async def test_what_was_answered_is_remembered_for_a_while_and_until_the_client_removes_its_request(
    made: World,
) -> None:
    made.put("write/1")
    await made.quiet()
    made.store.drop(f"{REQUESTS}/write/1")
    made.store.drop(f"{RESPONSES}/write/1")
    await made.quiet()
    made.put("write/2")
    await made.quiet()
    assert list(made.shared.responses) == [f"{REQUESTS}/write/2"]
    made.now = RESPONSE_TTL + 1
    made.put("write/3")
    await made.quiet()
    assert list(made.shared.responses) == [f"{REQUESTS}/write/3"]


async def test_a_claim_that_the_store_refuses_is_told_and_nothing_is_executed(made: World) -> None:
    made.refuse("EQUOTA", claim_path(f"{REQUESTS}/write/1"))
    made.put("write/1")
    await made.quiet()
    assert made.error("write/1") == b"the store does not let the call be begun (EQUOTA); it was not made"
    assert made.endpoint.calls == []


@each_case("name", ["ENOMEM", "EIO", "EAGAIN", "EBUSY", "ENOSPC", "EQUOTA"])
async def test_an_answer_that_the_store_refuses_for_the_moment_is_written_when_it_is_taken(name: str) -> None:
    async with world() as made:
        left = [name] * 5

        def refuse(operation: Operation, path: str) -> str | None:
            wanted = operation is Operation.WRITE and path == f"{RESPONSES}/write/1/a"
            return left.pop() if wanted and left else None

        made.store.refuse = refuse
        made.put("write/1", a="x")
        await made.quiet()
        assert made.response("write/1") == {"a": b"x"}
        assert len(made.endpoint.calls) == 1
        assert made.paused == [0.05, 0.1, 0.2, 0.4, 0.8]
        assert claim_path(f"{REQUESTS}/write/1") not in made.store.tree


@each_case("name", ["EINVAL", "E2BIG", "EACCES"])
async def test_an_answer_that_the_store_will_never_take_is_an_error_that_says_that_the_call_was_executed(
    name: str,
) -> None:
    async with world() as made:
        made.refuse(name, f"{RESPONSES}/write/1/a", f"{RESPONSES}/read/2")
        made.put("write/1", a="x")
        await made.quiet()
        text = f"the store refused the answer ({name}); the call was executed"
        assert made.response("write/1") == {"code": b"110", "description": text.encode()}
        made.put("read/2", a="x")
        await made.quiet()
        assert made.response("read/2") is None
        assert [text.partition(": ")[0] for text in made.told][-1].endswith("read/2 stays without an answer")


async def test_nobody_waits_for_an_answer_longer_than_a_client_does(made: World) -> None:
    made.refuse("EQUOTA", f"{RESPONSES}/write/1")
    made.put("write/1", a="x")
    await made.quiet()
    assert RESPONSE_TTL <= made.now < RESPONSE_TTL + 10
    made.refuse("")
    made.shared.responses.clear()  # as after a restart
    made.put("write/1", a="x")
    await made.quiet()
    assert b"may have been executed" in made.error("write/1")
    assert len(made.endpoint.calls) == 1


@each_case("name", ["ENOMEM", "EIO", "EAGAIN", "EQUOTA", "EACCES"])
async def test_one_refused_operation_in_the_first_look_costs_no_request_its_answer(name: str) -> None:
    """Whichever operation it is."""
    refused = 0
    while True:
        store = MemoryStore()
        store.put(f"{REQUESTS}/write/1/a", "x")
        count = 0

        def refuse(operation: Operation, path: str, which: int = refused) -> str | None:
            nonlocal count
            at_requests = path == REQUESTS or not path.startswith(REQUESTS)  # what is refused for ever there is told
            if name == "EACCES" and not (at_requests and "response" not in path and "claims/" not in path):
                return None
            count += 1
            return name if count - 1 == which else None

        store.refuse = refuse
        async with world(store=store) as made:
            assert made.exposed.is_up
            assert made.response("write/1") == {"a": b"x"}
            assert len(made.endpoint.calls) == 1
        if count <= refused:
            break
        refused += 1
    assert refused > (5 if name == "EACCES" else 20)


async def test_what_is_refused_when_all_is_looked_through_again_is_tried_until_it_is_not(made: World) -> None:
    made.store.refuse = lambda operation, path: "EIO" if operation is Operation.DIRECTORY else None
    with made.store.away():
        made.put("read/1", a="x")
    made.store._watches[next(iter(made.store._watches))]._changed = {REQUESTS: None}  # all other events are lost
    while len(made.paused) < 10:  # noqa: ASYNC110 - turns of the loop are what is waited for
        await asyncio.sleep(0)
    assert not made.is_up()
    assert made.paused[:3] == [0.05, 0.1, 0.2]
    assert max(made.paused) == 5.0
    assert len([text for text in made.told if "is tried again" in text]) == 1
    made.store.refuse = lambda *_: None
    await made.quiet()
    assert made.is_up()
    assert made.response("read/1") == {"a": b"x"}


async def test_an_answer_that_no_node_holds_is_an_error_that_says_so() -> None:
    outcomes: dict[str, Outcome] = {
        "value": Reply({"long": "x" * 2049}),
        "error": Fault(FaultCode.APPLICATION, "x" * 2049, name="1002"),
    }
    async with world(outcome=lambda call: outcomes[call.method]) as made:
        made.put("value/1")
        made.put("error/1")
        await made.quiet()
        assert made.error("value/1").startswith(b"long: expected at most 2048 bytes")
        assert made.response("error/1") == {"code": b"1002", "description": b"x" * 2048}

        async def junk(_body: bytes, _peer: Peer, _carried: RequestMetadata = NO_METADATA) -> Answer:
            return Answer(b"<html>", "x")

        made.endpoint.answer = junk  # type: ignore[assignment, method-assign]
        made.put("read/1")
        await made.quiet()
        assert (
            made.error("read/1") == b"expected an answer that consists of nodes: expected a length and a colon at byte "
            b"0; the call was executed"
        )


async def test_a_request_that_is_too_large_is_refused_and_not_read_further() -> None:
    async with world(limits=StoreLimits(body=100)) as made:
        made.put("read/1", a="x" * 101)
        await made.quiet()
        assert b"at most 100 bytes" in made.error("read/1")
        assert made.endpoint.calls == []


GUEST = Permissions(5, "n")


async def test_a_request_that_several_domains_can_write_is_refused_and_shown_to_nobody(made: World) -> None:
    made.put("read/1", Permissions(5, "n", ((7, "b"),)))
    made.put("read/2", GUEST, a="x")
    made.store.put(f"{REQUESTS}/read/2/a", "x", STRANGER)
    await made.quiet()
    for node, owner in (("read/1", Permissions(0, "n")), ("read/2", GUEST)):
        assert b"several domains" in made.error(node)
        assert made.store.tree[f"{RESPONSES}/{node}"][1] == owner
    assert made.endpoint.calls == []


async def test_a_parameter_of_the_path_is_a_parameter_of_the_call_and_nobody_else_can_give_it() -> None:
    async with world(path="/local/domain/{domid}/svc") as made:
        made.store.put("/local/domain/5/svc/rpc/request/read/1/a", "x")
        made.store.put("/local/domain/5/svc/rpc/request/read/2/domid", "0")
        await made.quiet()
        (call,) = made.endpoint.calls
        assert call.named == {"domid": "5", "a": "x"}
        refused = made.store.below("/local/domain/5/svc/rpc/response/read/2")
        assert refused["description"] == b"'domid' is given by the path of the request already"


@each_case("name", ["@2e@2e", "a@2fb", "@00", "@", "@c3@a9"])
async def test_no_name_in_a_parameter_or_answer_leads_outside(name: str) -> None:
    async with world() as made:
        made.put("read/1", None, **{name: "../../x"})
        made.put("read/2", None, **{"a@": "x"})
        before = set(made.store.tree)
        await made.quiet()
        assert made.response("read/1") == {name: b"../../x"}
        assert b"expected a name as an element of a path" in made.error("read/2")
        added = set(made.store.tree) - before
        assert all(path.startswith(("/svc/rpc/response", "/tool/xcp-gateway")) for path in added)


async def test_a_word_is_acknowledged_and_may_be_said_again() -> None:
    async with world("word", "/local/domain/{domid}/control/shutdown") as made:
        for count in (1, 2):
            made.store.put(SHUTDOWN, "poweroff", GUEST)
            await made.quiet()
            assert made.store.tree[SHUTDOWN][0] == b""
            assert len(made.endpoint.calls) == count
        assert (made.endpoint.calls[0].method, made.endpoint.calls[0].named) == ("poweroff", {"domid": "5"})


@each_case(("style", "changed"), [("word", "shutdown"), ("mailbox", "parameter"), ("deletion", "shutdown/type")])
async def test_a_request_that_changes_while_it_is_done_is_a_new_one(style: str, changed: str) -> None:
    folder = "/local/domain/5/control"
    command = {"word": "shutdown", "mailbox": "command", "deletion": "shutdown/action"}[style]
    path = folder if style == "mailbox" else f"{folder}/{command}"
    async with world(style, path, outcome=lambda _: Reply(None), parameters=("type",)) as made:
        made.endpoint.open.clear()
        made.store.put(f"{folder}/{changed}", "poweroff")
        made.store.put(f"{folder}/{command}", "poweroff")
        await made.endpoint.begun.acquire()
        made.store.put(f"{folder}/{changed}", "reboot")
        await turns()
        made.endpoint.open.set()
        await made.quiet()
        said = [next(iter(call.named.values()), call.method) for call in made.endpoint.calls]
        assert said == ["poweroff", "reboot"]
        assert made.store.tree.get(f"{folder}/{command}", (b"",))[0] == b""


BATCMD = "/local/domain/5/control/batcmd"
STATES = StateWords(commit="READY", in_progress="IN PROGRESS", done="SUCCESS", failed="FAILURE")
UNKNOWN = b"the gateway went away while this call was made; it may have been executed"


@each_case(
    ("style", "path", "asked", "told"),
    [
        ("tree", "/svc", {f"{REQUESTS}/write/1/a": "x"}, {f"{RESPONSES}/write/1/description": UNKNOWN}),
        ("word", "/local/domain/{domid}/control/shutdown", {SHUTDOWN: "poweroff"}, {SHUTDOWN: None}),
        ("word", SHUTDOWN, {SHUTDOWN: "poweroff"}, {SHUTDOWN: None}),  # the watched node itself
        (
            "directory",
            "/local/domain/{domid}/control/batcmd",
            {f"{BATCMD}/script": "ls", f"{BATCMD}/state": "READY"},
            {f"{BATCMD}/state": b"FAILURE"},
        ),
    ],
)
async def test_after_a_crash_a_write_is_told_as_unknown_and_a_read_is_done_again(
    style: str, path: str, asked: dict[str, str], told: dict[str, bytes | None]
) -> None:
    store = MemoryStore()
    said: dict[str, Any] = {"store": store, "states": STATES, "method": "run" if style == "directory" else ""}
    async with world(style, path, **said) as first:
        first.endpoint.open.clear()
        for node, value in asked.items():
            store.put(node, value)
        await first.endpoint.begun.acquire()
        if style == "tree":
            first.put("read/1", a="x")
            await first.endpoint.begun.acquire()
        else:
            assert store.tree.get(f"{BATCMD}/state", (b"IN PROGRESS",))[0] == b"IN PROGRESS"
        await stop(first)
    async with world(style, path, **said) as second:
        assert second.is_up()
        assert [call.method for call in second.endpoint.calls] == (["read"] if style == "tree" else [])
        assert {node: store.tree.get(node, (None,))[0] for node in told} == told
        assert not [node for node in store.tree if node.startswith(f"{state.CLAIMS}/") and store.tree[node][0]]
        if style == "tree":
            assert second.response("read/1") == {"a": b"x"}


async def test_a_directory_that_another_server_has_taken_is_left_to_it() -> None:
    async with world("directory", BATCMD, states=STATES, method="run") as made:
        made.store.put(f"{BATCMD}/state", "IN PROGRESS")
        await made.quiet()
        assert made.store.tree[f"{BATCMD}/state"][0] == b"IN PROGRESS"


async def test_an_answer_that_is_there_at_two_looks_is_removed_with_its_request_if_that_is_not_switched_off() -> None:
    for after in (HOUR, None):
        async with world(response_ttl=after) as made:
            for look in range(5):
                made.put(f"read/{look}")
                await made.quiet()
                made.slept.release()
                with made.store.away() if look == 1 else nullcontext():  # it is told, and done the next time
                    await turns(50)
            left = range(4, 5) if after else range(5)
            await made.quiet()
            nodes = {path for path in made.store.tree if path.startswith((f"{REQUESTS}/read/", f"{RESPONSES}/read/"))}
            assert nodes == {f"{root}/read/{look}" for root in (REQUESTS, RESPONSES) for look in left}
            place = "/svc/rpc/response/{_fn}/{_id}"
            why = f"expired responses at {place} cannot be removed; they are tried again"
            assert [text.partition(": ")[0] for text in made.told] == ([why] if after else [])


async def test_a_fault_of_the_style_itself_is_answered() -> None:
    def fails(_call: Call) -> Outcome:
        return Fault(FaultCode.APPLICATION, "no", name="1000")

    async with world("chunked", "/c/{domid}", outcome=fails) as made:
        made.store.put("/c/5/query/1/submit", "0")
        made.store.put("/c/5/query/2/cmd", "run")
        made.store.put("/c/5/query/2/submit", "0")
        await made.quiet()
        assert made.store.below("/c/5/reply/1")["status"] == b"error"
        assert made.store.below("/c/5/reply/2")["code"] == b"1000"
        assert made.store.below("/c/5/reply/2")["data00"] == b"no"


async def test_a_guest_whose_answer_cannot_be_written_holds_up_nobody_else(made: World) -> None:
    commit, open_again = made.store.transaction, asyncio.Event()
    made.endpoint.open.clear()

    async def slow_for_the_first(work: Any, lock: object = None, early: object = None) -> Any:
        made.store.transaction = commit  # type: ignore[method-assign]
        await open_again.wait()
        return await commit(work)

    made.put("read/guest", GUEST)
    await made.endpoint.begun.acquire()
    made.store.transaction = slow_for_the_first  # type: ignore[method-assign]
    made.endpoint.open.set()
    await turns()
    made.put("read/dom0")
    await turns()
    assert (made.response("read/dom0"), made.response("read/guest")) == ({}, None)
    open_again.set()
    await made.quiet()
    assert made.response("read/guest") == {}


async def test_an_id_that_is_used_again_at_once_is_a_new_request(made: World) -> None:
    commit = made.store.transaction

    async def and_then_a_quick_client(work: Any, lock: object = None, early: object = None) -> Any:
        result = await commit(work)
        if made.response("read/1") == {"a": b"x"}:
            for root in (REQUESTS, RESPONSES):
                made.store.drop(f"{root}/read/1")
            made.put("read/1", a="y")
            await turns()
        return result

    made.store.transaction = and_then_a_quick_client  # type: ignore[method-assign]
    made.put("read/1", a="x")
    await made.quiet()
    assert [call.named["a"] for call in made.endpoint.calls] == ["x", "y"]
    assert made.response("read/1") == {"a": b"y"}


async def test_a_bug_in_serving_one_is_told_to_the_loop_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
    async with world() as made:

        def bug(_body: bytes) -> None:
            raise RuntimeError("a bug")

        with monkeypatch.context() as patched:
            patched.setattr(delivery, "_pairs", bug)
            made.put("read/1")
            await made.quiet()
        made.put("read/2")
        await made.quiet()
        assert made.response("read/2") == {}
    assert [str(context["exception"]) for context in told] == ["a bug"]


# Against guests

STRANGER = Permissions(7, "n")


SECRET = {"a": {"b": "secret"}}


@each_case(
    ("style", "path", "value", "asked", "answer", "secret"),
    [
        ("tree", "/svc", SECRET, {f"{REQUESTS}/read/1": ""}, f"{RESPONSES}/read/1", "/a/b"),
        ("chunked", "/c", "secret", {"/c/query/1/cmd": "read", "/c/query/1/submit": "0"}, "/c/reply/1", "/data00"),
        ("mailbox", "/svc", "secret", {"/svc/command": "read"}, "/svc/parameter", ""),
        ("deletion", "/svc/word", SECRET, {"/svc/word": "read"}, "/svc/a", "/b"),
    ],
)
async def test_an_answer_lies_in_no_node_that_another_guest_has_planted(
    style: str, path: str, value: Value, asked: dict[str, str], answer: str, secret: str
) -> None:
    async with world(style, path, lambda _: Reply(value)) as made:
        for node in ("", "/a", "/a/b", "/a/b/c", "/b", "/data00", "/data01", "/submit"):
            made.store.put(f"{answer}{node}", "planted" if node else "", Permissions(7, "b"))
        if style == "mailbox":  # the node of its parameter
            made.store.tree[answer] = (b"", GUEST)
        made.store.put("/c/query/1", "", GUEST)
        for node, content in asked.items():
            made.store.put(node, content, GUEST)
        await made.quiet()
        assert [call.peer.domid for call in made.endpoint.calls] == [5]
        assert made.store.tree[answer][1] == GUEST
        assert made.store.tree[f"{answer}{secret}"] == (b"secret", GUEST)
        assert b"planted" not in made.store.below(answer).values()


async def test_a_request_with_a_node_of_a_guest_is_made_in_the_name_of_that_guest() -> None:
    async with world(domains=Domains(frozenset({5}))) as made:
        for number, guest in ((1, GUEST), (2, STRANGER)):
            made.store.put(f"{REQUESTS}/write/{number}/b", "mine", guest)
            made.put(f"write/{number}", a="x")
        await made.quiet()
        assert [call.peer.domid for call in made.endpoint.calls] == [5]
        assert made.store.tree[f"{RESPONSES}/write/1/a"][1] == Permissions(0, "n")
        assert made.error("write/2") == b"domain 7 may not call 'write'"
        assert claim_path(f"{REQUESTS}/write/2") not in made.store.tree


async def test_a_request_that_another_domain_makes_anew_before_it_is_claimed_is_called_once_and_for_that_one(
    made: World,
) -> None:
    claim = made.store.transaction

    async def after_another(work: Any, lock: object = None, early: object = None) -> Any:
        made.store.transaction = claim  # type: ignore[method-assign]
        made.store.drop(f"{REQUESTS}/write/1")
        made.put("write/1", STRANGER, a="of 7")
        return await claim(work, lock, early)

    made.store.transaction = after_another  # type: ignore[method-assign]
    made.put("write/1", GUEST, a="of 5")
    await made.quiet()
    assert [(call.peer.domid, call.named) for call in made.endpoint.calls] == [(7, {"a": "of 7"})]
    assert made.store.tree[f"{RESPONSES}/write/1/a"] == (b"of 7", STRANGER)


async def test_what_was_answered_is_remembered_for_the_domain_that_asked_and_for_no_other(made: World) -> None:
    made.put("write/1", GUEST, a="x")
    await made.quiet()
    made.store.tree = {"/": made.store.tree["/"]}
    with made.store.away():
        pass
    await made.quiet()
    made.put("write/1", STRANGER, a="y")
    await made.quiet()
    assert made.response("write/1") == {"a": b"y"}


async def test_an_error_leaves_nothing_beside_a_later_success_and_the_reverse() -> None:
    def outcome(call: Call) -> Outcome:
        fails = call.method == "fail"
        return Fault(FaultCode.APPLICATION, "no", name="1000") if fails else Reply({"id": {"0": "x"}})

    folder = "/local/domain/5/control/snapshot"
    states = StateWords(node="status", done="created", failed="error")
    async with world("deletion", f"{folder}/action", outcome, states=states, parameters=("type",)) as made:
        made.store.put(f"{folder}/type", "vm")
        made.store.put(f"{folder}/other", "of others")
        for word, left in (
            ("take", {"id": b"", "id/@30": b"x", "status": b"created"}),
            ("fail", {"code": b"1000", "description": b"no", "status": b"error"}),
            ("take", {"id": b"", "id/@30": b"x", "status": b"created"}),
        ):
            made.store.put(f"{folder}/action", word)
            await made.quiet()
            assert made.store.below(folder) == {"type": b"vm", "other": b"of others", **left}


# Fairness: what a domain costs before it is known that it asks something that it may ask


def reads_below(made: World, path: str) -> int:
    """How many operations were about nodes below a path."""
    return len([each for _, each in made.store.asked if each.startswith(f"{path}/")])


async def test_looks_at_nodes_of_a_guest_that_ask_nothing_are_so_many_a_second_and_those_of_domain_0_are_not(
    made: World,
) -> None:
    made.put("read/1", GUEST)
    made.put("read/2")
    await made.quiet()
    made.paused.clear()
    made.store.put(f"{REQUESTS}/read/2", "again")
    await made.quiet()
    assert made.paused == []
    made.store.put(f"{REQUESTS}/read/1", "again")
    await made.quiet()
    assert made.paused == [state.UNPRODUCTIVE_READ]


async def test_a_new_node_is_read_at_once_unless_guests_have_many_that_ask_nothing(made: World) -> None:
    response = (Operation.GET_PERMS, f"{RESPONSES}/read/1")
    for unproductive, at_once in ((state.MAX_UNPRODUCTIVE - 1, True), (state.MAX_UNPRODUCTIVE, False)):
        made.shared.unproductive = unproductive
        made.store.asked.clear()
        for watch in made.store._watches.values():
            watch.notify(f"{REQUESTS}/read/1")  # the node has gone again
        await made.quiet()
        assert (response in made.store.asked) == at_once


async def test_of_a_request_that_is_not_served_no_node_is_read_but_its_own() -> None:
    many = {f"n{number}": "x" for number in range(100)}
    async with world(domains=Domains(frozenset({5})), limits=StoreLimits(calls_per_domain=1)) as made:
        made.put("read/1", STRANGER, **many)
        await made.quiet()
        assert made.error("read/1") == b"domain 7 may not call 'read'"
        assert reads_below(made, f"{REQUESTS}/read/1") == 0
        made.put("read/2", GUEST, **many)
        await made.quiet()
        assert made.response("read/2")
        made.store.asked.clear()
        for _ in range(10):  # it is answered, however often it changes
            made.put("read/2", GUEST, n1="y")
            await made.quiet()
        assert reads_below(made, f"{REQUESTS}/read/2") == 0
        assert len(made.store.asked) <= 10 * 2 * 3  # looks and operations
        made.endpoint.open.clear()
        made.put("read/3", GUEST)
        await made.endpoint.begun.acquire()
        made.put("read/4", GUEST, **many)  # no place
        await turns(2 * IDLE)
        assert b"too many requests" in made.error("read/4")
        assert reads_below(made, f"{REQUESTS}/read/4") == 0
        made.endpoint.open.set()
        await made.quiet()
    async with world("chunked", "/c/{domid}") as made:
        for number in range(99):  # not submitted
            made.store.put(f"/c/5/query/1/data{number:02d}", "x" * 512)
            await made.quiet()
        assert not [path for _, path in made.store.asked if "/data" in path]


async def test_a_domain_whose_requests_cannot_be_read_holds_up_no_other(made: World) -> None:
    open_again, ask = asyncio.Event(), made.store._request

    async def slow_for_one(operation: Operation, payload: bytes, path: str) -> bytes:
        if "/read/slow" in path and operation is not Operation.GET_PERMS:
            await open_again.wait()
        return await ask(operation, payload, path)

    made.store._request = slow_for_one  # type: ignore[method-assign]
    for number in range(100):
        made.put(f"read/slow-{number}", STRANGER)
    made.put("read/dom0")
    made.put("read/guest", GUEST)
    await turns(5 * IDLE)
    assert (made.response("read/dom0"), made.response("read/guest")) == ({}, {})
    open_again.set()
    await made.quiet()


async def test_whoever_touches_what_is_above_requests_has_them_looked_through_for_a_tenth_of_the_time_at_most(
    made: World,
) -> None:
    together = made.store.together

    async def slow(asked: Sequence[Asked]) -> Any:
        made.now += 0.01 if [each.path for each in asked] == [REQUESTS] else 0
        return await together(asked)

    made.store.together = slow  # type: ignore[method-assign]
    made.paused.clear()
    made.store.put(REQUESTS)
    await made.quiet()
    assert made.paused == [pytest.approx(0.09)]
