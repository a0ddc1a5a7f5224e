"""The page on fresh labels and on reward models that vote, from runs known by hand."""

from pathlib import Path

import numpy as np
import pytest
from benchmarks.over_optimisation import main
from benchmarks.over_optimisation_report import wins, write_page
from benchmarks.over_optimisation_runs import (
    BEST_OF,
    MEAN,
    SINGLE,
    WORST,
    Arm,
    ArmRun,
    EnsembleRun,
    Picked,
    best_of,
)

from preftune.evaluation.measures import Measure


def measure(value: float) -> Measure:
    return Measure(name="gold", value=value, low=value - 0.1, high=value + 0.1, n=600)


def arm_run(arm: Arm, seed: int, gold: float) -> ArmRun:
    return ArmRun(
        arm=arm,
        seed=seed,
        labels=900,
        pairs=800,
        label_accuracy=0.9,
        gold=measure(gold),
        facts=-0.004,
        kl=measure(0.64),
    )


def votes(seed: int, *, one: float, mean: float, worst: float) -> EnsembleRun:
    """Gold rises by its last figure from n 1 to 64, in equal steps."""
    ends = {SINGLE: one, MEAN: mean, WORST: worst}
    return EnsembleRun(
        seed=seed,
        prompts=150,
        right=(0.8, 0.82, 0.84, 0.86),
        picked=tuple(
            Picked(rule=rule, n=n, proxy=2.0, gold=end * place / 6)
            for rule, end in ends.items()
            for place, n in enumerate(BEST_OF)
        ),
        mean_over_single=measure(mean - one),
        worst_over_mean=measure(worst - mean),
    )


def test_online_is_compared_with_the_same_seed() -> None:
    arms = [
        arm_run("offline", 0, 1.0),
        arm_run("online", 0, 1.2),
        arm_run("offline", 1, 1.5),
        arm_run("online", 1, 1.3),
        arm_run("offline", 2, 0.0),
    ]
    assert wins(arms, "offline") == [True, False]
    assert wins(arms, "offline in rounds") == []


def test_the_page_tells_every_run_and_draws_both_images(tmp_path: Path) -> None:
    arms = [arm_run("online", 0, 1.2), arm_run("offline", 0, 1.0)]
    ran = [votes(0, one=0.3, mean=0.6, worst=0.9), votes(1, one=0.3, mean=0.9, worst=0.6)]
    text = write_page(arms, ran, tmp_path / "page.md", images=tmp_path)
    assert "| online | 0 | 900 | 800 | 0.900 | +1.20 (+1.10 to +1.30) | -0.40 | 0.64" in text
    assert text.index("| offline | 0") < text.index("| online | 0")
    assert "more than offline in 1 of 1 seeds" in text
    assert "| mean of 4 | 0.00 (0.00 to 0.00) | 0.12 (0.10 to 0.15) |" in text
    assert "seed 1: mean over one +0.60 (+0.50 to +0.70), worst over mean -0.30" in text
    assert "met by 1 of 2 seeds" in text
    for name in ("b5.svg", "b8.svg"):
        assert f"](./{name})" in text
        assert "<svg" in (tmp_path / name).read_text()


def test_what_was_not_run_is_not_on_the_page(tmp_path: Path) -> None:
    text = write_page([], [], tmp_path / "page.md", images=tmp_path)
    assert "B5" not in text
    assert "B8" not in text
    assert [path.name for path in tmp_path.iterdir()] == ["page.md"]


def test_the_best_of_n_by_score_is_worth_what_hand_calculation_says() -> None:
    scores, worth = np.array([[1.0, 3.0, 2.0]]), np.array([[0.0, 6.0, 3.0]])
    # one: (0 + 6 + 3) / 3; two of three: the pairs with the highest score win twice, then once
    assert best_of(scores, worth)[0] == pytest.approx([3.0, (6 + 6 + 3) / 3, 6.0])
    assert best_of(-scores, worth)[0] == pytest.approx([3.0, (0 + 0 + 3) / 3, 0.0])


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "b6"])
    assert "--only b6: no such part" in capsys.readouterr().err
