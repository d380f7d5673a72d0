"""The mapping files of another revision: those of a git commit, extracted to a temporary directory.

The directory of the mapping files, and every XML file of the repository, since IDL may be elsewhere, are checked out
into it by way of an index of their own. So files are as in a work tree (`git archive` leaves out what has
`export-ignore`, and replaces text), and git writes none through a link. Nothing of the repository or its work tree
changes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

TIMEOUT = 60.0  # seconds for one command of git
_OWN_INDEX = ("-c", "core.splitIndex=false", "-c", "core.fsmonitor=false")  # nothing of it goes into the repository


class RevisionError(Exception):
    """The revision cannot be read; the text says why."""


class Checkout(Struct, frozen=True):
    """Mapping files at a commit: `paths`, extracted below `root`, which stands for `original`."""

    paths: list[Path]
    root: Path
    original: Path

    def name(self, file: str) -> str:
        """The path of an extracted file as it is in the work tree."""
        path = Path(file)
        return str(self.original / path.relative_to(self.root)) if path.is_relative_to(self.root) else file


@contextmanager
def checkout(revision: str, paths: Sequence[Path]) -> Iterator[Checkout]:
    """Extract these mapping files and directories as they were at a commit; raises RevisionError."""
    first = paths[0].absolute()
    top = Path(os.fsdecode(_git(first if first.is_dir() else first.parent, "rev-parse", "--show-toplevel")).strip())
    try:
        found = _git(top, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    except RevisionError:
        raise RevisionError(
            f"'{revision}' is neither a directory nor a commit of the repository {top}; `live` is the running gateway"
        ) from None
    commit = found.decode().strip()
    for path in paths:
        if not path.resolve().is_relative_to(top.resolve()):
            raise RevisionError(f"{path} is outside the repository {top}")
    named = [str(path.resolve().relative_to(top.resolve())) for path in paths]
    there = _git(top, "ls-tree", "-r", "-z", "--name-only", commit).split(b"\0")
    files = [os.fsdecode(name) for name in there if name]
    wanted = [name for name in named if any(_is_below(each, name) for each in files)]
    if not wanted:
        raise RevisionError(f"{revision} has no {' or '.join(named)}")
    chosen = [each for each in files if each.endswith(".xml") or any(_is_below(each, name) for name in wanted)]
    here = Path.cwd()
    beside = here.is_relative_to(top) or top.is_relative_to(here)
    with tempfile.TemporaryDirectory(prefix="xcp-gateway-") as directory:
        root = Path(directory, "files")
        try:
            _extract(top, commit, chosen, root)
        except (RevisionError, OSError, RuntimeError) as error:  # RuntimeError: a loop of links
            raise RevisionError(f"{revision} cannot be extracted: {error}") from error
        yield Checkout([root / name for name in wanted], root, Path(os.path.relpath(top, here)) if beside else top)


def _is_below(file: str, name: str) -> bool:
    return name in (file, ".") or file.startswith(f"{name}/")


def _extract(top: Path, commit: str, files: Sequence[str], root: Path) -> None:
    """Check out files of a commit below a directory that is not there yet; raises RevisionError."""
    index = {"GIT_INDEX_FILE": str(root.with_name("index"))}
    _git(top, *_OWN_INDEX, "read-tree", commit, more=index)
    names = b"".join(os.fsencode(name) + b"\0" for name in files)
    _git(top, *_OWN_INDEX, "checkout-index", f"--prefix={root}/", "-z", "--stdin", more=index, given=names)
    for name in files:
        if not (root / name).resolve().is_relative_to(root.resolve()):
            raise RevisionError(f"'{name}' is a link that leads out of the repository")


def _git(folder: Path, *words: str, more: Mapping[str, str] | None = None, given: bytes = b"") -> bytes:
    """The output of a command; `more`: for its environment, `given`: its input."""
    program = shutil.which("git")
    if program is None:
        raise RevisionError("git is not installed; name a directory with the other mapping files instead")
    try:
        done = subprocess.run(  # noqa: S603 - no shell; a revision is behind --end-of-options
            [program, *words],
            cwd=folder,
            env={**os.environ, **(more or {})},
            input=given,
            capture_output=True,
            timeout=TIMEOUT,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        words = words[len(_OWN_INDEX) :] if words[0] == "-c" else words
        reason = (
            os.fsdecode(error.stderr).strip().removeprefix("fatal: ").removeprefix(f"git {words[0]}: ")
            or f"exit status {error.returncode}"
        )
        raise RevisionError(f"git {words[0]}: {reason}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RevisionError(f"git {words[0]}: {error}") from error
    return done.stdout
