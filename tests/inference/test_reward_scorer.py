"""Reward models as a scorer: parts, combination, names, and what must stop it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from preftune.datasets.write import write_records
from preftune.errors import HealthError, ModelError, SettingsError
from preftune.inference.combine import CombineSettings
from preftune.inference.reward_scorer import RewardScorer, load_scorer
from preftune.inference.score import score
from preftune.models.chat import load_chat
from preftune.models.heads import load_reward_model, new_reward_model, save_reward_model
from preftune.models.lora import LoraSettings
from preftune.models.new import new_model
from preftune.types import Message, Prompt, Response, assistant, make_prompt, user

PROMPTS = [make_prompt(user(text)) for text in ("wash it ?", "dry it or iron it ?", "cat")]
ANSWERS = ["yes , wash it .", "no .", "no , iron the cat .", "it ."]
ROWS: list[tuple[Prompt, tuple[Message, ...]]] = [
    (prompt, (assistant(answer),)) for answer in ANSWERS for prompt in PROMPTS
]


def saved(base: Path, folder: Path, *, seed: int, std: float = 0.5) -> Path:
    """Save an adapter of a base as a reward model with mean 0.1."""
    model = new_reward_model(base, seed=seed, lora=LoraSettings(lora_rank=2))
    model.set_normalisation(0.1, std)
    return save_reward_model(model, load_chat(base), folder)


@pytest.fixture(scope="module")
def folders(policy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two adapters of one base, and an encoder with a tokenizer of its own."""
    top = tmp_path_factory.mktemp("rewards")
    encoder = new_model(
        top / "base", preset="encoder", texts=ANSWERS, vocab_size=300, seed=0, tokenizer="bpe"
    )
    made = [saved(policy_folder, top / f"rm{seed}", seed=seed) for seed in (1, 2)]
    return [*made, saved(encoder, top / "encoder", seed=3)]


@pytest.fixture(scope="module")
def ensemble(folders: list[Path]) -> RewardScorer:
    return load_scorer(folders, CombineSettings(combine="uncertainty", variance_coef=0.3))


def test_parts_are_the_scores_of_each_model_by_its_own_tokens(
    folders: list[Path], ensemble: RewardScorer
) -> None:
    alone = [score(load_reward_model(f), load_chat(f), ROWS) for f in folders]
    for part, wanted in zip(ensemble.parts(ROWS), alone, strict=True):
        assert part == pytest.approx(wanted, abs=1e-5)


def test_scores_are_the_combination_of_the_parts(ensemble: RewardScorer) -> None:
    parts = torch.tensor(ensemble.parts(ROWS), dtype=torch.float64)
    wanted = parts.mean(0) - 0.3 * parts.var(0, correction=0)
    assert ensemble.score(ROWS) == pytest.approx(wanted.tolist(), abs=1e-5)
    assert ensemble.combine(ensemble.parts(ROWS[:2])) == pytest.approx(
        wanted[:2].tolist(), abs=1e-5
    )


def test_a_score_depends_on_its_own_row_alone(ensemble: RewardScorer) -> None:
    together = ensemble.score(ROWS)
    assert ensemble.score(ROWS[::-1])[::-1] == pytest.approx(together, abs=1e-5)
    assert [ensemble.score([row])[0] for row in ROWS[:3]] == pytest.approx(together[:3], abs=1e-5)
    assert ensemble.score([]) == []


def test_one_model_scores_as_it_does_alone(folders: list[Path]) -> None:
    scorer = load_scorer(folders[:1])
    model, chat = load_reward_model(folders[0]), load_chat(folders[0])
    assert scorer.score(ROWS) == pytest.approx(score(model, chat, ROWS), abs=1e-6)
    assert scorer.name.startswith("rm1@")


def test_names_tell_models_and_combinations_apart(folders: list[Path]) -> None:
    hows = [CombineSettings(), CombineSettings(combine="min"), CombineSettings(weights=(1.0, 2.0))]
    names = [load_scorer(folders[:2], how).name for how in hows]
    names += [load_scorer(folders[1::-1], hows[0]).name, load_scorer(folders[:1]).name]
    assert len(set(names)) == len(names)
    assert load_scorer(folders[:2], hows[1]).name == names[1]


def test_clipped_scores_are_counted(folders: list[Path]) -> None:
    scorer = load_scorer(folders[:2], CombineSettings(combine="min", clip_sd=0.25))
    parts = scorer.parts(ROWS)
    found = scorer.score(ROWS)
    assert all(-0.25 <= (one or 0.0) <= 0.25 for one in found)
    over = sum(abs(one) > 0.25 for part in parts for one in part)
    assert over > 0
    assert scorer.clipped == over


def test_score_that_is_no_number_names_row_and_model(folders: list[Path], tmp_path: Path) -> None:
    model = load_reward_model(folders[0])
    with torch.no_grad():
        model.head.weight.fill_(float("nan"))
    broken = save_reward_model(model, load_chat(folders[0]), tmp_path / "broken")
    scorer = load_scorer([folders[1], broken])
    with pytest.raises(HealthError) as stopped:
        scorer.score(ROWS)
    assert "broken: row 1 (prompt p-" in str(stopped.value)
    assert "the score is nan" in str(stopped.value)


def test_scores_without_units_are_not_combined(
    policy_folder: Path, folders: list[Path], tmp_path: Path
) -> None:
    fresh = save_reward_model(
        new_reward_model(policy_folder, seed=1), load_chat(policy_folder), tmp_path / "fresh"
    )
    assert len(load_scorer([fresh]).score(ROWS[:1])) == 1
    for models, how in (([fresh], CombineSettings(clip_sd=5.0)), ([fresh, folders[0]], None)):
        with pytest.raises(ModelError, match=r"fresh@.*never normalised"):
            load_scorer(models, how)


def test_combination_of_too_few_models_stops_before_any_is_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="too few"):
        load_scorer([tmp_path / "missing"], CombineSettings(combine="min"))
    with pytest.raises(ModelError, match="not a reward model"):
        load_scorer([tmp_path / "missing"])


def test_prompt_longer_than_the_model_reads_is_named(folders: list[Path]) -> None:
    long = make_prompt(user("wash it ? " * 400))
    with pytest.raises(ModelError, match=r"sequence 1: .* tokens, the model reads"):
        load_scorer(folders[:1]).score([ROWS[0], (long, ROWS[0][1])])


def test_score_command_writes_each_models_part(
    run_cli: Callable[..., Any], folders: list[Path], tmp_path: Path
) -> None:
    responses = [
        Response(id=f"r{n}", prompt_id=prompt.id, messages=answer)
        for n, (prompt, answer) in enumerate(ROWS)
    ]
    write_records(tmp_path / "responses.jsonl", responses, format="preftune")
    write_records(tmp_path / "prompts.jsonl", PROMPTS, format="preftune")
    (tmp_path / "gate.yaml").write_text("combine: constraint\nthresholds: [0]\nclip_sd: 1\n")
    ran = run_cli(
        *("score", tmp_path / "responses.jsonl", "--prompts", tmp_path / "prompts.jsonl"),
        *("--model", folders[0], "--model", folders[1], "--combine", tmp_path / "gate.yaml"),
        *("--out", tmp_path / "out.jsonl"),
    )
    assert ran.code == 0, ran.err
    lines = [msgspec.json.decode(x) for x in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    constraint, reward = (name for name in lines[0]["parts"])
    assert (constraint[:4], reward[:4]) == ("rm1@", "rm2@")
    for line in lines:
        held = line["parts"][constraint] >= 0
        inside = max(-1.0, min(1.0, line["parts"][reward]))
        assert line["score"] == pytest.approx(inside, abs=1e-6) if held else line["score"] < -1
    assert "in memory: backbone of rm1@" in ran.out
    assert "scores of single models were clipped" in ran.out
    (tmp_path / "gate.yaml").write_text("combine: min\n")
    one = run_cli(
        *("score", tmp_path / "responses.jsonl", "--prompts", tmp_path / "prompts.jsonl"),
        *("--model", folders[0], "--combine", tmp_path / "gate.yaml", "--out", tmp_path / "no"),
    )
    assert one.code == 2
    assert one.err == (
        "error: combine min: 1 models are too few. Give more models, or combine weighted.\n"
    )


def test_shared_base_is_found_under_another_spelling(folders: list[Path], tmp_path: Path) -> None:
    copy = shutil.copytree(folders[1], tmp_path / "copy")
    scorer = load_scorer([folders[0], copy])
    first, second = scorer.rewards.members
    assert first.model.backbone is second.model.backbone
