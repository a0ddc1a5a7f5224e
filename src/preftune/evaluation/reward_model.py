"""A reward model's scores put into units: mean 0 and sd 1 on a reference set, calibrated odds."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from preftune.datasets import dataset_hash, read_pairs
from preftune.engine.checkpoint import MANIFEST, read_manifest, verify, write_manifest
from preftune.errors import DataError, ModelError
from preftune.files import atomic_folder, read_json
from preftune.inference.score import BATCH_SIZE, score, score_pairs
from preftune.inference.score_file import read_answers
from preftune.models.chat import load_chat
from preftune.models.heads import HEAD_FILE, RewardModel, load_reward_model, save_head
from preftune.models.reward_card import Calibration, Fit, Normalisation
from preftune.plots import BLUE, GREY, INK, ORANGE, figure, save
from preftune.stats.calibration import (
    brier_score,
    expected_calibration_error,
    fit_slope,
    log_loss,
    reliability,
)
from preftune.text import visible
from preftune.types import PreferencePair
from preftune.wire.model_files import REWARD_FILE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HALVES = 2


def normalise(
    folder: Path | str,
    reference: Path,
    *,
    prompts: Path | None = None,
    batch_size: int = BATCH_SIZE,
) -> Normalisation:
    """Give a reward model mean 0 and population standard deviation 1 on a reference set.

    The numbers and what identifies the set are kept in the model's folder, which is replaced whole.
    Differences of scores keep their meaning: a calibration stays as it is.

    Args:
        folder: the reward model.
        reference: responses (best: samples of the SFT model), demonstrations or pairs.
        prompts: prompts of the responses.
        batch_size: most rows computed at once.

    Raises:
        DataError: rows that cannot be used, or that all have one score.
        ModelError: not a reward model's folder, or a damaged one.
    """
    answers = read_answers(reference, prompts)
    model = _loaded(folder)
    model.set_normalisation(0.0, 1.0)
    raw = torch.tensor(
        score(model, load_chat(folder), answers.rows, batch_size=batch_size), dtype=torch.float64
    )
    mean, std = raw.mean().item(), raw.std(correction=0).item()
    if not std:
        raise DataError(
            f"{reference}: all {len(raw)} responses have the score {mean:g}, there is no spread to "
            "measure in. Give more responses, or train again."
        )
    found = Normalisation(
        mean=mean,
        std=std,
        responses=len(raw),
        source=reference.name,
        answered_by=answers.answered_by,
        sha256=answers.sha256,
    )
    model.set_normalisation(mean, std)
    model.card = replace(model.card, normalisation=found)
    _replace_head(Path(folder), model)
    return found


def calibrate(
    folder: Path | str,
    pairs: Path,
    *,
    plot: Path | None = None,
    batch_size: int = BATCH_SIZE,
    tell: Callable[[str], object] | None = None,
) -> Calibration:
    """Fit how many nats of log-odds a difference of scores is worth, on pairs held out of training.

    Scores and ranks stay as they are. `after` is measured on the half of the prompts that the
    slope was not fitted on, both halves in turn; the slope that is kept is fitted on all pairs.
    A model of one dimension is calibrated on the pairs of that dimension.

    Args:
        folder: the reward model.
        pairs: pairs that it was not trained on.
        plot: where to draw the reliability diagram, before and after.
        batch_size: most rows computed at once.
        tell: hears how many pairs are of another dimension, if some are.

    Raises:
        DataError: the pairs the model was trained on, none of its dimension, or pairs that fix no
            slope: all scored right, or no better than chance, in one half of the prompts.
        ModelError: not a reward model's folder, or a damaged one.
    """
    everything = read_pairs(pairs)
    model = _loaded(folder)
    read = _of_its_dimension(Path(folder), everything, pairs, tell)
    sha256 = dataset_hash(read)
    _refuse_training_pairs(Path(folder), pairs, sha256)
    model.set_normalisation(0.0, 1.0)
    chosen, rejected = score_pairs(model, load_chat(folder), read, batch_size=batch_size)
    gaps = [good - bad for good, bad in zip(chosen, rejected, strict=True)]
    try:
        mended, slope = _mended_elsewhere(gaps, read), fit_slope(gaps)
    except DataError as error:
        raise DataError(f"{pairs}: {error}") from error
    found = Calibration(
        slope=slope,
        pairs=len(read),
        source=pairs.name,
        sha256=sha256,
        before=fit_of(gaps),
        after=fit_of(mended),
    )
    kept = load_reward_model(folder, backbone=model.backbone)
    kept.card = replace(kept.card, calibration=found)
    _replace_head(Path(folder), kept)
    if plot is not None:
        save(reliability_figure({"before": gaps, "after": mended}), plot)
    return found


def fit_of(gaps: Sequence[float]) -> Fit:
    """Return how well sigmoid(gap), for the side that won, fits."""
    return Fit(
        ece=expected_calibration_error(gaps), brier=brier_score(gaps), log_loss=log_loss(gaps)
    )


def reliability_figure(named_gaps: Mapping[str, Sequence[float]]) -> "Figure":
    """Return how often pairs are right at each confidence; on the diagonal, as often as it says."""
    drawn, (axis,) = figure(width=4.6, height=3.8)
    axis.plot([0.5, 1], [0.5, 1], color=GREY, linewidth=1, linestyle="--")
    for (name, gaps), colour in zip(named_gaps.items(), (ORANGE, BLUE), strict=False):
        bins = reliability(gaps)
        sizes = [10 + 110 * one.pairs / len(gaps) for one in bins]
        places = [one.confidence for one in bins], [one.accuracy for one in bins]
        label = f"{name}: ECE {expected_calibration_error(gaps):.3f}"
        axis.plot(*places, color=colour, linewidth=1.2, label=label)
        axis.scatter(*places, s=sizes, color=colour)
    axis.set_xlabel("confidence of the reward model", fontsize=8, color=INK)
    axis.set_ylabel("share of pairs scored right", fontsize=8, color=INK)
    axis.legend(fontsize=8, frameon=False, loc="upper left")
    return drawn


def _mended_elsewhere(gaps: Sequence[float], pairs: Sequence[PreferencePair]) -> list[float]:
    """Return each gap times the slope that was fitted on the prompts of the other half."""
    places = {prompt_id: n for n, prompt_id in enumerate(sorted({p.prompt.id for p in pairs}))}
    half = [places[pair.prompt.id] % HALVES for pair in pairs]
    slopes = []
    for held_out in range(HALVES):
        rest = [gap for gap, own in zip(gaps, half, strict=True) if own != held_out]
        try:
            slopes.append(fit_slope(rest))
        except DataError as error:
            raise DataError(f"one half of the prompts: {error}") from error
    return [gap * slopes[own] for gap, own in zip(gaps, half, strict=True)]


def _of_its_dimension(
    folder: Path,
    read: Sequence[PreferencePair],
    pairs: Path,
    tell: Callable[[str], object] | None,
) -> Sequence[PreferencePair]:
    """Return the pairs of the dimension that a model was trained on; all, if it learnt from all."""
    dimension = read_json(folder / REWARD_FILE).get("dimension")
    if not dimension:
        return read
    kept = [pair for pair in read if pair.dimension == dimension]
    if not kept:
        raise DataError(
            f"{pairs}: no pair of dimension {visible(dimension)}, which the model was trained on. "
            "Give pairs of that dimension."
        )
    if tell is not None and len(kept) < len(read):
        tell(
            f"{pairs}: {len(read) - len(kept)} of {len(read)} pairs left out: not of dimension "
            f"{visible(dimension)}, the model's"
        )
    return kept


def _refuse_training_pairs(folder: Path, pairs: Path, sha256: str) -> None:
    manifest = read_manifest(folder)
    if manifest is not None and manifest.origin.get("data") == sha256:
        raise DataError(f"{pairs}: the model was trained on these very pairs. Give held-out ones.")


def _loaded(folder: Path | str) -> RewardModel:
    """Return a reward model whose folder is whole, on the GPU where there is one."""
    if (Path(folder) / MANIFEST).exists() and (problem := verify(Path(folder))):
        raise ModelError(f"{folder}: damaged: {visible(problem)}. Train the reward model again.")
    model = load_reward_model(folder)
    return model.to("cuda") if torch.cuda.is_available() else model


def _replace_head(folder: Path, model: RewardModel) -> None:
    """Write head and card of a reward model anew; all other files of its folder stay."""
    known = {"kind", "format", "normalisation", "calibration"}
    said: dict[str, Any] = read_json(folder / REWARD_FILE)
    about = {name: value for name, value in said.items() if name not in known}
    with _rewritten(folder, (HEAD_FILE, REWARD_FILE)) as writing:
        save_head(model, writing, about=about)


@contextmanager
def _rewritten(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """Yield a copy of a folder without some of its files; with them it takes the folder's place.

    Files that stay are linked, not copied. A manifest is made anew, with the origin it had.
    """
    manifest = read_manifest(folder)
    with atomic_folder(folder.resolve()) as writing:
        left_out = shutil.ignore_patterns(*names, MANIFEST)
        shutil.copytree(folder, writing, ignore=left_out, copy_function=_link, dirs_exist_ok=True)
        yield writing
        if manifest is not None:
            write_manifest(writing, origin=manifest.origin)


def _link(source: str, target: str) -> None:
    """Give a file a second name; copy it where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
