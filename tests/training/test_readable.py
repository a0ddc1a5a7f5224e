"""A response that fits the policy need not fit the reward model: it stays unscored."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tests.training.test_policy_train import FAST, rloo

from preftune.datasets import read_pairs
from preftune.errors import ModelError
from preftune.files import read_json, write_json
from preftune.inference.reward_scorer import load_scorer
from preftune.models.chat import load_chat
from preftune.models.heads import new_reward_model, save_reward_model
from preftune.training.logs import read_rows
from preftune.training.policy_settings import RewardingSettings, RolloutSettings, WatchSettings
from preftune.training.readable import readable, scores_of, too_tight
from preftune.types import assistant

NEW_TOKENS = 8


@pytest.fixture
def prompt_tokens(world: Path) -> int:
    chat = load_chat(world / "base")
    (found,) = {len(chat.prompt_ids(pair.prompt)) for pair in read_pairs(world / "pairs.jsonl")}
    return found


@pytest.fixture
def narrow(world: Path, tmp_path: Path, prompt_tokens: int) -> Path:
    """A reward model that reads prompt and 8 tokens, with no place for the end of turn."""
    made = save_reward_model(
        new_reward_model(world / "base", seed=0), load_chat(world / "base"), tmp_path / "narrow"
    )
    config = read_json(made / "config.json")
    config["max_position_embeddings"] = prompt_tokens + NEW_TOKENS
    write_json(made / "config.json", config)
    return made


def test_a_response_too_long_for_the_reward_model_stays_unscored(world: Path, narrow: Path) -> None:
    scorer, (first, *_) = load_scorer([narrow]), read_pairs(world / "pairs.jsonl")
    rows = [(first.prompt, (assistant("yes " * count),)) for count in (2, 7, 8, 3)]
    assert readable(scorer, rows) == [True, True, False, True]
    with pytest.raises(ModelError, match="Leave it out or shorten it"):
        scorer.score(rows)
    short = scorer.score([rows[0], rows[1], rows[3]])
    assert scores_of(scorer, rows) == [short[0], short[1], None, short[2]]
    assert scores_of(scorer, rows[2:3]) == [None]


def test_a_run_says_that_responses_may_be_too_long_and_goes_on(
    world: Path, narrow: Path, tmp_path: Path
) -> None:
    wide = tmp_path / "wide"
    shutil.copytree(narrow, wide)
    shutil.copy(world / "base" / "config.json", wide / "config.json")
    prompts = [pair.prompt for pair in read_pairs(world / "pairs.jsonl")]
    assert not list(too_tight(load_scorer([wide]), prompts, max_new_tokens=NEW_TOKENS))
    train, s = rloo(
        world,
        tmp_path / "run",
        optimizer=replace(FAST, epochs=1.0),
        rollout=RolloutSettings(samples=4, max_new_tokens=NEW_TOKENS),
        rewarding=RewardingSettings(reward=(str(narrow),)),
        watch=WatchSettings(watch_every=2, watch_prompts=8, audit=narrow),
    )
    train(s)
    said = [row["warning"] for row in read_rows(tmp_path / "run" / "warnings.jsonl")]
    assert sum("24 of 24 prompts may not fit with a response of max" in text for text in said) == 1
    steps = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert all(0 < row["unscored"] < 32 for row in steps)
