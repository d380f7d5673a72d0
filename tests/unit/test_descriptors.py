"""How many descriptors a config can take, and a process limit that holds them; limits are of a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from gateway import descriptors
from gateway.config import parse

MINIMAL: dict[str, object] = {
    "bus": {"b": {"address": "unix:path=/nowhere", "services": ["*"]}},
    "listener": {"a": {"bind": ["tcp:127.0.0.1:0"]}},
    "mappings": {"directories": ["."]},
}

FIT = """
import json, resource, sys, tomllib
from pathlib import Path
from gateway import config, descriptors
soft, hard, document = json.loads(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
fitted = descriptors.fitted(config.parse(document, Path("x.toml")))
limits = [each.max_connections for each in fitted.listener.values()]
print(json.dumps([resource.getrlimit(resource.RLIMIT_NOFILE), limits, descriptors.needed(fitted)]))
"""


def fit(soft: int, hard: int) -> tuple[list[int], list[int], int, str]:
    document = {
        **MINIMAL,
        "listener": {"a": {"bind": ["tcp:127.0.0.1:0"]}, "b": {"bind": ["tcp:127.0.0.1:0"], "max_connections": 256}},
    }
    command = [sys.executable, "-c", FIT, json.dumps([soft, hard, document])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    *told, last = done.stdout.strip().splitlines()
    limit, connections, needed = json.loads(last)
    return limit, connections, needed, "\n".join(told) + done.stderr


def test_the_soft_limit_is_raised_as_far_as_the_config_needs() -> None:
    limit, connections, needed, told = fit(256, 5_000)
    assert (limit, connections, told) == ([needed, 5_000], [1024, 256], "")


def test_a_limit_that_is_high_enough_is_left_alone() -> None:
    assert fit(4_000, 5_000)[:2] == ([4_000, 5_000], [1024, 256])


def test_under_a_hard_limit_that_is_too_low_listeners_take_fewer_connections_and_it_is_told() -> None:
    limit, connections, needed, told = fit(512, 1024)
    assert limit == [1024, 1024]
    assert needed <= 1024
    assert connections[0] < 1024
    assert connections[0] // connections[1] == 4
    assert "too few file descriptors" in told


def test_a_listener_keeps_a_few_connections_whatever_the_limit() -> None:
    assert fit(64, 64)[1] == [descriptors.LEAST, descriptors.LEAST]


def test_a_store_takes_none() -> None:
    document = {**MINIMAL, "listener": {"guests": {"bind": ["xenstore:"]}}}
    with_listener = parse(MINIMAL, Path("x.toml"))
    assert descriptors.needed(with_listener) - descriptors.needed(parse(document, Path("x.toml"))) == 1024
