"""The training worker: what it tells, what it leaves, and that both are right."""

import csv
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from tests.jobs.job_world import Jobs, order_for

from preftune.engine.checkpoint import verify
from preftune.models.adapters import load_adapter, merge_adapter
from preftune.models.chat import Chat, load_chat
from preftune.models.load import adapter_base, load_policy
from preftune.models.tokens import TokenSequence
from preftune.training.tokenise import read_demonstration_rows, read_pair_rows
from preftune.wire.job import Finish

NewJob = Callable[..., Jobs]
FAST = {"n_epochs": 2, "batch_size": 6, "learning_rate_multiplier": 20}
SIX = 2 * 18 // 6  # steps


def cells(jobs: Jobs) -> list[dict[str, str]]:
    with (jobs.attempt / "result.csv").open() as file:
        return list(csv.DictReader(file))


def row_logits(model: Any, sequence: TokenSequence) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-probs of the vocabulary before each own token, and the own tokens, plainly."""
    ids = torch.tensor([[*sequence.prompt_ids, *sequence.response_ids]])
    with torch.no_grad():
        found = load_policy(model) if isinstance(model, Path) else model
        logprobs = found(input_ids=ids).logits[0].double().log_softmax(-1)
    own = [place for place, mine in enumerate(sequence.own) if mine]
    return logprobs[[place - 1 for place in own]], ids[0, own]


def logp(folder: Path, sequence: TokenSequence) -> float:
    logprobs, own = row_logits(folder, sequence)
    return logprobs.gather(1, own[:, None]).sum().item()


def assert_told_equals_csv(jobs: Jobs) -> None:
    rows = cells(jobs)
    events = jobs.server.steps()
    assert [event.key for event in events] == [f"step-{n}" for n in range(1, len(rows) + 1)]
    for event, row in zip(events, rows, strict=True):
        assert event.data is not None
        told = {name: value for name, value in event.data.items() if isinstance(value, float)}
        assert told == {name: float(cell) for name, cell in row.items() if cell and name != "step"}
        assert event.message.startswith(f"Step {row['step']}/{len(rows)}: training loss=")


@pytest.fixture(scope="module")
def sft(new_job: NewJob, world: Path) -> tuple[Jobs, Finish]:
    jobs = new_job(
        method="supervised",
        hyperparameters=FAST,
        validation=str(world / "sft-valid.jsonl"),
        validation_name="sft-valid.jsonl",
    )
    return jobs, jobs.run()


@pytest.fixture(scope="module")
def dpo(new_job: NewJob, world: Path) -> tuple[Jobs, Finish]:
    jobs = new_job(
        method="dpo",
        hyperparameters={**FAST, "beta": 0.3},
        validation=str(world / "dpo-valid.jsonl"),
        validation_name="dpo-valid.jsonl",
    )
    return jobs, jobs.run()


def test_sft_job_tells_its_numbers_before_its_steps_and_ends_once(sft: tuple[Jobs, Finish]) -> None:
    jobs, last = sft
    names = [what for what, _ in jobs.server.told if what not in ("beat", "checkpoint")]
    assert names[0] == "started"
    assert names[-1] == "finish"
    assert jobs.server.starts[0].hyperparameters == FAST
    assert jobs.server.starts[0].total_steps == last.step == SIX
    assert (last.outcome, last.error, last.verdict) == ("succeeded", None, None)
    assert jobs.server.refused == 0


def test_sft_events_equal_the_result_file(sft: tuple[Jobs, Finish]) -> None:
    jobs, last = sft
    assert_told_equals_csv(jobs)
    header = list(cells(jobs)[0])
    assert header == [
        *("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"),
        *("train_mean_token_accuracy", "full_valid_loss", "full_valid_mean_token_accuracy"),
    ]
    full = [bool(row["full_valid_loss"]) for row in cells(jobs)]
    assert full == [False, False, True, False, False, True]  # each epoch has three steps
    assert float(cells(jobs)[-1]["train_loss"]) < float(cells(jobs)[0]["train_loss"])
    assert last.metrics["full_valid_loss"] == float(cells(jobs)[-1]["full_valid_loss"])


def test_sft_validation_equals_a_plain_forward_of_the_final_model(
    sft: tuple[Jobs, Finish], world: Path
) -> None:
    jobs, last = sft
    chat: Chat = load_chat(world / "base")
    rows = read_demonstration_rows(world / "sft-valid.jsonl", chat, train_on="all")
    nll, right, tokens = 0.0, 0, 0
    for row in rows:
        logprobs, own = row_logits(jobs.attempt / last.folder, row.sequence)
        nll -= logprobs.gather(1, own[:, None]).sum().item()
        right += int((logprobs.argmax(-1) == own).sum())
        tokens += len(own)
    assert last.metrics["full_valid_loss"] == pytest.approx(nll / tokens, rel=1e-5)
    assert last.metrics["full_valid_mean_token_accuracy"] == pytest.approx(right / tokens)


def test_a_model_is_published_at_each_epoch_and_is_whole(sft: tuple[Jobs, Finish]) -> None:
    jobs, last = sft
    assert list(jobs.server.checkpoints) == [SIX // 2]
    assert last.folder == f"models/step-{SIX:06d}"
    for folder in ((jobs.attempt / last.folder), *jobs.server.folders.values()):
        assert verify(folder) is None
        assert adapter_base(folder) == str(jobs.world / "base")
    assert jobs.server.checkpoints[3].metrics["step"] == 3


def test_trained_tokens_are_all_tokens_of_all_epochs(sft: tuple[Jobs, Finish], world: Path) -> None:
    rows = read_demonstration_rows(world / "sft.jsonl", load_chat(world / "base"), train_on="all")
    assert sft[1].trained_tokens == 2 * sum(len(row.sequence) for row in rows)


def test_dpo_starts_at_log_2_and_learns(dpo: tuple[Jobs, Finish]) -> None:
    jobs, _ = dpo
    assert_told_equals_csv(jobs)
    rows = cells(jobs)
    assert float(rows[0]["train_loss"]) == pytest.approx(math.log(2), abs=1e-6)
    assert float(rows[0]["train_kl"]) == 0.0
    assert float(rows[-1]["train_loss"]) < math.log(2)
    assert float(rows[-1]["full_valid_kl"]) > 0
    of = (
        *("reward_accuracy", "reward_margin", "chosen_reward", "rejected_reward", "chosen_logps"),
        *("rejected_logps", "kl", "chosen_length_tokens", "rejected_length_tokens"),
    )
    wanted = ["step", "train_loss", "valid_loss", "full_valid_loss"]
    assert list(rows[0]) == [*wanted, *(f"{p}_{n}" for p in ("train", "full_valid") for n in of)]
    assert all(rows[-1].values())


def test_dpo_validation_equals_plain_forwards_of_both_models(
    dpo: tuple[Jobs, Finish], world: Path
) -> None:
    jobs, last = dpo
    tuned, base = jobs.attempt / last.folder, world / "base"
    found: dict[str, list[float]] = {"chosen": [], "rejected": [], "loss": []}
    rows = list(read_pair_rows(world / "dpo-valid.jsonl", load_chat(base)))
    for row in rows:
        moved = {
            side: logp(tuned, sequence) - logp(base, sequence)
            for side, sequence in (("chosen", row.chosen), ("rejected", row.rejected))
        }
        for side, value in moved.items():
            found[side].append(0.3 * value)
        found["loss"].append(math.log1p(math.exp(-0.3 * (moved["chosen"] - moved["rejected"]))))
    mean = {name: sum(values) / len(values) for name, values in found.items()}
    assert last.metrics["full_valid_loss"] == pytest.approx(mean["loss"], abs=1e-4)
    assert last.metrics["full_valid_chosen_reward"] == pytest.approx(mean["chosen"], abs=1e-4)
    assert last.metrics["full_valid_rejected_reward"] == pytest.approx(mean["rejected"], abs=1e-4)
    right = [c > r for c, r in zip(found["chosen"], found["rejected"], strict=True)]
    assert last.metrics["full_valid_reward_accuracy"] == sum(right) / len(right)


def test_dpo_on_top_of_sft_starts_at_log_2_and_its_model_holds_both(
    sft: tuple[Jobs, Finish], new_job: NewJob, world: Path, tmp_path: Path
) -> None:
    first = sft[0].attempt / sft[1].folder
    jobs = new_job(method="dpo", hyperparameters=FAST, model=str(first))
    last = jobs.run()
    assert float(cells(jobs)[0]["train_loss"]) == pytest.approx(math.log(2), abs=1e-6)
    published = jobs.attempt / last.folder
    assert adapter_base(published) == str(world / "base")
    row = next(iter(read_pair_rows(world / "dpo.jsonl", load_chat(world / "base"))))
    start = merge_adapter(world / "base", first, tmp_path / "start")
    on_start = load_adapter(load_policy(start), jobs.attempt / "run" / "final")
    whole, _ = row_logits(published, row.chosen)
    apart, _ = row_logits(on_start, row.chosen)
    assert (whole - apart).abs().max() < 1e-4
    only_first, _ = row_logits(first, row.chosen)
    assert (whole - only_first).abs().max() > 1e-2
    assert not (jobs.attempt / "start").exists()  # only a job that goes on needs it


def test_rft_job_with_a_string_check_tells_rewards_of_both_files(
    new_job: NewJob, world: Path
) -> None:
    grader = {
        "type": "string_check",
        "name": "thanks",
        "input": "{{ sample.output_text }}",
        "reference": "{{ item.word }}",
        "operation": "like",
    }
    jobs = new_job(
        method="reinforcement",
        hyperparameters={"n_epochs": 1, "batch_size": 6, "eval_interval": 2},
        grader=grader,
        extras={"max_new_tokens": 12, "temperature": 1.0},
        validation=str(world / "rft-valid.jsonl"),
        validation_name="rft-valid.jsonl",
    )
    last = jobs.run()
    events = jobs.server.steps()
    assert len(events) == last.step == 3
    for event in events:
        data: dict[str, Any] = event.data or {}
        assert 0 <= data["train_mean_reward"] <= 1
        assert data["scores"]["train_reward_mean"] == data["train_mean_reward"]
        mean = data["scores"]["graders"][0]["train_reward_mean"]
        assert mean == pytest.approx(data["train_mean_reward"])
        assert data["mean_unresponsive_rewards"] == 0
        assert data["timing"]["step"]["full_iteration"] > 0
    assert ["full_valid_mean_reward" in (event.data or {}) for event in events] == [
        *(False, True, True)
    ]
    assert list(jobs.server.checkpoints) == [2]
    assert (last.trained_tokens or 0) > 0


def test_rft_job_with_a_python_grader(new_job: NewJob) -> None:
    source = "def grade(sample, item):\n    return float(len(sample['output_text'].split()))\n"
    grader = {"type": "python", "name": "words", "source": source}
    given: dict[str, Any] = {
        "method": "reinforcement",
        "hyperparameters": {"n_epochs": 1, "batch_size": 9},
        "grader": grader,
        "extras": {"max_new_tokens": 8},
    }
    jobs = new_job(**given)
    assert jobs.run().outcome == "succeeded"
    assert len(jobs.server.steps()) == 2
    forbidden = new_job(**given, python_graders=False).run()
    assert forbidden.error is not None
    assert forbidden.error.code == "invalid_method"


@pytest.mark.parametrize(
    ("method", "rows", "code", "said"),
    [
        ("dpo", "dpo", "invalid_n_examples", "rows.jsonl has 3 example(s), but must have at least"),
        ("dpo", "sft", "invalid_training_file", "rows.jsonl"),
        ("supervised", "dpo", "invalid_training_file", "rows.jsonl"),
    ],
)
def test_rows_that_cannot_be_used_fail_the_job_in_the_words_of_the_api(
    new_job: NewJob, world: Path, tmp_path: Path, method: str, rows: str, code: str, said: str
) -> None:
    lines = (world / f"{rows}.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "blob").write_text("".join(lines[:3]))
    jobs = new_job(method=method, training=str(tmp_path / "blob"), training_name="rows.jsonl")
    last = jobs.run()
    assert last.outcome == "failed"
    assert last.error is not None
    assert (last.error.code, last.error.param) == (code, "training_file")
    assert said in last.error.message
    assert str(tmp_path) not in last.error.message


def test_bad_validation_rows_are_named_as_such(
    new_job: NewJob, world: Path, tmp_path: Path
) -> None:
    bad = json.dumps({"input": {"messages": []}, "preferred_output": []})
    (tmp_path / "blob").write_text(f"{bad}\n")
    given = {"validation": str(tmp_path / "blob"), "validation_name": "held.jsonl"}
    last = new_job(method="dpo", **given).run()
    assert last.error is not None
    assert (last.error.code, last.error.param) == ("invalid_validation_file", "validation_file")
    assert "validation file" in last.error.message
    assert "held.jsonl" in last.error.message


@pytest.mark.parametrize(
    ("extras", "said"),
    [
        ({"loss": "ipoo"}, "'ipo'"),
        ({"loss": "ipo", "ld_alpha": 0.5}, "ld_alpha changes nothing"),
        ({"label": "soft"}, "no pair has a probability below 1"),
    ],
)
def test_extras_that_do_not_fit_fail_the_job_with_the_products_own_words(
    new_job: NewJob, world: Path, extras: dict[str, Any], said: str
) -> None:
    last = new_job(method="dpo", extras=extras).run()
    assert last.error is not None
    assert last.error.code == "invalid_method"
    assert said in last.error.message
    assert str(world) not in last.error.message


def test_extras_reach_the_product(new_job: NewJob, world: Path) -> None:
    extras = {"loss": "ipo", "tau": 0.2, "lora_rank": 0, "learning_rate": 1e-3, "eval_every": 1}
    jobs = new_job(method="dpo", hyperparameters={"n_epochs": 1, "batch_size": 9}, extras=extras)
    last = jobs.run()
    settings = (jobs.attempt / "run" / "settings.yaml").read_text()
    for line in ("loss: ipo", "tau: 0.2", "lora_rank: 0", "lr: 0.001", "model: ", "out: run"):
        assert f"{line}" in settings
    # IPO at the start: (0 - 1 / (2 tau))^2
    assert float(cells(jobs)[0]["train_loss"]) == pytest.approx((1 / 0.4) ** 2)
    assert "beta" not in jobs.server.starts[0].hyperparameters
    assert adapter_base(jobs.attempt / last.folder) is None
    assert (jobs.attempt / last.folder / "model.safetensors").is_file()


def test_a_gate_says_what_the_figures_say_and_needs_prompts(new_job: NewJob, world: Path) -> None:
    grader = {
        "type": "string_check",
        "name": "thanks",
        "input": "{{ sample.output_text }}",
        "reference": "thank you",
        "operation": "like",
    }
    rules = [
        {"name": "polite", "kind": "value_above", "measure": "reward", "threshold": -0.5},
        {"name": "longer", "kind": "value_above", "measure": "length_tokens", "threshold": 1e6},
        {"name": "kept", "kind": "no_new_failures", "check": "thanks", "min_n": 1000},
    ]
    gate = {"suite": "care", "rules": rules, "grader": grader, "max_tokens": 8}
    given: dict[str, Any] = {
        "method": "supervised",
        "hyperparameters": {"n_epochs": 1, "batch_size": 18},
        "extras": {"gate": gate},
    }
    refused = new_job(**given).run()
    assert refused.error is not None
    assert "Give a validation_file" in refused.error.message
    last = new_job(**given, validation=str(world / "sft-valid.jsonl")).run()
    assert last.verdict is not None
    assert last.verdict["verdict"] == "don't ship"
    found = {result["name"]: result["outcome"] for result in last.verdict["results"]}
    assert found == {"polite": "pass", "longer": "fail", "kept": "can't tell"}
    names = [measure["name"] for measure in last.verdict["measures"]]
    assert names == ["length_tokens", "reward", "reward_gain"]


def test_worker_runs_as_a_module_and_the_same_seed_gives_the_same_figures_and_bytes(
    dpo: tuple[Jobs, Finish], new_job: NewJob
) -> None:
    jobs = new_job(**dpo[0].given)
    folder = jobs.prepare()
    ran = subprocess.run(
        [sys.executable, "-m", "preftune.jobs"],
        input=msgspec.json.encode(order_for(folder / "job.json")).decode() + "\n",
        env={
            "PATH": "/usr/bin",
            "PREFTUNE_CACHE": "off",
            "HF_HUB_OFFLINE": "1",  # as the server starts it; tokenizers write it down
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, (folder / "worker.log").read_text()
    assert [e.data for e in jobs.server.steps()] == [e.data for e in dpo[0].server.steps()]
    assert jobs.server.ends[-1].manifest_hash == dpo[1].manifest_hash
