"""Runs the steps of docker/Dockerfile and docker/compose.yaml as plain processes in one folder.

Not tested, since it needs a container engine: base images, users, apt-get, networks and confinement.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
import xmlrpc.client
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from ruamel.yaml import YAML

from tests.kit.cases import expect
from tests.kit.programs import ROOT, TIMEOUT, free_port, until

NEEDS_A_MACHINE = ("apt-get", "useradd", "install -d")  # RUN steps that would change this one

pytestmark = [pytest.mark.install, pytest.mark.bus, pytest.mark.timeout(1000)]  # seconds; each step has its own limit


class Step(NamedTuple):
    """One instruction of a Dockerfile."""

    word: str
    argument: str


class Folder(NamedTuple):
    """One folder and the present user, for the file systems and users of all stages: `/opt/x` is `folder/opt/x`."""

    place: Path

    def inside(self, text: str) -> str:
        """Return the text with the paths of a stage inside the folder, and its users replaced by the present one."""
        text = re.sub(r"(-user) xcp-\w+", rf"\1 {os.geteuid()}", text)
        return re.sub(r"(?<![\w.}/])/(src|opt|etc/xcp|run/xcp|var/lib/xcp)", rf"{self.place}/\1", text)

    def copy(self, argument: str) -> None:
        *sources, target = (word for word in argument.split() if not word.startswith("--"))
        for source in sources:
            origin = Path(self.inside(source)) if "--from=" in argument else ROOT / source
            goal = Path(self.inside(target))
            if origin == goal:  # from one stage to another
                assert origin.exists(), argument
            elif origin.is_dir():
                patterns = [line.removeprefix("**/") for line in (ROOT / ".dockerignore").read_text().split()]
                shutil.copytree(origin, goal, ignore=shutil.ignore_patterns(*patterns), dirs_exist_ok=True)
            else:
                goal.parent.mkdir(parents=True, exist_ok=True)
                goal.write_text(self.inside(origin.read_text()))


@pytest.fixture(scope="module")
def stages() -> dict[str, list[Step]]:
    """Return the stages of the Dockerfile by name."""
    text = re.sub(r"^#.*\n", "", (ROOT / "docker/Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    steps = [Step(*line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]
    starts = [number for number, step in enumerate(steps) if step.word == "FROM"]
    return {
        steps[start].argument.split()[-1]: steps[start + 1 : end]
        for start, end in zip(starts, [*starts[1:], len(steps)], strict=True)
    }


@pytest.fixture(scope="module")
def compose() -> Mapping[str, Any]:
    loaded: Mapping[str, Any] = YAML(typ="safe", pure=True).load((ROOT / "docker/compose.yaml").read_text())
    return loaded


@pytest.fixture(scope="module")
def folder(stages: dict[str, list[Step]], tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Execute every COPY and RUN of every stage in order."""
    made = Folder(tmp_path_factory.mktemp("docker"))
    for path in ("run/xcp", "run/xcp-gateway", "etc", "var/lib"):
        (made.place / path).mkdir(parents=True)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # of pip and python
    for steps in stages.values():
        workdir = made.place
        for step in steps:
            if step.word == "WORKDIR":
                workdir = Path(made.inside(step.argument))
                workdir.mkdir()
            elif step.word == "COPY":
                made.copy(step.argument if step.argument != ". ." else f". {workdir}")
            elif step.word == "RUN" and not step.argument.startswith(NEEDS_A_MACHINE):
                command = ["bash", "-c", made.inside(step.argument)]
                done = subprocess.run(
                    command, cwd=workdir, env=environment, capture_output=True, text=True, timeout=250, check=False
                )
                assert done.returncode == 0, f"{step.argument}\n{done.stdout}{done.stderr}"
    return made


def test_the_images_hold_what_they_run_and_no_build_tools(folder: Folder) -> None:
    assert {path.name for path in (folder.place / "opt/xcp-gateway/bin").iterdir()} >= {"python", "xcp-gateway"}
    for venv in ("xcp-gateway", "toolstack"):
        (packages,) = (folder.place / "opt" / venv / "lib").glob("python3*/site-packages")
        assert not {"pip", "setuptools", "hatchling", "pytest"} & {path.name for path in packages.iterdir()}


def test_every_image_runs_as_a_user_of_its_own_and_knows_its_health(stages: dict[str, list[Step]]) -> None:
    made = " ".join(step.argument for step in stages["users"])
    for image in ("bus", "toolstack", "gateway"):
        assert re.search(rf"useradd [^&]*\b{_last(stages[image], 'USER')}\b", made), image
    assert _last(stages["gateway"], "HEALTHCHECK").endswith(
        'CMD ["xcp-gateway", "status", "--socket", "/run/xcp-gateway/admin"]'
    )


def test_the_toolstack_is_the_one_of_the_idl_with_the_library_of_the_demo(stages: dict[str, list[Step]]) -> None:
    (services,) = re.findall(r"for service in (.*?);", _last(stages["toolstack"], "CMD"))
    idl = {path.name.split(".")[3] for path in (ROOT / "mappings/idl").glob("org.xen.xcp.*.xml")}
    assert {*services.split(), "gateway"} == idl
    demo = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["demo"]
    (wanted,) = (each for each in demo if each.startswith("dbus-next"))
    assert any(step.word == "RUN" and step.argument.endswith(wanted) for step in stages["build"])


def test_compose_builds_the_stages_and_lets_nobody_in_from_other_hosts(
    stages: dict[str, list[Step]], compose: Mapping[str, Any]
) -> None:
    for name, service in compose["services"].items():
        if "observability" in service.get("profiles", ()):
            assert (service["network_mode"], "ports" in service) == ("host", False)
            assert "127.0.0.1" in str(service)  # it listens there and nowhere else
            continue
        build = service["build"]
        assert (ROOT / "docker" / build["context"] / build["dockerfile"]).samefile(ROOT / "docker/Dockerfile")
        assert build["target"] == name
        assert set(service.get("depends_on", ())) <= compose["services"].keys()
    bind = tomllib.loads((ROOT / "docker/gateway.toml").read_text())["listener"]["rpc"]["bind"]
    port = _last(stages["gateway"], "EXPOSE")
    assert bind == [f"tcp:127.0.0.1:{port}"]  # of the host, which no other host can reach
    assert compose["services"]["gateway"]["network_mode"] == "host"
    assert "ports" not in compose["services"]["gateway"]


def test_what_is_to_outlive_the_container_is_on_a_volume(compose: Mapping[str, Any]) -> None:
    file = tomllib.loads((ROOT / "docker/gateway.toml").read_text())["state"]["file"]
    mounts = dict(volume.split(":") for volume in compose["services"]["gateway"]["volumes"])
    assert mounts["state"] == str(Path(file).parent)
    assert mounts.keys() <= compose["volumes"].keys()


def test_no_mapping_asks_for_a_xenstore_where_none_is(folder: Folder) -> None:
    listeners = tomllib.loads((folder.place / "etc/xcp-gateway/gateway.toml").read_text())["listener"]
    for path in (folder.place / "etc/xcp-gateway/mappings.d").glob("*.yaml"):
        mapped = YAML(typ="safe", pure=True).load(path.read_text())
        for key in ("expose", "publish", "on_change"):
            needed = {entry["listener"] for entry in mapped.get(key, ()) if not entry.get("optional")}
            assert needed <= listeners.keys(), path


def test_the_three_services_start_in_order_and_answer_a_call(
    stages: dict[str, list[Step]], compose: Mapping[str, Any], folder: Folder
) -> None:
    port = free_port()
    config = folder.place / "etc/xcp-gateway/gateway.toml"
    config.write_text(config.read_text().replace("127.0.0.1:8080", f"127.0.0.1:{port}"))
    with ExitStack() as running:
        built = [name for name, service in compose["services"].items() if "build" in service]
        for name in built:  # written in the order of their depends_on
            running.enter_context(_container(stages[name], folder))
        server = xmlrpc.client.ServerProxy(f"http://127.0.0.1:{port}/")
        running.callback(server("close"))

        def log_in() -> object:
            return expect(dict, server.session.login_with_password("root", "xenroot"))["Status"]

        until(log_in, lambda status: status == "Success")  # an engine does not wait for xapi to be on the bus either
    assert (folder.place / "var/lib/xcp-gateway/state.db").is_file()


@contextmanager
def _container(steps: list[Step], folder: Folder) -> Iterator[None]:
    """Run an image's command until its health check passes, and end it as an engine does."""
    environment = dict(os.environ)
    for step in steps:
        if step.word == "ENV":
            name, _, value = folder.inside(step.argument).partition("=")
            environment[name] = value.replace("$PATH", os.environ["PATH"])
    command = _words(_last(steps, "ENTRYPOINT"), folder) + _words(_last(steps, "CMD"), folder)
    check = _words(_last(steps, "HEALTHCHECK").partition("CMD ")[2], folder)
    process = subprocess.Popen(command, env=environment, start_new_session=True, text=True)
    try:
        healthy = until(
            lambda: not check or subprocess.call(check, env=environment, stdout=subprocess.DEVNULL) == 0,
            lambda is_healthy: is_healthy or process.poll() is not None,
        )
        assert healthy, f"ended with {process.returncode}: {process.args!r}"
        yield
    finally:
        with suppress(ProcessLookupError):  # it ended by itself: the assertion above says so
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(TIMEOUT)


def _words(argument: str, folder: Folder) -> list[str]:
    """Return the exec form of a command; the shell form is passed to bash."""
    if argument.startswith("["):
        return [*map(folder.inside, json.loads(argument))]
    return ["bash", "-c", folder.inside(argument)] if argument else []


def _last(steps: list[Step], word: str) -> str:
    return next((step.argument for step in reversed(steps) if step.word == word), "")
