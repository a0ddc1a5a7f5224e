"""Looks at fresh samples: what counts as a look, what it may end, and what it says."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.training.test_policy_train import FAST, THANKS, rloo, thanks, words

from preftune.datasets import read_pairs, write_records
from preftune.errors import DataError
from preftune.graders.scorer import Answer, FunctionScorer
from preftune.models.tokens import TokenSequence
from preftune.stats.over_optimisation import Evaluation, fit_rl
from preftune.training import watch
from preftune.training.health import Health
from preftune.training.logs import read_rows
from preftune.training.plots import looks_figure
from preftune.training.policy_settings import KlLimits, RolloutSettings, WatchSettings
from preftune.training.summary import summary
from preftune.training.watch import Watch, looks, mean_and_error

THREE_STEPS = replace(FAST, epochs=1.0)


def evaluation(step: int, **found: Any) -> Evaluation:
    values = {"proxy": 0.1 * step, "kl": 0.1 * step, "length_tokens": 5.0, "repetition": 0.0}
    return Evaluation(step=step, **(values | found))


def warnings_of(run: Path) -> list[str]:
    return [row["warning"] for row in read_rows(run / "warnings.jsonl")]


@dataclass(kw_only=True)
class Silent:
    """Gives no score when it is asked for the times that are named, counted from 0."""

    times: tuple[int, ...]
    name: str = "silent now and then"
    asked: int = 0

    def score(self, rows: Sequence[Answer]) -> list[float | None]:
        self.asked += 1
        return [None if self.asked - 1 in self.times else thanks(*row) for row in rows]


def test_replies_that_grow_are_said_though_margins_follow_length() -> None:
    said: list[str] = []
    health = Health(said={"length"})  # a check of the metrics has the same name

    def warn(text: str, *, step: int) -> None:
        said.append(text)

    run: Any = SimpleNamespace(health=health, stop_reason="", warn=warn)
    nobody: Any = None
    watching = Watch(
        settings=WatchSettings(),
        limits=KlLimits(),
        prompts=(),
        scorer=THANKS,
        audit=None,
        source=nobody,
        chat=nobody,
        seed=0,
        token_limit=0,
    )
    looked = [evaluation(0), evaluation(1, length_tokens=20.0)]
    watching.sound(run, looked)
    watching.sound(run, [*looked, evaluation(2, length_tokens=20.0)])
    assert ["replies have grown" in text for text in said] == [True]


def test_kl_stop_holds_for_the_policy_that_is_published(world: Path, tmp_path: Path) -> None:
    changes = {
        "optimizer": replace(FAST, batch_size=24, epochs=1.0),  # one step
        "limits": KlLimits(kl_alarm=50.0, kl_stop=0.6),
        "rollout": RolloutSettings(samples=4, max_new_tokens=12),
    }
    train, s = rloo(world, tmp_path / "run", **changes)
    final = train(s, scorer=THANKS)
    first, last = read_rows(tmp_path / "run" / "probes.jsonl")
    assert last["kl"] > 0.6 > first["kl"]
    stopped, *_, back = warnings_of(tmp_path / "run")
    assert stopped.endswith("above kl_stop 0.6")
    assert back.startswith("the weights are those before step 0:")
    weights = [load_file(where / "model.safetensors") for where in (world / "base", final)]
    assert all(torch.equal(before, weights[1][name]) for name, before in weights[0].items())


def test_a_look_and_a_step_without_a_score_say_nothing_of_the_reward(
    world: Path, tmp_path: Path
) -> None:
    changes = {"optimizer": THREE_STEPS, "watch": WatchSettings(watch_every=2, watch_prompts=8)}
    train, s = rloo(world, tmp_path / "run", **changes)
    # asked: look 0, step 0, step 1, look 2, step 2, look 3
    train(s, scorer=Silent(times=(2, 3)), audit=FunctionScorer(name="gold", function=words))
    found = read_rows(tmp_path / "run" / "probes.jsonl")
    assert [(row["step"], "proxy" in row) for row in found] == [(0, True), (2, False), (3, True)]
    run: Any = SimpleNamespace(folder=tmp_path / "run")
    assert [one.step for one in looks(run.folder)] == [0, 3]
    (said,) = (text for text in warnings_of(tmp_path / "run") if "no score" in text)
    assert said.startswith("no score at this look")
    steps = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert ["reward" in row for row in steps] == [True, False, True]
    assert "KL to the reference" in summary(tmp_path / "run")


def test_gold_of_fewer_than_two_responses_has_no_error_and_does_not_count() -> None:
    assert mean_and_error([None, None]) == (None, None)
    assert mean_and_error([None, 2.0]) == (None, None)
    mean, error = mean_and_error([1.0, None, 3.0])
    assert mean == 2.0
    assert error == pytest.approx(1.0)  # sqrt 2 / sqrt 2


def test_an_audit_on_a_single_prompt_is_refused(world: Path, tmp_path: Path) -> None:
    one = tmp_path / "one.jsonl"
    write_records(one, read_pairs(world / "pairs.jsonl")[:1], format="preftune")
    train, s = rloo(world, tmp_path / "run", watch=WatchSettings(watch_every=1, watch_data=one))
    with pytest.raises(DataError, match=r"one.jsonl: one prompt .* Give two or more"):
        train(s, scorer=THANKS, audit=THANKS)


def law(far: Any) -> Any:
    """Gold by d (a - b ln d) with a = 1, b = 0.5, from 2 at the reference."""
    return 2 + far * (1 - 0.5 * np.log(np.where(far > 0, far, 1)))


@pytest.mark.parametrize(("first", "drawn"), [(0, True), (1, False)])
def test_the_law_is_drawn_when_the_first_look_has_gold(first: int, drawn: bool) -> None:
    far = np.array([0, 0.5, 1, 1.5, 2, 3])
    gold = law(far)
    looked = [
        evaluation(step, kl=d * d, **({"gold": y, "gold_se": 0.1} if step >= first else {}))
        for step, (d, y) in enumerate(zip(far.tolist(), gold.tolist(), strict=True))
    ]
    figure = looks_figure(looked)
    assert figure is not None
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert any("gold by d" in label for label in labels) == drawn
    assert fit_rl(far, gold - gold[0]).peak == pytest.approx(np.e)  # e^(a / b - 1)


@pytest.mark.parametrize(("limit", "most"), [(0, 64), (30, 3), (5, 1)])
def test_a_look_keeps_to_the_tokens_of_one_forward(limit: int, most: int) -> None:
    sizes: list[int] = []

    def logprobs(rows: Sequence[Any]) -> torch.Tensor:
        sizes.append(len(rows))
        return torch.ones(len(rows), 2)

    roles: Any = SimpleNamespace(logprobs=logprobs, reference_logprobs=lambda rows: torch.zeros(1))
    own = (False,) * 6 + (True,) * 4
    one = TokenSequence(prompt_ids=(1,) * 6, response_ids=(2,) * 4, own=own)
    rows = [[one]] * 100
    assert watch.sampled_kl(roles, rows, token_limit=limit) == pytest.approx(2.0)
    assert (max(sizes), sum(sizes)) == (most, 100)
