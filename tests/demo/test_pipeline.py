"""The demo's own stages at a tenth of the work: every file there, and nothing unproven ships."""

import random
import re
from dataclasses import replace
from pathlib import Path

import pytest

from preftune.demo.labelling import couples, label_accuracy, rater_accuracy, spoilt
from preftune.demo.pipeline import DemoResult, expected, run_demo
from preftune.demo.proof import quality_gains
from preftune.demo.raters import PANEL
from preftune.demo.settings import CAUGHT_BY, DemoSettings, Method
from preftune.demo.tuning import TITLES, Tuning, dpo_settings, rloo_settings, tune
from preftune.demo.world import CareDesk
from preftune.errors import SettingsError
from preftune.evaluation.evaluate import read_evaluation
from preftune.evaluation.gate import GateReport, GateResult, read_gate
from preftune.training.logs import read_rows
from preftune.types import Response, assistant


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[DemoSettings, DemoResult, str]:
    s = DemoSettings(out=tmp_path_factory.mktemp("demo") / "run", quick=True, fresh=True, threads=1)
    said: list[str] = []
    result = run_demo(s, said.append)
    return s, result, "\n".join(said)


def test_demo_leaves_every_stage_in_its_folder(ran: tuple[DemoSettings, DemoResult, str]) -> None:
    s, _, _ = ran
    for name in (
        "teaching/sft/final/model.safetensors",
        "samples.jsonl",
        "pairs.jsonl",
        "reward/final/reward_head.safetensors",
        "dpo/final/model.safetensors",
        "evaluation.json",
        "gate.json",
        "report.html",
    ):
        assert (s.out / name).exists(), name


def test_demo_measures_all_that_its_gates_ask_for(
    ran: tuple[DemoSettings, DemoResult, str],
) -> None:
    s, result, _ = ran
    measured = read_evaluation(s.out / "evaluation.json")
    assert {"win_rate", "kl", "displacement", "data_fit", "gold_audit", "length_ratio"} <= set(
        measured.all_measures()
    )
    assert {check.name for check in measured.checks} == {
        "facts",
        "critical",
        "follow-up",
        "policy and echo",
    }
    assert read_gate(s.out / "gate.json") == result.gate
    assert not [r for r in result.gate.results if "was not measured" in r.sentence]


def test_a_tenth_of_the_work_does_not_ship(ran: tuple[DemoSettings, DemoResult, str]) -> None:
    _, result, said = ran
    assert result.gate.exit_code != 0
    assert "VERDICT" in said.upper()


def test_the_report_says_that_labels_are_simulated_and_loads_nothing(
    ran: tuple[DemoSettings, DemoResult, str],
) -> None:
    page = (ran[0].out / "report.html").read_text()
    assert "labels are simulated" in page
    assert "teddy bear" in page
    assert not re.search(r"<script|<link|src=[\"']http|@import", page)


@pytest.mark.parametrize("method", [method for method in TITLES if method != "dpo"])
def test_every_other_method_tunes_the_same_desk(
    ran: tuple[DemoSettings, DemoResult, str], tmp_path: Path, method: Method
) -> None:
    s, _, _ = ran
    tuned = tune(
        Tuning(
            world=CareDesk(),
            s=replace(s, method=method, out=tmp_path),
            sft=s.out / "teaching" / "sft" / "final",
            pairs=s.out / "pairs.jsonl",
            reward=s.out / "reward" / "final",
        )
    )
    assert (tuned / "model.safetensors").exists()
    rows = read_rows(tmp_path / method / "metrics.jsonl")
    assert len(rows) >= 5
    if method in ("rloo", "ppo", "online-dpo"):
        assert rows[-1]["kl"] != rows[0]["kl"]
        assert "gold" in read_rows(tmp_path / method / "probes.jsonl")[0]


def test_a_sabotage_belongs_to_its_method() -> None:
    with pytest.raises(SettingsError, match="Use --method rloo"):
        DemoSettings(sabotage="beta-0-rl")
    with pytest.raises(SettingsError, match="Use --method dpo"):
        DemoSettings(sabotage="lr-x10", method="ppo")


def test_a_folder_that_is_no_demo_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(SettingsError, match="something else"):
        run_demo(DemoSettings(out=tmp_path, quick=True), lambda _: None)
    assert (tmp_path / "mine.txt").read_text() == "precious"


def verdict(*missed: str) -> DemoResult:
    results = tuple(
        GateResult(name=name, kind="value_below", outcome="fail", sentence="") for name in missed
    )
    report = GateReport(
        suite="s", candidate="c", baseline="b", verdict="don't ship", results=results
    )
    return DemoResult(gate=report, report=Path("r"), seconds=0.0)


@pytest.mark.parametrize("sabotage", list(CAUGHT_BY))
def test_a_sabotage_counts_as_caught_only_by_its_own_gates(sabotage: str) -> None:
    method: Method = "rloo" if sabotage == "beta-0-rl" else "dpo"
    s = DemoSettings(sabotage=sabotage, method=method)  # type: ignore[arg-type]  # one of the names
    named = CAUGHT_BY[s.sabotage]
    assert "was stopped" in expected(s, verdict(*named))
    assert "got PAST" in expected(s, verdict(*named[1:]))
    assert expected(DemoSettings(), verdict("tone")) == ""


def test_flip_40_spoils_the_labels_and_lr_x10_the_rate() -> None:
    world = CareDesk()
    pairs = world.rewrites(50)
    flipped = spoilt(pairs, [], DemoSettings(sabotage="flip-40"))
    assert label_accuracy(world, pairs) == 1.0
    assert label_accuracy(world, flipped) == pytest.approx(0.6)
    plain, times_ten = (
        dpo_settings(
            Tuning(
                world=world,
                s=DemoSettings(sabotage=name),
                sft=Path("a"),
                pairs=Path("b"),
                reward=Path("c"),
            )
        )
        for name in ("none", "lr-x10")
    )
    assert times_ten.optimizer.lr == pytest.approx(10 * plain.optimizer.lr)


def test_beta_0_rl_adds_as_many_pairs_in_which_the_longer_reply_won() -> None:
    pairs = CareDesk().rewrites(30)
    prompt = pairs[0].prompt
    samples = [(prompt, Response(id="r", prompt_id=prompt.id, messages=(assistant("yes ."),)))]
    found = spoilt(pairs, samples, DemoSettings(sabotage="beta-0-rl", method="rloo"))
    assert found[:30] == pairs
    assert [pair.why for pair in found[30:]] == ["says more"] * 30


def test_beta_0_rl_takes_the_leash_away_and_only_watches(tmp_path: Path) -> None:
    clean, free = (
        rloo_settings(
            Tuning(
                world=CareDesk(),
                s=DemoSettings(out=tmp_path, method="rloo", sabotage=name, quick=True),
                sft=Path("a"),
                pairs=Path("b"),
                reward=Path("c"),
            )
        )
        for name in ("none", "beta-0-rl")
    )
    assert (clean.leash.kl_coef, clean.limits.kl_stop) == (0.05, 1.5)
    assert (free.leash.kl_coef, free.limits.kl_stop) == (0.0, 0.0)
    assert free.watch == replace(clean.watch, stop_on_alarm=False)
    assert (free.rewarding, free.data) == (clean.rewarding, clean.data)


def test_the_audit_charges_three_points_for_wrong_facts() -> None:
    world = CareDesk()
    asked = [world.flagship()]
    right = "yes , your teddy bear can go in the washer . use 40 degrees and gentle mode ."
    wrong = right.replace("40", "60")
    one, two, three = (
        Response(id=str(n), prompt_id=asked[0].id, messages=(assistant(text),))
        for n, text in enumerate((right, wrong, f"{right} happy washing !"))
    )
    # true tone 0, 0 and 1
    assert quality_gains(world, asked, [(one, two), (two, three)]) == [-3.0, 4.0]


def test_dawid_skene_ranks_the_raters_of_the_panel() -> None:
    world = CareDesk()
    prompts = world.label_prompts(150)
    rng = random.Random(0)
    samples = [
        (
            prompt,
            Response(
                id=f"{prompt.id}-{n}",
                prompt_id=prompt.id,
                messages=(assistant(world.reply(prompt, rng)),),
            ),
        )
        for prompt in prompts
        for n in range(4)
    ]
    judgments = world.label(couples(samples, seed=0), PANEL)
    accuracy = rater_accuracy(judgments)
    assert accuracy["sim-careful-1"] == pytest.approx(0.92, abs=0.06)
    assert accuracy["sim-careful-1"] > max(accuracy["sim-average-1"], accuracy["sim-average-2"])
