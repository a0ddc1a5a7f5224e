"""The care plan: all four steps must be right, a grader says so, and RLOO makes that frequent."""

import json
from pathlib import Path

from preftune.demo import care_plan
from preftune.demo.world import CareDesk
from preftune.engine.settings import OptimizerSettings
from preftune.graders.run import run
from preftune.graders.sample import Sample
from preftune.graders.specs import validate
from preftune.models.new import new_model
from preftune.training import rft, sft
from preftune.training.logs import read_rows
from preftune.training.policy_settings import (
    LeashSettings,
    RewardingSettings,
    RftSettings,
    RolloutSettings,
    WatchSettings,
)
from preftune.training.settings import RunSettings, SftSettings
from preftune.types import text_of


def test_the_grader_wants_every_step_right() -> None:
    cards = CareDesk().cards
    grader = validate(care_plan.grader())
    whole = care_plan.steps_of(cards, "teddy bear")
    assert run(grader, Sample(output_text=" ".join(whole.values())), whole).reward == 1.0
    for name in care_plan.STEPS:
        wrong = {**whole, name: f"{name} 99 wool ."}
        assert run(grader, Sample(output_text=" ".join(wrong.values())), whole).reward == 0.0


def test_a_hurried_desk_is_right_as_often_as_its_steps_say() -> None:
    cards = CareDesk().cards
    made = care_plan.demonstrations(cards, right=0.85, seed=0)
    asked = [next(made) for _ in range(2000)]
    items = {care_plan.question(card.item): card.item for card in cards.values()}
    right = [
        text_of(row.response)
        == " ".join(care_plan.steps_of(cards, items[row.prompt.messages[0].content]).values())
        for row in asked
    ]
    assert abs(sum(right) / len(right) - 0.85**4) < 0.04  # 4 standard errors


def test_rloo_with_an_exact_checker_makes_whole_plans_more_frequent(tmp_path: Path) -> None:
    cards = CareDesk().cards
    base, grader = tmp_path / "base", tmp_path / "grader.json"
    texts = care_plan.texts(cards)
    new_model(base, preset="tiny", texts=texts, vocab_size=200, seed=0, tokenizer="words")
    care_plan.write_demonstrations(tmp_path / "sft.jsonl", cards, rows=1280, right=0.85, seed=0)
    care_plan.write_rft_rows(tmp_path / "rows.jsonl", cards)
    grader.write_text(json.dumps(care_plan.grader()))
    taught = sft.train(
        SftSettings(
            model=str(base),
            data=tmp_path / "sft.jsonl",
            optimizer=OptimizerSettings(lr=5e-3, batch_size=32, epochs=3.0, adam_beta2=0.95),
            run=RunSettings(out=tmp_path / "sft", threads=1),
        )
    )
    rft.train(
        RftSettings(
            model=str(taught),
            data=tmp_path / "rows.jsonl",
            rollout=RolloutSettings(samples=8, max_new_tokens=24),
            rewarding=RewardingSettings(grader=grader),
            leash=LeashSettings(kl_coef=0.01),
            watch=WatchSettings(watch_every=8, watch_prompts=40),
            optimizer=OptimizerSettings(lr=1e-3, batch_size=20, epochs=4.0, schedule="constant"),
            run=RunSettings(out=tmp_path / "rft", threads=1),
        )
    )
    rows = read_rows(tmp_path / "rft" / "metrics.jsonl")
    first, last = rows[0]["reward"], (rows[-1]["reward"] + rows[-2]["reward"]) / 2
    assert 0.1 < first < 0.4
    assert last > first + 0.15  # .22 to .5 when it was measured
