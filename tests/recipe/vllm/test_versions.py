"""Which vLLM is accepted, and what the installed one must look like."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from redraft.errors import FailedPrecondition, NotFound
from redraft.recipe.vllm.versions import RELIED_ON, check_version, fingerprint


@pytest.mark.parametrize("version", ["0.24.0", "0.27.1", "0.32.0", "0.32.0+cpu"])
def test_tested_versions_are_accepted(version):
    check_version(version)


@pytest.mark.parametrize("version", ["0.23.0", "0.33.0", "0.3.2", "1.0.0", "0.320.0", "dev"])
def test_an_untested_version_is_refused_with_what_to_do(version, monkeypatch):
    monkeypatch.delenv("REDRAFT_ALLOW_UNTESTED_VLLM", raising=False)
    with pytest.raises(FailedPrecondition, match=r"^vllm .*0\.24 to 0\.32.*REDRAFT_ALLOW_UNTESTED_VLLM=1"):
        check_version(version)


def test_the_override_lets_an_untested_version_start(monkeypatch):
    monkeypatch.setenv("REDRAFT_ALLOW_UNTESTED_VLLM", "1")
    check_version("9.9.9")
    monkeypatch.setenv("REDRAFT_ALLOW_UNTESTED_VLLM", "0")
    with pytest.raises(FailedPrecondition):
        check_version("9.9.9")


@pytest.mark.vllm
@pytest.mark.parametrize(("path", "name"), RELIED_ON)
def test_the_installed_vllm_has_the_source_that_was_read(path, name):
    vllm = importlib.util.find_spec("vllm")  # finds, and imports nothing
    if vllm is None or vllm.origin is None:
        pytest.skip("vLLM is not installed")
    assert fingerprint(Path(vllm.origin).parent.parent / path, name) in RELIED_ON[path, name]


def test_a_fingerprint_is_of_one_definition(tmp_path):
    file = tmp_path / "source.py"
    file.write_text("class A:\n    def f(self):\n        return 1\n\ndef f():\n    return 2\n")
    before = fingerprint(file, "A.f")
    file.write_text(file.read_text().replace("return 2", "return 3"))
    assert fingerprint(file, "A.f") == before
    file.write_text(file.read_text().replace("f(self)", "f(self, x)"))
    assert fingerprint(file, "A.f") != before
    with pytest.raises(NotFound, match=r"^A\.g: "):
        fingerprint(file, "A.g")
