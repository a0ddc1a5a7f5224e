"""Normalising and calibrating a reward model's folder, and averaging by command."""

import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from preftune.datasets.write import dataset_hash, write_records
from preftune.engine.checkpoint import verify, write_manifest
from preftune.errors import DataError, ModelError
from preftune.evaluation.reward_model import calibrate, fit_of, normalise
from preftune.files import read_json, write_json
from preftune.inference.score import score, score_pairs
from preftune.models.chat import load_chat
from preftune.models.heads import load_reward_model, new_reward_model, save_reward_model
from preftune.models.lora import LoraSettings
from preftune.models.new import new_model
from preftune.stats.calibration import fit_slope
from preftune.types import (
    Demonstration,
    PreferencePair,
    Response,
    assistant,
    make_prompt,
    user,
)

WORDS = ["wash", "dry", "iron", "the", "cat", "it", "yes", "no"]
PROMPTS = [make_prompt(user(f"{a} {b} ?")) for a in WORDS[:4] for b in WORDS[3:6]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scores") / "base"
    texts = [" ".join(WORDS) + " ?"]
    return new_model(folder, preset="tiny", texts=texts, vocab_size=64, seed=0, tokenizer="words")


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    """A reward model of its own weights, published with a manifest as a run does."""
    made = save_reward_model(
        new_reward_model(base, seed=3),
        load_chat(base),
        tmp_path / "final",
        about={"objective": "bradley-terry"},
    )
    write_manifest(made, origin={"data": "ab12", "model": "cd34"})
    return made


def responses() -> list[Response]:
    return [
        Response(
            id=f"r{n}",
            prompt_id=prompt.id,
            messages=(assistant(f"{WORDS[n % 8]} {WORDS[n % 5]}"),),
            generator="sft@12ab",
        )
        for n, prompt in enumerate(PROMPTS)
    ]


def pairs(folder: Path, *, share: float = 0.75) -> list[PreferencePair]:
    """Return pairs of which the model scores this share right, in both halves of the prompts."""
    answers = [(assistant(" ".join(WORDS[n:])),) for n in range(6)]
    made = []
    scores = score(
        load_reward_model(folder), load_chat(folder), [(p, a) for p in PROMPTS for a in answers]
    )
    for n, prompt in enumerate(PROMPTS):
        own = scores[n * 6 : n * 6 + 6]
        best, worst = answers[own.index(max(own))], answers[own.index(min(own))]
        for k in range(4):
            sides = (best, worst) if k / 4 < share else (worst, best)
            made.append(
                PreferencePair(id=f"p{n}-{k}", prompt=prompt, chosen=sides[0], rejected=sides[1])
            )
    return made


def written(path: Path, records: Any) -> Path:
    write_records(path, records, format="preftune")
    return path


def test_scores_have_mean_0_and_sd_1_on_the_set_and_the_folder_stays_whole(
    folder: Path, tmp_path: Path
) -> None:
    samples = written(tmp_path / "samples.jsonl", responses())
    asked = written(tmp_path / "prompts.jsonl", PROMPTS)
    rows = [(p, r.messages) for p, r in zip(PROMPTS, responses(), strict=True)]
    raw = torch.tensor(score(load_reward_model(folder), load_chat(folder), rows)).double()
    weights = (folder / "model.safetensors").stat()
    found = normalise(folder, samples, prompts=asked)
    wanted = [raw.mean().item(), raw.std(correction=0).item()]
    assert [found.mean, found.std] == pytest.approx(wanted, rel=1e-5)
    model = load_reward_model(folder)
    scores = torch.tensor(score(model, load_chat(folder), rows)).double()
    assert scores.mean().item() == pytest.approx(0.0, abs=1e-4)
    assert scores.std(correction=0).item() == pytest.approx(1.0, abs=1e-4)
    assert model.card.normalisation == found
    assert model.normalised
    assert (found.responses, found.source, found.answered_by) == (
        12,
        "samples.jsonl",
        ("sft@12ab",),
    )
    assert found.sha256 == dataset_hash([*PROMPTS, *responses()])
    assert read_json(folder / "reward_model.json")["objective"] == "bradley-terry"
    assert verify(folder) is None
    assert read_json(folder / "MANIFEST.json")["origin"] == {"data": "ab12", "model": "cd34"}
    assert os.path.samestat((folder / "model.safetensors").stat(), weights)  # not written again
    again = normalise(folder, samples, prompts=asked)
    assert (again.mean, again.std) == pytest.approx((found.mean, found.std), rel=1e-6)


def test_demonstrations_serve_as_a_reference_set_too(folder: Path, tmp_path: Path) -> None:
    shown = [
        Demonstration(id=r.id, prompt=p, response=r.messages)
        for p, r in zip(PROMPTS, responses(), strict=True)
    ]
    by_rows = normalise(folder, written(tmp_path / "sft.jsonl", shown))
    samples = written(tmp_path / "samples.jsonl", responses())
    by_responses = normalise(folder, samples, prompts=written(tmp_path / "p.jsonl", PROMPTS))
    assert (by_rows.mean, by_rows.std) == pytest.approx((by_responses.mean, by_responses.std))
    assert by_rows.answered_by == ()


def test_a_reward_that_is_constant_has_no_unit(folder: Path, tmp_path: Path) -> None:
    model = load_reward_model(folder)
    with torch.no_grad():
        model.head.weight.zero_()
    flat = save_reward_model(model, load_chat(folder), tmp_path / "flat")
    before = (flat / "reward_model.json").read_bytes()
    set_of = written(tmp_path / "pairs.jsonl", pairs(folder))
    with pytest.raises(DataError, match="there is no spread"):
        normalise(flat, set_of)
    assert (flat / "reward_model.json").read_bytes() == before


def test_slope_is_fitted_on_raw_scores_and_changes_none(folder: Path, tmp_path: Path) -> None:
    held_out = pairs(folder)
    file = written(tmp_path / "pairs.jsonl", held_out)
    chosen, rejected = score_pairs(load_reward_model(folder), load_chat(folder), held_out)
    gaps = [good - bad for good, bad in zip(chosen, rejected, strict=True)]
    found = calibrate(folder, file, plot=tmp_path / "odds.svg")
    assert found.slope == pytest.approx(fit_slope(gaps), rel=1e-4)
    assert found.before.log_loss == pytest.approx(fit_of(gaps).log_loss, abs=1e-5)
    assert found.after.log_loss < found.before.log_loss
    model = load_reward_model(folder)
    assert score_pairs(model, load_chat(folder), held_out)[0] == pytest.approx(chosen, abs=1e-6)
    assert model.log_odds(2.0) == pytest.approx(2.0 * found.slope)
    assert verify(folder) is None
    assert "<svg" in (tmp_path / "odds.svg").read_text()
    # a normalisation afterwards changes the unit of scores and not the odds
    normalise(folder, file)
    model = load_reward_model(folder)
    assert model.card.calibration == found
    gap = model.log_odds(1.0) / model.std.item()
    assert gap == pytest.approx(found.slope)


def test_after_is_measured_on_prompts_that_were_not_fitted_on(folder: Path, tmp_path: Path) -> None:
    held_out = pairs(folder)
    found = calibrate(folder, written(tmp_path / "pairs.jsonl", held_out))
    chosen, rejected = score_pairs(load_reward_model(folder), load_chat(folder), held_out)
    gaps = [good - bad for good, bad in zip(chosen, rejected, strict=True)]
    halves = {p.id: n % 2 for n, p in enumerate(sorted(PROMPTS, key=lambda p: p.id))}
    own = [halves[pair.prompt.id] for pair in held_out]
    slopes = [fit_slope([g for g, h in zip(gaps, own, strict=True) if h != k]) for k in (0, 1)]
    wanted = fit_of([gap * slopes[h] for gap, h in zip(gaps, own, strict=True)])
    assert found.after.log_loss == pytest.approx(wanted.log_loss, abs=1e-5)
    assert found.after.log_loss > fit_of([found.slope * g for g in gaps]).log_loss - 1e-9


def test_pairs_that_fix_no_slope_are_refused_and_nothing_is_written(
    folder: Path, tmp_path: Path
) -> None:
    before = (folder / "reward_model.json").read_bytes()
    right = written(tmp_path / "right.jsonl", pairs(folder, share=1.0))
    with pytest.raises(DataError, match=r"right.jsonl: one half of the prompts: all \d+ pairs"):
        calibrate(folder, right)
    wrong = written(tmp_path / "wrong.jsonl", pairs(folder, share=0.25))
    with pytest.raises(DataError, match="no better than chance"):
        calibrate(folder, wrong)
    trained_on = pairs(folder)
    write_manifest(folder, origin={"data": dataset_hash(trained_on)})
    with pytest.raises(DataError, match="trained on these very pairs"):
        calibrate(folder, written(tmp_path / "train.jsonl", trained_on))
    assert (folder / "reward_model.json").read_bytes() == before


def test_a_model_of_one_dimension_is_calibrated_on_pairs_of_that_dimension(
    run_cli: Callable[..., Any], folder: Path, tmp_path: Path
) -> None:
    own = [replace(pair, dimension="helpful") for pair in pairs(folder)]
    other = [
        replace(p, id=f"{p.id}-b", dimension="brief", chosen=p.rejected, rejected=p.chosen)
        for p in own
    ]
    alone = calibrate(folder, written(tmp_path / "own.jsonl", own))
    file = folder / "reward_model.json"
    write_json(file, read_json(file) | {"dimension": "helpful"})
    write_manifest(folder, origin={"data": "ab12"})
    told: list[str] = []
    both = written(tmp_path / "both.jsonl", [*own, *other])
    found = calibrate(folder, both, tell=told.append)
    assert found.slope == pytest.approx(alone.slope)
    assert found.pairs == 48
    assert found.sha256 == dataset_hash(own)
    assert told == [f"{both}: 48 of 96 pairs left out: not of dimension helpful, the model's"]
    ran = run_cli("reward", "calibrate", folder, "--pairs", both)
    assert "48 of 96 pairs left out" in ran.err
    write_manifest(folder, origin={"data": dataset_hash(own)})
    with pytest.raises(DataError, match="trained on these very pairs"):
        calibrate(folder, both)
    none = written(tmp_path / "none.jsonl", other)
    with pytest.raises(DataError, match=r"none.jsonl: no pair of dimension helpful"):
        calibrate(folder, none)


def test_damaged_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    set_of = written(tmp_path / "pairs.jsonl", pairs(folder))
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")
    with pytest.raises(ModelError, match=r"damaged: model.safetensors differs"):
        normalise(folder, set_of)


def test_commands_go_from_two_models_to_one_with_units(
    run_cli: Callable[..., Any], base: Path, tmp_path: Path
) -> None:
    made = []
    for seed in (1, 2):
        model = new_reward_model(base, seed=seed, lora=LoraSettings(lora_rank=1))
        made.append(save_reward_model(model, load_chat(base), tmp_path / f"rm{seed}"))
    samples = written(tmp_path / "samples.jsonl", responses())
    asked = written(tmp_path / "prompts.jsonl", PROMPTS)
    on = ("--on", samples, "--prompts", asked)
    ran = run_cli("reward", "average", *made, "--out", tmp_path / "warm")
    assert ran.code == 0, ran.err
    assert "its scores are raw: preftune reward normalise" in ran.out
    ran = run_cli("reward", "normalise", tmp_path / "warm", *on)
    assert "mean 0, sd 1 on 12 responses of samples.jsonl by sft@12ab" in ran.out
    held_out = written(tmp_path / "pairs.jsonl", pairs(tmp_path / "warm"))
    ran = run_cli("reward", "calibrate", tmp_path / "warm", "--pairs", held_out)
    assert ran.code == 0, ran.err
    assert "nats of log-odds, fitted on 48 pairs of pairs.jsonl" in ran.out
    shown = run_cli("reward", "show", tmp_path / "warm", made[0])
    assert "backbone of warm@" in shown.out
    assert "  not normalised" in shown.out
    assert shown.out.count("ECE") == 2
    again = run_cli("reward", "average", *made, "--out", tmp_path / "warm")
    assert (again.code, again.err.count("\n")) == (2, 1)
    slope = read_json(tmp_path / "warm" / "reward_model.json")["calibration"]["slope"]
    assert math.isfinite(slope)
    assert slope > 0
