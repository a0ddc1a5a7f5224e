"""Proximal policy optimisation: a value model foretells rewards, clipped updates follow them."""

from pathlib import Path

import torch

from preftune.graders.scorer import Scorer
from preftune.losses.advantages import gae, shaped_rewards, whiten
from preftune.losses.value import explained_variance
from preftune.settings import checked
from preftune.training.leash import Leash
from preftune.training.policy_run import PolicyRun, material_of
from preftune.training.policy_settings import PpoSettings
from preftune.training.policy_update import CriticTargets, Targets, Update, asked, passes
from preftune.training.run import Run


def train(
    settings: PpoSettings, *, scorer: Scorer | None = None, audit: Scorer | None = None
) -> Path:
    """Train, or go on with an unfinished run, and return the folder of the tuned model.

    Args:
        settings: all one can turn.
        scorer: gives rewards, instead of the reward models or grader of the settings.
        audit: gold that training never sees, instead of the settings'.

    Raises:
        HealthError: at step 0 policy and reference differ, rewards that carry no signal, or a
            number that is none.
        PreftuneError: bad settings, prompts, model or scorer, or a folder that holds another run.
    """
    s = checked(settings)
    with (
        material_of(s, scorer, audit) as material,
        Run.open(s, method="ppo", inputs=material.inputs) as run,
    ):
        if run.finished:
            return run.final
        job = PolicyRun.begin(run, s, material, critic_lr_factor=s.value.value_lr_factor)
        leash = Leash.of(s.leash, job)
        for step, numbers in run.steps(job.learner):
            batch = job.experience(step, numbers)
            plan = passes(
                batch.rows, s.update, token_limit=s.engine.token_limit, seed=s.run.seed + step
            )
            with run.timed("score"):
                old = asked(job.roles.logprobs, batch, plan[0])
                reference = asked(job.roles.reference_logprobs, batch, plan[0])
                with job.roles.valuing() as values_of:
                    values = asked(values_of, batch, plan[0])
            if step == 0:
                job.check_step_0(old, reference)
            mask = batch.mask & batch.scored.reshape(-1, 1)
            rewards = shaped_rewards(
                scores=batch.rewards.flatten(),
                kl=leash.per_token(old, reference),
                mask=batch.mask,
                kl_coef=leash.in_reward,
            )
            raw, returns = gae(
                rewards=rewards,
                values=values,
                mask=batch.mask,
                gamma=s.value.gamma,
                gae_lambda=s.value.gae_lambda,
            )
            update = Update(
                roles=job.roles,
                batch=batch,
                targets=Targets(
                    old=old,
                    reference=reference,
                    advantages=whiten(values=raw, mask=mask),
                    mask=mask,
                ),
                critic=CriticTargets(
                    old_values=values, returns=returns, value_clip=s.value.value_clip
                ),
                s=s.update,
                leash=s.leash,
                kl_coef=leash.coef,
                longest=s.rollout.max_new_tokens,
                single=leash.single,
                policy_learns=step >= s.value.critic_warmup,
            )
            with run.timed("update"):
                learnt = update.learn(run, job.learner, plan, step=step)
            moved = leash.after(old, reference)
            foretold = explained_variance(values=values, returns=returns, mask=mask)
            run.record(
                step,
                {**learnt, **batch.figures(), **moved, "explained_variance": finite(foretold)},
            )
            job.watch_kl(moved["kl"], step=step)
        return job.publish()


def finite(value: torch.Tensor) -> float:
    """Return a figure that JSON can hold: 0 where it is not defined."""
    return float(torch.nan_to_num(value, nan=0.0, posinf=0.0, neginf=0.0))
