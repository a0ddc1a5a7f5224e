"""What a step tells about itself, by hand; and what a run shows of it."""

import math
from pathlib import Path

import pytest
import torch

from preftune.files import append_jsonl
from preftune.training.diagnostics import PairFigures, StepFigures, correlation
from preftune.training.plots import run_figure
from preftune.training.summary import summary


def figures(**changes: list[float]) -> PairFigures:
    """Return three pairs: c = 2, -1, 0 and r = -1, -1, 1 under beta .1."""
    values = {
        "chosen": [2.0, -1.0, 0.0],
        "rejected": [-1.0, -1.0, 1.0],
        "chosen_reward": [0.2, -0.1, 0.0],
        "rejected_reward": [-0.1, -0.1, 0.1],
        "chosen_logps": [-10.0, -6.0, -4.0],
        "rejected_logps": [-14.0, -3.0, -9.0],
        "chosen_lengths": [5.0, 4.0, 2.0],
        "rejected_lengths": [8.0, 2.0, 4.0],
    }
    return PairFigures(**{k: torch.tensor(v) for k, v in (values | changes).items()})


def step(pairs: PairFigures, *, has_reference: bool) -> dict[str, float]:
    return StepFigures(
        preference_loss=0.5, nll=2.0, nll_weight=0.2, pairs=pairs, has_reference=has_reference
    ).metrics()


def test_metrics_of_a_step_match_hand_calculation() -> None:
    found = step(figures(), has_reference=True)
    expected = {
        "loss": 0.5 + 0.2 * 2.0,
        "preference_loss": 0.5,
        "nll": 2.0,
        "accuracy": 1 / 3,  # the tie of the second pair is not right
        "margin": (3 + 0 - 1) / 3,
        "chosen_reward": 0.1 / 3,
        "rejected_reward": -0.1 / 3,
        "reward_margin": 0.2 / 3,
        "chosen_logratio": 1 / 3,
        "rejected_logratio": -1 / 3,
        "chosen_change_per_token": (2 / 5 - 1 / 4 + 0) / 3,
        "rejected_change_per_token": (-1 / 8 - 1 / 2 + 1 / 4) / 3,
    }
    length_correlation = found.pop("length_correlation")
    assert found == pytest.approx(expected, abs=1e-6)
    # margins 3, 0, -1 against length differences -3, 2, -2
    x, y = (7 / 3, -2 / 3, -5 / 3), (-2.0, 3.0, -1.0)
    by_hand = sum(a * b for a, b in zip(x, y, strict=True)) / math.sqrt(
        sum(a * a for a in x) * sum(b * b for b in y)
    )
    assert length_correlation == pytest.approx(by_hand)


def test_without_a_reference_log_probs_per_token_stand_for_log_ratios() -> None:
    found = step(figures(), has_reference=False)
    assert "chosen_logratio" not in found
    assert found["chosen_logp_per_token"] == pytest.approx((-2 - 1.5 - 2) / 3)
    assert found["rejected_logp_per_token"] == pytest.approx((-1.75 - 1.5 - 2.25) / 3)


def test_correlation_is_1_on_a_line_and_0_where_nothing_varies() -> None:
    line = torch.tensor([1.0, 2.0, 4.0])
    assert correlation(line, 3 * line - 1) == pytest.approx(1.0)
    assert correlation(line, -line) == pytest.approx(-1.0)
    assert correlation(torch.zeros(3), line) == 0.0
    assert correlation(torch.tensor([2.0]), torch.tensor([3.0])) == 0.0


def test_joined_figures_are_those_of_all_micro_batches() -> None:
    both = PairFigures.joined([figures(), figures()])
    assert both.margins.tolist() == [3.0, 0.0, -1.0] * 2


def test_every_metric_of_a_direct_step_is_drawn() -> None:
    for has_reference in (True, False):
        row = step(figures(), has_reference=has_reference) | {
            "step": 0,
            "grad_norm": 1.0,
            "lr": 1.0,
        }
        drawn = run_figure([row, row | {"step": 1}])
        assert drawn is not None
        labels = {line.get_label() for axis in drawn.axes for line in axis.get_lines()}
        assert row.keys() - {"step"} <= labels


def test_summary_tells_what_became_of_both_sides(tmp_path: Path) -> None:
    row = step(figures(), has_reference=True) | {"grad_norm": 1.0, "lr": 1.0}
    for number in range(4):
        append_jsonl(tmp_path / "metrics.jsonl", row | {"step": number})
    told = summary(tmp_path)
    assert "4 steps, loss 0.5000 → 0.5000 nats, NLL of chosen 2.0000 → 2.0000 nats a token" in told
    assert "last quarter: accuracy 0.33, margin +0.67 nats, chosen +0.33 and rejected -0.33" in told
