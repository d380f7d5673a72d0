"""Damaged input for every parser of foreign input: the short form of `make fuzz`, always with the same inputs."""

from __future__ import annotations

from random import Random

from tests.fuzz.mutate import Chance, mutated
from tests.fuzz.targets import targets
from tests.kit.cases import Failures

INPUTS = 500  # for each parser, besides the good ones that they are made of


def test_whatever_arrives_is_read_or_refused_in_words_and_what_was_read_is_written_the_same() -> None:
    failures = Failures()
    with targets() as known:
        for name, target in known.items():
            chance = Chance(Random(name), target.tokens, target.seeds)
            for body in (*target.seeds, *(mutated(chance) for _ in range(INPUTS))):
                with failures.of((name, body)):
                    target.check(body)
    failures.tell()
