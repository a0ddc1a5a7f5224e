"""The loss of a run: one objective or a weighted sum, with what its labels and settings say."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor

from preftune.errors import SettingsError
from preftune.losses.direct import (
    logistic_loss,
    offset_loss,
    require_not_negative,
    require_positive,
    soft_label_loss,
)
from preftune.losses.tokens import wpo_weight
from preftune.settings import build, flat
from preftune.training.facts import Facts
from preftune.training.loss_table import (
    Term,
    check_read,
    parse_terms,
    refuse_what_does_nothing,
    usual,
)
from preftune.training.objectives import OBJECTIVES, Objective, Options
from preftune.training.pair_inputs import PairInputs, Side, StepState
from preftune.training.settings import DirectSettings

CARE_DESK_NLL = 0.2  # docs/training.md says why plain DPO comes with it
OFFSET_PER_STRENGTH = 0.2
REF_MIX = 0.6


@dataclass(frozen=True, kw_only=True, slots=True)
class LossSum:
    """A weighted sum of objectives, ready to be asked."""

    terms: tuple[Term, ...]
    options: Options
    nll_weight: float
    label: Literal["hard", "soft", "offset"]
    offset_per_strength: float
    weighting: Literal["none", "wpo"]

    @classmethod
    def of(cls, s: DirectSettings) -> "LossSum":
        """Return the loss that the settings describe.

        Raises:
            SettingsError: an unknown loss, a setting out of range, or one that nothing reads.
        """
        terms = parse_terms(s.loss)
        refuse_what_does_nothing(terms, s)
        given_nll, offset = s.nll_weight, s.variant.offset_per_strength
        loss = cls(
            terms=terms,
            options=_options(terms, flat(s)),
            nll_weight=_usual_nll(terms) if given_nll is None else given_nll,
            label=s.label,
            offset_per_strength=OFFSET_PER_STRENGTH if offset is None else offset,
            weighting=s.variant.weighting,
        )
        loss.try_on(64)
        return loss

    @property
    def has_reference(self) -> bool:
        """Whether any term looks at the reference."""
        return any(term.known.has_reference for term in self.terms)

    @property
    def needs_whole_step(self) -> bool:
        """Whether micro-batches would change the loss."""
        return any(term.known.scope != "pair" for term in self.terms)

    def losses(self, p: PairInputs) -> Tensor:
        """Return the loss of each pair `[B]`, before weights of pairs and the mean."""
        return self._sum(p, [one.compute(p, self.options) for one in self._objectives()])

    def start(self, p: PairInputs) -> Tensor | None:
        """Return what `losses` must be where policy == reference, by closed forms.

        None when a term has no reference: then nothing is known.
        """
        starts = [one.start(p, self.options) for one in self._objectives()]
        known = [start for start in starts if start is not None]
        return self._sum(p, known) if len(known) == len(starts) else None

    def rewards(self, p: PairInputs) -> tuple[Tensor, Tensor]:
        """Return the implicit rewards of chosen and of rejected, `[B]` each, by the first term.

        beta times the log ratio (the log-prob where there is no reference), per token for
        objectives on averages; without a beta the log ratio itself.
        """
        first = self.terms[0]
        beta = self.options.beta if "beta" in first.known.reads else 1.0
        chosen, rejected = beta * p.chosen.logratio, beta * p.rejected.logratio
        if OBJECTIVES[first.name].per_token:
            return chosen / p.chosen.lengths, rejected / p.rejected.lengths
        return chosen, rejected

    def try_on(self, pairs: int) -> None:
        """Refuse settings that the losses refuse, on as many made-up pairs as a step has.

        Raises:
            SettingsError: with the loss's own words.
        """
        try:
            require_not_negative(nll_weight=self.nll_weight)
            require_positive(offset_per_strength=self.offset_per_strength)
            with torch.no_grad():
                for one in self._objectives():
                    one.compute(_made_up(pairs), self.options)
        except ValueError as error:
            raise SettingsError(f"loss {self}: {error}") from error

    def check_pairs(self, facts: Facts) -> None:
        """Refuse pairs on which a setting would change nothing, or mean something else.

        Raises:
            SettingsError: says which setting and what to use.
        """
        if self.label == "soft" and (facts["probability"] == 1).all():
            raise SettingsError("label soft: no pair has a probability below 1. Use label hard.")
        if self.label == "offset" and not (facts["strength"] > 0).any():
            raise SettingsError("label offset: no pair has a strength above 0. Use label hard.")
        by_turn = [term.name for term in self.terms if OBJECTIVES[term.name].by_turn]
        if by_turn and facts["turns"].max(initial=1) == 1:
            raise SettingsError(
                f"loss {by_turn[0]}: every response is one turn, so it is plain DPO. Use sigmoid."
            )
        mixed = [term.name for term in self.terms if term.known.scope == "sorted step"]
        if mixed and len(set(facts["weight"].tolist())) > 1:
            raise SettingsError(
                f"loss {mixed[0]}: it sorts the step, so pairs cannot have weights of their own. "
                "Give every pair the same weight."
            )

    def __str__(self) -> str:
        return " + ".join(
            term.name if term.weight == 1 else f"{term.weight:g}*{term.name}" for term in self.terms
        )

    def _objectives(self) -> Iterator[Objective]:
        return (OBJECTIVES[term.name] for term in self.terms)

    def _sum(self, p: PairInputs, values: Sequence[Tensor]) -> Tensor:
        """Return the weighted sum of what the terms give, once the labels are in it."""
        pairs = zip(self.terms, values, strict=True)
        losses = [term.weight * self._labelled(term, value, p) for term, value in pairs]
        total = torch.stack(losses).sum(0)
        if self.weighting == "wpo":
            return total * _on_policy(p.chosen) * _on_policy(p.rejected)
        return total

    def _labelled(self, term: Term, value: Tensor, p: PairInputs) -> Tensor:
        if term.known.gives == "loss":
            return value
        if self.label == "soft":
            return soft_label_loss(value, probability=p.probability)
        if self.label == "offset":
            return offset_loss(value, offset=self.offset_per_strength * p.strength)
        return logistic_loss(value)


def resolved(s: DirectSettings) -> DirectSettings:
    """Return the settings with every default of the loss filled in; what it ignores stays None.

    Raises:
        SettingsError: as `LossSum.of`.
    """
    loss = LossSum.of(s)
    values = {name: value for name, value in asdict(loss.options).items() if not math.isnan(value)}
    values["nll_weight"] = loss.nll_weight
    if s.label == "offset":
        values["offset_per_strength"] = loss.offset_per_strength
    if s.moving.ref_every:
        values["ref_mix"] = REF_MIX if s.moving.ref_mix is None else s.moving.ref_mix
    return build(DirectSettings, flat(s) | values, where="settings")


def _options(terms: Sequence[Term], given: dict[str, Any]) -> Options:
    """Return the value of every setting that a term reads; refuse those that none reads."""
    found: dict[str, float] = {}
    for name in (field.name for field in fields(Options)):
        check_read(name, given[name], given["loss"])
        found[name] = usual(name, terms) if given[name] is None else given[name]
    return Options(**found)


def _usual_nll(terms: Sequence[Term]) -> float:
    if [term.name for term in terms] == ["sigmoid"]:
        return CARE_DESK_NLL
    return sum(term.weight * OBJECTIVES[term.name].nll_weight for term in terms)


def _on_policy(side: Side) -> Tensor:
    if side.log_collisions is None:
        raise SettingsError(
            "weighting wpo: this model's head is not a plain linear layer, or --engine is plain. "
            "Use weighting none."
        )
    return wpo_weight(logprobs=side.logprobs, log_collision=side.log_collisions, mask=side.own)


def _made_up(pairs: int) -> PairInputs:
    """Return pairs of two tokens, the policy where the reference is."""
    side = Side(
        logprobs=torch.full((pairs, 2), -1.0),
        reference=torch.full((pairs, 2), -1.0),
        own=torch.ones(pairs, 2, dtype=torch.bool),
        turn_of_token=torch.zeros(pairs, 2, dtype=torch.long),
    )
    ones = torch.ones(pairs)
    return PairInputs(
        chosen=side,
        rejected=side,
        weights=ones,
        probability=ones,
        strength=ones,
        seeds=(0,) * pairs,
        state=StepState(),
    )
