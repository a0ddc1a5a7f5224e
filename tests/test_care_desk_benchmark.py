"""The methods side by side: figures from runs known by hand, and a tenth of the work for real."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchmarks.care_desk_found import (
    Found,
    fallen_below_start,
    hump,
    in_time,
    near_rank,
    read_found,
    rloo_points,
)
from benchmarks.care_desk_methods import main
from benchmarks.care_desk_report import meets, ranged, write_page
from benchmarks.care_desk_runs import (
    Desk,
    Labels,
    MethodRun,
    Panel,
    Point,
    WatchedRun,
    ended,
    make_once,
    run_best_of_n,
    run_watched,
    shares,
)
from benchmarks.over_optimisation_runs import BEST_OF, LABELS, MEMBERS, run_arm, run_ensemble

from preftune.datasets import write_records
from preftune.demo import proof
from preftune.demo.labelling import Labelled
from preftune.demo.settings import DemoSettings
from preftune.demo.teaching import VOCAB_SIZE
from preftune.demo.world import CareDesk
from preftune.evaluation.measures import Measure
from preftune.files import append_jsonl, read_json, write_json
from preftune.models.new import new_model
from preftune.settings import read_yaml
from preftune.stats.over_optimisation import Evaluation
from preftune.training import reward
from preftune.training.held_out import HeldOut, Share
from preftune.training.method_settings import RewardSettings
from preftune.training.settings import RunSettings

NOTHING = Found(methods=[], points=[], clean=[], hacked=[], stopped=[], honest=[], spoilt=[])


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


def test_a_run_is_stopped_in_time_before_gold_is_under_its_start() -> None:
    kl, gold = [0.0, 0.1, 0.8, 2.0, 9.0], [0.1, 0.0, 0.7, 0.2, -0.9]
    fallen = fallen_below_start(watched(kl, gold))
    assert fallen is not None
    assert fallen.step == 20  # the dip at step 5 came before the rise
    assert in_time(watched(kl[:4], gold[:4], stopped=15))
    assert in_time(watched(kl, gold, stopped=15))  # the look at 20 is of the step under way
    assert not in_time(watched(kl, gold, stopped=20))
    assert not in_time(watched(kl[:4], gold[:4]))


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
    assert "| longer wins in half, no leash | 0 | step 10 | -0.10 | 0.20 | step 5 | +0.70" in text
    assert "| honest raters, the demo's leash | 0 | not stopped | -0.10 | 0.70 |" in text
    hacked = "| 0 | 0.00 → 0.30 | 1.00 | -0.10 | 0.70 (step 5, KL 0.80) | step 15 | -0.90 (KL 9) |"
    assert hacked in text
    assert "Without a leash 1 of 1 runs were stopped, 1 of them before" in text
    assert "unstopped in 0. Of the clean runs 0 of 1 were stopped" in text
    for name in ("b1.svg", "b2.svg"):
        assert f"](./{name})" in text
        assert "<svg" in (tmp_path / name).read_text()


def test_runs_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    share = Share(right=9.0, n=10, share=0.9, low=0.6, high=0.98)
    held_out = HeldOut(model=share, length_only=share, length_rule="longer wins")
    panel = Panel(seed=0, pairs=873, label_accuracy=0.9, held_out=held_out)
    point = Point(line="DPO", name="beta 0.1", seed=0, kl=0.4, gold=0.8)
    run = watched([0.0, 0.8, 2.0], [-0.1, 0.7, 0.2], stopped=10)
    files: dict[str, object] = {
        "method-rloo": ran(),
        "b1-dpo-0.1-nll-0": point,
        "b1-best-of": [replace(point, line="best-of-n")],
        "clean": replace(run, stopped=None),
        "hacked": run,
        "stopped": run,
        "labels-none": panel,
        "labels-beta-0-rl": panel,
    }
    for name, value in files.items():
        (tmp_path / "seed-0").mkdir(exist_ok=True)
        write_json(tmp_path / "seed-0" / f"{name}.json", value)
    found = read_found(tmp_path)
    assert found.methods == [files["method-rloo"]]
    assert (found.hacked, found.stopped, found.clean) == ([run], [run], [files["clean"]])
    assert (found.honest, found.spoilt) == ([panel], [panel])
    lines = ["DPO", "best-of-n", "RLOO", "RLOO"]
    assert [each.line for each in found.points] == lines
    assert "| longer wins in half | 873 | 0.900 | 0.900 | 0.900 |" in write_page(
        found, tmp_path / "methods.md", images=tmp_path
    )


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
    write_records(folder / "gold_pairs.jsonl", world.rewrites(8, seed=1), format="preftune")
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
    assert [look.step for look in run.looks] == [0, 2, 4, 5]  # a tenth of the prompts: five steps
    assert run.looks[0].kl == pytest.approx(0.0, abs=1e-4)
    assert (run.ended, run.stopped, run.published) == ("", None, 5)
    assert run.kl.n == len(labels.desk.toned())
    assert run.gold.n == len(labels.desk.toned())
    assert (run.kl.value > 0) == (run.looks[-1].kl > 0)


def test_online_labels_are_of_the_policy_as_it_is(labels: Labels, tmp_path: Path) -> None:
    run = run_arm(labels, tmp_path, arm="online")
    assert run.labels == 3 * LABELS // 10  # a tenth of the work
    assert 0 < run.pairs <= run.labels
    assert run.kl.n == run.gold.n == len(labels.desk.toned())
    by = [read_yaml(tmp_path / f"dpo-{number}" / "settings.yaml")["model"] for number in range(3)]
    assert by == [str(labels.desk.sft), *(str(tmp_path / f"dpo-{n}" / "final") for n in (0, 1))]


def test_one_reply_is_worth_the_same_whoever_chooses_it(labels: Labels, tmp_path: Path) -> None:
    few = replace(labels.desk, prompts=labels.desk.toned()[:3])
    run = run_ensemble(replace(labels, desk=few), tmp_path)
    firsts = [one.gold for one in run.picked if one.n == 1]
    assert len(firsts) == 4
    assert firsts == pytest.approx([firsts[0]] * 4)
    own = {one.n: one.proxy for one in run.picked if one.rule == "worst of 4"}
    assert [own[n] for n in BEST_OF] == sorted(own[n] for n in BEST_OF)
    assert len(run.right) == MEMBERS
    assert run.prompts == 3
