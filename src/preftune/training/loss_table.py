"""Every pair loss by name, what it reads and what its sums mean: all that is known without torch.

The formulas are in `objectives`; the server, which has no torch, checks jobs by this table alone.
"""

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from preftune.errors import SettingsError
from preftune.settings import flat
from preftune.training.settings import DirectSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """What is known of a pair loss.

    Attributes:
        reads: the settings it reads and their usual values; None: it has none, give it.
        gives: a logit still takes what the label asks of it.
        has_reference: whether it looks at the reference at all.
        scope: what the value of one pair depends on.
    """

    reads: Mapping[str, float | None]
    gives: Literal["logit", "loss"] = "loss"
    has_reference: bool = True
    scope: Literal["pair", "step", "sorted step"] = "pair"


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """One loss of a sum."""

    name: str
    weight: float

    @property
    def known(self) -> Loss:
        """Its entry in the table."""
        return LOSSES[self.name]


def logit(reads: Mapping[str, float | None], *, has_reference: bool = True) -> Loss:
    """Return a loss that is a logit before its label is known."""
    return Loss(reads=reads, gives="logit", has_reference=has_reference)


BETA = {"beta": 0.1}
NOISY = BETA | {"flip_rate": 0.1}
SORTED = BETA | {"flip_rate": 0.0}
TYPICAL = BETA | {"beta_scale": 0.6, "keep_frac": 0.8, "margin_decay": 0.9}
TAU = {"tau": 0.1}
LOSSES: dict[str, Loss] = {
    "sigmoid": logit(BETA),
    "sigmoid_norm": logit({"beta": 5.0}),
    "r_dpo": logit(BETA | {"length_alpha": None}),
    "dpop": logit({"beta": 0.3, "dpop_penalty": 50.0}),
    "forward_kl": logit(BETA),
    "js": logit(BETA),
    "alpha_divergence": logit(BETA | {"divergence_alpha": 0.5}),
    "ld_dpo": logit(BETA | {"ld_alpha": 0.5}),
    "sampo": logit(BETA),
    "dmpo": logit(BETA | {"turn_gamma": 0.7}),
    "turn_mean": logit(BETA),
    "simpo": logit({"beta": 2.0, "simpo_gamma": 0.5}, has_reference=False),
    "cpo": logit(BETA, has_reference=False),
    "cdpo": Loss(reads=NOISY),
    "robust": Loss(reads=NOISY),
    "hinge": Loss(reads=BETA),
    "ipo": Loss(reads=TAU),
    "ipo_sum": Loss(reads=TAU),
    "exo": Loss(reads=BETA | {"flip_rate": 1e-3}),
    "nca": Loss(reads=BETA),
    "bco_pair": Loss(reads=BETA),
    "sppo_hard": Loss(reads={"beta": 1e-3}),
    "apo_zero": Loss(reads=BETA),
    "apo_down": Loss(reads=BETA),
    "discopop": Loss(reads=BETA | {"tau": 0.05}),
    "orpo": Loss(reads={"odds_weight": 0.1}, has_reference=False),
    "slic": Loss(reads={"slic_delta": 1.0}, has_reference=False),
    "aot": Loss(reads=SORTED, scope="sorted step"),
    "aot_unpaired": Loss(reads=SORTED, scope="sorted step"),
    "beta_dpo": Loss(reads=TYPICAL, scope="step"),
}
OPTIONS = tuple(dict.fromkeys(name for loss in LOSSES.values() for name in loss.reads))


def parse_terms(text: str) -> tuple[Term, ...]:
    """Return the terms of `name`, or of a sum such as `0.8*sigmoid + 0.2*bco_pair`.

    Raises:
        SettingsError: an unknown name (with the nearest one), a weight that is not > 0, a name
            given twice.
    """
    terms = tuple(_term(part.strip()) for part in text.split("+"))
    names = [term.name for term in terms]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise SettingsError(f"loss: {twice[0]} stands in the sum twice. Add up its weights.")
    return terms


def _term(text: str) -> Term:
    head, star, tail = text.rpartition("*")
    name = tail.strip()
    if name not in LOSSES:
        near = difflib.get_close_matches(name, LOSSES, n=1, cutoff=0.0)[0]
        raise SettingsError(
            f"loss: {name!r} unknown, nearest {near!r}. Known: {', '.join(LOSSES)}."
        )
    try:
        weight = float(head) if star else 1.0
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise SettingsError(f"loss: the weight of {name} is {head!r}. Write a number > 0.")
    return Term(name=name, weight=weight)


def check_loss(s: DirectSettings) -> None:
    """Refuse what a loss does not read, and a loss that lacks what it reads; but see `check_beta`.

    Ranges, and what depends on the rows, are seen when the run begins.

    Raises:
        SettingsError: names the setting.
    """
    terms, given = parse_terms(s.loss), flat(s)
    for name in OPTIONS:
        check_read(name, None if name == "beta" else given[name], s.loss)
        if given[name] is None:
            usual(name, terms)
    refuse_what_does_nothing(terms, s)


def check_beta(loss: str, beta: float | None) -> None:
    """Refuse a beta that the loss does not read.

    Raises:
        SettingsError: there is one, and nothing reads it.
    """
    check_read("beta", beta, loss)


def check_read(name: str, value: float | None, loss: str) -> None:
    """Refuse a setting that is given and that no term of the loss reads.

    Raises:
        SettingsError: names the losses that do.
    """
    if value is None or any(name in term.known.reads for term in parse_terms(loss)):
        return
    raise SettingsError(
        f"{name} changes nothing in loss {loss}: it is read by "
        f"{', '.join(_names(lambda known: name in known.reads))}. Leave one out."
    )


def usual(name: str, terms: Sequence[Term]) -> float:
    """Return the usual value of a setting in a sum; NaN where no term reads it.

    Raises:
        SettingsError: there is none, or each term has another.
    """
    readers = [term for term in terms if name in term.known.reads]
    values = {term.known.reads[name] for term in readers}
    value = values.pop() if values else math.nan
    if value is None or values:
        why = "has no usual value" if value is None else "has another default in each"
        told = ", ".join(term.name for term in readers)
        raise SettingsError(
            f"loss: {name} of {told} {why}. Give {name} (--{name.replace('_', '-')})."
        )
    return value


def refuse_what_does_nothing(terms: Sequence[Term], s: DirectSettings) -> None:
    """Refuse a label, a weighting or a moving reference that these terms do not look at.

    Raises:
        SettingsError: says which, and what to use.
    """
    fixed = [term.name for term in terms if term.known.gives == "loss"]
    if s.label != "hard" and fixed:
        raise SettingsError(
            f"label {s.label} changes nothing in loss {fixed[0]}. Use label hard, or one of "
            f"{', '.join(_names(lambda known: known.gives == 'logit'))}."
        )
    sorting = [term.name for term in terms if term.known.scope == "sorted step"]
    if s.variant.weighting != "none" and sorting:
        raise SettingsError(
            f"weighting {s.variant.weighting} needs pairs, and loss {sorting[0]} sorts the step. "
            "Leave it out."
        )
    if s.moving.ref_every and not any(term.known.has_reference for term in terms):
        raise SettingsError(
            f"ref_every changes nothing in loss {s.loss}: it has no reference. Leave it out."
        )


def _names(wanted: Callable[[Loss], bool]) -> list[str]:
    return [name for name, known in LOSSES.items() if wanted(known)]
