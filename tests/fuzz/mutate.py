"""Mutations of byte strings for fuzzing: small damage and splices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

LONGEST = 20_000  # bytes; longer inputs find nothing that shorter ones do not
SLICE = 40  # bytes that one damage touches at most
REPEATS = (2, 3, 10, 100, 1000)

Mutate = Callable[[bytes, "Chance"], bytes]


class Chance:
    """Random numbers, the tokens of a language, and other inputs of it."""

    def __init__(self, random: Random, tokens: Sequence[bytes], pool: Sequence[bytes]) -> None:
        self.random = random
        self.tokens = tokens
        self.pool = pool

    def slice(self, body: bytes) -> tuple[int, int]:
        """Where a short part of the body begins and ends."""
        start = self.random.randint(0, len(body))
        return start, min(len(body), start + self.random.randint(0, SLICE))


def mutated(chance: Chance) -> bytes:
    """One of the pool, damaged one to five times."""
    body = chance.random.choice(chance.pool)
    for _ in range(chance.random.randint(1, 5)):
        body = chance.random.choice(MUTATIONS)(body, chance)
    return body[:LONGEST]


def _insert(body: bytes, chance: Chance) -> bytes:
    at, _ = chance.slice(body)
    return body[:at] + chance.random.choice(chance.tokens) + body[at:]


def _replace(body: bytes, chance: Chance) -> bytes:
    start, end = chance.slice(body)
    return body[:start] + chance.random.choice(chance.tokens) + body[end:]


def _delete(body: bytes, chance: Chance) -> bytes:
    start, end = chance.slice(body)
    return body[:start] + body[end:]


def _change_byte(body: bytes, chance: Chance) -> bytes:
    at, _ = chance.slice(body)
    return body[:at] + chance.random.randbytes(1) + body[at + 1 :]


def _flip_bit(body: bytes, chance: Chance) -> bytes:
    at, _ = chance.slice(body)
    return body[:at] + bytes(byte ^ (1 << chance.random.randrange(8)) for byte in body[at : at + 1]) + body[at + 1 :]


def _repeat(body: bytes, chance: Chance) -> bytes:
    start, end = chance.slice(body)
    return body[:start] + body[start:end] * chance.random.choice(REPEATS) + body[end:]


def _move(body: bytes, chance: Chance) -> bytes:
    start, end = chance.slice(body)
    rest = body[:start] + body[end:]
    at, _ = chance.slice(rest)
    return rest[:at] + body[start:end] + rest[at:]


def _splice(body: bytes, chance: Chance) -> bytes:
    """The beginning of one and the end of another."""
    other = chance.random.choice(chance.pool)
    return body[: chance.slice(body)[0]] + other[chance.slice(other)[0] :]


MUTATIONS: tuple[Mutate, ...] = (_insert, _replace, _delete, _change_byte, _flip_bit, _repeat, _move, _splice)
