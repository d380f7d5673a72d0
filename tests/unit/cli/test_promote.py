"""Writing modes back into files, as far as no gateway is needed; the rest is in tests/interop/test_promote.py."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path
from typing import Any

import pytest
import typer

from gateway.cli.promote import _edited, _restore, _write
from gateway.core.admin.views import setting_view
from gateway.core.migration.modes import Mode, Setting
from tests.kit.gateway import TOY_MAPPING, Folder

OLD = TOY_MAPPING.replace("defaults: {", "legacy: {upstream: old}\ndefaults: {mode: legacy, ")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = Folder(tmp_path)
    folder.mapping(OLD)
    return folder.mappings / "toy.yaml"


def plan(file: Path, mode: Mode = Mode.SHADOW, method: str = "echo") -> dict[str, Any]:
    each = {"service": "toy", "method": method, "has_key": False, "now": setting_view(Setting(Mode.LEGACY))}
    wanted = {**each, "setting": setting_view(Setting(mode))}
    return {"file": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "methods": [wanted]}


def test_a_file_is_written_with_its_permissions_and_restored(file: Path) -> None:
    file.chmod(0o640)
    mended = _edited(plan(file))
    _write([mended])
    assert file.read_text() == OLD.replace("params: [text]", "params: [text], mode: shadow")
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    _restore([mended])
    assert file.read_text() == OLD
    file.write_bytes(b"\xef\xbb\xbf" + OLD.encode())
    assert _edited(plan(file)).after.startswith(b"\xef\xbb\xbfmapping: 1\n"), "a byte order mark stays"
    assert sorted(path.name for path in file.parent.iterdir()) == ["toy.xml", "toy.yaml"]


def test_what_cannot_be_written_is_refused_before_anything_is(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A write in shadow mode, which no person may set; an entry of several methods, which is left to a person."""

    def refusal(asked: dict[str, Any]) -> str:
        with pytest.raises(typer.Exit):
            _edited(asked)
        return capsys.readouterr().err

    assert "mode shadow would execute each call twice" in refusal(plan(file, Mode.SHADOW, "leave"))
    assert file.read_text() == OLD
    file.write_text(OLD.replace("label: {member: Label}", "label: &x {member: Label}\n  again: *x"))
    assert "label shares its entry with other methods" in refusal(plan(file, method="label"))
    asked = plan(file)
    file.write_text(OLD + "# mine\n")
    assert "has changed since the gateway loaded it" in refusal(asked)
    file.unlink()
    assert "cannot be read: No such file or directory" in refusal(asked)


def test_when_one_file_cannot_be_written_the_others_are_as_they_were(file: Path) -> None:
    first = _edited(plan(file))
    gone = type(first)(file.parent / "nowhere" / "x.yaml", b"", b"x", 1)
    with pytest.raises(typer.Exit):
        _write([first, gone])
    assert file.read_text() == OLD
