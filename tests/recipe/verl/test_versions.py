"""Which verl is accepted, and what the installed one must look like."""

from __future__ import annotations

import re

import pytest

from redraft.errors import FailedPrecondition
from redraft.recipe.compatibility import contracts, imports
from redraft.recipe.compatibility.releases import UNSUPPORTED, VERL
from redraft.recipe.compatibility.verl_contracts import CONTRACTS
from redraft.recipe.compatibility.wheels import installed_reader


def test_listed_versions_are_accepted_and_others_refused(monkeypatch):
    monkeypatch.delenv(VERL.override, raising=False)
    for release in VERL.releases:
        if release.checked == UNSUPPORTED:
            with pytest.raises(FailedPrecondition, match=re.escape(release.note)):
                VERL.check(release.version)
        else:
            VERL.check(release.version)
    for version in ("0.8.0", "0.9.7", "0.10.0"):
        with pytest.raises(FailedPrecondition, match=rf"^verl {version}: .*{VERL.override}=1"):
            VERL.check(version)
    monkeypatch.setenv(VERL.override, "1")
    VERL.check("0.10.0")


@pytest.mark.verl
@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.label)
def test_the_installed_verl_keeps_what_was_read(contract):
    read = installed_reader("verl")
    assert read is not None
    standing = contracts.stand(contract, read)
    assert standing.good, f"{contract.file}: {contract.label}: {standing}; needed: {contract.needs}"


@pytest.mark.verl
def test_the_installed_verl_has_what_the_recipe_imports():
    read = installed_reader("verl")
    assert read is not None
    wanted = imports.imports("verl")
    assert wanted
    assert [(w.label, imports.stand(w, read)) for w in wanted if not imports.stand(w, read).good] == []


def test_every_method_that_the_recipe_overrides_is_in_the_list():
    listed = {contract.name.rpartition(".")[2] for contract in CONTRACTS}
    missing = {name: file for name, file in imports.overridden().items() if name not in listed}
    assert not missing, f"add these to recipe/compatibility/verl_contracts.py: {missing}"
