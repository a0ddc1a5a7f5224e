"""Reinforcement fine-tuning without a value model: RLOO, GRPO, REINFORCE++, on any scorer."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from preftune.graders.scorer import Scorer
from preftune.losses.advantages import (
    dr_grpo_advantages,
    grpo_advantages,
    reinforce_plus_plus_advantages,
    reinforce_plus_plus_baseline_advantages,
    rloo_advantages,
)
from preftune.settings import checked
from preftune.training.leash import Leash
from preftune.training.observer import Observer
from preftune.training.policy_run import PolicyRun, material_of
from preftune.training.policy_settings import RftSettings
from preftune.training.policy_update import Targets, Update, asked, passes
from preftune.training.rollout_batch import Experience
from preftune.training.run import Run


def train(
    settings: RftSettings,
    *,
    scorer: Scorer | None = None,
    audit: Scorer | None = None,
    observer: Observer | None = None,
) -> Path:
    """Train, or go on with an unfinished run, and return the folder of the tuned model.

    Args:
        settings: all one can turn.
        scorer: gives rewards, instead of the settings' reward models or grader.
        audit: gold that training never sees, instead of the settings'.
        observer: looks on.

    Raises:
        HealthError: at step 0 policy and reference differ, rewards that carry no signal, or a
            number that is none.
        PreftuneError: bad settings, prompts, model or scorer, or a folder that holds another run.
    """
    s = checked(settings)
    with (
        material_of(s, scorer, audit) as material,
        Run.open(s, method="rft", inputs=material.inputs, observer=observer) as run,
    ):
        if run.finished:
            return run.final
        job = PolicyRun.begin(run, s, material)
        job.observed_by(observer)
        leash, seed = Leash.of(s.leash, job), s.run.seed
        for step, numbers in run.steps(job.learner):
            batch = job.experience(step, numbers)
            plan = passes(batch.rows, s.update, token_limit=s.engine.token_limit, seed=seed + step)
            with run.timed("score"):
                old = leash.before_update(batch, plan, step=step)
                reference = asked(job.roles.reference_logprobs, batch, plan[0])
            if step == 0:
                job.check_step_0(old, reference)
            kl = leash.per_token(old, reference)
            update = Update(
                roles=job.roles,
                batch=batch,
                targets=Targets(
                    old=old,
                    reference=reference,
                    advantages=advantages(batch, kl, s, kl_coef=leash.in_reward),
                    mask=batch.mask & batch.scored.reshape(-1, 1),
                ),
                s=s.update,
                leash=s.leash,
                kl_coef=leash.coef,
                longest=s.rollout.max_new_tokens,
                single=leash.single,
            )
            with run.timed("update"):
                learnt = update.learn(run, job.learner, plan, step=step)
            moved = leash.after(old, reference)
            run.record(step, {**learnt, **batch.figures(), **moved})
            job.watch_kl(moved["kl"], step=step)
        return job.publish()


def advantages(
    batch: Experience, kl: Float[Tensor, "B T"], s: RftSettings, *, kl_coef: float
) -> Float[Tensor, "B T"]:
    """Return the advantage of each token.

    Args:
        batch: the rollouts.
        kl: nats of each own token, by the estimator of the settings.
        s: which advantage.
        kl_coef: what KL costs in the reward; 0 where it is in the loss.
    """
    if s.advantage == "reinforce++":
        return reinforce_plus_plus_advantages(
            scores=batch.rewards.flatten(),
            kl=kl,
            mask=batch.mask & batch.scored.reshape(-1, 1),
            kl_coef=kl_coef,
        )
    rewards = batch.rewards - kl_coef * kl.sum(-1).reshape(batch.rewards.shape)
    given: dict[str, Any] = {"rewards": rewards, "scored": batch.scored}
    match s.advantage:
        case "rloo":
            of_response = rloo_advantages(**given)
        case "grpo":
            of_response = grpo_advantages(**given)
        case "dr-grpo":
            of_response = dr_grpo_advantages(**given)
        case _:
            of_response = reinforce_plus_plus_baseline_advantages(**given, lengths=batch.lengths)
    return torch.where(batch.mask, of_response.reshape(-1, 1), 0.0)
