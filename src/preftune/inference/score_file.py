"""Score a file of pairs or responses with a reward model, and write what it says."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import torch

from preftune.datasets.read import read_prompts, read_records
from preftune.datasets.write import write_records
from preftune.errors import DataError
from preftune.files import atomic_open
from preftune.inference.score import (
    BATCH_SIZE,
    PairAccuracy,
    pair_accuracy,
    score,
    score_pairs,
)
from preftune.models.chat import Chat, load_chat
from preftune.models.heads import RewardModel, load_reward_model
from preftune.types import PreferencePair, Prompt, Record, Response


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreReport:
    """What was scored; `accuracy` only for pairs, `replaced` counts pairs that held scores."""

    scored: int
    mean: float
    std: float
    accuracy: PairAccuracy | None = None
    replaced: int = 0


def score_file(
    model: str | Path,
    source: Path,
    *,
    out: Path,
    prompts: Path | None = None,
    batch_size: int = BATCH_SIZE,
) -> ScoreReport:
    """Score every response of a file and write `out`, whole or not at all.

    Pairs are written as pairs with `chosen_score` and `rejected_score`. Responses give one line
    each, `{"response_id", "prompt_id", "score"}`, and need the file of their prompts.

    Raises:
        DataError: a file with neither pairs nor responses, responses without `prompts`, pairs
            with, or a response to a prompt that is not there.
        ModelError: not a reward model's folder, or a row its template or length cannot hold.
    """
    records = read_records(source).records
    pairs = [record for record in records if isinstance(record, PreferencePair)]
    responses = [record for record in records if isinstance(record, Response)]
    if not records or len(records) not in (len(pairs), len(responses)):
        raise DataError(
            f"{source}: holds {_kinds(records)}. Give a file of pairs or a file of responses."
        )
    if pairs and prompts is not None:
        raise DataError(f"{prompts}: pairs bring their own prompts. Leave --prompts out.")
    asked = _prompts_of(responses, source, prompts)
    chat, reward_model = load_chat(model), load_reward_model(model)
    if torch.cuda.is_available():
        reward_model.to("cuda")
    if pairs:
        return _score_pairs(reward_model, chat, pairs, out, batch_size)
    rows = [(asked[response.prompt_id], response.messages) for response in responses]
    scores = score(reward_model, chat, rows, batch_size=batch_size)
    with atomic_open(out) as file:
        for response, value in zip(responses, scores, strict=True):
            row = {"response_id": response.id, "prompt_id": response.prompt_id, "score": value}
            file.write(msgspec.json.encode(row) + b"\n")
    return _report(scores)


def _score_pairs(
    reward_model: RewardModel,
    chat: Chat,
    pairs: Sequence[PreferencePair],
    out: Path,
    batch_size: int,
) -> ScoreReport:
    chosen, rejected = score_pairs(reward_model, chat, pairs, batch_size=batch_size)
    scored = [
        replace(pair, chosen_score=good, rejected_score=bad)
        for pair, good, bad in zip(pairs, chosen, rejected, strict=True)
    ]
    write_records(out, scored, format="preftune")
    held = sum(pair.chosen_score is not None or pair.rejected_score is not None for pair in pairs)
    accuracy = pair_accuracy(pairs, chosen, rejected)
    return replace(_report(chosen + rejected), accuracy=accuracy, replaced=held)


def _report(scores: Sequence[float]) -> ScoreReport:
    values = torch.tensor(scores, dtype=torch.float64)
    return ScoreReport(
        scored=len(scores), mean=float(values.mean()), std=float(values.std(correction=0))
    )


def _prompts_of(
    responses: Sequence[Response], source: Path, prompts: Path | None
) -> dict[str, Prompt]:
    """Return the prompts of the responses by id, after checking that all are there."""
    if not responses:
        return {}
    if prompts is None:
        raise DataError(f"{source}: responses name their prompts by id only. Give --prompts FILE.")
    asked = {prompt.id: prompt for prompt in read_prompts(prompts)}
    missing = [response for response in responses if response.prompt_id not in asked]
    if missing:
        raise DataError(
            f"{prompts}: {len(missing)} responses answer prompts that are not there, the first is "
            f"{missing[0].prompt_id}. Give the file they were sampled from."
        )
    return asked


def _kinds(records: Sequence[Record]) -> str:
    return ", ".join(sorted({type(record).__name__ for record in records})) or "no rows"
