"""`make demo` in a fresh clone: `python -m redraft...` found the clone's sources, which have no compiled core."""

import os

import pytest

from redraft.recipe.demo.process import running


@pytest.fixture
def clone(tmp_path, monkeypatch):
    package = tmp_path / "clone" / "redraft"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ModuleNotFoundError('redraft._core')\n")
    monkeypatch.chdir(package.parent)


def test_the_demos_processes_run_what_is_installed(clone, tmp_path):
    log = tmp_path / "process.log"
    with running("redraft.cli", ["--help"], log, dict(os.environ)) as process:
        assert process.wait(60) == 0, log.read_text()
    assert "serve" in log.read_text()
