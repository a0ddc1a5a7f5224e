"""How the scores of several reward models become one: settings, and what carries them out."""

import hashlib
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from preftune.errors import SettingsError
from preftune.settings import build, read_yaml, write_yaml

if TYPE_CHECKING:
    from torch import Tensor

Combination = Literal["weighted", "constraint", "soft-and", "min", "uncertainty"]
ONLY_WITH = {
    "weights": ("weighted", "constraint"),
    "thresholds": ("constraint", "soft-and"),
    "softness": ("soft-and",),
    "variance_coef": ("uncertainty",),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class CombineSettings:
    """How several scores of a response become one; with one model its score as it is."""

    combine: Annotated[
        Combination,
        Meta(
            description="weighted sum; constraint: the first models must reach their thresholds, "
            "then the others count; soft-and; min: the lowest; uncertainty: mean less variance."
        ),
    ] = "weighted"
    weights: Annotated[
        tuple[float, ...],
        Meta(description="Weight of each model that is no constraint; none: all alike, sum 1."),
    ] = ()
    thresholds: Annotated[
        tuple[float, ...],
        Meta(description="What each constraint must reach, in sd; in soft-and one per model."),
    ] = ()
    softness: Annotated[
        tuple[float, ...],
        Meta(description="Width of each step in soft-and, in sd; none: 1 for each model."),
    ] = ()
    variance_coef: Annotated[
        float, Meta(gt=0, description="What variance between models costs, with uncertainty.")
    ] = 0.5
    clip_sd: Annotated[
        float, Meta(ge=0, description="Clip each model's score at so many sd; 0: not at all.")
    ] = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            used_by = ONLY_WITH.get(field.name, (self.combine,))
            if self.combine not in used_by and getattr(self, field.name) != field.default:
                raise SettingsError(
                    f"{field.name} changes nothing with combine {self.combine}. Leave it out, or "
                    f"combine with {' or '.join(used_by)}."
                )
        numbers = (*self.weights, *self.thresholds, *self.softness, self.variance_coef)
        if not all(math.isfinite(number) for number in (*numbers, self.clip_sd)):
            raise SettingsError("combine: a number is infinite or NaN. Give finite numbers.")
        if 0 in self.weights:
            raise SettingsError("weights: a weight of 0 changes nothing. Leave that model out.")
        if any(width <= 0 for width in self.softness):
            raise SettingsError(f"softness is {self.softness}. Give numbers above 0.")
        if self.combine == "constraint" and not (self.thresholds and self.clip_sd):
            raise SettingsError(
                "combine constraint: what fails must rank under all that passes, so scores need a "
                "floor. Give thresholds, and clip_sd (5 is usual)."
            )
        for threshold in self.thresholds if self.combine == "constraint" else ():
            if not -self.clip_sd < threshold <= self.clip_sd:
                how = "never" if threshold > 0 else "always"
                raise SettingsError(
                    f"thresholds: {threshold} is {how} reached by scores that are clipped at "
                    f"{self.clip_sd} sd. Give one between, or a larger clip_sd."
                )

    def check_models(self, models: int) -> None:
        """Refuse settings that do not fit this many models.

        Raises:
            SettingsError: lists of another length, or a combination of one model only.
        """
        constraints = len(self.thresholds) if self.combine == "constraint" else 0
        if models <= constraints or (self.combine in ("min", "uncertainty") and models < 2):
            raise SettingsError(
                f"combine {self.combine}: {models} models are too few. Give more models"
                f"{', the constraints first' if constraints else ', or combine weighted'}."
            )
        wanted = {"weights": models - constraints, "softness": models}
        if self.combine == "soft-and":
            wanted["thresholds"] = models
        for name, count in wanted.items():
            given = len(getattr(self, name))
            if given not in (0, count):
                raise SettingsError(f"{name}: {given} numbers for {count} models. Give one each.")


def combination_name(names: str, how: CombineSettings, *, of: int) -> str:
    """Return what a combination is called: equal names, equal scores.

    Args:
        names: of the models, with their hashes.
        how: they combine.
        of: how many models.
    """
    if how == CombineSettings() and of == 1:
        return names
    digest = hashlib.sha256(write_yaml(how).encode()).hexdigest()
    return f"{how.combine}({names})@{digest[:12]}"


def read_combination(path: Path | None) -> CombineSettings:
    """Return the combination that a YAML file describes; without a file the mean.

    Raises:
        SettingsError: not readable, or an unknown name, or values that make no sense.
    """
    return (
        CombineSettings()
        if path is None
        else build(CombineSettings, read_yaml(path), where=str(path))
    )


def combined(scores: "Tensor", how: CombineSettings) -> "Tensor":
    """Return one score per response `[B]` from those of M models `[M B]`; clipping comes first.

    One model without clipping gives its scores as they are.

    Raises:
        SettingsError: settings that do not fit this many models.
    """
    import torch

    from preftune.losses import combine as shapes

    count = len(scores)
    how.check_models(count)
    if how.clip_sd:
        scores = scores.clamp(-how.clip_sd, how.clip_sd)

    def numbers(given: tuple[float, ...], default: float, size: int) -> torch.Tensor:
        return scores.new_tensor(given or (default,) * size)

    match how.combine:
        case "min":
            return shapes.lowest(scores)
        case "uncertainty":
            return shapes.mean_minus_variance(scores, variance_coef=how.variance_coef)
        case "soft-and":
            thresholds, softness = (
                numbers(how.thresholds, 0.0, count),
                numbers(how.softness, 1.0, count),
            )
            return shapes.soft_and(scores, thresholds=thresholds, softness=softness)
        case "weighted":
            return shapes.weighted_sum(scores, weights=numbers(how.weights, 1 / count, count))
    first = len(how.thresholds)
    weights = numbers(how.weights, 1 / (count - first), count - first)
    return shapes.constraint_gate(
        rewards=shapes.weighted_sum(scores[first:], weights=weights),
        constraints=scores[:first],
        thresholds=numbers(how.thresholds, 0.0, first),
        floor=-how.clip_sd * weights.abs().sum().item() * (1 + 1e-12),
    )
