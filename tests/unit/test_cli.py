"""The command line: every command is there, says what it does and gives units."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner

from redraft import __version__
from redraft.cli import COMMANDS, main


def test_help_lists_every_command_without_importing_them() -> None:
    code = "import sys; from redraft.cli import main; main(['--help'], standalone_mode=False); " + (
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'grpc', 'torch', 'vllm'}))"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.splitlines()[-1] == "[]"
    for name, (_, text) in COMMANDS.items():
        assert name in out
        assert text.split()[0] in out


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command: str) -> None:
    result = CliRunner().invoke(main, [command, "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage:" in result.output


def test_version() -> None:
    assert CliRunner().invoke(main, ["--version"]).output.split()[-1] == __version__


def test_unknown_command_is_named() -> None:
    result = CliRunner().invoke(main, ["frobnicate"])
    assert result.exit_code == 2
    assert "frobnicate" in result.output
