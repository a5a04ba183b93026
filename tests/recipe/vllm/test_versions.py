"""Which vLLM is accepted, and what the installed one must look like."""

from __future__ import annotations

import pytest

from redraft.errors import FailedPrecondition
from redraft.recipe.compatibility import contracts, imports
from redraft.recipe.compatibility.releases import UNSUPPORTED, VLLM
from redraft.recipe.compatibility.vllm_contracts import CONTRACTS
from redraft.recipe.compatibility.wheels import installed_reader
from redraft.recipe.vllm.versions import OVERRIDE, TESTED, check_version


@pytest.mark.parametrize("release", VLLM.releases, ids=lambda release: release.version)
def test_listed_versions_are_accepted_unless_unsupported(release, monkeypatch):
    monkeypatch.delenv(OVERRIDE, raising=False)
    if release.checked == UNSUPPORTED:
        with pytest.raises(FailedPrecondition, match=OVERRIDE):
            check_version(release.version)
    else:
        check_version(release.version)
        check_version(release.version + "+cpu")
        check_version(release.version.rpartition(".")[0] + ".99")  # a patch release keeps the interface


@pytest.mark.parametrize("version", ["0.23.0", "0.34.0", "0.3.2", "1.0.0", "0.320.0", "dev"])
def test_an_untested_version_is_refused_with_what_to_do(version, monkeypatch):
    monkeypatch.delenv(OVERRIDE, raising=False)
    with pytest.raises(FailedPrecondition) as refused:
        check_version(version)
    message = str(refused.value)
    assert message.startswith(f"vllm {version}: ")
    assert f"{TESTED[0]} to {TESTED[-1]}" in message
    assert "REDRAFT_ALLOW_UNTESTED_VLLM=1" in message


def test_the_override_lets_an_untested_version_start(monkeypatch):
    monkeypatch.setenv("REDRAFT_ALLOW_UNTESTED_VLLM", "1")
    check_version("9.9.9")
    monkeypatch.setenv("REDRAFT_ALLOW_UNTESTED_VLLM", "0")
    with pytest.raises(FailedPrecondition):
        check_version("9.9.9")


@pytest.mark.vllm
@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.label)
def test_the_installed_vllm_keeps_what_was_read(contract):
    read = installed_reader("vllm")
    assert read is not None
    standing = contracts.stand(contract, read)
    assert standing.good, f"{contract.file}: {contract.label}: {standing}; needed: {contract.needs}"


@pytest.mark.vllm
def test_the_installed_vllm_has_what_the_recipe_imports():
    read = installed_reader("vllm")
    assert read is not None
    wanted = imports.imports("vllm")
    assert wanted
    assert [(w.label, imports.stand(w, read)) for w in wanted if not imports.stand(w, read).good] == []
