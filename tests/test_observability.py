"""Alerts and dashboard: they ask for series that exist, promtool accepts them, and a real Prometheus loads them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from gateway.core.migration.rollout_plan import RolloutState
from gateway.ops.metrics import SERIES
from tests.kit.buses import private_bus
from tests.kit.gateway import Folder, gateway_process
from tests.kit.programs import ROOT, TIMEOUT, until
from tests.kit.toy_service import toy_service

FOLDER = ROOT / "docker/observability"
RULES, CASES, DASHBOARD = FOLDER / "rules.yml", FOLDER / "rules_test.yml", FOLDER / "grafana-dashboard.json"
OF_PROMETHEUS = {"up", "process_resident_memory_bytes", "process_cpu_seconds_total"}
GRAFANA = {"$__rate_interval": "5m", "$instance": ".*", "$service": ".*"}


@contextmanager
def prometheus(folder: Path) -> Iterator[str]:
    """A Prometheus with the config of a folder; its URL, once it listens."""
    words = [
        "prometheus",
        "--config.file=prometheus.yml",
        "--storage.tsdb.path=data",
        "--web.listen-address=127.0.0.1:0",
    ]
    with subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=folder) as process:
        assert process.stderr is not None
        try:
            lines: list[str] = []
            for line in process.stderr:
                lines.append(line)
                found = re.search(r'msg="Listening on" address=(\S+)', line)
                if found is not None:
                    break
            else:
                pytest.fail("".join(lines))
            reader = threading.Thread(target=process.stderr.read)  # so that it never waits for a reader
            reader.start()
            yield f"http://{found[1]}"
        finally:
            process.kill()
            reader.join(TIMEOUT)


def wait_for(url: str, wanted: Callable[[Any], Any]) -> Any:
    """Ask until the answer has what is wanted."""

    def found() -> Any:
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
                return wanted(json.load(response)["data"])
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.SERVICE_UNAVAILABLE:  # it has begun to listen and is not ready
                raise
            error.close()

    return until(found)


def all_evaluated(data: Any) -> list[dict[str, Any]]:
    """The rules, once each of them was evaluated."""
    found = [rule for group in data["groups"] for rule in group["rules"]]
    return found if found and all(rule["health"] != "unknown" for rule in found) else []


def load(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path.read_text())


def rules() -> list[dict[str, Any]]:
    return [rule for group in load(RULES)["groups"] for rule in group["rules"]]


def panels() -> Iterator[tuple[str, str]]:
    """Title and expression of each query of the dashboard."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def promtool(*words: object) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian's package prometheus)")
    done = subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True, check=False, cwd=FOLDER)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_and_each_panel_asks_for_series_of_the_gateway() -> None:
    asked = [(rule["alert"], rule["expr"]) for rule in rules()] + list(panels())
    for name, expression in asked:
        bare = re.sub(r'"[^"]*"', '""', expression)
        found = set(re.findall(r"\b(?:xcp_gateway|process)_\w+|\bup\b", bare))
        known = {each.removesuffix("_bucket") for each in found}
        assert found, name
        assert known <= SERIES.keys() | OF_PROMETHEUS, name
        labels = {label for each in known & SERIES.keys() for label in SERIES[each].labels}
        assert set(re.findall(r"(\w+)=~?\"", expression)) <= labels | {"instance", "job", "service"}, name
    states = re.findall(r'state="([^"]*)"', " ".join(expression for _, expression in asked))
    assert set(states) <= {state.value for state in RolloutState}


def test_each_alert_says_what_to_do_and_has_a_case_in_which_it_fires_and_one_in_which_not() -> None:
    named = [rule["alert"] for rule in rules()]
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"].keys() == {"summary", "action"}
    cases = [case for test in load(CASES)["tests"] for case in test["alert_rule_test"]]
    assert [case["alertname"] for case in cases if case.get("exp_alerts")] == named
    assert [case["alertname"] for case in cases if not case.get("exp_alerts")] == named


def test_promtool_accepts_config_and_rules_and_the_cases_hold() -> None:
    promtool("check", "config", "prometheus.yml")
    promtool("check", "rules", RULES.name)
    promtool("test", "rules", CASES.name)


def test_promtool_can_read_each_query_of_the_dashboard(tmp_path: Path) -> None:
    recorded = []
    for number, (_, expression) in enumerate(panels()):
        filled = re.sub(r"\$\w+", lambda found: GRAFANA[found[0]], expression)
        recorded.append({"record": f"panel_{number}", "expr": filled})
    (tmp_path / "panels.json").write_text(json.dumps({"groups": [{"name": "panels", "rules": recorded}]}))  # also YAML
    promtool("check", "rules", tmp_path / "panels.json")


def test_a_real_prometheus_scrapes_a_gateway_and_evaluates_the_rules(tmp_path: Path) -> None:
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed")
    folder = Folder(tmp_path)
    with private_bus() as bus, toy_service(bus.address, "org.example.toy"):
        folder.buses({"toolstack": (bus.address, "org.example.*")})
        text = folder.config.read_text().replace("[admin]", '[admin]\nmetrics = "tcp:127.0.0.1:0"')
        folder.config.write_text(text)
        with gateway_process(folder.config) as process:
            target = process.ask("GET", "/v1/status")["metrics"].removeprefix("tcp:")
            shutil.copy(RULES, tmp_path / "rules.yml")
            config = (FOLDER / "prometheus.yml").read_text().replace("127.0.0.1:9100", target).replace("15s", "1s")
            (tmp_path / "prometheus.yml").write_text(config)
            with prometheus(tmp_path) as url:
                scraped = wait_for(f"{url}/api/v1/query?query=xcp_gateway_bus_connected", lambda data: data["result"])
                assert scraped[0]["value"][1] == "1"
                evaluated = wait_for(f"{url}/api/v1/rules", all_evaluated)
    assert {rule["name"] for rule in evaluated} == {rule["alert"] for rule in rules()}
    assert [rule["name"] for rule in evaluated if rule["health"] != "ok" or rule["state"] != "inactive"] == []
