import json
from dataclasses import replace
from itertools import islice

import pytest
import torch

from redraft.recipe.demo import policy, tasks
from redraft.recipe.demo.data import encode_prompt

CONFIG = policy.PolicyConfig(
    hidden=32, intermediate=64, layers=1, heads=2, key_value_heads=1, examples=480, batch=8
)


@pytest.fixture(scope="module")
def tokens():
    return policy.build_tokenizer(CONFIG)


def test_tokenizer_gives_back_every_question_and_solution(tokens):
    for pair in islice(tasks.supervised_examples(5), 200):
        for text in pair:
            assert tokens.decode(tokens(text).input_ids) == text


def test_tokenizer_takes_text_it_was_not_trained_on(tokens):
    text = "größer 42\t∑ 🙂\n"
    assert tokens.decode(tokens(text).input_ids) == text


def test_every_digit_is_a_token_of_its_own(tokens):
    assert len(tokens("4096").input_ids) == 4


def test_chat_template_ends_with_the_assistants_turn(tokens):
    text = tokens.decode(encode_prompt(tokens, [{"role": "user", "content": "1 + 1"}]))
    assert text == "<|im_start|>user\n1 + 1<|im_end|>\n<|im_start|>assistant\n"


def test_examples_fit_the_demo(tokens):
    from redraft.recipe.demo.settings import choose

    settings = choose("tiny")
    for pair in islice(tasks.supervised_examples(6), 600):
        ids, prompt = policy.encode(tokens, *pair)
        assert prompt <= settings.prompt_length
        assert len(ids) - prompt <= settings.response_length
        assert ids[-1] == tokens.eos_token_id


def test_training_lowers_the_loss_and_is_done_once(tmp_path):
    losses = []
    folder = policy.prepare(tmp_path, CONFIG, lambda progress: losses.append(progress.loss))
    assert len(losses) == CONFIG.steps
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert policy.prepare(tmp_path, CONFIG, lambda _: pytest.fail("trained again")) == folder


def test_policy_loads_as_a_float32_llama_with_its_tokenizer(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = policy.prepare(tmp_path, replace(CONFIG, examples=16))
    model, tokens = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.model_type == "llama"
    assert model.dtype == torch.float32
    assert model.config.eos_token_id == tokens.eos_token_id
    assert len(tokens) <= model.config.vocab_size
    assert json.loads((folder / "training.json").read_text())["parameters"] == model.num_parameters()


def test_other_settings_get_a_folder_of_their_own():
    assert CONFIG.fingerprint != replace(CONFIG, seed=1).fingerprint
    assert CONFIG.fingerprint == replace(CONFIG).fingerprint


def test_default_policy_has_a_few_million_parameters(tokens):
    config = policy.PolicyConfig()
    assert 1e6 < policy.build_model(config, tokens).num_parameters() < 8e6
