from itertools import islice
from random import Random

import pytest

from redraft.recipe.demo import data, reward, tasks


@pytest.fixture(params=sorted(tasks.TASKS))
def task(request):
    return tasks.TASKS[request.param]


def problems(task, count, seed=tasks.TRAIN_SEED):
    return list(islice(task.problems(seed), count))


def test_worked_solutions_are_right_and_those_in_the_wanted_form_score_full_marks(task):
    rng = Random(0)
    forms = []
    for entry in problems(task, 300):
        solution = task.solve(entry, rng)
        assert solution.rstrip(".").removesuffix("</answer>").endswith(entry["answer"])
        forms.append("<answer>" in solution)
        assert tasks.score(task.name, solution, entry) == float(forms[-1])
    assert 0.2 < sum(forms) / len(forms) < 0.5


def test_every_step_of_a_worked_solution_is_true(task):
    rng = Random(1)
    for entry in problems(task, 100):
        for line in task.solve(entry, rng).splitlines():
            for equation in line.split(", "):
                left, equals, right = (
                    equation.removeprefix("Then ").removeprefix("- ").rstrip(".").partition(" = ")
                )
                if equals:
                    assert eval(left) == eval(right), line


def test_wrong_and_missing_answers_score_less(task):
    entry = problems(task, 1)[0]
    right = next(text for seed in range(100) if "<answer>" in (text := task.solve(entry, Random(seed))))
    assert tasks.score(task.name, right, entry) == 1.0
    assert tasks.score(task.name, right.replace("<answer>", "<answer>7"), entry) < 1.0
    assert tasks.score(task.name, right.replace("<answer>", ""), entry) == 0.0
    assert tasks.score(task.name, "", entry) == 0.0


def test_problems_are_the_same_for_the_same_seed(task):
    assert problems(task, 20) == problems(task, 20)


def test_training_problems_are_not_among_the_supervised_ones(task):
    supervised = {entry["question"] for entry in problems(task, 3000, tasks.SUPERVISED_SEED)}
    trained = [entry["question"] for entry in problems(task, 32)]
    # Small problem spaces meet by chance; streams that overlap would meet all the time.
    assert sum(question in supervised for question in trained) < len(trained) / 2


def test_supervised_examples_take_the_tasks_in_turn():
    questions = [question for question, _ in islice(tasks.supervised_examples(0), 3 * len(tasks.TASKS))]
    assert len({question[:12] for question in questions}) == len(tasks.TASKS)


def test_reward_reads_the_problem_from_the_data_row(tmp_path):
    import pyarrow.parquet as pq

    data.write(
        tmp_path / "data" / "train.parquet", data.problems(list(tasks.TASKS.values()), 6), " Be brief."
    )
    rows = pq.read_table(tmp_path / "data" / "train.parquet").to_pylist()
    assert len(rows) == 6
    for row in rows:
        assert row["prompt"][0]["content"].endswith(" Be brief.")
        answer = row["reward_model"]["ground_truth"]
        right = reward.compute_score(
            row["data_source"], f"<answer>{answer}</answer>", answer, row["extra_info"]
        )
        wrong = reward.compute_score(row["data_source"], "<answer></answer>", answer, row["extra_info"])
        assert (right, wrong) == (1.0, 0.0)


def test_questions_are_all_different():
    questions = [entry["question"] for _, entry in data.problems(list(tasks.TASKS.values()), 200)]
    assert len(set(questions)) == 200
