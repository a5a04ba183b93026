"""Parts that need no server: rendezvous hashing, vocabularies, the window, the stored form."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redraft.client import choose, order
from redraft.errors import DataLoss, InvalidArgument
from redraft.server import codec, window
from redraft.server.config import WindowConfig
from redraft.server.history import GroupRecord, ResponseRecord
from redraft.vocabulary import Vocabulary

KEYS = [number.to_bytes(16, "big") for number in range(3000)]


class Tokenizer:
    def __init__(self, *tokens: str) -> None:
        self.tokens = tokens

    def get_vocab(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.tokens)}


def test_losing_a_server_moves_only_its_own_prompts():
    servers = [f"host{number}:1" for number in range(5)]
    before = {key: choose(servers, key) for key in KEYS}
    after = {key: choose(servers[1:], key) for key in KEYS}
    assert all(after[key] == before[key] for key in KEYS if before[key] != servers[0])
    assert {after[key] for key in KEYS if before[key] == servers[0]} == set(servers[1:])


def test_prompts_are_spread_evenly_in_any_order_of_the_list():
    servers = [f"host{number}:1" for number in range(5)]
    counts = {server: sum(choose(servers, key) == server for key in KEYS) for server in servers}
    assert all(500 < count < 700 for count in counts.values()), counts
    assert all(order(servers, key) == order(servers[::-1], key) for key in KEYS[:100])


def test_a_vocabulary_is_the_same_for_the_same_tokenizer_only():
    one = Vocabulary.from_tokenizer(Tokenizer("a", "b", "\udcff"))
    assert one == Vocabulary.from_tokenizer(Tokenizer("a", "b", "\udcff"))
    assert one.size == 3
    assert one.contradicts(Vocabulary.from_tokenizer(Tokenizer("b", "a", "\udcff"))) == "fingerprint"
    padded = Vocabulary.from_tokenizer(Tokenizer("a", "b", "\udcff"), size=64)
    assert one.contradicts(padded) == "size"
    assert padded.contradicts(Vocabulary()) == ""
    assert Vocabulary(size=64).merged(Vocabulary(fingerprint=padded.fingerprint)) == padded
    with pytest.raises(InvalidArgument, match=r"^tokenizer: "):
        Vocabulary.from_tokenizer(Tokenizer())
    with pytest.raises(InvalidArgument, match=r"^size: "):
        Vocabulary.from_tokenizer(Tokenizer("a", "b"), size=1)


def test_a_vocabulary_needs_no_transformers():
    code = "import sys, redraft.vocabulary; sys.exit('transformers' in sys.modules or 'grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


tokens = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=40)
versions = st.none() | st.tuples(st.integers(0, 2**62), st.integers(0, 2**62)).map(
    lambda pair: tuple(sorted(pair))
)
groups = st.lists(
    st.tuples(
        tokens | st.lists(st.integers(0, 65535), min_size=1, max_size=40),
        st.none() | st.floats(allow_nan=False, allow_infinity=False),
        st.none() | st.integers(0, 39),
        versions,
    ),
    min_size=1,
    max_size=8,
)


def records(rows) -> list[ResponseRecord]:
    made = []
    for i, (ids, reward, foreign, version) in enumerate(rows):
        # From that token on somebody else wrote.
        context = None if foreign is None or foreign >= len(ids) else np.arange(len(ids)) >= foreign
        made.append(ResponseRecord(i, np.array(ids, dtype=np.int32), reward, context, version))
    return made


def plain(responses) -> list[tuple]:
    return [
        (
            r.sample,
            r.token_ids.tolist(),
            r.reward,
            None if r.context is None else r.context.tolist(),
            r.versions,
        )
        for r in responses
    ]


@given(groups)
@settings(deadline=None)
def test_the_stored_form_is_exact_and_independent_of_order(rows):
    responses = records(rows)
    payload = codec.encode(responses)
    assert plain(codec.decode(payload)) == plain(responses)
    assert codec.encode(responses[::-1]) == payload


@given(groups, st.data())
@settings(deadline=None)
def test_damage_to_the_stored_form_is_noticed(rows, data):
    payload = bytearray(codec.encode(records(rows)))
    at = data.draw(st.integers(0, len(payload) - 1))
    if data.draw(st.booleans()):
        payload[at] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del payload[at:]
    try:
        decoded = codec.decode(bytes(payload))
    except DataLoss:
        return
    assert plain(decoded) == plain(records(rows))  # a bit of the frame that means nothing


def group(epoch: int, *lengths: int) -> GroupRecord:
    responses = [ResponseRecord(i, np.full(length, epoch, np.int32)) for i, length in enumerate(lengths)]
    return GroupRecord(b"", np.empty(0, np.int32), epoch, epoch, False, "", responses)


def test_the_window_takes_the_newest_epochs_and_weighs_by_age():
    newest_first = [group(9, 3, 4), group(7, 5), group(5, 6)]
    chosen = window.choose(iter(newest_first), WindowConfig(epochs=3, tokens=0, age_decay=0.5))
    assert chosen.offsets.tolist() == [0, 3, 7, 12]
    assert chosen.weights.tolist() == [1.0, 1.0, 0.25]
    assert chosen.newest_epoch == 9
    assert window.choose(iter(newest_first), WindowConfig(epochs=0, tokens=0)).responses == 4


def test_the_window_takes_whole_responses_up_to_its_tokens():
    newest_first = [group(1, 3, 4), group(0, 1)]
    assert window.choose(iter(newest_first), WindowConfig(tokens=7)).responses == 2
    assert window.choose(iter(newest_first), WindowConfig(tokens=6)).responses == 1
    assert window.choose(iter(newest_first), WindowConfig(tokens=1)).responses == 1  # never nothing
    assert window.choose(iter([]), WindowConfig()).responses == 0


def test_responses_above_their_prompts_mean_reward_can_count_more():
    rewards = [0.0, 1.0, None, 0.4]
    responses = [ResponseRecord(i, np.zeros(1, np.int32), reward) for i, reward in enumerate(rewards)]
    groups = [GroupRecord(b"", np.empty(0, np.int32), 3, 3, False, "", responses)]
    assert window.choose(iter(groups), WindowConfig()).weights.tolist() == [1.0] * 4
    weighed = window.choose(iter(groups), WindowConfig(reward_weight=2.0)).weights
    assert weighed.tolist() == [1.0, 3.0, 1.0, 1.0]  # the mean is 0.47
    assert window.choose(iter([group(1, 2)]), WindowConfig(reward_weight=2.0)).weights.tolist() == [1.0]


def test_very_old_responses_keep_a_weight():
    chosen = window.choose(iter([group(10_000, 1), group(0, 1)]), WindowConfig(epochs=0, age_decay=0.1))
    assert chosen.weights.min() > 0


def test_text_is_imported_with_the_models_tokenizer(command, tmp_path):
    pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.models.WordLevel(
        {"[UNK]": 0, "one": 1, "plus": 2, "is": 3, "two": 4}, unk_token="[UNK]"
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    (tmp_path / "in.jsonl").write_text('{"prompt": "one plus one", "response": "is two", "epoch": 3}\n')
    arguments = ("--run", "r", "--data", tmp_path / "data")
    for step in (
        ("import", tmp_path / "in.jsonl", "--tokenizer", folder),
        ("export", tmp_path / "out.jsonl"),
    ):
        done = subprocess.run(
            [*command, "history", *map(str, (*step, *arguments))], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    row = (tmp_path / "out.jsonl").read_text()
    assert '"prompt_token_ids":[1,2,1],"response_token_ids":[3,4],"epoch":3' in row
