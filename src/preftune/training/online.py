"""Online DPO: at each step fresh pairs of the policy itself, judged by a scorer, and learnt."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from preftune.engine.logprobs import TokenLogprobs
from preftune.errors import HealthError, SettingsError
from preftune.graders.scorer import Scorer
from preftune.settings import checked
from preftune.training.facts import FACTS, Said
from preftune.training.loss_sum import LossSum
from preftune.training.pair_step import backward
from preftune.training.policy_run import SIGNAL_STEPS, PolicyRun, material_of
from preftune.training.policy_settings import OnlineSettings
from preftune.training.rollout_batch import Experience
from preftune.training.rows import PairRow
from preftune.training.run import Run
from preftune.training.running import remember, state_of
from preftune.training.settings import DirectSettings


def train(
    settings: OnlineSettings, *, scorer: Scorer | None = None, audit: Scorer | None = None
) -> Path:
    """Train, or go on with an unfinished run, and return the folder of the tuned model.

    Of the responses to each prompt the one with the highest reward is chosen, that with the lowest
    rejected. Prompts whose responses are all alike make no pair in that step.

    Args:
        settings: all one can turn.
        scorer: a reward model, rule or judge, instead of those of the settings.
        audit: gold that training never sees, instead of the settings'.

    Raises:
        HealthError: at step 0 policy and reference differ, rewards that carry no signal, or a
            number that is none.
        PreftuneError: bad settings, prompts, model or scorer, or a folder that holds another run.

    Source: Guo et al. 2024 (OAIF), arXiv:2402.04792.
    """
    s = checked(settings)
    loss = loss_of(s)
    with (
        material_of(s, scorer, audit) as material,
        Run.open(s, method="online", inputs=material.inputs) as run,
    ):
        if run.finished:
            return run.final
        job = PolicyRun.begin(run, s, material)
        for step, numbers in run.steps(job.learner):
            batch = job.experience(step, numbers)
            pairs = fresh_pairs(batch, least_gap=s.least_gap)
            metrics = {**batch.figures(), "pairs": float(len(pairs))}
            kl = kl_of(job, batch)
            with run.timed("update"):
                learnt = learn_pairs(job, pairs, loss, s, step=step)
            run.record(step, {**learnt, **metrics, "kl": kl})
            check_pairs_come(run, step, of=job.learner.order.steps, least_gap=s.least_gap)
            job.watch_kl(kl, step=step)
        return job.publish()


def check_pairs_come(run: Run, step: int, *, of: int, least_gap: float) -> None:
    """Stop when the first steps have made no pair.

    Raises:
        HealthError: says what to change.
    """
    first = min(SIGNAL_STEPS, of)
    if step + 1 == first and not any(row["pairs"] for row in run.metrics()):
        raise HealthError(
            f"{run.folder}: no pairs: in the first {first} steps no two responses to a prompt "
            f"differ by more than least_gap {least_gap:g} in reward. Lower it, or raise --samples "
            "or --temperature."
        )


def loss_of(s: OnlineSettings) -> LossSum:
    """Return the loss of the settings, one that looks at single pairs.

    Raises:
        SettingsError: as `LossSum.of`; a loss that compares all pairs of a step; a setting that
            changes nothing on pairs without strength, probability or turns.
    """
    direct = DirectSettings(
        model=s.model,
        data=s.data,
        run=s.run,
        loss=s.loss,
        beta=s.beta,
        nll_weight=s.nll_weight,
        variant=s.variant,
    )
    loss = LossSum.of(direct)
    if loss.needs_whole_step:
        raise SettingsError(
            f"loss {loss}: it compares all pairs of a step, and their number changes from step to "
            "step here. Use a loss on single pairs, such as sigmoid."
        )
    loss.check_pairs(np.array([(*Said(), 0)], dtype=FACTS))
    return loss


def fresh_pairs(batch: Experience, *, least_gap: float) -> list[PairRow]:
    """Return best against worst of each prompt, where they differ in reward by more than a gap.

    Responses that are the same tokens, or that nobody scored, make no pair.
    """
    pairs = []
    for number, row in enumerate(batch.rows):
        scored = [
            (float(batch.rewards[number, i]), i) for i in batch.scored[number].nonzero()[:, 0]
        ]
        if not scored:
            continue
        (high, best), (low, worst) = max(scored), min(scored)
        chosen, rejected = row[int(best)], row[int(worst)]
        if high - low > least_gap and chosen.response_ids != rejected.response_ids:
            pairs.append(
                PairRow(
                    number=number,
                    chosen=chosen,
                    rejected=rejected,
                    weight=1.0,
                    probability=1.0,
                    strength=None,
                )
            )
    return pairs


@torch.no_grad()
def kl_of(job: PolicyRun, batch: Experience) -> float:
    """Return the KL of the step's responses to the reference, nats a response (k1)."""
    with job.run.timed("score"):
        reference = torch.cat([job.roles.reference_logprobs([row]).sum(-1) for row in batch.rows])
    return float((batch.sampled.sum(-1) - reference.cpu()).double().mean())


def learn_pairs(
    job: PolicyRun, pairs: Sequence[PairRow], loss: LossSum, s: OnlineSettings, *, step: int
) -> dict[str, float]:
    """Make the optimiser step of these pairs; without any the weights stay as they are."""
    if not pairs:
        return {"loss": 0.0, "lr": 0.0, "grad_norm": 0.0}

    def reference(numbers: Sequence[int]) -> TokenLogprobs:
        return job.roles.reference_tokens([pairs[number].sequences for number in numbers])

    extra = job.learner.extra
    state = state_of(extra, step=step, seed=s.run.seed)
    asked = reference if loss.has_reference else None
    figures = backward(
        job.roles.policy_core, pairs, range(len(pairs)), asked, loss, state, s.engine
    )
    remember(extra, figures.pairs, loss, state)
    metrics = figures.metrics()
    return {**metrics, **job.run.learn(job.learner, step=step, loss=metrics["loss"])}
