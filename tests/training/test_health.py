"""Each sign of ill health fires on a series that has it and is silent on one that has not."""

import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from preftune.training.health import CHECKS, WINDOW, Health, probe_warnings

Rows = list[dict[str, float]]
STEPS = 8 * WINDOW


def rows(count: int = STEPS, /, **curves: Callable[[int], float]) -> Rows:
    """Return the rows of a healthy DPO run of 16 pairs a step, with some curves put in."""
    noise = random.Random(0)
    found: Rows = []
    for step in range(count):
        learnt = 1 - math.exp(-step / 40)
        row = {
            "step": float(step),
            "loss": 0.69 - 0.2 * learnt + noise.gauss(0, 0.02),
            "preference_loss": 0.69 - 0.2 * learnt + noise.gauss(0, 0.02),
            "accuracy": min(1.0, round((0.5 + 0.35 * learnt + noise.gauss(0, 0.08)) * 16) / 16),
            "chosen_logratio": -0.1 * learnt + noise.gauss(0, 0.05),
            "margin": 2 * learnt + noise.gauss(0, 0.2),
            "length_correlation": noise.gauss(0.15, 0.25),
            "grad_norm": 1.0 + abs(noise.gauss(0, 0.3)),
        }
        found.append(row | {name: curve(step) for name, curve in curves.items()})
    return found


def said(given: Rows) -> list[str]:
    health = Health()
    return [warning for row in given for warning in health.watch(row)]


def log_t(step: int) -> float:
    """The margin of DPO on labels that are never wrong grows like log t, without end."""
    return 10 * math.log1p(step)


def ipo(step: int) -> float:
    """IPO's margin settles at its target."""
    return 5 * (1 - math.exp(-step / 15))


SICK: dict[str, tuple[Rows, str]] = {
    "displacement": (
        rows(chosen_logratio=lambda t: -0.02 * t, margin=lambda t: 0.03 * t),
        "chosen responses became less likely",
    ),
    "displacement without a reference": (
        [
            {k: v for k, v in row.items() if k != "chosen_logratio"}
            for row in rows(chosen_logp_per_token=lambda t: -1.5 - 0.003 * t)
        ],
        "nats a token",
    ),
    "endless margin": (
        rows(accuracy=lambda _: 1.0, margin=log_t),
        "deterministic labels, the margin diverges",
    ),
    "loss below 0": (
        rows(preference_loss=lambda t: 0.69 - 0.02 * t),
        "below 0 and falls",
    ),
    "length": (rows(length_correlation=lambda _: 0.7), "longer answers are preferred"),
    "no progress": (rows(accuracy=lambda t: 0.5 + 0.02 * (-1) ** t), "no better than chance"),
}


def test_every_check_has_a_series_that_fires_it() -> None:
    assert SICK.keys() == {check.name for check in CHECKS}
    assert all(check.healthy and check.remedy for check in CHECKS)


def test_the_page_on_training_tells_what_is_healthy_and_what_to_try(root: Path) -> None:
    page = (root / "docs" / "training.md").read_text()
    for check in CHECKS:
        assert f"| {check.name} | {check.healthy} | {check.remedy} |" in page


@pytest.mark.parametrize("name", list(SICK))
def test_a_sick_run_is_told_once_with_what_to_try(name: str) -> None:
    series, words = SICK[name]
    (warning,) = said(series)
    (check,) = (check for check in CHECKS if check.name == name)
    assert words in warning
    assert warning.endswith(check.remedy)


def test_a_healthy_run_says_nothing() -> None:
    assert not said(rows())


@pytest.mark.parametrize(
    "curves",
    [
        {"accuracy": lambda _: 1.0, "margin": ipo},
        {"accuracy": lambda t: 0.9375 if t % 19 == 0 else 1.0, "margin": log_t},
        {"preference_loss": lambda t: -0.02 + math.exp(-t / 10)},
        {"chosen_logratio": lambda _: -0.45},
        {"chosen_logratio": lambda t: 0.02 * t},
        {"length_correlation": lambda t: 0.9 * (-1) ** t},
    ],
    ids=[
        "a margin that settles",
        "a wrong pair now and then",
        "a negative loss that settles",
        "chosen down by less than half a nat",
        "chosen up",
        "length either way",
    ],
)
def test_what_only_looks_sick_is_not_told(curves: dict[str, Callable[[int], float]]) -> None:
    assert not said(rows(**curves))


@pytest.mark.parametrize("name", list(SICK))
def test_steps_without_a_figure_change_no_judgement(name: str) -> None:
    series, _ = SICK[name]
    bare = {"step": 0.0, "loss": 0.0, "grad_norm": 0.0}
    gaps = [row for place, each in enumerate(series) for row in [bare] * (place % 3) + [each]]
    assert said(gaps) == said(series)


def test_steps_that_learnt_nothing_do_not_make_a_usual_gradient_a_jump() -> None:
    calm = rows(WINDOW, grad_norm=lambda _: 1.0)
    idle = [row | {"grad_norm": 0.0} for row in calm]
    assert not said([*calm, *idle, calm[0] | {"grad_norm": 9.0}])


def test_a_jump_of_the_gradient_is_said() -> None:
    calm = rows(WINDOW, grad_norm=lambda _: 1.0)
    jump = rows(1)[0]
    assert not said([*calm, jump | {"grad_norm": 9.0}])
    (warning,) = said([*calm, jump | {"grad_norm": 11.0}])
    assert "11 times the median" in warning


def test_replay_says_nothing_twice() -> None:
    series = SICK["displacement"][0]
    resumed = Health()
    resumed.replay(series[:90])
    assert not [w for row in series[90:] for w in resumed.watch(row)]


def test_a_resumed_run_is_judged_as_an_undisturbed_one() -> None:
    series = SICK["endless margin"][0]
    whole, resumed = Health(), Health()
    told = [w for row in series for w in whole.watch(row)]
    resumed.replay(series[:33])
    assert [w for row in series[33:] for w in resumed.watch(row)] == told


def test_probe_warns_of_distance_and_of_length() -> None:
    assert not list(probe_warnings({"kl": 1.0, "length_ratio": 1.1}, kl_alarm=1.5))
    distance, length = probe_warnings({"kl": 2.0, "length_ratio": 1.4}, kl_alarm=1.5)
    assert "2.00 nats" in distance
    assert "1.40 times" in length
