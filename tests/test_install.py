"""The wheel as a user gets it: built, installed into a clean venv, started."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from gateway import __version__
from tests.kit.cases import present
from tests.kit.programs import ROOT

EXAMPLES = ("mappings", "toolstack", "bus", "xenstored", "demo")

ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

pytestmark = [pytest.mark.install, pytest.mark.timeout(1000)]  # seconds; each command has its own limit


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(directory))
    _run(sys.executable, "-m", "pip", "wheel", *options, str(ROOT))
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bin/ of a venv with the wheel, its dependencies, and nothing else."""
    place = tmp_path_factory.mktemp("installed")
    venv.create(place, with_pip=False)
    _run(sys.executable, "-m", "pip", "--python", str(place / "bin/python"), "install", "--quiet", str(wheel))
    return place / "bin"


def test_the_wheel_holds_the_two_packages_and_the_examples_with_license_and_pages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {Path(name) for name in archive.namelist()}
    version = f"xcp_gateway-{__version__}"
    assert {name.parts[0] for name in names} == {"gateway", "adapters", f"{version}.dist-info", f"{version}.data"}
    assert {Path("gateway/py.typed"), Path("adapters/py.typed"), Path("gateway/mapping/mapping.schema.json")} <= names
    shared = {name.relative_to(f"{version}.data/data/share/xcp-gateway") for name in names if "share" in name.parts}
    assert shared == {Path(example, name) for example in EXAMPLES for name in _shipped(example)}
    pages = {path for folder in ("templates", "static") for path in (ROOT / "gateway/admin/web" / folder).iterdir()}
    assert {path.relative_to(ROOT) for path in pages} | {Path(f"{version}.dist-info/licenses/LICENSE")} <= names


def test_the_sbom_lists_each_library_that_the_wheel_needs(wheel: Path) -> None:
    document = json.loads(_run(sys.executable, str(ROOT / "packaging/sbom.py"), str(wheel)))
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.5")
    named = {each["name"]: each["version"] for each in document["components"]}
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {canonicalize_name(present(re.match(r"[\w.-]+", each))[0]) for each in wanted} <= named.keys()
    assert not {"pytest", "xenapi"} & named.keys()
    assert all(each["purl"] == f"pkg:pypi/{each['name']}@{each['version']}" for each in document["components"])
    hashed = document["metadata"]["component"]["hashes"][0]["content"]
    assert hashed == hashlib.sha256(wheel.read_bytes()).hexdigest()


def test_the_command_and_both_packages_work_where_no_checkout_is(installed: Path, tmp_path: Path) -> None:
    program, python = str(installed / "xcp-gateway"), str(installed / "python")
    assert __version__ in _run(program, "--version")
    found = _run(python, "-c", "import gateway.server, adapters; print(gateway.__file__)", cwd=tmp_path)
    assert found.startswith(str(installed.parent))
    examples = installed.parent / "share/xcp-gateway/mappings"
    assert "no problems" in _run(program, "check", str(examples), cwd=tmp_path)


def test_the_demo_says_what_it_needs_and_then_runs_where_no_checkout_is(
    wheel: Path, installed: Path, tmp_path: Path
) -> None:
    demo = str(installed / "xcp-gateway"), "demo"
    done = subprocess.run(demo, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=250, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert "pip install 'xcp-gateway[demo]'" in done.stdout
    options = "--python", str(installed / "python"), "install", "--quiet"
    _run(sys.executable, "-m", "pip", *options, f"{wheel}[demo]")
    right, total = re.findall(r"^(\d+) of (\d+) calls went", _run(*demo, cwd=tmp_path), re.MULTILINE)[0]
    assert right == total


def _shipped(example: str) -> set[Path]:
    """Return the files of an example in the checkout, without compiled ones."""
    folder = ROOT / ("mappings" if example == "mappings" else f"docker/{example}")
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}


def _run(*command: str, cwd: Path = ROOT) -> str:
    """Run a command, which must succeed; return its output."""
    done = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
