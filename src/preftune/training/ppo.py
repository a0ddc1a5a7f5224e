"""Proximal policy optimisation: a value model foretells rewards, clipped updates follow them."""

from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from preftune.errors import SettingsError
from preftune.graders.scorer import Scorer
from preftune.losses.advantages import gae, shaped_rewards, whiten
from preftune.losses.value import explained_variance
from preftune.settings import checked
from preftune.training.leash import Leash
from preftune.training.policy_run import PolicyRun, material_of
from preftune.training.policy_settings import PpoSettings
from preftune.training.policy_update import CriticTargets, Targets, Update, asked, passes
from preftune.training.rollout_batch import Experience
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
        _refuse_endless_warmup(s.value.critic_warmup, job.learner.order.steps)
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
            kl = leash.per_token(old, reference)
            targets, critic = targets_of(batch, old, reference, kl, values, s, leash.in_reward)
            update = Update(
                roles=job.roles,
                batch=batch,
                targets=targets,
                critic=critic,
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
            run.record(step, {**learnt, **batch.figures(), **moved, **foretold(targets, critic)})
            job.watch_kl(moved["kl"], step=step)
        return job.publish()


def _refuse_endless_warmup(critic_warmup: int, steps: int) -> None:
    if critic_warmup >= steps:
        raise SettingsError(
            f"critic_warmup is {critic_warmup}, and the run has {steps} steps: the policy would "
            "never learn. Use fewer."
        )


def targets_of(
    batch: Experience,
    old: Float[Tensor, "B T"],
    reference: Float[Tensor, "B T"],
    kl: Float[Tensor, "B T"],
    values: Float[Tensor, "B T"],
    s: PpoSettings,
    kl_coef: float,
) -> tuple[Targets, CriticTargets]:
    """Return what policy and value model learn from a batch: GAE, whitened, and returns.

    Args:
        batch: the rollouts.
        old: log-probs before the update.
        reference: the same under the reference.
        kl: of each token, by the estimator of the settings.
        values: before the update.
        s: gamma, lambda, value clip.
        kl_coef: what KL takes from the reward of a token; 0 where it is a loss.
    """
    mask = batch.mask & batch.scored.reshape(-1, 1)
    rewards = shaped_rewards(
        scores=batch.rewards.flatten(), kl=kl, mask=batch.mask, kl_coef=kl_coef
    )
    raw, returns = gae(
        rewards=rewards,
        values=values,
        mask=batch.mask,
        gamma=s.value.gamma,
        gae_lambda=s.value.gae_lambda,
    )
    targets = Targets(
        old=old, reference=reference, advantages=whiten(values=raw, mask=mask), mask=mask
    )
    critic = CriticTargets(old_values=values, returns=returns, value_clip=s.value.value_clip)
    return targets, critic


def foretold(targets: Targets, critic: CriticTargets) -> dict[str, float]:
    """Return how much of the returns the value model foretold; 0 where that is not defined."""
    found = explained_variance(values=critic.old_values, returns=critic.returns, mask=targets.mask)
    return {"explained_variance": float(found.nan_to_num(0.0, 0.0, 0.0))}
