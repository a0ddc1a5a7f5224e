"""Reward models of the server as graders of jobs and gates: scored as graders/run scores them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.jobs.job_world import Jobs

from preftune.errors import ModelError
from preftune.graders.grader_scorer import GraderScorer
from preftune.graders.run import GraderRunner
from preftune.graders.sample import Sample
from preftune.graders.specs import ScoreModel, validate
from preftune.inference.reward_scorer import load_scorer
from preftune.jobs.reward_grader import RewardGrader
from preftune.jobs.rewards import LocalModels, who_grades
from preftune.models.chat import load_chat
from preftune.models.heads import new_reward_model, save_reward_model
from preftune.types import assistant, make_prompt, user

NewJob = Callable[..., Jobs]
ASK = "can i wash my red bear ?"
KIND: dict[str, Any] = {
    "type": "score_model",
    "name": "kindness",
    "model": "kind",
    "input": [{"role": "user", "content": "{{ item.ask }}"}],
}
NO_ITEM = {**KIND, "input": [{"role": "user", "content": "can i wash it ?"}]}


@pytest.fixture(scope="module")
def kind(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model that has learnt nothing: its scores differ from text to text."""
    folder = tmp_path_factory.mktemp("models") / "kind"
    base = world / "base"
    save_reward_model(new_reward_model(base, seed=5), load_chat(base), folder)
    return folder


def test_a_reward_model_scores_a_sample_as_the_reply_to_the_graders_messages(kind: Path) -> None:
    grader = validate(KIND)
    assert isinstance(grader, ScoreModel)
    rows = [(Sample(output_text=text), {"ask": ASK}) for text in ("yes", "thank you . wash it .")]
    replies = [(make_prompt(user(ASK)), (assistant(one.output_text),)) for one, _ in rows]
    expected = load_scorer([kind]).score(replies)
    found = RewardGrader(grader, kind, clip=False)(rows)
    assert [one.reward for one in found] == pytest.approx(expected, abs=1e-5)
    assert [one.scores["kindness"] for one in found] == [one.reward for one in found]
    assert len({one.reward for one in found}) == 2
    above = validate({**KIND, "range": [1000, 1001]})
    assert isinstance(above, ScoreModel)
    assert [one.reward for one in RewardGrader(above, kind, clip=True)(rows)] == [1000.0] * 2


def test_a_row_that_cannot_be_scored_fails_alone_and_says_which_model(kind: Path) -> None:
    grader = validate(KIND)
    assert isinstance(grader, ScoreModel)
    good = (Sample(output_text="yes"), {"ask": ASK})
    long = (Sample(output_text="wash " * 5000), {"ask": ASK})
    found = RewardGrader(grader, kind, clip=False)([good, long, (Sample(output_text="yes"), {})])
    assert [one.errors.kinds for one in found] == [
        (),
        ("model_grader_server_error",),
        ("invalid_variable_error",),
    ]
    assert found[1].problem.startswith("model kind: ")


def test_only_a_range_that_was_sent_bounds_the_scores(new_job: NewJob, kind: Path) -> None:
    jobs = new_job(method="reinforcement", models={"kind": str(kind)})
    row = [(make_prompt(user(ASK)), (assistant("yes"),))]
    items = {row[0][0].id: {"ask": ASK}}

    def reward(sent: dict[str, Any]) -> float | None:
        grader = validate(sent)
        with GraderRunner(grader, **who_grades(jobs.spec(), grader, sent)) as runner:
            return GraderScorer(runner, items).score(row)[0]

    free = reward(KIND)
    assert free is not None
    assert reward({**KIND, "range": [free + 1, free + 2]}) == pytest.approx(free + 1)
    assert reward({**KIND, "range": None}) == free


def test_a_reinforcement_job_earns_what_a_reward_model_gives(new_job: NewJob, kind: Path) -> None:
    jobs = new_job(
        method="reinforcement",
        hyperparameters={"n_epochs": 1, "batch_size": 9},
        grader=NO_ITEM,
        models={"kind": str(kind)},
        extras={"max_new_tokens": 8},
    )
    last = jobs.run()
    assert (last.outcome, last.error) == ("succeeded", None)
    for event in jobs.server.steps():
        data: dict[str, Any] = event.data or {}
        assert data["mean_unresponsive_rewards"] == 0
        (mine,) = data["scores"]["graders"]
        assert mine["train_reward_mean"] == pytest.approx(data["train_mean_reward"], abs=1e-5)


def test_a_gate_may_grade_by_a_reward_model(new_job: NewJob, world: Path, kind: Path) -> None:
    rules = [{"name": "any", "kind": "value_above", "measure": "reward", "threshold": -1e6}]
    jobs = new_job(
        method="supervised",
        hyperparameters={"n_epochs": 1, "batch_size": 18},
        extras={"gate": {"rules": rules, "grader": NO_ITEM, "max_tokens": 8}},
        models={"kind": str(kind)},
        validation=str(world / "sft-valid.jsonl"),
    )
    last = jobs.run()
    assert last.verdict is not None
    assert last.verdict["verdict"] == "ship"


def test_where_a_model_must_write_a_reward_model_is_refused_by_its_name(kind: Path) -> None:
    models = LocalModels(folders={"kind": str(kind)})
    with pytest.raises(ModelError, match="model 'kind' is a reward model"):
        models.of("kind")


def test_a_damaged_model_is_named_as_users_know_it(kind: Path, tmp_path: Path) -> None:
    for name in ("reward_model.json", "config.json"):
        (tmp_path / name).write_bytes((kind / name).read_bytes())
    leaf = validate(KIND)
    assert isinstance(leaf, ScoreModel)
    with pytest.raises(ModelError, match="grader: model 'kind': "):
        LocalModels(folders={"kind": str(tmp_path)}).reward_engine(leaf, clip=False)
    (tmp_path / "reward_model.json").unlink()
    with pytest.raises(ModelError, match="grader: model 'kind': "):
        LocalModels(folders={"kind": str(tmp_path)}).of("kind")
