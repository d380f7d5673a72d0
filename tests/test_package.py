"""The Debian package: built, looked at, and installed into a minimal Debian of the same release."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from gateway import __version__
from tests.kit.programs import ROOT

pytestmark = [pytest.mark.install, pytest.mark.timeout(1500)]  # seconds; a minimal root is made from a mirror

NO_MIRROR = 69  # exit status of scripts/fresh-machine


@pytest.fixture(scope="module")
def package() -> Path:
    if shutil.which("dpkg-deb") is None or not Path("/usr/bin/python3").exists():
        pytest.skip("not on Debian: no dpkg-deb or no /usr/bin/python3")
    if _run("dpkg", "-S", str(Path("/usr/bin/python3").resolve()), check=False).returncode:
        pytest.skip("/usr/bin/python3 is not a package of Debian")
    _run(str(ROOT / "packaging/build-deb"), timeout=600)
    (built,) = (ROOT / "dist").glob(f"xcp-gateway_{__version__}-1_*.deb")
    return built


@pytest.fixture(scope="module")
def unpacked(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    _run("dpkg-deb", "--raw-extract", str(package), str(folder))
    return folder


def test_the_config_is_the_administrators_and_the_rest_is_not(unpacked: Path) -> None:
    conffiles = (unpacked / "DEBIAN/conffiles").read_text().split()
    assert conffiles == [
        "/etc/xcp-gateway/gateway.toml", "/etc/xcp-gateway/mappings.d/bus.xml", "/etc/xcp-gateway/mappings.d/bus.yaml"
    ]  # fmt: skip
    named = (unpacked / "DEBIAN/md5sums").read_text().splitlines()
    assert len(named) > 500
    assert not list(unpacked.rglob("__pycache__"))


def test_the_units_start_what_the_package_has(unpacked: Path, tmp_path: Path) -> None:
    units = unpacked / "usr/lib/systemd/system"
    for unit in ("xcp-gateway.service", "xcp-gateway.socket"):
        text = (units / unit).read_text()
        assert "/opt/" not in text
        (tmp_path / unit).write_text(text.replace("/usr/bin/xcp-gateway", "/usr/bin/true"))
    checked = _run("systemd-analyze", "verify", *map(str, tmp_path.iterdir()), check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert (unpacked / "usr/bin/xcp-gateway").readlink() == Path("../lib/xcp-gateway/bin/xcp-gateway")
    program = (unpacked / "usr/lib/xcp-gateway/bin/xcp-gateway").read_text()
    assert program.startswith("#!/usr/lib/xcp-gateway/bin/python\n")


def test_cockpit_finds_the_page_and_the_system_bus_lets_the_gateway_own_its_name(unpacked: Path) -> None:
    page = unpacked / "usr/share/cockpit/xcp-gateway"
    assert json.loads((page / "manifest.json").read_text())["tools"]["index"]["label"] == "Legacy API gateway"
    assert {each.name for each in page.iterdir()} == {"index.html", "manifest.json", "page.css", "page.js"}
    policy = ElementTree.parse(unpacked / "usr/share/dbus-1/system.d/org.xen.xcp.gateway.conf")
    owners = [
        each.get("user") for each in policy.iter("policy") if each.find("allow[@own='org.xen.xcp.gateway']") is not None
    ]
    assert owners == ["xcp-gateway", "root"]


def test_each_command_and_key_has_its_place_in_the_manual(unpacked: Path) -> None:
    commands = gzip.decompress((unpacked / "usr/share/man/man1/xcp-gateway.1.gz").read_bytes()).decode()
    keys = gzip.decompress((unpacked / "usr/share/man/man5/gateway.toml.5.gz").read_bytes()).decode()
    assert ".SS xcp-gateway rollout start\n" in commands
    assert "\n.B max_calls_per_peer\n" in keys
    for name in ("man1/xcp-gateway.1.gz", "man5/gateway.toml.5.gz"):
        if shutil.which("man") is None:
            continue
        shown = _run("man", "--warnings=all", "-l", str(unpacked / "usr/share/man" / name), check=False)
        assert (shown.returncode, shown.stderr) == (0, "")


def test_the_shells_can_read_the_completion(unpacked: Path) -> None:
    bash = unpacked / "usr/share/bash-completion/completions/xcp-gateway"
    _run("bash", "-n", str(bash))
    assert "_XCP_GATEWAY_COMPLETE=complete_bash" in bash.read_text()
    assert "#compdef xcp-gateway" in (unpacked / "usr/share/zsh/vendor-completions/_xcp-gateway").read_text()
    assert (unpacked / "usr/share/fish/vendor_completions.d/xcp-gateway.fish").read_text().startswith("complete ")


def test_lintian_finds_nothing(package: Path) -> None:
    if shutil.which("lintian") is None:
        pytest.skip("lintian is not installed")
    found = _run("lintian", "--allow-root", str(package), check=False, timeout=300)
    assert (found.returncode, re.findall(r"^[EW]: .*", found.stdout, re.MULTILINE)) == (0, [])


def test_apt_install_in_a_minimal_debian_ends_with_a_ready_gateway_and_purge_with_nothing(package: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, for debootstrap and chroot")
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)[
        "VERSION_CODENAME"
    ].strip('"')
    environment = {**os.environ, "SUITE": release}
    ran = subprocess.run(
        [ROOT / "scripts/fresh-machine", package], env=environment, capture_output=True, text=True, check=False
    )
    if ran.returncode == NO_MIRROR:
        pytest.skip(ran.stderr.splitlines()[-1])
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert '"result":"Dune with 412 pages"' in ran.stdout
    assert re.search(r"^a stranger's way .* \d+ s$", ran.stdout, re.MULTILINE)


def _run(*words: str, check: bool = True, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DPKG_DEB_COMPRESSOR_LEVEL": "0"}  # of a package that lives for a test: 10 s less
    ran = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
    assert ran.returncode == 0 or not check, f"{words}: {ran.stdout}{ran.stderr}"
    return ran
