from __future__ import annotations

from gateway.core.rpc.model import Value
from gateway.events.changes import BEGINNING, EVERYTHING, ChangeLog, ObjectId, Token, Wanted, parse_token

VM1, VM2, HOST = ("vm", "OpaqueRef:1"), ("vm", "OpaqueRef:2"), ("host", "OpaqueRef:1")


def log(epoch: int = 1000, most_deleted: int = 10_000) -> ChangeLog:
    return ChangeLog(epoch, epoch, lambda _: None, most_deleted)


def put(changes: ChangeLog, object_id: ObjectId, value: Value) -> None:
    changes.put(object_id, lambda: value)


def told(changes: ChangeLog, token: Token, wanted: Wanted = EVERYTHING) -> list[tuple[ObjectId, Value]]:
    """What a client with this token gets: each object with its record, None for one that is gone."""
    return [(state.id, state.record) for state in changes.since(token.generation, wanted)]


def test_an_object_that_came_and_went_again_is_told_as_gone_to_who_has_it() -> None:
    changes = log()
    put(changes, VM1, 1)
    had = changes.token
    changes.remove(VM1)
    had_not = changes.token
    put(changes, VM1, 2)
    changes.remove(VM1)
    assert told(changes, had) == [(VM1, None)]
    assert told(changes, had_not) == []
    assert (changes.find(VM1), changes.count("vm")) == (None, 0)
    for number in range(100):  # however often it comes and goes, the memory is bounded
        put(changes, VM1, number)
        changes.remove(VM1)
    assert len(changes.since(had.generation, EVERYTHING)) <= 1
    assert not changes.can_continue(had)
    assert changes.can_continue(changes.token)


def test_past_the_bound_the_oldest_deletion_is_forgotten_and_tokens_of_before_cannot_be_continued() -> None:
    changes = log(most_deleted=2)
    tokens = []
    for number in range(3):
        put(changes, ("vm", str(number)), number)
    for number in range(3):
        tokens.append(changes.token)
        changes.remove(("vm", str(number)))
    assert [changes.can_continue(token) for token in tokens] == [False, True, True]
    assert changes.can_continue(BEGINNING)


def test_a_token_of_another_process_or_of_the_future_cannot_be_continued() -> None:
    changes = log(epoch=1000)
    put(changes, VM1, 1)
    assert changes.can_continue(changes.token)
    assert not changes.can_continue(Token(changes.generation, 999))
    assert not changes.can_continue(Token(changes.generation + 1, 1000))
    assert not changes.can_continue(Token(999, 1000))


def test_tokens_are_two_numbers_of_twenty_digits() -> None:
    assert str(Token(7, 9)) == "00000000000000000007,00000000000000000009"
    assert parse_token(str(Token(7, 9))) == Token(7, 9)
    assert parse_token("") == BEGINNING
    for wrong in ("7", "7,", "a,b", "1,2,3", "-1,2", f"{10**20},1", "1, 2", "1,2\n", "\u0661,2"):
        assert parse_token(wrong) is None, wrong
