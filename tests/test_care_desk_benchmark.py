"""The methods side by side: figures from runs known by hand, and a tenth of the work for real."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchmarks.care_desk_found import Found, hump, near_rank, rloo_points
from benchmarks.care_desk_methods import main
from benchmarks.care_desk_report import meets, ranged, write_page
from benchmarks.care_desk_runs import (
    Desk,
    Labels,
    MethodRun,
    Point,
    WatchedRun,
    ended,
    make_once,
    run_best_of_n,
    run_watched,
    shares,
)

from preftune.datasets import write_records
from preftune.demo import proof
from preftune.demo.labelling import Labelled
from preftune.demo.settings import DemoSettings
from preftune.demo.teaching import VOCAB_SIZE
from preftune.demo.world import CareDesk
from preftune.evaluation.measures import Measure
from preftune.files import append_jsonl, read_json, write_json
from preftune.models.new import new_model
from preftune.stats.over_optimisation import Evaluation
from preftune.training import reward
from preftune.training.method_settings import RewardSettings
from preftune.training.settings import RunSettings

NOTHING = Found(methods=[], points=[], clean=[], hacked=[], stopped=[], honest=[], length_loving=[])


def measure(name: str, value: float) -> Measure:
    return Measure(name=name, value=value, low=value - 0.02, high=value + 0.02, n=100)


def ran(**changed: Any) -> MethodRun:
    run = MethodRun(
        method="rloo",
        seed=0,
        win=measure("win_rate", 0.85),
        facts=-0.004,
        facts_low=-0.015,
        kl=measure("kl", 1.2),
        length_ratio=1.1,
        missed=("tail (can't tell)",),
        steps=50,
        ended="",
        seconds=90.0,
        busy_s=85.0,
        parts={"rollout": 0.5, "score": 0.1, "update": 0.4},
        foreign_cores=0.0,
    )
    return replace(run, **changed)


def watched(
    kl: Sequence[float], gold: Sequence[float], *, stopped: int | None = None
) -> WatchedRun:
    looks = tuple(
        Evaluation(
            step=5 * place,
            proxy=0.1 * place,
            kl=nats,
            length_tokens=30.0,
            repetition=0.0,
            gold=value,
            gold_se=0.1,
        )
        for place, (nats, value) in enumerate(zip(kl, gold, strict=True))
    )
    return WatchedRun(
        seed=0,
        looks=looks,
        ended="gold fell" if stopped else "",
        stopped=stopped,
        published=5,
        kl=measure("kl", 1.0),
        gold=measure("gold", 0.7),
    )


def test_only_points_below_a_nat_are_ranked() -> None:
    points = [
        Point(line="DPO", name="", seed=0, kl=kl, gold=gold)
        for kl, gold in ((0.04, 1.0), (0.25, 2.0), (0.81, 3.0), (4.0, -5.0))
    ]
    assert near_rank(points) == pytest.approx(1.0)
    # ranks 1 2 3 against 1 3 2: 1 - 6 (0 + 1 + 1) / (3 (9 - 1)) = 1/2
    turned = [replace(points[0]), replace(points[1], gold=9.0), points[2]]
    assert near_rank(turned) == pytest.approx(0.5)
    assert near_rank(points[:2]) is None


def test_a_hump_on_the_law_gives_the_law_and_its_peak() -> None:
    d = [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0]
    gold = [-1.0 + (x * (2.0 - 1.5 * math.log(x)) if x else 0.0) for x in d]
    shape = hump(watched([x * x for x in d], gold))
    law = shape.law
    assert law is not None
    assert (law.a, law.b, law.r2) == pytest.approx((2.0, 1.5, 1.0))
    assert law.peak == pytest.approx(math.exp(2.0 / 1.5 - 1))  # 1.396: the look at d 1 or 2
    assert shape.peak.kl in (1.0, 4.0)
    assert shape.proxy_rank == pytest.approx(1.0)
    assert shape.fall_rank == pytest.approx(-1.0)


def test_gold_of_a_run_is_counted_from_its_first_look() -> None:
    points = rloo_points(watched([0.0, 0.3, 1.4], [-0.2, 0.5, 1.0]))
    assert [(p.name, p.kl) for p in points] == [("step 5", 0.3), ("step 10", 1.4)]
    assert [p.gold for p in points] == pytest.approx([0.7, 1.2])


@pytest.mark.parametrize(
    "changed",
    [
        {"win": measure("win_rate", 0.79)},
        {"kl": measure("kl", 1.51)},
        {"facts_low": -0.021},
        {"busy_s": 181.0},
    ],
)
def test_the_goal_is_met_only_when_all_of_it_is(changed: dict[str, object]) -> None:
    assert meets(ran())
    assert not meets(ran(**changed))


def test_one_value_has_no_range() -> None:
    assert ranged([0.5], ".2f") == "0.50"
    assert ranged([0.5, 0.7], ".2f") == "0.60 (0.50 to 0.70)"


def test_the_page_says_what_the_runs_say_and_nothing_of_what_was_not_run(tmp_path: Path) -> None:
    found = replace(NOTHING, methods=[ran(), ran(seed=1, seconds=200.0, busy_s=185.0, missed=())])
    text = write_page(found, tmp_path / "methods.md", images=tmp_path)
    assert (tmp_path / "methods.md").read_text() == text
    (row,) = [line for line in text.splitlines() if line.startswith("| rloo | 0.850")]
    assert "145 (90 to 200) | 135 (85 to 185) | 1 of 2 | tail (can't tell) 1 |" in row
    assert "| -1.50 |" in row
    assert "| rloo | 50 (50 to 50) | 0 of 2 | 50 (50 to 50) | 10 (10 to 10) |" in text
    assert "B1" not in text
    assert "B2" not in text
    assert [path.name for path in tmp_path.iterdir()] == ["methods.md"]


def test_the_page_shows_the_alarm_and_draws_both_images(tmp_path: Path) -> None:
    kl, gold = [0.0, 0.8, 2.0, 9.0], [-0.1, 0.7, 0.2, -0.9]
    found = replace(
        NOTHING,
        hacked=[watched(kl, gold)],
        stopped=[watched(kl[:3], gold[:3], stopped=10)],
        clean=[watched(kl[:2], gold[:2])],
        points=rloo_points(watched(kl, gold)),
    )
    text = write_page(found, tmp_path / "methods.md", images=tmp_path)
    assert "| length-loving, no leash | 0 | step 10 | -0.10 | 0.20 | step 5 | +0.70" in text
    assert "| clean, the demo's leash | 0 | not stopped | -0.10 | 0.70 |" in text
    assert "| 0 | 0.00 → 0.30 | 1.00 | -0.10 | 0.70 (step 5, KL 0.80) | -0.90 (KL 9) |" in text
    for name in ("b1.svg", "b2.svg"):
        assert f"](./{name})" in text
        assert "<svg" in (tmp_path / name).read_text()


def test_shares_are_of_all_steps_and_the_reason_of_an_end_is_found(tmp_path: Path) -> None:
    for seconds, rollout in ((2.0, 1.5), (6.0, 2.5)):
        append_jsonl(tmp_path / "timing.jsonl", {"seconds": seconds, "rollout": rollout})
    assert shares(tmp_path) == {"rollout": 0.5}
    assert ended(tmp_path) == ("", None)
    append_jsonl(tmp_path / "warnings.jsonl", {"step": 3, "warning": "KL is high"})
    append_jsonl(tmp_path / "warnings.jsonl", {"step": 20, "warning": "ended early: gold fell"})
    assert ended(tmp_path) == ("gold fell", 20)


def test_a_broken_off_run_is_made_anew_and_a_whole_one_is_not(tmp_path: Path) -> None:
    (tmp_path / "run-0.1").mkdir()
    (tmp_path / "run-0.1" / "half").touch()

    def make(folder: Path) -> dict[str, int]:
        return {"files": len(list(folder.iterdir()))}

    make_once(tmp_path / "run-0.1.json", make)
    assert read_json(tmp_path / "run-0.1.json") == {"files": 0}
    write_json(tmp_path / "run-0.1.json", {"files": 7})
    make_once(tmp_path / "run-0.1.json", make)
    assert read_json(tmp_path / "run-0.1.json") == {"files": 7}


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "rloo,grpo"])
    assert "--only grpo: no such part" in capsys.readouterr().err


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Labels:
    """A desk whose model has hardly learnt to speak, with few prompts and few pairs."""
    folder, world = tmp_path_factory.mktemp("desk"), CareDesk()
    s = DemoSettings(out=folder, method="rloo", quick=True, threads=1)
    base = new_model(
        folder / "base",
        preset="tiny",
        texts=world.texts(),
        vocab_size=VOCAB_SIZE,
        seed=0,
        tokenizer="words",
    )
    prompts = world.eval_prompts()[::60]
    before = proof.answer(base, "sft", prompts, folder)
    pairs = world.rewrites(32)
    write_records(folder / "pairs.jsonl", pairs, format="preftune")
    run = RunSettings(out=folder / "reward", threads=1)
    model = reward.train(RewardSettings(model=str(base), data=folder / "pairs.jsonl", run=run))
    return Labels(
        desk=Desk(world=world, s=s, sft=base, prompts=prompts, before=before),
        s=s,
        labelled=Labelled(
            comparisons=[],
            judgments=[],
            pairs=pairs,
            samples=[],
            ties=0,
            agreement=None,
            accuracy={},
            label_accuracy=1.0,
        ),
        pairs=folder / "pairs.jsonl",
        reward=model,
    )


def test_best_of_n_comes_with_its_upper_bound(labels: Labels, tmp_path: Path) -> None:
    points = run_best_of_n(labels, tmp_path)
    # ln n - (n - 1) / n
    assert [point.kl for point in points] == pytest.approx([0.193147, 0.636294, 1.204442], abs=1e-6)
    assert [point.name for point in points] == ["n 2", "n 4", "n 8"]
    assert all(math.isfinite(point.gold) for point in points)


def test_a_watched_run_looks_first_and_last_and_measures_what_it_keeps(
    labels: Labels, tmp_path: Path
) -> None:
    run = run_watched(labels, tmp_path, stop_on_alarm=False)
    assert [look.step for look in run.looks] == [0, 5]  # a tenth of the prompts: five steps
    assert run.looks[0].kl == pytest.approx(0.0, abs=1e-4)
    assert (run.ended, run.stopped, run.published) == ("", None, 5)
    assert run.kl.n == len(labels.desk.prompts)
    assert run.gold.n == len(labels.desk.toned())
    assert (run.kl.value > 0) == (run.looks[-1].kl > 0)
