"""The replay benchmark: counts by hand, conventions, and the command."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import zstandard
from click.testing import CliRunner
from pyarrow import parquet
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from redraft import LiveIndex
from redraft.benchmarks.ablate_command import ablate
from redraft.benchmarks.acceptance import Options, run, search
from redraft.benchmarks.acceptance_command import acceptance
from redraft.benchmarks.baselines import BASELINES
from redraft.benchmarks.drafters import EMPTY, Redraft, cut_at_context
from redraft.benchmarks.figures import Rows
from redraft.benchmarks.replay import replay
from redraft.benchmarks.traces import Int32Array, Response, Trace, read
from redraft.errors import InvalidArgument
from redraft.rollout import CONTEXT_ONLY


def make_trace(*texts: tuple[int, int, list[int]]) -> Trace:
    """Make a trace of (prompt, epoch, tokens)."""
    responses = [
        Response(prompt, epoch, i, np.asarray(tokens, np.int32), 0.0)
        for i, (prompt, epoch, tokens) in enumerate(texts)
    ]
    count = 1 + max(prompt for prompt, _, _ in texts)
    return Trace("made", [np.asarray([500 + i], np.int32) for i in range(count)], responses)


class Fixed:
    """Drafts the same tokens for every request, and remembers what it was told."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = np.asarray(tokens, np.int32)
        self.told: dict[int, list[int]] = {}
        self.open_now = 0
        self.most_open = 0

    def start_epoch(self, prompts: Sequence[Int32Array], history: list[list[Response]]) -> None:
        """Forget nothing."""

    def open(self, response: Response, turn: int = 0) -> int:
        """Count requests."""
        handle = len(self.told)
        self.told[handle] = response.known(turn).tolist()
        self.open_now += 1
        self.most_open = max(self.most_open, self.open_now)
        return handle

    def step(self, requests: Int32Array, new: Int32Array, offsets: Int32Array, horizons: Int32Array) -> Rows:
        """Draft as long as the horizon allows."""
        drafts = []
        for i, request in enumerate(requests.tolist()):
            self.told[request] += new[offsets[i] : offsets[i + 1]].tolist()
            drafts.append(self.tokens[: horizons[i]])
        bounds = np.zeros(len(drafts) + 1, np.int32)
        np.cumsum([draft.size for draft in drafts], out=bounds[1:])
        tokens = np.concatenate(drafts) if drafts else EMPTY
        return Rows(tokens, bounds, np.full(tokens.size, 0.4999, np.float32))

    def close(self, request: int) -> None:
        """Count requests."""
        self.open_now -= 1


def test_counts_are_those_made_by_hand() -> None:
    # First token by prefill; then 7 8 accepted of 7 8 9 and bonus 1; then nothing accepted and bonus 2.
    fixed = Fixed([7, 8, 9])
    (figures,) = replay(make_trace((0, 0, [5, 7, 8, 1, 2])), fixed)
    assert (figures.tokens, figures.steps, figures.drafted, figures.accepted) == (5, 2, 6, 2)
    assert fixed.told == {0: [5, 7, 8, 1, 2]}
    result = figures.result()
    assert result["tokens_per_step"] == 2.5
    assert result["decode_tokens_per_step"] == 2.0
    # Survival just below 0.5, then 0.25 and 0.125, twice; accepted: the first two once.
    assert figures.reliability[0].tolist() == [0, 2, 2, 0, 2, 0, 0, 0, 0, 0]
    assert figures.reliability[2].tolist() == [0, 0, 1, 0, 1, 0, 0, 0, 0, 0]
    assert result["calibration_error"] == pytest.approx((0.25 + 0.5 + 0.0) / 6, abs=1e-3)


def test_draft_beyond_the_end_is_not_accepted() -> None:
    (figures,) = replay(make_trace((0, 0, [5, 7]), (0, 0, [5, 7])), Fixed([7, 5, 7]))
    assert (figures.steps, figures.drafted, figures.accepted, figures.tokens) == (2, 6, 2, 4)


def test_concurrency_is_a_bound_and_all_is_told() -> None:
    fixed = Fixed([1])
    texts = [(i % 3, 0, [i + 1, 1, 2, 3][: 1 + i % 4]) for i in range(13)]
    trace = make_trace(*texts)
    replay(trace, fixed, concurrency=4)
    assert fixed.most_open == 4
    assert fixed.open_now == 0
    told = sorted(tokens for tokens in fixed.told.values())
    assert told == sorted(tokens for _, _, tokens in texts if len(tokens) > 1)


def test_plain_emits_one_token_a_step() -> None:
    (figures,) = replay(make_trace((0, 0, [1, 2, 3, 4])), BASELINES["plain"]())
    assert figures.steps == 3
    assert figures.drafted == 0


def test_history_of_the_same_response_is_drafted() -> None:
    rng = np.random.default_rng(7)
    text = rng.integers(0, 400, 200).tolist()
    trace = make_trace((0, 0, text), (0, 1, text))
    first, second = replay(trace, Redraft(0.1, without=("shared",)))
    assert first.accepted < 20
    assert second.accepted > 150
    assert second.by_source[2, 1] > 0


@pytest.mark.parametrize("name", ["last-epoch", "suffix", "redraft"])
def test_drafters_that_know_history_beat_those_that_do_not(name: str) -> None:
    rng = np.random.default_rng(8)
    texts = [rng.integers(0, 400, 120).tolist() for _ in range(3)]
    trace = make_trace(*[(i, epoch, text) for epoch in range(2) for i, text in enumerate(texts)])
    last = run(trace, [name, "own"], Options())
    by_name = {entry["drafter"]: entry for entry in last}  # the last epoch is the last entry
    assert by_name[name]["epoch"] == 1
    assert by_name[name]["tokens_per_step"] > 1.5 > by_name["own"]["tokens_per_step"]


def test_oracle_never_wastes_a_draft() -> None:
    text = [1, 2, 3, 1, 2, 3, 4, 1, 2, 3, 1, 2, 3, 4, 5]
    for figures in replay(make_trace((0, 0, text), (0, 1, text)), BASELINES["oracle"]()):
        assert figures.drafted == figures.accepted > 0


def test_replay_prompts_keeps_the_history_of_all() -> None:
    trace = make_trace((0, 0, [1, 2, 3]), (1, 0, [4, 5, 6]), (0, 1, [1, 2, 3]), (1, 1, [4, 5, 6]))
    figures = replay(trace, Fixed([1]), replay_prompts=1)
    assert [f.requests for f in figures] == [1, 1]


def test_cut_makes_epochs_of_samples_and_bounds_recorded_ones() -> None:
    one = make_trace(*[(0, 0, [i]) for i in range(7)])
    assert [len(epoch) for epoch in one.cut(3, None).epochs()] == [3, 3, 1]
    assert [len(epoch) for epoch in one.cut(3, 2).epochs()] == [3, 3]
    two = make_trace(*[(0, i % 2, [i]) for i in range(8)])
    assert [len(epoch) for epoch in two.cut(3, None).epochs()] == [3, 3]


def test_search_spends_at_most_what_is_allowed() -> None:
    rng = np.random.default_rng(9)
    base = rng.integers(0, 50, 300)
    texts = []
    for epoch in range(2):
        for _ in range(6):
            noisy = np.where(rng.random(300) < 0.2, rng.integers(0, 50, 300), base)
            texts.append((0, epoch, noisy.tolist()))
    trace = make_trace(*texts)
    last = search(lambda t: Redraft(t), 2.0, lambda proposer: replay(trace, proposer), 0.2)[-1][0]
    assert 1.0 < last.drafted / last.steps <= 2.0


def test_a_turn_is_a_request_of_its_own_that_knows_what_came_before() -> None:
    fixed = Fixed([7, 8])
    # context 1 2, the policy writes 5 7 8 9; context 3, the policy writes 6 7
    ids = np.asarray([1, 2, 5, 7, 8, 9, 3, 6, 7], np.int32)
    trace = Trace("made", [np.asarray([500], np.int32)], [Response(0, 0, 0, ids, 0.0, ((2, 6), (7, 9)))])
    (figures,) = replay(trace, fixed)
    assert fixed.told == {0: [1, 2, 5, 7, 8, 9], 1: [1, 2, 5, 7, 8, 9, 3, 6, 7]}
    assert (figures.tokens, figures.requests, figures.steps, figures.accepted) == (6, 2, 2, 3)
    by_turn = figures.result()["by_turn"]
    assert [turn["steps"] for turn in by_turn] == [1, 1]
    assert [turn["tokens_per_step"] for turn in by_turn] == [3.0, 1.0]


def test_every_turn_drafts_from_history_by_the_prompt_that_was_published() -> None:
    rng = np.random.default_rng(3)
    talk = rng.integers(1, 400, 120).astype(np.int32)
    spans = ((10, 40), (50, 80), (90, 120))
    trace = Trace("made", [talk[:1]], [Response(0, epoch, 0, talk, 0.0, spans) for epoch in range(2)])
    found = replay(trace, Redraft(0.1))[1].result()["by_turn"]
    lost = replay(trace, Redraft(0.1, prefix_routing=False))[1].result()["by_turn"]
    assert all(turn["history_coverage"] > 0.5 for turn in found)
    assert [turn["history_coverage"] > 0 for turn in lost] == [True, False, False]


def test_drafts_end_where_somebody_else_speaks() -> None:
    other = CONTEXT_ONLY + 3
    rows = Rows(np.asarray([4, 0, other, other, 6, 7], np.int32), np.asarray([0, 3, 3, 4, 6], np.int32))
    kept = cut_at_context(rows)
    assert kept.token_ids.tolist() == [4, 0, 6, 7]
    assert kept.offsets.tolist() == [0, 2, 2, 2, 4]


def test_the_suffix_rule_takes_the_match_length_that_promises_most() -> None:
    index = LiveIndex(EMPTY)
    index.add_sequence(np.asarray([1, 2, 3, 4, 5, 6, 7, 8], np.int32))
    own = index.add_sequence(np.asarray([1, 2, 3, 4], np.int32))
    tokens, score = index.depth_limited(own, horizon=8)
    assert tokens.tolist() == [5, 6, 7, 8]
    assert score == pytest.approx(4 * 0.5)  # the text's own end is an occurrence that nothing follows
    assert index.depth_limited(own, horizon=8, depth=5)[0].tolist() == [5, 6]  # 3 + 2 tokens deep
    assert index.depth_limited(own, horizon=8, min_probability=0.6)[0].size == 0


def test_slices_say_the_same_as_the_whole() -> None:
    rng = np.random.default_rng(4)
    texts = [rng.integers(0, 4, 100).tolist() for _ in range(6)]
    entry = replay(make_trace(*[(0, i % 2, text) for i, text in enumerate(texts)]), Redraft())[-1].result()
    for view in ("by_source", "by_position"):
        counts = entry[view].values()
        assert sum(c["steps"] for c in counts) == entry["steps"]
        drafted = sum(c["steps"] * c["drafted_per_step"] for c in counts) / entry["steps"]
        assert drafted == pytest.approx(entry["drafted_per_step"])


ROW = {"prompt_token_ids": [1], "response_token_ids": [2]}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt_token_ids": [1]}, "row 2 has neither response nor response_token_ids"),
        ({"response_token_ids": [1]}, "row 2 has neither prompt nor prompt_token_ids"),
        (ROW | {"response_token_ids": [1, -1]}, "row 2: response_token_ids must be"),
        (ROW | {"response_token_ids": "text"}, "row 2: response_token_ids must be"),
        (ROW | {"response_token_ids": [[1]]}, "row 2: response_token_ids must be"),
        ({"prompt_token_ids": [1], "response": 7}, "row 2: response must be text"),
        (ROW | {"epoch": "first"}, "row 2: epoch must be"),
        (ROW | {"sample": -1}, "row 2: sample must be"),
        (ROW | {"reward": "good"}, "row 2: reward must be"),
        (ROW | {"turns": "none"}, "row 2: turns must be"),
        (ROW | {"turns": [{"context": "a"}]}, r"row 2: turns\[0\] has neither response"),
    ],
)
def test_read_names_the_row_and_the_field_that_are_wrong(
    tmp_path: Path, row: dict[str, object], said: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROW) + "\n" + json.dumps(row))
    with pytest.raises(InvalidArgument, match=said):
        read(path, None, 100)


def test_read_names_what_is_no_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("{\n")
    with pytest.raises(InvalidArgument, match="line 1"):
        read(path, None, 100)
    for name in ("rows.jsonl.gz", "rows.jsonl.zst", "rows.parquet"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(InvalidArgument, match=name):
            read(tmp_path / name, None, 100)


def test_all_formats_read_alike(tmp_path: Path) -> None:
    rows = [ROW | {"prompt_id": "a", "sample": i, "response_token_ids": [i, 5]} for i in range(3)]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (tmp_path / "rows.jsonl").write_bytes(lines)
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "rows.jsonl.zst").write_bytes(zstandard.compress(lines))
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    read_ids = [
        [r.token_ids.tolist() for r in read(file, None, 100).responses] for file in sorted(tmp_path.iterdir())
    ]
    assert read_ids == [[[0, 5], [1, 5], [2, 5]]] * 4


def test_text_is_tokenised_once_and_only_what_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "kept"))
    words = Tokenizer(WordLevel({"a": 1, "b": 2, "end": 3}, unk_token="a"))
    words.pre_tokenizer = Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "end"}')
    path = tmp_path / "rows.jsonl"
    turns = [{"context": "a a", "response": "b b"}, {"context": "a", "response": "b"}]
    rows = [
        {"prompt": "a", "response": "a b", "sample": 0},
        {"prompt": "a", "response": "b", "sample": 1},
        {"prompt": "b", "turns": turns},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    for _ in range(2):
        encoded: list[int] = []
        trace = read(path, str(tmp_path), 100, 1, 1, encoded.append)
        first, talk = trace.responses
        assert first.token_ids.tolist() == [1, 2, 3]
        assert talk.token_ids.tolist() == [1, 1, 3, 2, 2, 3, 1, 3, 2, 3]
        assert talk.turns == ((3, 6), (8, 10))
    assert encoded == []  # the second time


def test_ablations_spend_no_more_than_everything(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rng = np.random.default_rng(5)
    base = rng.integers(0, 60, 150)
    rows = [
        ROW | {"epoch": i // 4, "response_token_ids": np.where(rng.random(150) < 0.1, 3, base).tolist()}
        for i in range(8)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    names = ["without history", "without live group", "without budget", "longest match, no correction"]
    arguments = [str(path), "--json", *(part for name in names for part in ("--ablation", name))]
    result = CliRunner().invoke(ablate, arguments)
    assert result.exit_code == 0, result.output
    whole, *others = json.loads(result.stdout)["results"]
    assert [entry["drafter"] for entry in others] == names
    assert all(entry["drafted_per_step"] <= whole["drafted_per_step"] + 1e-9 for entry in others)
    assert others[0]["gain"] > 0


def test_unknown_drafters_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROW))
    result = CliRunner().invoke(acceptance, [str(path), "--drafter", "magic"])
    assert result.exit_code == 1
    assert "drafter: magic is unknown" in result.output


def test_command_prints_one_object(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [
        {"prompt_token_ids": [1, 2], "epoch": epoch, "sample": 0, "response_token_ids": list(range(3, 40))}
        for epoch in range(2)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = CliRunner().invoke(acceptance, [str(path), "--json", "--html", str(tmp_path / "page.html")])
    assert result.exit_code == 0, result.output
    entries = json.loads(result.stdout)["results"]
    wanted = {
        "file", "drafter", "epoch", "concurrency", "tokens_per_step", "drafted_per_step", "accepted_per_step",
        "acceptance_rate", "coverage", "draft_us_p50", "calibration_error",
    }  # fmt: skip
    assert all(wanted <= set(entry) for entry in entries)
    assert [entry["epoch"] for entry in entries if entry["drafter"] == "redraft"] == [0, 1]
    assert {"plain", "own", "siblings", "suffix", "oracle"} <= {entry["drafter"] for entry in entries}
    assert "data:image/png" in (tmp_path / "page.html").read_text()
