import json
import xml.etree.ElementTree as ET

import pytest
from rich.console import Console

from redraft.recipe.demo import plots, report
from redraft.recipe.demo.pair import Measurement, Pair
from redraft.recipe.demo.settings import choose

SETTINGS = choose("tiny", epochs=3)


def line(kind, epoch, **values):
    """One line of the metrics file, as recorded."""
    figures = {
        "kind": kind, "time": 1.0, "run": "demo", "step": epoch + 1, "epoch": epoch, "reward": 0.4 + 0.1 * epoch,
        "trajectories": 64, "mean_acceptance_length": 2.0 + epoch, "tokens_per_step": 1.8 + epoch,
        "acceptance_rate": 0.5, "drafted": 4000, "accepted": 2000, "generated_tokens": 6000,
        "generation_seconds": 4.0, "tokens_per_second": 1500.0, "draft_seconds": 0.1, "index_bytes": 1e5,
        "by_source": {"live": {"drafted": 3000, "accepted": 1500}, "history": {"drafted": 1000, "accepted": 500}},
    }  # fmt: skip
    return {**figures, **values}


METRICS = [
    {"kind": "start", "step": 0, "epoch": 0},
    *(line(k, e) for e in range(3) for k in ("step", "epoch")),
]


def measurement(tokens_per_second):
    return Measurement(seconds=2.0, tokens=int(2 * tokens_per_second), drafted=10, accepted=6, steps=4)


def pair(epoch, fast, plain, concurrency=64, temperature=1.0):
    drafting = [measurement(fast - 50), measurement(fast), measurement(fast + 500)]
    return Pair(epoch, concurrency, temperature, drafting, [measurement(plain)] * 3)


PAIRS = [pair(0, 900, 1000), pair(1, 1400, 1000), pair(2, 1600, 1000), pair(2, 300, 100, concurrency=1)]


@pytest.fixture
def built():
    return report.build(
        SETTINGS, METRICS, PAIRS, command="redraft demo", phases={"total": 1.0}, notes=["A note."]
    )


def test_every_epoch_has_the_promised_figures(built):
    wanted = {
        "epoch", "reward", "mean_acceptance_length", "acceptance_rate", "drafted", "accepted", "tokens_per_second",
        "plain_tokens_per_second", "by_source",
    }  # fmt: skip
    assert [wanted <= set(epoch) for epoch in built["epochs"]] == [True] * 3
    assert [epoch["epoch"] for epoch in built["epochs"]] == [0, 1, 2]


def test_speeds_are_medians_of_the_rounds(built):
    assert [epoch["tokens_per_second"] for epoch in built["epochs"]] == [900, 1400, 1600]
    assert built["single"][0]["tokens_per_second"] == 300


def test_shares_by_source_add_up(built):
    shares = {name: counts["share"] for name, counts in built["epochs"][0]["by_source"].items()}
    assert shares == {"live": 0.75, "history": 0.25}


def test_report_says_where_drafting_did_not_pay(built):
    slower = [sentence for sentence in built["verdicts"] if "did not pay" in sentence]
    assert slower == [
        "Drafting did not pay: epoch 0, 64 requests at once: 0.90 times the speed of plain decoding."
    ]


def test_report_says_when_acceptance_or_reward_did_not_rise():
    metrics = [line("epoch", 0), line("epoch", 1, mean_acceptance_length=1.5, reward=0.1)]
    built = report.build(SETTINGS, metrics, [], command="", phases={})
    assert "not always above epoch 0" in built["verdicts"][0]
    assert "did not rise" in built["verdicts"][1]


@pytest.mark.parametrize(("trajectories", "word"), [(256, "rose:"), (64, "rose no more than chance:")])
def test_a_rise_counts_only_beyond_what_chance_explains(trajectories, word):
    rewards = {0: 0.2, 1: 0.3}
    metrics = [line("epoch", e, reward=reward, trajectories=trajectories) for e, reward in rewards.items()]
    built = report.build(SETTINGS, metrics, [], command="", phases={})
    assert f"The mean reward {word}" in built["verdicts"][1]


def test_epochs_without_drafts_or_comparison_are_reported_with_gaps():
    empty = line(
        "epoch", 0, mean_acceptance_length=None, acceptance_rate=None, drafted=0, accepted=0, by_source={}
    )
    built = report.build(SETTINGS, [empty, line("epoch", 1)], [], command="", phases={})
    assert built["epochs"][0]["plain_tokens_per_second"] is None
    assert report.html(built)


def test_written_files_are_complete(built, tmp_path):
    report.write(built, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["epochs"] == built["epochs"]
    assert (tmp_path / "acceptance.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "report.html").read_text()
    for sentence in (*built["verdicts"], "A note.", "redraft demo"):
        assert sentence in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )


def test_each_question_gets_a_figure_that_is_well_formed(built):
    pictures = plots.figures(built)
    assert len(pictures) == 5
    for picture in pictures:
        assert picture.question.endswith("?")
        assert ET.fromstring(picture.svg).tag.endswith("svg")


def test_figures_without_data_are_left_out():
    built = report.build(SETTINGS, METRICS, [], command="", phases={})
    assert [p.question for p in plots.figures(built) if "pay" in p.question] == []


def test_table_shows_every_epoch(built):
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(report.table(built))
    console.file.close()
    text = console.export_text()
    for cell in ("1,600", "1.60x", "75 %", "4.00"):
        assert cell in text
