"""The command that writes modes set at run time back into the mapping files, as the user who runs it."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

import typer
from rich.text import Text

from gateway.cli.app import DEFAULT_SOCKET, FAILED, MOVING, SocketOption, WhyOption, app, ask, fail
from gateway.cli.output import count, err, out


@dataclass(frozen=True, slots=True)
class _EditedFile:
    """A mapping file, and what is to become of it."""

    path: Path
    before: bytes
    after: bytes
    methods: int


@app.command(rich_help_panel=MOVING)
def promote(
    pattern: Annotated[
        str, typer.Argument(metavar="PATTERN", help="Only these methods: VM.start, 'VM.*', group:NAME.")
    ] = "*",
    socket: SocketOption = DEFAULT_SOCKET,
    why: WhyOption = "",
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
) -> None:
    """Write today's modes back into the mapping files, so that they no longer depend on what was set at run time.

    Only lines that say a mode change; comments and layout stay. The files are written as you; then the gateway reads
    them again, and what was set and is now the mapping's is taken back. A mode set for a time, or by a rollout under
    way, stays where it is. Refused when a file is not the one that the gateway has loaded.

    Examples: `xcp-gateway promote --dry-run`, `xcp-gateway promote 'VM.*' --why "October is over"`
    """
    plan = ask(socket, "GET", f"/v1/promotion?{urlencode({'pattern': pattern})}")
    for each in plan["stays"]:
        name = f"{each['service']}/{each['method']}"
        err.print(
            f"{name} stays {each['mode']} at run time: {each['why']}", style="yellow", markup=False, soft_wrap=True
        )
    if not plan["files"]:
        out.print("nothing to write: every method is as its mapping file says")
        return
    mended = [_mended(file) for file in plan["files"]]
    for each in mended:
        _show(each)
    if dry_run:
        return
    _write(mended)
    _reload(socket, mended)
    cleared = ask(socket, "POST", "/v1/promoted", {"pattern": pattern, "why": why})
    methods = count(sum(each.methods for each in mended), "method")
    out.print(f"{methods} in {count(len(mended), 'file')} written, and live")
    out.print(f"taken back, since the mapping says it now: {', '.join(cleared) or 'nothing'}", markup=False)


def _mended(file: Mapping[str, Any]) -> _EditedFile:
    """The new text, tried out: it must make of the methods what is wanted, and of all others what they are."""
    from gateway.mapping.rewrite import RewriteError, rewrite

    path = Path(file["file"])
    try:
        before = path.read_bytes()
    except OSError as error:
        fail(f"{path}: cannot be read: {error.strerror}", FAILED)
    if hashlib.sha256(before).hexdigest() != file["sha256"]:
        fail(f"{path} is not what the gateway has loaded: xcp-gateway reload, then promote", FAILED)
    try:
        text = rewrite(before.decode("utf-8-sig"), {each["method"]: _wanted(each) for each in file["methods"]})
    except RewriteError as error:
        fail(f"{path}: {error}", FAILED)
    mark = b"\xef\xbb\xbf" if before.startswith(b"\xef\xbb\xbf") else b""
    mended = _EditedFile(path, before, mark + text.encode(), len(file["methods"]))
    _try_out(mended, file["methods"])
    return mended


def _wanted(method: Mapping[str, Any]) -> Any:
    from gateway.mapping.rewrite import WantedMode

    return WantedMode(_setting(method["now"]), _setting(method["setting"]), method["has_key"])


def _setting(written: Mapping[str, Any]) -> Any:
    from gateway.core.migration.modes import Mode, Setting, Side, share

    buckets, control = share(written["percent"]), Side(written["control"])
    return Setting(Mode(written["mode"]), buckets, control, written["observe"], written["noise"])


def _try_out(mended: _EditedFile, methods: Sequence[Mapping[str, Any]]) -> None:
    before, after = (dict(_compiled(mended.path, content)) for content in (mended.before, mended.after))
    wanted = {each["method"]: _setting(each["setting"]) for each in methods}
    for name, told in before.items():
        expected = (wanted.get(name, told[0]), *told[1:])
        if after.get(name) != expected:
            fail(
                f"{mended.path}: the mode of {name} cannot be written so that nothing else changes: do it by hand",
                FAILED,
            )


def _compiled(path: Path, content: bytes) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """All that a file says of who answers, method by method."""
    from gateway.check import compiled

    table, problems = compiled(path, content)
    for problem in problems[:1]:
        fail(f"the file would be refused: {problem}", FAILED)
    for route in table.routes():
        migration = route.migration
        key = migration.key.name if migration.key is not None else None
        told = (migration.setting, key, migration.upstream, migration.group, migration.always, migration.never)
        yield route.method, (*told, migration.may_shadow, migration.fallback)


def _show(mended: _EditedFile) -> None:
    old, new = (text.decode("utf-8-sig").splitlines() for text in (mended.before, mended.after))
    for line in unified_diff(old, new, str(mended.path), str(mended.path), n=1, lineterm=""):
        style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
        out.print(Text(line, "bold" if line.startswith(("+++", "---")) else style), soft_wrap=True)


def _write(mended: Sequence[_EditedFile]) -> None:
    """Each file at once or not at all, with the permissions that it had."""
    for number, each in enumerate(mended):
        try:
            _replace(each.path, each.after)
        except OSError as error:
            _put_back(mended[:number])
            fail(f"{each.path}: cannot be written: {error.strerror}; nothing has changed", FAILED)


def _replace(path: Path, content: bytes) -> None:
    new = path.with_name(f".{path.name}.promote")
    try:
        new.write_bytes(content)
        shutil.copymode(path, new)
        there = path.stat()
        if (there.st_uid, there.st_gid) != (new.stat().st_uid, new.stat().st_gid):
            os.chown(new, there.st_uid, there.st_gid)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _put_back(mended: Sequence[_EditedFile]) -> None:
    for each in mended:
        _replace(each.path, each.before)


def _reload(socket: Path, mended: Sequence[_EditedFile]) -> None:
    answer = ask(socket, "POST", "/v1/reload")
    if answer.get("problems"):
        for problem in answer["problems"]:
            err.print(problem, markup=False, soft_wrap=True)
        _put_back(mended)
        fail("the gateway refuses to reload: the files are as they were", FAILED)
