"""`xcp-gateway promote`: write modes that were set at run time into the mapping files, as the calling user.

Each file is replaced at once. When one cannot be written, or the gateway refuses to load the new files, all are
restored.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from difflib import unified_diff
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec import Struct
from rich.text import Text

from gateway.cli import completion
from gateway.cli.app import (
    DEFAULT_SOCKET,
    FAILED,
    Commands,
    JsonOption,
    SocketOption,
    WhyOption,
    ask,
    fail,
    flag,
    positional,
)
from gateway.cli.output import count, err, out, print_json

commands = Commands()


class _EditedFile(Struct, frozen=True):
    """A mapping file before and after the change. `methods`: the number of methods that change."""

    path: Path
    before: bytes
    after: bytes
    methods: int


@commands.command()
def promote(
    pattern: Annotated[
        str, positional("PATTERN", "Only these methods: VM.start, 'VM.*', group:NAME.", completion.patterns)
    ] = "*",
    socket: SocketOption = DEFAULT_SOCKET,
    why: WhyOption = "",
    *,
    dry_run: Annotated[bool, flag("--dry-run", "Show the changes without making them.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write modes that were set at run time into the mapping files.

    Only modes change; comments and layout stay. The files are written as the calling user; then the gateway loads
    them, and modes set at run time that equal the mapping's are cleared. A mode with a duration, or of a running
    rollout, is not written. A file that differs from the one that the gateway has loaded is an error. Exit status 1 if
    there is nothing to write.

    Examples: `xcp-gateway promote --dry-run`, `xcp-gateway promote 'VM.*' --why "October is over"`
    """
    plan = ask(socket, "GET", "/v1/promotion", pattern=pattern)
    edited = [_edited(file) for file in plan["files"]]
    if not as_json:
        for each in plan["stays"]:
            name = f"{each['service']}/{each['method']}"
            err.print(f"{name} stays {each['mode']} at run time: {each['why']}", style="yellow")
        for file in edited:
            _show(file)
    cleared: Sequence[str] = ()
    if edited and not dry_run:
        _write(edited)
        answer = ask(socket, "POST", "/v1/reload")
        if answer.get("problems"):
            for problem in answer["problems"]:
                err.print(problem)
            _restore(edited)
            fail("the gateway refuses to load the files; they were restored", FAILED)
        cleared = ask(socket, "POST", "/v1/promoted", {"pattern": pattern, "why": why})
    if as_json:
        print_json({**plan, "written": bool(edited) and not dry_run, "cleared": cleared})
    elif not edited:
        out.print("nothing to write: every method has the mode of its mapping file")
    elif not dry_run:
        methods = count(sum(each.methods for each in edited), "method")
        out.print(f"{methods} in {count(len(edited), 'file')} written, and live")
        out.print(f"cleared, since the mapping contains them: {', '.join(cleared) or 'nothing'}")
    raise typer.Exit(0 if edited else FAILED)


def _edited(file: Mapping[str, Any]) -> _EditedFile:
    """Make the new text and check that it changes the wanted modes and nothing else."""
    from gateway.core.admin.views import setting_of
    from gateway.mapping.rewrite import RewriteError, WantedMode, rewrite

    path = Path(file["file"])
    try:
        before = path.read_bytes()
    except OSError as error:
        fail(f"{path}: cannot be read: {error.strerror}", FAILED)
    if hashlib.sha256(before).hexdigest() != file["sha256"]:
        fail(f"{path} has changed since the gateway loaded it: run `xcp-gateway reload`, then promote again", FAILED)
    try:
        wanted = {
            each["method"]: WantedMode(setting_of(each["now"]), setting_of(each["setting"]), each["has_key"])
            for each in file["methods"]
        }
        text = rewrite(before.decode("utf-8-sig"), wanted)
    except RewriteError as error:
        fail(f"{path}: {error}", FAILED)
    mark = b"\xef\xbb\xbf" if before.startswith(b"\xef\xbb\xbf") else b""
    edited = _EditedFile(path, before, mark + text.encode(), len(file["methods"]))
    _verify(edited, file["methods"])
    return edited


def _verify(edited: _EditedFile, methods: Sequence[Mapping[str, Any]]) -> None:
    from gateway.core.admin.views import setting_of

    before, after = (dict(_compiled(edited.path, content)) for content in (edited.before, edited.after))
    wanted = {each["method"]: setting_of(each["setting"]) for each in methods}
    for name, settings in before.items():
        if after.get(name) != (wanted.get(name, settings[0]), *settings[1:]):
            why = "cannot be written without other changes: edit the file by hand"
            fail(f"{edited.path}: the mode of {name} {why}", FAILED)


def _compiled(path: Path, content: bytes) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The migration settings of each method in a file."""
    from gateway.check import compiled

    table, problems = compiled(path, content)
    for problem in problems[:1]:
        fail(f"the file would be refused: {problem}", FAILED)
    for route in table.routes():
        migration = route.migration
        key = migration.key.name if migration.key is not None else None
        settings = (migration.setting, key, migration.upstream, migration.group, migration.always, migration.never)
        yield route.method, (*settings, migration.may_shadow, migration.fallback)


def _show(edited: _EditedFile) -> None:
    old, new = (text.decode("utf-8-sig").splitlines() for text in (edited.before, edited.after))
    for line in unified_diff(old, new, str(edited.path), str(edited.path), n=1, lineterm=""):
        style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
        out.print(Text(line, "bold" if line.startswith(("+++", "---")) else style))


def _write(edited: Sequence[_EditedFile]) -> None:
    """Replace all files, each atomically and with its permissions, or none."""
    for number, each in enumerate(edited):
        try:
            _replace(each.path, each.after)
        except OSError as error:
            _restore(edited[:number])
            fail(f"{each.path}: cannot be written: {error.strerror}; nothing has changed", FAILED)


def _replace(path: Path, content: bytes) -> None:
    new = path.with_name(f".{path.name}.promote")
    try:
        new.write_bytes(content)
        shutil.copymode(path, new)
        owner = path.stat()
        if (owner.st_uid, owner.st_gid) != (new.stat().st_uid, new.stat().st_gid):
            os.chown(new, owner.st_uid, owner.st_gid)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _restore(edited: Sequence[_EditedFile]) -> None:
    for each in edited:
        _replace(each.path, each.before)
