"""The files in deploy/ fit the server: they can be read, and what they name exists."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
from fnmatch import fnmatch
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


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd to ask")
def test_systemd_understands_every_line_of_the_unit(tmp_path):
    unit = tmp_path / "redraft.service"
    text = (DEPLOY / "redraft.service").read_text()
    unit.write_text(
        text.replace("/usr/local/bin/redraft", sys.executable)
    )  # it asks whether that can be executed
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def dockerfile() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile with their arguments."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines if line)]


def test_the_image_is_copied_from_a_stage_that_builds_and_runs_as_nobody_in_particular():
    instructions = dockerfile()
    stages = [rest.split(" AS ")[1] for word, rest in instructions if word == "FROM" and " AS " in rest]
    assert {name for word, rest in instructions for name in re.findall(r"--from=(\S+)", rest)} == set(stages)
    assert {word for word, _ in instructions} <= {
        *("FROM", "RUN", "WORKDIR", "COPY", "USER", "VOLUME", "EXPOSE", "ENV"),
        *("HEALTHCHECK", "STOPSIGNAL", "ENTRYPOINT"),
    }
    (user,) = [rest for word, rest in instructions if word == "USER"]
    assert int(user) > 0
    assert any(f"--uid {user}" in rest for word, rest in instructions if word == "RUN")


def test_nothing_that_the_build_reads_is_kept_from_it():
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().split()
    needed = [
        "CMakeLists.txt",
        "pyproject.toml",
        "setup.py",
        "MANIFEST.in",
        "README.md",
        "LICENSE",
        "csrc",
        "proto",
    ]
    needed += ["redraft", "server", "client", "recipe", "benchmarks"]
    assert not [name for name in needed if not (ROOT / name).exists()]
    # Docker's ** stands for any number of folders, none too; without it a pattern names a path from the root.
    patterns = [pattern.removeprefix("**/") for pattern in ignored]
    sources = [path for name in needed for path in [ROOT / name, *(ROOT / name).rglob("*")]]
    read = {
        path.name
        for path in sources
        if path.suffix in {".py", ".cc", ".h", ".proto", ".txt", ".toml", ".yaml"}
    }
    assert not [(name, each) for name in read | set(needed) for each in patterns if fnmatch(name, each)]


def test_the_images_health_check_tells_a_ready_server_from_none(start):
    (check,) = [rest for word, rest in dockerfile() if word == "HEALTHCHECK"]
    command = json.loads(check[check.index("CMD") + 3 :])
    running = start(metrics_address="127.0.0.1:0")
    live = command[-1].replace("127.0.0.1:9464", running.server.metrics_address)
    assert live != command[-1]
    assert subprocess.run([sys.executable, *command[1:-1], live]).returncode == 0
    gone = live.replace("readyz", "nowhere")
    assert subprocess.run([sys.executable, *command[1:-1], gone], stderr=subprocess.DEVNULL).returncode != 0


def test_flags_in_the_manual_exist():
    known = {option for parameter in serve.params for option in (*parameter.opts, *parameter.secondary_opts)}
    manual = (ROOT / "doc" / "operations.md").read_text()
    asked = {
        flag for line in re.findall(r"redraft serve[^`]*", manual) for flag in re.findall(r"--[a-z-]+", line)
    }
    assert asked
    assert asked <= known
