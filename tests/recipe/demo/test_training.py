import os
import subprocess
import sys

import pytest

from redraft.errors import FailedPrecondition
from redraft.recipe.demo import training
from redraft.recipe.demo.choices import MODELS, TRAINER_MODES
from redraft.recipe.demo.comparison import epochs_to_time
from redraft.recipe.demo.progress import figures
from redraft.recipe.demo.settings import choose
from redraft.recipe.verl.options import MODES


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("small", [False, True])
def test_settings_are_consistent(model, small):
    settings = choose(model, small=small)
    assert settings.prompts % settings.prompts_per_step == 0
    assert settings.prompts_per_step % settings.updates_per_step == 0
    assert settings.responses_per_prompt >= 8
    assert settings.concurrency // settings.updates_per_step % settings.micro_batch == 0
    batch = settings.comparison_rounds * settings.prompts_per_step
    assert batch + settings.single_rounds * settings.single_prompts <= settings.prompts
    assert settings.max_model_len >= settings.prompt_length + settings.response_length + settings.draft_tokens


def test_options_replace_a_models_own_numbers():
    assert choose("tiny", epochs=2, seed=None).epochs == 2
    assert choose("tiny", epochs=2, seed=None).seed == choose("tiny").seed


def test_arguments_are_a_configuration_that_hydra_takes(tmp_path):
    hydra = pytest.importorskip("hydra")
    settings = choose("tiny")
    arguments = training.arguments(settings, tmp_path / "model", tmp_path, "127.0.0.1:5")
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(arguments)
    assert len({override.key_or_group for override in parsed}) == len(arguments)
    assert hydra.__version__


def test_verls_trainer_is_the_chosen_one(tmp_path):
    def mode(settings):
        values = training.arguments(settings, tmp_path, tmp_path, "127.0.0.1:5")
        return dict(value.split("=", 1) for value in values)["trainer.v1.trainer_mode"]

    assert mode(choose("tiny")) == "sync"
    assert [mode(choose("tiny", trainer_mode=name)) for name in TRAINER_MODES] == list(TRAINER_MODES)
    assert set(TRAINER_MODES) <= set(MODES)


def test_weights_of_an_epoch_are_those_it_began_with(tmp_path):
    settings, model = choose("tiny"), tmp_path / "model"
    assert training.weights(settings, tmp_path, model, 0) == model
    assert training.weights(settings, tmp_path, model, 2) == tmp_path / "weights" / "epoch_1" / "huggingface"


def test_metrics_are_followed_while_they_are_written(tmp_path):
    path = tmp_path / "metrics.jsonl"
    gate = tmp_path / "gate"
    writer = (
        "import pathlib, sys, time\n"
        "file = open(sys.argv[1], 'w')\n"
        'file.write(\'{"kind": "start"}\\n{"kind": "st\'); file.flush()\n'
        "while not pathlib.Path(sys.argv[2]).exists(): time.sleep(0.01)\n"
        "file.write('ep\"}\\n'); file.close()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", writer, str(path), str(gate)])
    lines = training._follow(path, process)
    assert next(lines) == {"kind": "start"}
    gate.touch()  # only now the second line becomes whole
    assert list(lines) == [{"kind": "step"}]
    assert process.wait() == 0


def test_training_that_fails_is_reported_with_its_log(tmp_path):
    # An unknown option: hydra refuses it before anything heavy starts.
    with pytest.raises(FailedPrecondition, match=r"(?s)^training: ended with status .*no_such_option"):
        list(training.train(["no_such_option=1"], tmp_path, dict(os.environ), epochs=1))


def test_training_that_fails_after_its_last_epoch_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_follow", lambda path, process: iter([{"kind": "epoch"}]))
    lines = list(training.train(["no_such_option=1"], tmp_path, dict(os.environ), epochs=1))
    assert lines[0] == {"kind": "epoch"}
    assert lines[1]["kind"] == "exit"
    assert lines[1]["status"] != 0


def test_ending_early_ends_the_process(tmp_path, monkeypatch):
    monkeypatch.setattr(
        training, "_follow", lambda path, process: iter([{"kind": "start", "pid": process.pid}])
    )
    lines = training.train(["--help"], tmp_path, {"PATH": ""}, epochs=1)
    pid = next(lines)["pid"]
    lines.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_epochs_with_single_requests_are_spread_over_the_run():
    assert epochs_to_time(6, 3) == [0, 2, 5]
    assert epochs_to_time(6, 1) == [5]
    assert epochs_to_time(2, 3) == [0, 1]
    assert epochs_to_time(1, 3) == [0]


def test_progress_line_leaves_out_what_is_unknown():
    line = {"reward": 0.5, "tokens_per_second": 1234.5, "mean_acceptance_length": None}
    assert figures(line) == "reward 0.50, tokens/s 1,234"
