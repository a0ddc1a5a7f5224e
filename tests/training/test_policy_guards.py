"""What must not pass in silence in policy optimisation, and what must not depend on a restart."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import expm1
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.training.test_policy_train import FAST, THANKS, WAYS, thanks

from preftune.errors import DataError, HealthError, SettingsError
from preftune.graders.scorer import Answer, FunctionScorer
from preftune.inference.combine import CombineSettings
from preftune.training.online import loss_of
from preftune.training.policy_settings import (
    KlLimits,
    LeashSettings,
    OnlineSettings,
    PpoSettings,
    UpdateSettings,
    ValueSettings,
    WatchSettings,
)
from preftune.training.policy_update import Sums, Targets, Update
from preftune.training.settings import RunSettings
from preftune.training.shared_rewards import SharedRewards

SHORT = {"optimizer": replace(FAST, epochs=1.0), "watch": WatchSettings(watch_every=0)}  # 3 steps


@dataclass(kw_only=True)
class Planned:
    """Says of step after step what `steps` say; ends the process's work where there is no more."""

    steps: list[Callable[..., float]]
    name: str = "planned"
    asked: int = field(default=0)

    def score(self, rows: Sequence[Answer]) -> list[float | None]:
        if self.asked == len(self.steps):
            raise KeyboardInterrupt
        score = self.steps[self.asked]
        self.asked += 1
        return [score(prompt, response) for prompt, response in rows]


def nothing(*_: Any) -> float:
    return 0.0


def test_a_run_that_goes_on_judges_no_signal_it_has_not_seen(world: Path, tmp_path: Path) -> None:
    often = RunSettings(out=tmp_path / "run", threads=1, save_every=1)
    train, s = WAYS["rloo"][0](world, tmp_path / "run", **SHORT, run=often)
    with pytest.raises(KeyboardInterrupt):
        train(s, scorer=Planned(steps=[thanks, nothing]))
    final = train(s, scorer=Planned(steps=[nothing]))  # 0 in two of three steps
    assert final.exists()


def test_what_was_said_is_not_said_again_by_a_run_that_goes_on(world: Path, tmp_path: Path) -> None:
    changes = {
        "run": RunSettings(out=tmp_path / "run", threads=1, save_every=1),
        "optimizer": FAST,
        "watch": WatchSettings(watch_every=0),
        "limits": KlLimits(kl_alarm=0.05),
    }
    train, s = WAYS["rloo"][0](world, tmp_path / "run", **changes)
    with pytest.raises(KeyboardInterrupt):
        train(s, scorer=Planned(steps=[thanks] * 8))
    warnings = tmp_path / "run" / "warnings.jsonl"
    before = warnings.read_text()
    assert before.count("sampled KL") == 1
    train(s, scorer=Planned(steps=[thanks] * 4))
    assert warnings.read_text() == before


def test_a_policy_that_would_never_learn_is_refused(world: Path, tmp_path: Path) -> None:
    value = ValueSettings(critic_warmup=3)
    train, s = WAYS["ppo, own copies"][0](world, tmp_path / "run", **SHORT, value=value)
    with pytest.raises(SettingsError, match="critic_warmup is 3, and the run has 3 steps"):
        train(s, scorer=THANKS)


def test_a_run_without_pairs_is_stopped(world: Path, tmp_path: Path) -> None:
    train, s = WAYS["online dpo"][0](world, tmp_path / "run", **SHORT, least_gap=2.0)
    with pytest.raises(HealthError, match=r"no pairs: in the first 3 steps .* least_gap 2 in"):
        train(s, scorer=THANKS)
    assert not (tmp_path / "run" / "final").exists()


def test_a_loss_that_means_nothing_on_fresh_pairs_is_refused(tmp_path: Path) -> None:
    s = OnlineSettings(model="m", data=Path("p"), run=RunSettings(out=tmp_path), loss="dmpo")
    with pytest.raises(SettingsError, match="loss dmpo: every response is one turn"):
        loss_of(s)


def test_a_value_clip_that_clips_nothing_is_refused(tmp_path: Path) -> None:
    value, once = ValueSettings(value_clip=0.1), UpdateSettings()
    with pytest.raises(SettingsError, match="value_clip changes nothing"):
        PpoSettings(
            model="m", data=Path("p"), run=RunSettings(out=tmp_path), value=value, update=once
        )


@pytest.mark.parametrize(
    ("scorer", "error", "says"),
    [
        (FunctionScorer(name="huge", function=lambda _p, _r: 1e39), HealthError, "is 1e.39"),
        (SimpleNamespace(name="short", score=lambda rows: [1.0]), DataError, "1 scores for 32"),
    ],
)
def test_scores_that_cannot_be_used_are_named(
    world: Path, tmp_path: Path, scorer: Any, error: type[Exception], says: str
) -> None:
    train, s = WAYS["rloo"][0](world, tmp_path / "run", **SHORT)
    with pytest.raises(error, match=says):
        train(s, scorer=scorer)


def test_rewards_combined_otherwise_have_another_name() -> None:
    weighed = [
        SharedRewards(folders=("a/final", "b/final"), how=CombineSettings(weights=weights)).name
        for weights in ((1.0, 1.0), (1.0, -1.0))
    ]
    assert weighed[0] != weighed[1]


class OneRow:
    """A policy that says of each row what it is told to."""

    def __init__(self, logprobs: torch.Tensor) -> None:
        self.said = torch.nn.Parameter(logprobs)

    def logprobs(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        return torch.stack([self.said[row[0]] for row in rows])


def two_rows(
    *,
    off: float = 0.0,
    reference: float = -1.0,
    leash: LeashSettings | None = None,
    kl_coef: float = 0.0,
    settings: UpdateSettings | None = None,
) -> tuple[Update, OneRow]:
    """Return an update on two rows of three tokens, and its policy; the sampler is off in one."""
    logprobs = torch.full((2, 3), -1.0)
    sampled, mask = logprobs.clone(), torch.ones(2, 3, dtype=torch.bool)
    sampled[0] -= off
    roles: Any = OneRow(logprobs.clone())
    batch: Any = SimpleNamespace(rows=((0,), (1,)), mask=mask, sampled=sampled)
    update = Update(
        roles=roles,
        batch=batch,
        targets=Targets(
            old=logprobs,
            reference=torch.full((2, 3), reference),
            advantages=torch.ones(2, 3),
            mask=mask,
        ),
        s=settings or UpdateSettings(),
        leash=leash or LeashSettings(),
        kl_coef=kl_coef,
        longest=3,
        single=settings is None,
    )
    return update, roles


def gradient(minibatch: list[list[int]], **given: Any) -> tuple[float, list[float], Sums]:
    """Return loss, gradients and figures of a minibatch of `two_rows`."""
    (update, policy), sums = two_rows(**given), Sums()
    loss = update.policy(minibatch, sums)
    assert policy.said.grad is not None
    return loss, policy.said.grad[:, 0].tolist(), sums


@pytest.mark.parametrize("off", [0.005, 0.018, 0.5])
def test_what_a_token_weighs_does_not_depend_on_micro_batches(off: float) -> None:
    loss, grads, _ = gradient([[0, 1]], off=off)
    cut_loss, cut_grads, _ = gradient([[0], [1]], off=off)
    assert cut_loss == pytest.approx(loss)
    assert cut_grads == pytest.approx(grads)
    assert (grads[0] == grads[1]) == (off < 0.02)  # a mean of .01 nats a token counts as none


def test_k3_as_a_loss_is_held_where_it_would_overflow() -> None:
    leash = LeashSettings(kl_in="loss", kl_estimator="k3")
    loss, grads, sums = gradient([[0, 1]], reference=94.0, leash=leash, kl_coef=0.1)
    assert loss == pytest.approx(0.1 * 4.851652e8, rel=1e-3)  # e^20
    assert grads == pytest.approx([-1 / 6] * 2)  # that of the rewards alone
    assert sums.means()["held_frac"] == 1.0


def test_a_minibatch_that_is_not_learnt_from_is_not_in_the_figures() -> None:
    update, policy = two_rows(settings=UpdateSettings(updates=2, update_kl_stop=0.1))
    steps: list[float] = []

    class Learning:
        """Moves the policy by a tenth of a nat after its first step, and by one after the next."""

        def learn(self, learner: object, *, step: int, loss: float) -> dict[str, float]:
            steps.append(loss)
            with torch.no_grad():
                policy.said.add_(0.1 if len(steps) == 1 else 1.0)
            return {}

    run: Any = Learning()
    learner: Any = SimpleNamespace(forget_gradients=lambda: None)
    figures = update.learn(run, learner, [[[[0]], [[1]]]] * 2, step=0)
    assert len(steps) == figures["optimizer_steps"] == 2
    assert figures["approx_kl"] == pytest.approx((0 + expm1(0.1) - 0.1) / 2, abs=1e-6)
    assert figures["clip_frac"] == 0.0
