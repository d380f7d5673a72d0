"""What holds for every test: it leaves nothing behind, runs only what set-up brings, and chance repeats itself.

Knows nothing of what is tested.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import random
import signal
import threading
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.kit.programs import forbid_others

GRACE = 20.0  # seconds that a task or thread gets which is already ending

settings.register_profile(
    "default",
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],  # which is the machine
)
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")

forbid_others()
# A shell that starts the tests in its background has them ignore Ctrl-C, and with them each program that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _seed(request: pytest.FixtureRequest) -> None:
    """Every test has its own chance, the same in every run."""
    random.seed(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture(autouse=True)
def _nothing_left_behind(_seed: None) -> Iterator[None]:
    """Fail a test after which a thread, a child process or a file descriptor is left that was not there before.

    Fixtures of a wider scope must be parameters of the test, so that they exist before it starts.
    """
    threads, children, descriptors = set(threading.enumerate()), _children(), _descriptors()
    yield
    for thread in set(threading.enumerate()) - threads:
        thread.join(GRACE)
        assert not thread.is_alive(), f"left behind: {thread}"
    assert not (left := _children() - children), f"left behind: processes {left}"
    if _descriptors() - descriptors:
        gc.collect()  # a socket that is closed only here warns, and the warning is an error
    assert not (open_still := _descriptors() - descriptors), f"left behind: {open_still}"


@pytest.fixture(autouse=True)
def _no_task_left_behind(request: pytest.FixtureRequest, _nothing_left_behind: None) -> None:
    """The same for tasks, where there is a loop to have them."""
    if inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        request.getfixturevalue("_no_task_left_in_the_loop")


@pytest.fixture
async def _no_task_left_in_the_loop() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:
        _, pending = await asyncio.wait(left, timeout=GRACE)
        assert not pending, f"left behind: {pending}"


def _children() -> set[str]:
    """Our child processes, dead ones too that nobody has waited for."""
    pids: set[str] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended: its children are another's now
            pids.update(path.read_text().split())
    return pids


def _descriptors() -> set[tuple[str, str]]:
    """Open descriptors and what they lead to."""
    found = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  # no object per entry: this runs twice for every test
        try:
            found.add((name, os.readlink(f"/proc/self/fd/{name}")))  # noqa: PTH115
        except FileNotFoundError:
            continue  # the one that was reading the list
    return found


def pytest_collection_finish() -> None:
    """What collecting has made stays: the garbage collector need not look at it again and again."""
    gc.collect()
    gc.freeze()
