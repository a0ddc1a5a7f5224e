"""Parts of the worker by themselves: adapters joined, graders counted, models that grade."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from preftune.errors import ModelError
from preftune.files import write_json
from preftune.graders.run import GraderRunner
from preftune.graders.sample import Sample
from preftune.graders.sandbox import SandboxSettings
from preftune.graders.specs import validate
from preftune.inference.generate import GenerateSettings, generate
from preftune.jobs.auto import parameters_in
from preftune.jobs.clone import NOTES, take_over
from preftune.jobs.rewards import CountingRunner, LocalModel, LocalModels, by_grader
from preftune.jobs.servable import joined
from preftune.models.adapters import add_lora, load_adapter, save_adapter
from preftune.models.chat import load_chat
from preftune.models.load import load_policy
from preftune.models.lora import LoraSettings
from preftune.responses.chat_client import ChatAnswer, ChatFailure, ChatRequest
from preftune.types import make_prompt, user


def adapter(world: Path, out: Path, settings: LoraSettings, *, seed: int) -> Path:
    """Write an adapter whose B is not zero."""
    model = add_lora(load_policy(world / "base"), settings, seed=seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    return save_adapter(model, out)


def test_joined_adapters_do_what_both_do_one_on_the_other(world: Path, tmp_path: Path) -> None:
    one = LoraSettings(lora_rank=2, lora_alpha=8.0, lora_targets=("q_proj", "v_proj"))
    other = LoraSettings(lora_rank=3, lora_alpha=3.0, lora_targets=("v_proj", "up_proj"))
    first = adapter(world, tmp_path / "first", one, seed=1)
    second = adapter(world, tmp_path / "second", other, seed=2)
    both = joined(first, second)
    assert both is not None
    tensors, config = both
    assert (config["r"], config["lora_alpha"]) == (5, 5)
    merged = {}
    for name, folder in (("first", first), ("second", second)):
        model = load_adapter(load_policy(world / "base"), folder).merge_and_unload()
        merged[name] = dict(model.named_parameters())
    base = dict(load_policy(world / "base").named_parameters())
    for name, weight in base.items():
        layer = name.removesuffix(".weight")
        a = tensors.get(f"base_model.model.{layer}.lora_A.weight")
        b = tensors.get(f"base_model.model.{layer}.lora_B.weight")
        update = torch.zeros_like(weight) if a is None or b is None else b @ a
        wanted = merged["first"][name] + merged["second"][name] - 2 * weight
        assert torch.allclose(update, wanted, atol=1e-5)
    assert len(config["target_modules"]) == 2 * 3  # two layers, three kinds


def test_adapters_that_are_more_than_low_rank_updates_are_not_joined(
    world: Path, tmp_path: Path
) -> None:
    plain = adapter(world, tmp_path / "plain", LoraSettings(lora_rank=2), seed=1)
    dora = adapter(world, tmp_path / "dora", LoraSettings(lora_rank=2, dora=True), seed=2)
    assert joined(plain, dora) is None
    assert joined(dora, plain) is None


def test_parameters_are_counted_from_headers(world: Path) -> None:
    held = load_file(world / "base" / "model.safetensors")
    assert parameters_in(world / "base") == sum(tensor.numel() for tensor in held.values())


def test_gradings_are_counted_by_grader_and_error() -> None:
    one = {
        "type": "string_check",
        "name": "a",
        "input": "{{ sample.output_text }}",
        "reference": "{{ item.word }}",
        "operation": "eq",
    }
    grader = validate(
        {
            "type": "multi",
            "name": "both",
            "graders": {"a": one, "b": {**one, "name": "b", "operation": "like"}},
            "calculate_output": "a + b",
        }
    )
    none = LocalModels(folders={}).of
    with CountingRunner(grader, client_of=none, sandbox=SandboxSettings()) as runner:
        rows = [
            (Sample(output_text="yes"), {"word": "yes"}),
            (Sample(output_text="oh yes"), {"word": "yes"}),
            (Sample(output_text="yes"), {}),  # a variable that is not there
        ]
        runner.run_all(rows[:1])
        runner.run_all(rows[1:])
        results = runner.taken()
        assert runner.taken() == []
        found = by_grader(runner, results, "train")
    assert found == {
        "scores/graders/a/train_reward_mean": 0.5,
        "scores/graders/b/train_reward_mean": 1.0,
        "errors/graders/both/invalid_variable_error_mean": pytest.approx(1 / 3),
        "errors/graders/both/invalid_variable_error_count": 1.0,
    }


def test_model_of_this_server_answers_as_it_generates(world: Path) -> None:
    model = LocalModel("judge", world / "base")
    chat, text = load_chat(world / "base"), "can i wash my red bear ?"

    def asked(key: str, content: str) -> ChatRequest:
        return ChatRequest(key=key, messages=(user(content),), max_tokens=8)

    short, long = model.ask([asked("short", text), asked("long", "wash " * 2000)])
    (reply,) = generate(
        load_policy(world / "base"),
        [chat.prompt_ids(make_prompt(user(text)))],
        GenerateSettings(max_new_tokens=8, temperature=0.0),
        seeds=[0],
        end_ids=chat.end_ids,
        pad_id=chat.pad_id,
    )
    assert isinstance(short, ChatAnswer)
    assert (short.text, short.completion_tokens) == (
        chat.decode(reply.ids)[0].content,
        len(reply.ids),
    )
    assert isinstance(long, ChatFailure)
    assert "do not fit" in long.reason


def test_grader_that_asks_an_unknown_model_is_refused_by_name(world: Path) -> None:
    grader = validate(
        {
            "type": "score_model",
            "name": "score",
            "model": "no-such",
            "input": [{"role": "user", "content": "{{ sample.output_text }}"}],
        }
    )
    models = LocalModels(folders={"judge": str(world / "base")})
    with pytest.raises(ModelError, match=r"'no-such' is not on this server\. There are: judge"):
        GraderRunner(grader, client_of=models.of)


def test_nothing_half_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier, mine = tmp_path / "attempt-1", tmp_path / "attempt-2"
    (earlier / "run" / "checkpoints" / "step-000003").mkdir(parents=True)
    (earlier / "run" / "checkpoints" / ".step-000006.x.tmp").mkdir()
    (earlier / "run" / "checkpoints" / "step-000003" / "model.safetensors").write_bytes(b"m")
    (earlier / "models" / "step-000003").mkdir(parents=True)  # has no manifest
    (earlier / "run" / "metrics.jsonl").write_text('{"step":0}\n')
    (earlier / "run" / "run.lock").touch()
    write_json(earlier / NOTES, {"total_steps": 9})
    mine.mkdir()
    monkeypatch.chdir(mine)
    take_over(earlier)
    found = sorted(str(p.relative_to(mine)) for p in mine.rglob("*") if p.is_file())
    saved = "run/checkpoints/step-000003/model.safetensors"
    assert found == [saved, "run/metrics.jsonl", NOTES]
    assert (mine / saved).samefile(earlier / saved)
    log = mine / "run" / "metrics.jsonl"
    assert not log.samefile(earlier / "run" / "metrics.jsonl")  # both workers may append
