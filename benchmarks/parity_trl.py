"""Our pair losses beside TRL's: values and gradients, loss by loss.

    python -m benchmarks.parity_trl

TRL's own loss code runs, on log-probs that a stand-in for its model hands it. Where the two
differ, the row says why; any other difference, or one that is gone, ends with exit code 1.
"""

import os
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from preftune.losses import bounded, direct, divergence, length, reference_free

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
TOLERANCE = 1e-5  # relative to the largest number of the row; TRL holds some settings in fp32
BETA = 0.1
ONE_PROCESS = SimpleNamespace(  # what TRL asks of an accelerator
    device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairs:
    """Summed log-probs of B pairs in nats, `[B]` each, and their lengths in tokens."""

    chosen: Tensor
    rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor
    chosen_lengths: Tensor
    rejected_lengths: Tensor

    @property
    def logratios(self) -> dict[str, Tensor]:
        """What our losses with a reference take."""
        return {
            "chosen_logratio": self.chosen - self.reference_chosen,
            "rejected_logratio": self.rejected - self.reference_rejected,
        }

    @property
    def logps(self) -> dict[str, Tensor]:
        """What our losses without a reference take."""
        return {"chosen_logps": self.chosen, "rejected_logps": self.rejected}

    @property
    def lengths(self) -> dict[str, Tensor]:
        """The two numbers of own tokens."""
        return {"chosen_lengths": self.chosen_lengths, "rejected_lengths": self.rejected_lengths}


Loss = Callable[[Pairs], Tensor]  # one number per pair


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of the table."""

    name: str
    ours: Loss
    theirs: Loss
    pairs: Pairs
    disagreement: str = ""  # why the two should differ; empty where they should not


def usual_pairs(dtype: torch.dtype = torch.float64) -> Pairs:
    """Return 32 pairs as training meets them: log ratios of some nats, 1 to 60 tokens."""
    draw = torch.Generator().manual_seed(0)
    n_w, n_l = (torch.randint(1, 61, (32,), generator=draw).to(dtype) for _ in range(2))
    w, z = (-n * (0.2 + torch.rand(32, generator=draw, dtype=dtype)) for n in (n_w, n_l))
    c, r = (5 * torch.randn(32, generator=draw, dtype=dtype) for _ in range(2))
    return Pairs(
        chosen=w.requires_grad_(),
        rejected=z.requires_grad_(),
        reference_chosen=(w - c).detach(),
        reference_rejected=(z - r).detach(),
        chosen_lengths=n_w,
        rejected_lengths=n_l,
    )


def one_pair(*, chosen: float, rejected: float, reference: float) -> Pairs:
    """Return one fp32 pair of one-token responses, for a case at the edge."""
    one = torch.ones(1)
    return Pairs(
        chosen=torch.tensor([chosen], requires_grad=True),
        rejected=torch.tensor([rejected], requires_grad=True),
        reference_chosen=reference * one,
        reference_rejected=reference * one,
        chosen_lengths=one,
        rejected_lengths=one,
    )


def trl_dpo(loss_type: str, *, tau: float = 0.05, **settings: Any) -> Loss:
    """Return the loss of TRL's `DPOTrainer` with these settings, one number per pair."""
    from trl import DPOTrainer

    options = {
        "beta": BETA,
        "label_smoothing": 0.0,
        "f_divergence_type": "reverse_kl",
        "f_alpha_divergence_coef": 0.5,
    }
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=ONE_PROCESS,
        args=SimpleNamespace(discopop_tau=tau),
        loss_types=[loss_type],
        loss_weights=[1.0],
        ld_alpha=None,
        precompute_ref_logps=True,
        use_weighting=False,
        aux_loss_enabled=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
        **(options | settings),
    )

    def loss(pairs: Pairs) -> Tensor:
        each = (
            DPOTrainer._compute_loss(trainer, *trl_batch(pairs, number), return_outputs=False)
            for number in range(len(pairs.chosen))
        )
        return torch.stack(list(each))

    return loss


def trl_batch(pairs: Pairs, number: int) -> tuple[Callable[..., Any], dict[str, Tensor]]:
    """Return a model that answers with the log-probs of one pair, and the inputs for it."""
    counts = torch.stack([pairs.chosen_lengths[number], pairs.rejected_lengths[number]])
    sums = torch.stack([pairs.chosen[number], pairs.rejected[number]])
    place = torch.arange(int(counts.max()) + 1)  # a one-token prompt, then the response
    mask = (place >= 1) & (place <= counts[:, None])
    logprobs = (sums / counts)[:, None] * mask[:, 1:]
    unread = torch.zeros_like(logprobs)
    outputs = SimpleNamespace(
        log_probs=logprobs, entropy=unread, mean_logits=unread, is_top1=unread.bool()
    )
    inputs = {
        "input_ids": torch.zeros_like(mask, dtype=torch.long),
        "attention_mask": mask,
        "completion_mask": mask.long(),
        "ref_chosen_logps": pairs.reference_chosen[number : number + 1],
        "ref_rejected_logps": pairs.reference_rejected[number : number + 1],
    }
    return (lambda **_: outputs), inputs


def trl_cpo(loss_type: str, *, averaged: bool, beta: float, gamma: float = 0.0) -> Loss:
    """Return the loss of TRL's `CPOTrainer`; it takes averages for some of its losses."""
    from trl.experimental.cpo import CPOTrainer

    trainer = SimpleNamespace(
        accelerator=ONE_PROCESS,
        loss_type=loss_type,
        beta=beta,
        simpo_gamma=gamma,
        label_smoothing=0.0,
        alpha=0.0,
    )

    def loss(pairs: Pairs) -> Tensor:
        n_w, n_l = (pairs.chosen_lengths, pairs.rejected_lengths) if averaged else (1, 1)
        found: Tensor = CPOTrainer.cpo_loss(trainer, pairs.chosen / n_w, pairs.rejected / n_l)[0]
        return found

    return loss


def trl_orpo(pairs: Pairs) -> Tensor:
    """Return minus the log of the odds ratio's sigmoid from TRL's `ORPOTrainer`."""
    from trl.experimental.orpo import ORPOTrainer

    averages = pairs.chosen / pairs.chosen_lengths, pairs.rejected / pairs.rejected_lengths
    trainer = SimpleNamespace(accelerator=ONE_PROCESS, beta=1.0)
    found: Tensor = -ORPOTrainer.odds_ratio_loss(trainer, *averages)[0]
    return found


def treated(treatment: Callable[..., Tensor], **settings: float) -> Loss:
    """Return a label treatment of the DPO logit."""
    return lambda p: treatment(direct.dpo_logit(**p.logratios, beta=BETA), **settings)


def ratio_loss(loss: Callable[..., Tensor], **settings: float) -> Loss:
    """Return one of our losses of two log ratios."""
    return lambda p: loss(**p.logratios, **settings)


def scored(score: Callable[[Tensor], Tensor]) -> Loss:
    """Return f-DPO with a score."""
    return lambda p: direct.logistic_loss(
        direct.dpo_logit(**{name: score(x) for name, x in p.logratios.items()}, beta=BETA)
    )


def alpha_score(alpha: float) -> Callable[[Tensor], Tensor]:
    """Return the score of one alpha divergence."""
    return lambda logratio: divergence.alpha_score(logratio, alpha=alpha)


def orpo(pairs: Pairs) -> Tensor:
    """Return our odds-ratio loss."""
    return direct.logistic_loss(reference_free.orpo_log_odds(**pairs.logps, **pairs.lengths))


def rows_with_a_reference(pairs: Pairs, single: Pairs) -> list[Row]:
    """Return the losses of `DPOTrainer`; `single` is fp32, where TRL's alpha form needs that."""
    b = {"beta": BETA}
    pairwise: dict[str, tuple[Loss, Loss]] = {
        "sigmoid": (treated(direct.logistic_loss), trl_dpo("sigmoid")),
        "robust": (
            treated(direct.flip_corrected_loss, flip_rate=0.1),
            trl_dpo("robust", label_smoothing=0.1),
        ),
        "hinge": (treated(direct.hinge_loss), trl_dpo("hinge")),
        "ipo": (lambda p: length.ipo_loss(**p.logratios, **p.lengths, tau=BETA), trl_dpo("ipo")),
        "sigmoid_norm": (
            lambda p: direct.logistic_loss(
                length.length_normalised_logit(**p.logratios, **p.lengths, beta=5.0)
            ),
            trl_dpo("sigmoid_norm", beta=5.0),
        ),
        "exo": (
            ratio_loss(bounded.exo_loss, flip_rate=1e-3, **b),
            trl_dpo("exo_pair", label_smoothing=1e-3),
        ),
        "nca": (ratio_loss(bounded.nca_loss, **b), trl_dpo("nca_pair")),
        "bco, delta 0": (ratio_loss(bounded.bco_pair_loss, delta=0.0, **b), trl_dpo("bco_pair")),
        "sppo_hard": (ratio_loss(bounded.sppo_hard_loss, **b), trl_dpo("sppo_hard")),
        "apo_zero": (ratio_loss(bounded.apo_zero_loss, **b), trl_dpo("apo_zero")),
        "apo_down": (ratio_loss(bounded.apo_down_loss, **b), trl_dpo("apo_down")),
        "discopop": (ratio_loss(bounded.discopop_loss, tau=0.05, **b), trl_dpo("discopop")),
        "f: forward KL": (
            scored(divergence.forward_kl_score),
            trl_dpo("sigmoid", f_divergence_type="forward_kl"),
        ),
        "f: Jensen-Shannon": (
            scored(divergence.js_score),
            trl_dpo("sigmoid", f_divergence_type="js_divergence"),
        ),
    }
    rows = [Row(name=name, ours=o, theirs=t, pairs=pairs) for name, (o, t) in pairwise.items()]
    return rows + [
        Row(
            name=f"f: alpha {alpha}",
            ours=scored(alpha_score(alpha)),
            theirs=trl_dpo(
                "sigmoid", f_divergence_type="alpha_divergence", f_alpha_divergence_coef=alpha
            ),
            pairs=single,
        )
        for alpha in (0.25, 0.5)
    ]


def rows_without_a_reference(pairs: Pairs, single: Pairs) -> list[Row]:
    """Return the losses of `CPOTrainer` and `ORPOTrainer`; the last works in fp32."""
    pairwise: dict[str, tuple[Loss, Loss]] = {
        "cpo": (
            lambda p: direct.logistic_loss(reference_free.cpo_logit(**p.logps, beta=BETA)),
            trl_cpo("sigmoid", averaged=False, beta=BETA),
        ),
        "simpo": (
            lambda p: direct.logistic_loss(
                reference_free.simpo_logit(**p.logps, **p.lengths, beta=2.0, gamma=0.5)
            ),
            trl_cpo("simpo", averaged=True, beta=2.0, gamma=0.5),
        ),
        "slic, delta 1": (
            lambda p: reference_free.slic_loss(**p.logps, delta=1.0),
            trl_cpo("hinge", averaged=False, beta=1.0),
        ),
    }
    rows = [Row(name=name, ours=o, theirs=t, pairs=pairs) for name, (o, t) in pairwise.items()]
    return [*rows, Row(name="orpo, odds", ours=orpo, theirs=trl_orpo, pairs=single)]


def rows_that_differ(pairs: Pairs) -> list[Row]:
    """Return the cases in which we know that the two differ."""
    b = {"beta": BETA}
    return [
        Row(
            name="cdpo",
            ours=treated(direct.smoothed_loss, flip_rate=0.1),
            theirs=trl_dpo("sigmoid", label_smoothing=0.1),
            pairs=pairs,
            disagreement="TRL's sigmoid takes label_smoothing and does nothing with it",
        ),
        Row(
            name="ipo_sum",
            ours=ratio_loss(length.ipo_sum_loss, tau=BETA),
            theirs=trl_dpo("ipo"),
            pairs=pairs,
            disagreement="TRL has only the averaged form, our ipo_loss",
        ),
        Row(
            name="bco, delta 0.2",
            ours=ratio_loss(bounded.bco_pair_loss, delta=0.2, **b),
            theirs=trl_dpo("bco_pair"),
            pairs=pairs,
            disagreement="TRL's pair form leaves the running mean out: delta is 0",
        ),
        Row(
            name="discopop, far wrong",
            ours=ratio_loss(bounded.discopop_loss, tau=0.05, **b),
            theirs=trl_dpo("discopop"),
            pairs=one_pair(chosen=-1500.0, rejected=-100.0, reference=-100.0),
            disagreement="TRL computes inf * 0",
        ),
        Row(
            name="f: forward KL, far wrong",
            ours=scored(divergence.forward_kl_score),
            theirs=trl_dpo("sigmoid", f_divergence_type="forward_kl"),
            pairs=one_pair(chosen=-300.0, rejected=-300.0, reference=-100.0),
            disagreement="TRL computes inf - inf; our exponent is held at 80",
        ),
        Row(
            name="orpo, certain response",
            ours=orpo,
            theirs=trl_orpo,
            pairs=one_pair(chosen=0.0, rejected=-1.0, reference=-1.0),
            disagreement="TRL's odds are infinite; our average is held at -1e-7",
        ),
    ]


def measured(loss: Loss, pairs: Pairs) -> Tensor:
    """Return `[3 B]`: every value, then every gradient on chosen and on rejected."""
    value = loss(pairs)
    gradients = torch.autograd.grad(value.sum(), [pairs.chosen, pairs.rejected])
    return torch.cat([value.detach(), *gradients]).double()


def compare(row: Row) -> bool:
    """Print one line; return whether the two differ exactly where the row says so."""
    ours, theirs = measured(row.ours, row.pairs), measured(row.theirs, row.pairs)
    count = len(row.pairs.chosen)
    value = (ours - theirs)[:count].abs().max().item()
    gradient = (ours - theirs)[count:].abs().max().item()
    scale = max(1.0, ours.abs().max().item())
    agree = value <= TOLERANCE * scale and gradient <= TOLERANCE * scale  # a nan disagrees
    as_told = agree == (not row.disagreement) and bool(ours.isfinite().all())
    verdict = "agree" if agree else f"differ: {row.disagreement or 'NOT EXPECTED'}"
    print(
        f"{row.name:25} {ours[:count].mean():12.6f} {theirs[:count].mean():12.6f} "
        f"{value:9.1e} {gradient:9.1e}  {verdict if as_told else verdict + ' (UNEXPECTED)'}"
    )
    return as_told


def main() -> int:
    """Print the table; return 0 when nothing in it is a surprise."""
    warnings.simplefilter("ignore")
    pairs, single = usual_pairs(), usual_pairs(torch.float32)
    rows = [
        *rows_with_a_reference(pairs, single),
        *rows_without_a_reference(pairs, single),
        *rows_that_differ(pairs),
    ]
    print(f"{'loss':25} {'ours':>12} {'TRL':>12} {'value':>9} {'gradient':>9}  largest difference")
    surprises = [row.name for row in rows if not compare(row)]
    if surprises:
        print(f"not as expected: {', '.join(surprises)}", file=sys.stderr)
    return 1 if surprises else 0


if __name__ == "__main__":
    sys.exit(main())
