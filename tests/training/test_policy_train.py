"""Policy optimisation on a tiny model: it starts at the reference, learns, stops, and goes on."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from preftune.engine.settings import EngineSettings, OptimizerSettings
from preftune.errors import HealthError, ModelError, SettingsError
from preftune.files import read_json
from preftune.graders.scorer import FunctionScorer
from preftune.inference.reward_scorer import load_scorer
from preftune.models.adapters import add_lora
from preftune.models.load import load_policy
from preftune.models.lora import LoraSettings
from preftune.training import online, ppo, reward, rft
from preftune.training.logs import read_rows
from preftune.training.method_settings import RewardSettings
from preftune.training.policy_settings import (
    KlLimits,
    LeashSettings,
    OnlineSettings,
    PpoSettings,
    RewardingSettings,
    RftSettings,
    RolloutSettings,
    UpdateSettings,
    ValueSettings,
    WatchSettings,
)
from preftune.training.settings import RunSettings
from preftune.training.shared_rewards import SharedRewards, share_base
from preftune.training.watch import look
from preftune.types import Message, Prompt, text_of

FAST = OptimizerSettings(lr=1e-2, batch_size=8, epochs=4.0, schedule="constant")
LORA = LoraSettings(lora_rank=4)
Train = Callable[..., Path]


def thanks(_: Prompt, response: tuple[Message, ...]) -> float:
    return float("you" in text_of(response).split())


def words(_: Prompt, response: tuple[Message, ...]) -> float:
    return float(len(text_of(response).split()))


THANKS = FunctionScorer(name="thanks", function=thanks)


def fresh(world: Path, out: Path, **changes: Any) -> dict[str, Any]:
    return {
        "model": str(world / "base"),
        "data": world / "pairs.jsonl",
        "run": RunSettings(out=out, threads=1, save_every=4),
        "rollout": RolloutSettings(samples=4, max_new_tokens=8),
        "watch": WatchSettings(watch_every=6, watch_prompts=8),
        "optimizer": FAST,
        **changes,
    }


def rloo(world: Path, out: Path, **changes: Any) -> tuple[Train, RftSettings]:
    return rft.train, RftSettings(**fresh(world, out, **changes))


def with_value(world: Path, out: Path, **changes: Any) -> tuple[Train, PpoSettings]:
    return ppo.train, PpoSettings(**fresh(world, out, **changes))


def pairs_online(world: Path, out: Path, **changes: Any) -> tuple[Train, OnlineSettings]:
    return online.train, OnlineSettings(**fresh(world, out, **changes))


WAYS: dict[str, tuple[Callable[..., tuple[Train, Any]], dict[str, Any]]] = {
    "rloo": (rloo, {}),
    "grpo, four updates": (
        rloo,
        {
            "advantage": "grpo",
            "update": UpdateSettings(updates=2, minibatches=2),
            "leash": LeashSettings(kl_in="loss", kl_estimator="k3+"),
        },
    ),
    "reinforce++, one sample": (
        rloo,
        {
            "advantage": "reinforce++",
            "rollout": RolloutSettings(samples=1, max_new_tokens=8),
            "optimizer": replace(FAST, epochs=12.0),
        },
    ),
    "dr-grpo, adapter": (
        rloo,
        {
            "advantage": "dr-grpo",
            "lora": LORA,
            "update": UpdateSettings(reduction="dr-grpo"),
        },
    ),
    "ppo, own copies": (with_value, {}),
    "ppo, one copy": (with_value, {"lora": LORA, "value": ValueSettings(critic_warmup=1)}),
    "online dpo": (pairs_online, {}),
}


@pytest.mark.parametrize("name", list(WAYS))
def test_every_way_starts_at_the_reference_and_raises_the_reward(
    world: Path, tmp_path: Path, name: str
) -> None:
    made, changes = WAYS[name]
    train, s = made(world, tmp_path / "run", **changes)
    final = train(s, scorer=THANKS)
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert abs(rows[0]["kl"]) < 1e-4
    assert rows[-1]["kl"] > 0.05
    quarter = max(1, len(rows) // 4)
    last = sum(row["reward"] for row in rows[-quarter:]) / quarter
    assert last > rows[0]["reward"] + 0.2
    assert all(math.isfinite(value) for row in rows for value in row.values())
    policy = load_policy(final)
    assert torch.isfinite(next(policy.parameters())).all()
    looks = [look(row) for row in read_rows(tmp_path / "run" / "probes.jsonl")]
    assert [one.step for one in looks][:2] == [0, 6]
    assert looks[-1].step == len(rows)
    assert (tmp_path / "run" / "plots" / "watch.svg").exists()


@pytest.mark.parametrize("name", ["rloo", "ppo, one copy", "online dpo"])
def test_a_run_goes_on_to_the_same_bytes(world: Path, tmp_path: Path, name: str) -> None:
    made, changes = WAYS[name]
    changes = changes | {"limits": KlLimits(kl_stop=50.0)}
    train, s = made(world, tmp_path / "whole", **changes)
    train(s, scorer=THANKS, audit=THANKS)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for gone in ("final", "checkpoints/step-000012"):
        shutil.rmtree(tmp_path / "cut" / gone)
    train, again = made(world, tmp_path / "cut", **changes)
    train(again, scorer=THANKS, audit=THANKS)
    for log in ("metrics.jsonl", "probes.jsonl"):
        assert (tmp_path / "cut" / log).read_bytes() == (tmp_path / "whole" / log).read_bytes()
    for file in (tmp_path / "whole" / "final").glob("*.safetensors"):
        assert (tmp_path / "cut" / "final" / file.name).read_bytes() == file.read_bytes()


def test_micro_batches_of_any_size_give_the_same_run(world: Path, tmp_path: Path) -> None:
    short = {"optimizer": replace(FAST, epochs=1.0), "lora": LORA}
    found = []
    for tokens in (0, 64):
        engine = EngineSettings(micro_tokens=tokens)
        train, s = with_value(world, tmp_path / str(tokens), engine=engine, **short)
        train(s, scorer=THANKS)
        found.append(read_rows(tmp_path / str(tokens) / "metrics.jsonl"))
    for whole, cut in zip(*found, strict=True):
        assert cut["loss"] == pytest.approx(whole["loss"], abs=2e-5)
        assert cut["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-3)
        assert cut["critic_grad_norm"] == pytest.approx(whole["critic_grad_norm"], rel=1e-3)


@pytest.mark.parametrize("lora", [LoraSettings(), LORA], ids=["own copies", "one copy"])
def test_policy_equals_reference_in_bf16_too(
    world: Path, tmp_path: Path, lora: LoraSettings
) -> None:
    short = {"optimizer": replace(FAST, epochs=1.0), "watch": WatchSettings(watch_every=0)}
    engine = EngineSettings(precision="bf16")
    train, s = with_value(world, tmp_path / "run", engine=engine, lora=lora, **short)
    train(s, scorer=THANKS)
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert rows[0]["kl"] == 0.0
    assert 0 < rows[0]["sampler_gap"] < 0.05  # sampler and trainer round otherwise


@pytest.fixture(scope="module")
def reward_adapter(world: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A reward model that is an adapter of the very base that is tuned."""
    out = tmp_path_factory.mktemp("reward")
    made = reward.train(
        RewardSettings(
            model=str(world / "base"),
            data=world / "pairs.jsonl",
            lora=LORA,
            optimizer=OptimizerSettings(lr=1e-2, batch_size=8, epochs=4.0),
            run=RunSettings(out=out, threads=1),
        )
    )
    return str(made)


def test_four_roles_live_in_one_copy_of_the_weights(
    world: Path, tmp_path: Path, reward_adapter: str
) -> None:
    rewarding = RewardingSettings(reward=(reward_adapter,))
    train, s = with_value(world, tmp_path / "run", lora=LORA, rewarding=rewarding)
    train(s)
    roles = read_json(tmp_path / "run" / "roles.json")
    assert roles["reference"] == "the base with its adapters off"
    assert set(roles) == {"base, shared by all roles", "reference", "policy", "value", "reward0"}
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert rows[-1]["reward"] > rows[0]["reward"]
    assert {file.name for file in (tmp_path / "run" / "final").iterdir()} >= {
        "adapter_model.safetensors",
        "adapter_config.json",
    }
    assert not list((tmp_path / "run" / "final").glob("*/"))  # nobody else's adapter


def test_a_reward_model_scores_the_same_on_the_policys_base(
    world: Path, reward_adapter: str
) -> None:
    from tests.training.conftest import pairs

    from preftune.inference.combine import CombineSettings

    rows = [(pair.prompt, side) for pair in pairs()[:6] for side in (pair.chosen, pair.rejected)]
    assert share_base([reward_adapter], str(world / "base"))
    policy = add_lora(load_policy(world / "base"), LORA, seed=0)
    shared = SharedRewards(folders=(reward_adapter,), how=CombineSettings())
    shared.attach(policy)
    assert shared.score(rows) == load_scorer([reward_adapter]).score(rows)
    assert policy.active_adapter == "default"


def test_the_run_is_stopped_and_goes_back_when_gold_falls(world: Path, tmp_path: Path) -> None:
    gold = FunctionScorer(name="short", function=lambda p, r: -words(p, r))
    longer = FunctionScorer(name="long", function=words)
    changes = {
        "leash": LeashSettings(kl_coef=0.0),
        "watch": WatchSettings(watch_every=2, watch_prompts=16),
        "rollout": RolloutSettings(samples=4, max_new_tokens=12),
    }
    train, s = rloo(world, tmp_path / "run", **changes)
    train(s, scorer=longer, audit=gold)
    warnings = [row["warning"] for row in read_rows(tmp_path / "run" / "warnings.jsonl")]
    assert any("kl_coef is 0: no leash" in text for text in warnings)
    assert any(text.startswith("ended early: proxy rose") for text in warnings)
    assert any(text.startswith("the weights are those before step") for text in warnings)
    assert len(read_rows(tmp_path / "run" / "metrics.jsonl")) < 12


def test_kl_stop_ends_the_run_within_its_limit(world: Path, tmp_path: Path) -> None:
    changes = {
        "limits": KlLimits(kl_alarm=0.1, kl_stop=0.5),
        "watch": WatchSettings(watch_every=1, watch_prompts=16),
    }
    train, s = rloo(world, tmp_path / "run", **changes)
    train(s, scorer=THANKS)
    looks = [look(row) for row in read_rows(tmp_path / "run" / "probes.jsonl")]
    warnings = [row["warning"] for row in read_rows(tmp_path / "run" / "warnings.jsonl")]
    assert any("above kl_stop 0.5" in text for text in warnings)
    (back,) = (text for text in warnings if text.startswith("the weights are those before step"))
    kept = max(one.step for one in looks if one.kl <= 0.5)
    assert back.startswith(f"the weights are those before step {kept}:")


CONSTANT = FunctionScorer(name="constant", function=lambda _p, _r: 1.0)
NOT_A_NUMBER = FunctionScorer(name="broken", function=lambda _p, _r: math.nan)
SILENT = FunctionScorer(name="silent", function=lambda _p, _r: None)


@pytest.mark.parametrize(
    ("scorer", "says"),
    [
        (CONSTANT, "no signal: the reward is 1 for all 96 responses in the first 3 steps"),
        (NOT_A_NUMBER, "broken: the score of a response to prompt .* is nan"),
        (SILENT, "no signal: the scorer gave no score to any response"),
    ],
)
def test_rewards_that_teach_nothing_stop_the_run(
    world: Path, tmp_path: Path, scorer: FunctionScorer, says: str
) -> None:
    train, s = rloo(world, tmp_path / "run", watch=WatchSettings(watch_every=0))
    with pytest.raises(HealthError, match=says):
        train(s, scorer=scorer)


def test_unscored_responses_teach_nothing_and_are_counted(world: Path, tmp_path: Path) -> None:
    def half(prompt: Prompt, response: tuple[Message, ...]) -> float | None:
        return thanks(prompt, response) if "bear" not in prompt.messages[0].content else None

    scorer = FunctionScorer(name="half", function=half)
    train, s = with_value(world, tmp_path / "run", lora=LORA)
    train(s, scorer=scorer)
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert sum(row["unscored"] for row in rows) > 0
    assert rows[-1]["reward"] > rows[0]["reward"]


def test_prompts_without_room_for_a_response_are_counted(world: Path, tmp_path: Path) -> None:
    rollout = RolloutSettings(samples=4, max_new_tokens=100_000)
    train, s = rloo(world, tmp_path / "run", rollout=rollout)
    with pytest.raises(ModelError, match=r"24 of 24 prompts are longer than the -\d+ tokens"):
        train(s, scorer=THANKS)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "neither is given"),
        ({"rewarding": RewardingSettings(reward=("a",), grader=Path("b"))}, "both are given"),
    ],
)
def test_one_source_of_rewards_is_asked_for(
    world: Path, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    train, s = rloo(world, tmp_path / "run", **changes)
    with pytest.raises(SettingsError, match=says):
        train(s)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: RolloutSettings(samples=0), "samples"),
        (lambda: LeashSettings(kl_in="loss"), "no gradient on average"),
        (lambda: LeashSettings(kl_coef=0.0, kl_target=1.0), "kl_target changes nothing"),
        (lambda: UpdateSettings(clip_low=0.1), "clip_low changes nothing"),
        (lambda: UpdateSettings(updates=2, dual_clip=0.5), "above 1"),
        (lambda: WatchSettings(watch_every=0, watch_prompts=9), "watch_prompts changes nothing"),
    ],
)
def test_settings_that_do_nothing_are_refused(
    world: Path, tmp_path: Path, made: Callable[[], Any], says: str
) -> None:
    from preftune.settings import build, flat

    with pytest.raises(SettingsError, match=says):
        group = made()
        name = {"RolloutSettings": "rollout"}[type(group).__name__]
        _, s = rloo(world, tmp_path / "run")
        build(RftSettings, flat(replace(s, **{name: group})))


def test_a_grader_teaches_from_rft_rows(world: Path, tmp_path: Path) -> None:
    colours = ("red", "green", "blue", "black", "white")
    rows = [
        {"messages": [{"role": "user", "content": f"can i wash my {colour} hat ?"}], "word": "you"}
        for colour in colours
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    grader = tmp_path / "grader.json"
    spec = {"type": "string_check", "name": "has it", "operation": "ilike"}
    spec |= {"input": "{{sample.output_text}}", "reference": "{{item.word}}"}
    grader.write_text(json.dumps(spec))
    train, s = rloo(world, tmp_path / "run", data=data, rewarding=RewardingSettings(grader=grader))
    train(replace(s, optimizer=replace(FAST, batch_size=5, epochs=12.0)))
    found = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert found[-1]["reward"] > found[0]["reward"] + 0.3


def test_a_server_draws_for_a_policy_that_learns_here(world: Path, tmp_path: Path) -> None:
    from tests.inference.token_fakes import Served, serving

    short = replace(FAST, epochs=2.0)
    with serving(Served(base=lambda: load_policy(world / "base"))) as server:
        rollout = RolloutSettings(samples=4, max_new_tokens=8, rollout_url=server.url)
        watch = WatchSettings(watch_every=0)
        made = {"lora": LORA, "rollout": rollout, "optimizer": short, "watch": watch}
        train, s = rloo(world, tmp_path / "far", **made)
        train(s, scorer=THANKS)
        run = (tmp_path / "far" / "served" / "run").read_text()
        assert server.loads == [f"policy-{run}-{step}" for step in range(6)]
        assert not server.model.peft_config
    made["rollout"] = RolloutSettings(samples=4, max_new_tokens=8)
    train, s = rloo(world, tmp_path / "near", **made)
    train(s, scorer=THANKS)
    far, near = (read_rows(tmp_path / where / "metrics.jsonl") for where in ("far", "near"))
    assert far[0]["reward"] == near[0]["reward"]  # the same weights, the same seeds
    assert max(row["sampler_gap"] for row in far) < 1e-4
    assert far[-1]["reward"] > far[0]["reward"]


def test_a_server_is_refused_without_an_adapter_to_send(world: Path, tmp_path: Path) -> None:
    rollout = RolloutSettings(samples=4, rollout_url="http://127.0.0.1:1/v1")
    with pytest.raises(SettingsError, match="only an adapter can be sent"):
        rloo(world, tmp_path / "run", rollout=rollout)
