"""`redraft serve`, `redraft stats` and `redraft history`, as a user types them."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from redraft.cli import main
from redraft.client import DraftClient


@pytest.fixture
def redraft(tmp_path: Path, monkeypatch):
    """Return a function that runs `redraft` in this process: (exit status, standard output, standard error)."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object, **environment: str):
        done = CliRunner(env=environment).invoke(main, [str(argument) for argument in arguments])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.stdout, done.stderr

    return run


def rows(count: int = 6) -> list[dict]:
    return [
        {
            "prompt_token_ids": [1, 2, 3 + i % 2],
            "response_token_ids": [10 + i, 20, 30, 2],
            "epoch": i // 4,
            "step": i // 2,
            "sample": i,
            "reward": i / 2 if i else None,
            "group_id": f"g{i % 2}",
            "validation": i == 5,
        }
        for i in range(count)
    ]


def write(path: Path, lines: list[dict]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_serve_answers_stats_and_leaves_no_ready_file(process, publisher, group, redraft, tmp_path):
    ready = tmp_path / "ready"
    server = process(tmp_path / "data", "--ready-file", str(ready))
    address = server.start()
    assert ready.read_text() == f"{address}\n"
    publish = publisher(address)
    publish.publish(group())
    assert publish.flush(20)
    status, shown, _ = redraft("stats", "--addresses", address)
    assert status == 0
    assert "run" in shown
    assert "160" in shown
    status, shown, _ = redraft("stats", "--json", REDRAFT_ADDRESSES=address)
    assert json.loads(shown)[address]["runs"][0]["responses"] == "4"
    assert server.stop(signal.SIGINT)[0] == 0
    assert not ready.exists()
    status, _, error = redraft("stats", "--addresses", address, "--timeout", "1")
    assert status == 1
    assert f"{address}: UNAVAILABLE" in error


def test_serve_without_flags_uses_the_state_directory(process, command, tmp_path):
    server = process()
    server.environment = {"XDG_STATE_HOME": str(tmp_path / "state")}
    popen = subprocess.Popen(
        [*command, "serve", "--address", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | server.environment,
    )
    server.popen = popen
    assert popen.stdout.readline().startswith("listening on 127.0.0.1:")
    assert (tmp_path / "state" / "redraft" / "history.sqlite").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--address", "0.0.0.0:0"), "address: 0.0.0.0:0 can be reached from other machines"),
        (("--address", "here"), "address: 'here' is not host:port"),
        (("--age-decay", "2"), "age_decay: must be in (0, 1], got 2.0"),
        (("--window-epochs", "-1"), "epochs: must not be negative"),
        (("--index-memory", "0"), "index_bytes: must be positive"),
        (("--data", "/dev/null/x"), "data_directory: cannot use /dev/null/x"),
    ],
)
def test_serve_says_what_is_wrong_with_its_flags(redraft, flags, message):
    status, _, error = redraft("serve", "--address", "127.0.0.1:0", *flags)
    assert status == 1
    assert f"Error: {message}" in error
    assert "Traceback" not in error


def test_serve_refuses_a_directory_in_use_and_a_file_that_is_no_history(process, redraft, tmp_path):
    server = process()
    server.start()
    status, _, error = redraft("serve", "--address", "127.0.0.1:0", "--data", server.data)
    assert status == 1
    assert f"is in use by another redraft process (pid {server.popen.pid})" in error
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "history.sqlite").write_bytes(b"not a database at all" * 100)
    status, _, error = redraft("serve", "--address", "127.0.0.1:0", "--data", tmp_path / "odd")
    assert status == 1
    assert "Error: history: file is not a database" in error


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"])
def test_exported_history_can_be_imported_again(redraft, tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    first = write(tmp_path / "in.jsonl", rows())
    status, shown, error = redraft("history", "import", first, "--run", "r", "--data", tmp_path / "a")
    assert (status, shown) == (0, "6 responses stored, 0 replaced, 0 were there already\n"), error
    out = tmp_path / f"out{suffix}"
    status, shown, error = redraft("history", "export", out, "--run", "r", "--data", tmp_path / "a")
    assert (status, shown) == (0, f"6 responses written to {out}\n"), error
    for expected in ("6 responses stored, 0 replaced, 0", "0 responses stored, 0 replaced, 6"):
        status, shown, error = redraft("history", "import", out, "--run", "r", "--data", tmp_path / "b")
        assert (status, shown) == (0, f"{expected} were there already\n"), error
    again = tmp_path / "again.jsonl"
    assert redraft("history", "export", again, "--run", "r", "--data", tmp_path / "b")[0] == 0
    found = [json.loads(line) for line in again.read_text().splitlines()]
    assert sorted(found, key=lambda row: row["sample"]) == rows()


def test_history_can_be_read_while_the_server_runs_but_not_imported(
    process, publisher, group, redraft, tmp_path
):
    server = process()
    publish = publisher(server.start())
    publish.publish(group())
    assert publish.flush(20)
    assert redraft("history", "export", tmp_path / "x.jsonl", "--run", "run", "--data", server.data)[0] == 0
    assert len((tmp_path / "x.jsonl").read_text().splitlines()) == 4
    status, shown, _ = redraft("history", "stats", "--data", server.data)
    assert status == 0
    assert "160" in shown
    status, _, error = redraft(
        "history", "import", tmp_path / "x.jsonl", "--run", "run", "--data", server.data
    )
    assert status == 1
    assert "is in use by another redraft process" in error


def test_imported_history_is_served(process, redraft, rollout, source, tmp_path):
    server = process()
    path = write(
        tmp_path / "in.jsonl",
        [{"prompt_token_ids": rollout().prompt_token_ids.tolist(), "response_token_ids": [5, 6, 7]}] * 3,
    )
    assert redraft("history", "import", path, "--run", "run", "--data", server.data)[0] == 0
    address = server.start()
    drafts = source(address)
    drafts.prefetch(rollout().prompt_token_ids)
    assert drafts.wait(20)
    assert drafts.get(rollout().prompt_token_ids).num_responses == 3  # numbered in the file's order
    with DraftClient(address) as client:
        assert client.stats("run").runs[0].tokens == 9


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{"], "in.jsonl line 1: not JSON"),
        (["[1]"], "in.jsonl row 1: must be an object"),
        (["{}"], "in.jsonl row 1: needs prompt_token_ids"),
        (
            ['{"prompt": "a", "response": "b"}'],
            "in.jsonl row 1: holds text; name the model's tokenizer with --tokenizer",
        ),
        (
            ['{"prompt_token_ids": [1], "response_token_ids": []}'],
            "in.jsonl row 1: response_token_ids must be a list",
        ),
        (
            ['{"prompt_token_ids": [1], "response_token_ids": [-1]}'],
            "in.jsonl row 1: response_token_ids: token id -1",
        ),
        (
            ['{"prompt_token_ids": [1], "response_token_ids": [1.5]}'],
            "in.jsonl row 1: response_token_ids must be a list",
        ),
        (
            ['{"prompt_token_ids": [1], "response_token_ids": [99]}'],
            "response_token_ids: token id 99 at position 0 is beyond",
        ),
        (
            ['{"prompt_token_ids": [1], "response_token_ids": [1], "epoch": -1}'],
            "in.jsonl row 1: epoch must be",
        ),
        (
            ['{"prompt_token_ids": [1], "response_token_ids": [1], "reward": NaN}'],
            "in.jsonl row 1: reward must be",
        ),
        (
            ['{"prompt_token_ids": [1], "response_token_ids": [1], "reward": "x"}'],
            "in.jsonl row 1: reward must be",
        ),
    ],
)
def test_import_names_the_row_that_is_wrong(redraft, tmp_path, lines, message):
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(lines) + "\n")
    arguments = ("--run", "r", "--data", tmp_path / "a", "--vocabulary-size", 50)
    status, _, error = redraft("history", "import", path, *arguments)
    assert status == 1
    assert f"Error: {message}" in error
    assert "Traceback" not in error


def test_missing_files_runs_and_histories_are_named(redraft, tmp_path):
    status, _, error = redraft(
        "history", "import", tmp_path / "no.jsonl", "--run", "r", "--data", tmp_path / "a"
    )
    assert status == 1
    assert "no.jsonl: no such file" in error
    status, _, error = redraft(
        "history", "export", tmp_path / "o.jsonl", "--run", "x", "--data", tmp_path / "a"
    )
    assert status == 1
    assert "there is no run 'x'; known: r" in error
    status, _, error = redraft("history", "stats", "--data", tmp_path / "nothing")
    assert status == 1
    assert "there is no history in" in error


def test_a_damaged_history_is_found_and_repaired(redraft, tmp_path):
    data = tmp_path / "a"
    assert (
        redraft("history", "import", write(tmp_path / "in.jsonl", rows()), "--run", "r", "--data", data)[0]
        == 0
    )
    status, shown, _ = redraft("history", "check", "--data", data)
    assert (status, shown) == (0, "1 runs, 6 groups, 6 responses, 24 tokens are whole\n")
    database = sqlite3.connect(data / "history.sqlite")
    database.execute("UPDATE groups SET payload = x'00' WHERE step = 2 AND validation = 0")
    database.commit()
    database.close()
    status, shown, error = redraft("history", "check", "--data", data)
    assert status == 1
    assert "5 responses" in shown
    assert "damaged: 1 records" in shown
    assert "use --repair" in error
    status, shown, _ = redraft("history", "check", "--repair", "--data", data)
    assert status == 0
    assert "repaired; the damaged file is" in shown
    status, shown, _ = redraft("history", "check", "--data", data)
    assert (status, shown) == (0, "1 runs, 5 groups, 5 responses, 20 tokens are whole\n")
    assert len(list(data.glob("history.sqlite.damaged-*[0-9]"))) == 1
    status, _, error = redraft("history", "check", "--data", tmp_path / "nothing")
    assert status == 1
    assert "there is no history in" in error


@pytest.mark.parametrize("arguments", [("serve",), ("stats",), ("history", "import"), ("history", "export")])
def test_help_names_the_units(redraft, arguments):
    status, shown, _ = redraft(*arguments, "--help")
    assert status == 0
    assert "Usage:" in shown
    if arguments == ("serve",):
        assert all(unit in shown for unit in ("MiB", "seconds", "in tokens", "in epochs"))
