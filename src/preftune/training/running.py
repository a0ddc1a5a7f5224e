"""What a direct run keeps between steps: running means, and a reference that follows the policy.

Both live in `Learner.extra`, so a checkpoint holds them and a resumed run goes on with them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from preftune.engine.core import Core
from preftune.engine.learner import Learner
from preftune.engine.logprobs import TokenLogprobs
from preftune.engine.precision import trainable
from preftune.losses.batchwise import MarginAverage
from preftune.training.diagnostics import PairFigures
from preftune.training.loss_sum import LossSum
from preftune.training.pair_inputs import StepState
from preftune.training.rows import PairRow
from preftune.training.settings import MovingSettings

ReferenceOf = Callable[[Sequence[int]], TokenLogprobs]  # row numbers to chosen, rejected, …
MOVES = "reference_moves"
WEIGHT = "reference/"


def state_of(extra: dict[str, Tensor], *, step: int, seed: int) -> StepState:
    """Return what a step knows of the steps before it."""
    kept = {name: value.item() for name, value in extra.items() if value.ndim == 0}
    return StepState(
        step=step,
        seed=seed,
        delta=kept.get("reward_sum", 0.0) / max(1.0, kept.get("reward_count", 0.0)),
        average=MarginAverage(
            centre=kept.get("margin_centre", 0.0), spread=kept.get("margin_spread", 0.0)
        ),
    )


def remember(extra: dict[str, Tensor], pairs: PairFigures, loss: LossSum, state: StepState) -> None:
    """Add the pairs of a step to the running values that the loss asks for.

    bco_pair: the mean reward of all responses so far. beta_dpo: mean and spread of the margins.
    """
    names = {term.name for term in loss.terms}
    if "bco_pair" in names:
        rewards = loss.options.beta * torch.cat([pairs.chosen, pairs.rejected]).double()
        _add(extra, "reward_sum", rewards.sum().item())
        _add(extra, "reward_count", float(len(rewards)))
    if "beta_dpo" in names:
        average = state.average.updated(pairs.margins, decay=loss.options.margin_decay)
        extra["margin_centre"] = torch.tensor(average.centre, dtype=torch.float64)
        extra["margin_spread"] = torch.tensor(average.spread, dtype=torch.float64)


def _add(extra: dict[str, Tensor], name: str, value: float) -> None:
    before = extra[name].item() if name in extra else 0.0
    extra[name] = torch.tensor(before + value, dtype=torch.float64)


def moving_reference(
    learner: Learner,
    core: Core,
    rows: Sequence[PairRow],
    start: ReferenceOf | None,
    settings: MovingSettings,
) -> "MovingReference | None":
    """Return a reference that moves, its first weights in `learner.extra`; None if it stays."""
    if start is None or not settings.ref_every or settings.ref_mix is None:
        return None
    learner.extra[MOVES] = torch.tensor(0, dtype=torch.int64)
    for name, weight in learner.masters.weights.items():
        learner.extra[WEIGHT + name] = weight.detach().clone()
    return MovingReference(
        learner=learner,
        core=core,
        rows=rows,
        start=start,
        every=settings.ref_every,
        mix=settings.ref_mix,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class MovingReference:
    """A reference that every so many steps becomes mix * policy + (1 - mix) * itself (TR-DPO).

    Its weights are copies of the fp32 masters (with LoRA, of the adapter) in `learner.extra`.
    Until the first move the log-probs computed at the start serve; after it they are computed live.

    Source: Gorbatovski et al. 2024 (TR-DPO), arXiv:2404.09656.
    """

    learner: Learner
    core: Core
    rows: Sequence[PairRow]
    start: ReferenceOf
    every: int  # steps
    mix: float  # share of the policy, > 0 and at most 1

    @torch.no_grad()
    def __call__(self, numbers: Sequence[int]) -> TokenLogprobs:
        """Return the log-probs of these rows under the reference as it is now."""
        if not self.learner.extra[MOVES]:
            return self.start(numbers)
        with self._weights_in_place():
            return self.core.token_logprobs([self.rows[number].sequences for number in numbers])

    @torch.no_grad()
    def after(self, step: int) -> None:
        """Move the reference when it is time."""
        if (step + 1) % self.every:
            return
        for name, weight in self.learner.masters.weights.items():
            self.learner.extra[WEIGHT + name].lerp_(weight.detach(), self.mix)
        self.learner.extra[MOVES] += 1

    def distance(self, pairs: PairFigures, numbers: Sequence[int]) -> dict[str, float]:
        """Return how far the policy is from where it started, beside the moving reference."""
        start = self.start(numbers).sums().reshape(-1, 2).to(pairs.chosen_logps.device)
        return {
            "chosen_from_start": (pairs.chosen_logps - start[:, 0]).mean().item(),
            "rejected_from_start": (pairs.rejected_logps - start[:, 1]).mean().item(),
        }

    @contextmanager
    def _weights_in_place(self) -> Iterator[None]:
        """Compute with the reference's weights, all dropout off; then with the policy's again."""
        parameters = trainable(self.learner.model)
        policy = {name: parameter.data for name, parameter in parameters.items()}
        modes = [(module, module.training) for module in self.learner.model.modules()]
        self.learner.model.eval()
        try:
            for name, parameter in parameters.items():
                parameter.data = self.learner.extra[WEIGHT + name].to(parameter.dtype)
            yield
        finally:
            for name, parameter in parameters.items():
                parameter.data = policy[name]
            for module, training in modes:
                module.training = training
