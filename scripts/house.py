#!/usr/bin/env python3
"""Print the sizes of the source tree, and check its limits. The exit status is 1 when a limit is exceeded.

    scripts/house.py

It prints three tables: the files and lines of each folder; modules of fewer than 60 lines that only one module imports;
class names that more than one module defines. A class that implements a protocol of `gateway/core/interfaces.py` may
repeat its name, since the tables of adapters (`CODECS`, `DIALECTS`) find it by that name.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("gateway", "adapters")
MAX_FILES = 16  # in one folder, without __init__.py
SMALL = 60  # lines
REPEATABLE = frozenset({"Codec", "Dialect", "Backend"})  # one in each module of a kind that a dictionary lists
TOOLS = (
    "bench",
    "fuzz",
    "simulation",
    "soak",
)  # in tests/; each has a target of the Makefile, and `make test` runs little of it
KINDS = ("adapters/codecs/", "adapters/dialects/", "adapters/xenstore/styles/")  # listed in dictionaries


def main() -> int:
    """Print the tables; returns the exit status."""
    modules = {_dotted(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}
    broken = [*_folders(modules), *_small(modules), *_classes(modules)]
    for each in broken:
        print(f"over a limit: {each}")
    return int(bool(broken))


def _folders(modules: dict[str, Path]) -> Iterator[str]:
    sizes: dict[str, list[int]] = defaultdict(list)
    for path in modules.values():
        if path.name != "__init__.py":
            sizes[str(path.parent.relative_to(ROOT))].append(_lines(path))
    print(f"{'FOLDER':<32}{'FILES':>6}{'LINES':>8}")
    for folder, lines in sorted(sizes.items()):
        print(f"{folder:<32}{len(lines):>6}{sum(lines):>8}")
        if len(lines) > MAX_FILES:
            yield f"{folder} has {len(lines)} files (limit {MAX_FILES})"
    files = [size for lines in sizes.values() for size in lines]
    tests = {path: _lines(path) for path in (ROOT / "tests").rglob("*.py")}
    tools = sum(size for path, size in tests.items() if path.relative_to(ROOT).parts[1] in TOOLS)
    print(f"{'product':<32}{len(files):>6}{sum(files):>8}\n{'tests':<32}{len(tests):>6}{sum(tests.values()):>8}")
    print(f"{'  of these ' + ', '.join(TOOLS):<38}{tools:>8}\n")


def _small(modules: dict[str, Path]) -> Iterator[str]:
    importers: dict[str, set[str]] = defaultdict(set)
    for name, path in modules.items():
        for found in _imports(path):
            target = found if found in modules else found.rpartition(".")[0]
            if target in modules and target != name:
                importers[target].add(name)
    print("MODULES WITH ONE IMPORTER AND FEWER THAN 60 LINES")
    for name, path in modules.items():
        relative = str(path.relative_to(ROOT))
        small = path.name not in ("__init__.py", "__main__.py") and _lines(path) < SMALL
        if small and len(importers[name]) == 1 and not relative.startswith(KINDS):
            print(f"  {relative} ({_lines(path)}), imported by {next(iter(importers[name]))}")
            yield f"{relative} could stand in its one importer"
    print()


def _classes(modules: dict[str, Path]) -> Iterator[str]:
    found: dict[str, list[str]] = defaultdict(list)
    for path in modules.values():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(str(path.relative_to(ROOT)))
    print("CLASS NAMES IN MORE THAN ONE MODULE")
    for name, paths in sorted(found.items()):
        if len(paths) > 1:
            print(f"  {name}: {', '.join(paths)}")
            if name not in REPEATABLE:
                yield f"class {name} means {len(paths)} things"
    print()


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def _dotted(path: Path) -> str:
    return str(path.relative_to(ROOT))[:-3].replace("/", ".").removesuffix(".__init__")


if __name__ == "__main__":
    sys.exit(main())
