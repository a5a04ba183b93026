"""The files in deploy/ fit the server: they can be read, and what they name exists."""

from __future__ import annotations

import json
import re
import shlex
import urllib.request
from pathlib import Path

import promql_parser
import pytest
import yaml

from redraft.server.commands import serve

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def dashboard_expressions() -> list[str]:
    board = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    places = [tuple(panel["gridPos"].values()) for panel in board["panels"]]
    assert len(places) == len(set(places))
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    variables = [variable["query"] for variable in board["templating"]["list"] if variable["type"] == "query"]
    return [target["expr"] for panel in board["panels"] for target in panel["targets"]] + variables


def alerts() -> list[dict]:
    return [
        rule
        for group in yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"]
        for rule in group["rules"]
    ]


def alert_expressions() -> list[str]:
    return [rule["expr"] for rule in alerts()]


@pytest.fixture
def shown(start) -> set[str]:
    """Return the names of all time series that a live server's /metrics shows or can show."""
    running = start(metrics_address="127.0.0.1:0")
    with urllib.request.urlopen(f"http://{running.server.metrics_address}/metrics", timeout=20) as answer:
        kinds = re.findall(r"^# TYPE (\S+) (\S+)$", answer.read().decode(), re.MULTILINE)
    names = {name for name, _ in kinds}
    return names | {
        f"{n}_{part}" for n, kind in kinds if kind == "histogram" for part in ("bucket", "sum", "count")
    }


@pytest.mark.parametrize("expressions", [dashboard_expressions, alert_expressions])
def test_every_metric_that_is_asked_for_exists(shown, expressions):
    asked = [re.findall(r"\b(?:redraft|process)_[a-z_]+\b", expression) for expression in expressions()]
    assert all(names or "up{" in expression for names, expression in zip(asked, expressions(), strict=True))
    assert {name for names in asked for name in names} <= shown


@pytest.mark.parametrize("expressions", [dashboard_expressions, alert_expressions])
def test_every_expression_is_promql(expressions):
    for expression in expressions():
        if not expression.startswith("label_values("):  # Grafana's own
            promql_parser.parse(expression.replace("$instance", "a.*"))


def test_the_manual_says_what_to_do_for_each_alert():
    manual = (ROOT / "doc" / "operations.md").read_text()
    for rule in alerts():
        assert f"`{rule['alert']}`" in manual
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}
        assert rule["annotations"]["summary"]


def test_prometheus_configuration_can_be_read():
    configuration = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())
    assert configuration["scrape_configs"][0]["job_name"] == "redraft"
    assert all((DEPLOY / name).is_file() for name in configuration["rule_files"])


def flags_of_unit() -> list[str]:
    text = (DEPLOY / "redraft.service").read_text().replace("\\\n", " ")
    (line,) = re.findall(r"^ExecStart=(.+)$", text, re.MULTILINE)
    command = shlex.split(line)
    assert command[:2] == ["/usr/local/bin/redraft", "serve"]
    return command[2:]


def flags_of_image() -> list[str]:
    (line,) = re.findall(r"^ENTRYPOINT (.+)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    command = json.loads(line)
    assert command[:2] == ["redraft", "serve"]
    return command[2:]


@pytest.mark.parametrize("flags", [flags_of_unit, flags_of_image])
def test_the_flags_exist(flags):
    serve.make_context("serve", flags())  # refuses what it does not know


def test_flags_in_the_manual_exist():
    known = {option for parameter in serve.params for option in (*parameter.opts, *parameter.secondary_opts)}
    manual = (ROOT / "doc" / "operations.md").read_text()
    asked = {
        flag for line in re.findall(r"redraft serve[^`]*", manual) for flag in re.findall(r"--[a-z-]+", line)
    }
    assert asked
    assert asked <= known
