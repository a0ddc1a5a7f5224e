"""The pull towards the reference during a run: its price, how it is measured, how it is steered."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from preftune.inference.policy_rollouts import PolicyRollouts
from preftune.losses.kl import adapted_kl_coef
from preftune.training.policy_run import PolicyRun
from preftune.training.policy_settings import LeashSettings
from preftune.training.policy_update import KL, Minibatch, asked
from preftune.training.rollout_batch import Experience

COEF = "kl_coef"  # in Learner.extra


@dataclass(frozen=True, kw_only=True, slots=True)
class Leash:
    """The price of KL now, kept with the weights."""

    s: LeashSettings
    job: PolicyRun
    single: bool  # each batch of rollouts is used for one optimiser step

    @classmethod
    def of(cls, s: LeashSettings, job: PolicyRun) -> "Leash":
        """Return the leash at its start; without one, a warning."""
        job.learner.extra[COEF] = torch.tensor(s.kl_coef, dtype=torch.float64)
        if not s.kl_coef and not job.run.metrics():
            job.run.warn(
                "kl_coef is 0: no leash. The policy may go anywhere that the reward is high; "
                "watch the gold, or set --kl-stop."
            )
        update = getattr(job.s, "update", None)
        single = update is not None and update.updates * update.minibatches == 1
        return cls(s=s, job=job, single=single)

    @property
    def coef(self) -> float:
        """What a nat of KL costs now."""
        return float(self.job.learner.extra[COEF])

    @property
    def in_reward(self) -> float:
        """What a nat of KL takes from a reward; 0 where it is a loss."""
        return self.coef if self.s.kl_in == "reward" else 0.0

    def before_update(
        self, batch: Experience, plan: Sequence[Sequence[Minibatch]], *, step: int
    ) -> Float[Tensor, "B T"]:
        """Return the log-probs before the update.

        With one optimiser step and fp32 the sampler's own do: it is the same model. The first step
        asks the trainer as well, and stops the run if policy and reference differ.
        """
        same = self.job.learner.masters.dtype == torch.float32
        same = same and isinstance(self.job.source, PolicyRollouts)
        if self.single and same and step:
            return batch.sampled
        return asked(self.job.roles.logprobs, batch, plan[0])

    def per_token(
        self, old: Float[Tensor, "B T"], reference: Float[Tensor, "B T"]
    ) -> Float[Tensor, "B T"]:
        """Return the KL of each token by the estimator of the settings, in nats."""
        return KL[self.s.kl_estimator](policy_logprobs=old, reference_logprobs=reference)

    def after(self, old: Float[Tensor, "B T"], reference: Float[Tensor, "B T"]) -> dict[str, float]:
        """Return the KL of the batch in nats a response, and steer the price by it."""
        kl = (old - reference).double().sum(-1).mean().item()
        coef = self.coef
        if self.s.kl_target and coef:
            steered = adapted_kl_coef(
                kl_coef=coef,
                kl=kl,
                target=self.s.kl_target,
                replies=len(old),
                horizon=self.s.kl_horizon,
            )
            self.job.learner.extra[COEF] = torch.tensor(steered, dtype=torch.float64)
        return {"kl": kl, "kl_coef": coef}
