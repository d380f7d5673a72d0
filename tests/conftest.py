"""Rules for every test: it leaves nothing behind, runs only installed programs, and its random numbers repeat."""

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

from tests.kit.buses import private_bus
from tests.kit.programs import forbid_others

GRACE = 20.0  # seconds for a task or thread that is already ending

settings.register_profile(
    "default",
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],  # the machine is slow, not the test
)
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, print_blob=True)
PROFILE = "ci" if os.environ.get("CI") else "default"
settings.load_profile(PROFILE)
settings.register_profile(
    "quick", settings.get_profile(PROFILE), max_examples=15
)  # `make check`; `make test` does more

forbid_others()
# Tests in the background of a shell ignore Ctrl-C, and so would each program that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test after which a thread, a child process or a file descriptor is left that was not there before.

    Fixtures of a wider scope must be parameters of the test, so that they exist before it starts. The random numbers of
    each test are the same in every run.
    """
    random.seed(zlib.crc32(request.node.nodeid.encode()))
    threads, children, descriptors = set(threading.enumerate()), _children(), _descriptors()
    yield
    for thread in set(threading.enumerate()) - threads:
        if thread.name.startswith("asyncio_"):
            continue  # of a loop's pool, which ends with the loop; its fixture may have a wider scope
        thread.join(GRACE)
        assert not thread.is_alive(), f"left behind: {thread}"
    assert not (left := _children() - children), f"left behind: processes {left}"
    if _descriptors() - descriptors:
        gc.collect()  # a socket that is closed only here warns, and the warning is an error
    assert not (open_still := _descriptors() - descriptors), f"left behind: {open_still}"


@pytest.fixture(autouse=True)
def _no_task_left_behind(request: pytest.FixtureRequest, _nothing_left_behind: None) -> None:
    """The same for tasks, when the test has an event loop."""
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
    """Return our child processes, including ended ones that were not waited for."""
    pids: set[str] = set()
    for thread in os.listdir("/proc/self/task"):  # noqa: PTH208  # no object per entry: this runs twice for every test
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended: its children belong to another
            pids.update(Path(f"/proc/self/task/{thread}/children").read_text().split())
    return pids


def _descriptors() -> set[tuple[str, str]]:
    """Return open descriptors and their targets."""
    found = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            found.add((name, os.readlink(f"/proc/self/fd/{name}")))  # noqa: PTH115
        except FileNotFoundError:
            continue  # the one that was reading the list
    return found


@pytest.fixture(scope="session")
def empty_bus() -> Iterator[str]:
    """The address of a bus without services: a gateway waits two seconds for one that is not there."""
    with private_bus() as bus:
        yield bus.address


# The files that take longest, in their order: the last one that runs is then a short one.
LONGEST: tuple[str, ...] = ("test_package.py", "test_moving.py", "test_workers.py", "test_cost.py", "test_demo.py")
LONGEST += ("test_xenstore.py", "test_marshal.py", "test_soak.py", "test_install.py", "test_simulated_plans.py")
LONGEST += ("test_words_killed.py", "test_events_killed.py", "test_xenapi_messages.py", "test_process.py")
LONGEST += ("test_types_over_the_bus.py", "test_dialects.py", "test_day_one.py", "test_nodes.py", "test_docker.py")


def pytest_xdist_auto_num_workers() -> int:
    """Two for each core: half of the time a test waits, for a process or a deadline."""
    return 2 * len(os.sched_getaffinity(0))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, where `--no-loadscope-reorder` lets the order be."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def pytest_collection_finish() -> None:
    """Exempt the objects of the collection from the garbage collector: they live as long as the process."""
    gc.collect()
    gc.freeze()
