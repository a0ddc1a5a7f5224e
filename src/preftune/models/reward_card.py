"""What is known of a reward model's scores: how they were normalised, and what they are worth."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import msgspec

from preftune.errors import ModelError

STARTED_FROM = "started_from"  # in `reward_model.json`: the backbone's fingerprint before training


@dataclass(frozen=True, kw_only=True, slots=True)
class Normalisation:
    """The reference set on which scores have mean 0 and population standard deviation 1."""

    mean: float  # of the raw scores there
    std: float
    responses: int
    source: str  # the file, without folders
    answered_by: tuple[str, ...] = ()  # generators of the responses, where they say
    sha256: str = ""  # of prompts and responses, 64 hex digits


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """How well probabilities fit the pairs they are of."""

    ece: float  # expected calibration error, 10 bins of confidence on ½..1
    brier: float
    log_loss: float  # nats a pair


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """P(chosen is better) = sigmoid(slope * (raw chosen - raw rejected)), fitted on pairs."""

    slope: float  # nats per raw unit; 1: calibrated as it was trained
    pairs: int
    source: str  # the file, without folders
    sha256: str  # of the pairs, 64 hex digits
    before: Fit  # with slope 1
    after: Fit


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardCard:
    """What a reward model's folder says of its scores; None: nothing."""

    normalisation: Normalisation | None = None
    calibration: Calibration | None = None

    def about(self) -> dict[str, Any]:
        """Return what there is, as plain values for `reward_model.json`."""
        said = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: msgspec.to_builtins(one) for name, one in said.items() if one is not None}


def card_of(said: Mapping[str, Any], *, where: Path | str) -> RewardCard:
    """Return what the values of a `reward_model.json` say of scores.

    Raises:
        ModelError: they say it in another way than `RewardCard` does.
    """
    try:
        return msgspec.convert(dict(said), RewardCard)
    except msgspec.ValidationError as error:
        raise ModelError(f"{where}: damaged: {error}. Save the reward model again.") from error
