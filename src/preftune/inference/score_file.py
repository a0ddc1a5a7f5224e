"""Score a file of pairs or responses with reward models, and write what they say."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import torch

from preftune.datasets.read import read_prompts, read_records
from preftune.datasets.write import dataset_hash, write_records
from preftune.errors import DataError
from preftune.files import atomic_open
from preftune.graders.scorer import Answer
from preftune.inference.combine import CombineSettings
from preftune.inference.reward_scorer import RewardScorer, load_scorer
from preftune.inference.score import BATCH_SIZE, PairAccuracy, both_sides, pair_accuracy
from preftune.prompts.rows import check_paths
from preftune.types import Demonstration, PreferencePair, Prompt, Record, Response


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreReport:
    """What was scored; `accuracy` only for pairs, `replaced` counts pairs that held scores."""

    scored: int
    mean: float
    std: float
    accuracy: PairAccuracy | None = None
    replaced: int = 0
    clipped: int = 0  # scores of single models, out of scored times models
    weights: tuple[str, ...] = ()  # what lay in memory, where there were several models


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """Prompts with a response each, and what identifies them."""

    rows: list[Answer]
    answered_by: tuple[str, ...]  # generators, where the records say
    sha256: str


def score_file(
    models: Sequence[str | Path],
    source: Path,
    *,
    out: Path,
    prompts: Path | None = None,
    how: CombineSettings | None = None,
    batch_size: int = BATCH_SIZE,
) -> ScoreReport:
    """Score every response of a file and write `out`, whole or not at all.

    Pairs are written as pairs with `chosen_score` and `rejected_score`. Responses give one line
    each, `{"response_id", "prompt_id", "score"}`, and need the file of their prompts. Several
    models add `parts` to that line: the score of each by its name.

    Raises:
        DataError: a file with neither pairs nor responses, responses without `prompts`, pairs
            with, a response to a prompt that is not there, or `out` in the place of an input.
        HealthError: a score is NaN or infinite.
        ModelError: not a reward model's folder, or a row its template or length cannot hold.
        SettingsError: a combination that does not fit these models.
    """
    check_paths([source, prompts], [out])
    records = read_records(source).records
    pairs = [record for record in records if isinstance(record, PreferencePair)]
    responses = [record for record in records if isinstance(record, Response)]
    if not records or len(records) not in (len(pairs), len(responses)):
        raise DataError(
            f"{source}: holds {_kinds(records)}. Give a file of pairs or a file of responses."
        )
    if pairs and prompts is not None:
        raise DataError(f"{prompts}: pairs bring their own prompts. Leave --prompts out.")
    rows = both_sides(pairs) if pairs else _answered(responses, source, prompts)
    scorer = load_scorer(models, how, batch_size=batch_size)
    parts = scorer.parts(rows)
    scores = scorer.combine(parts)
    if pairs:
        held = sum(one.chosen_score is not None or one.rejected_score is not None for one in pairs)
        accuracy = _write_pairs(out, pairs, scores)
        return replace(_report(scorer, scores), accuracy=accuracy, replaced=held)
    names = [member.name for member in scorer.rewards.members]
    with atomic_open(out) as file:
        for number, (response, value) in enumerate(zip(responses, scores, strict=True)):
            row = {"response_id": response.id, "prompt_id": response.prompt_id, "score": value}
            if len(names) > 1:
                row["parts"] = {name: part[number] for name, part in zip(names, parts, strict=True)}
            file.write(msgspec.json.encode(row) + b"\n")
    return _report(scorer, scores)


def read_answers(source: Path, prompts: Path | None = None) -> Answers:
    """Return the answers of a file of responses, demonstrations or pairs (both sides of each).

    Raises:
        DataError: it holds anything else, or several of these; responses without their prompts.
    """
    records = read_records(source).records
    pairs = [record for record in records if isinstance(record, PreferencePair)]
    shown = [record for record in records if isinstance(record, Demonstration)]
    responses = [record for record in records if isinstance(record, Response)]
    if len(records) not in (len(pairs), len(shown), len(responses)):
        raise DataError(
            f"{source}: holds {_kinds(records)}. Give a file of responses, of demonstrations or "
            "of pairs."
        )
    if prompts is not None and not responses:
        raise DataError(f"{prompts}: these rows bring their own prompts. Leave --prompts out.")
    rows: list[Answer] = [(one.prompt, one.response) for one in shown] + both_sides(pairs)
    if responses:
        rows = _answered(responses, source, prompts)
    origins = [pair.provenance for pair in pairs]
    names = [response.generator for response in responses]
    names += [name for o in origins for name in (o.chosen_generator, o.rejected_generator)]
    asked = {prompt.id: prompt for prompt, _ in rows} if responses else {}
    return Answers(
        rows=rows,
        answered_by=tuple(sorted({name for name in names if name})),
        sha256=dataset_hash([*asked.values(), *records]),
    )


def _write_pairs(
    out: Path, pairs: Sequence[PreferencePair], scores: Sequence[float]
) -> PairAccuracy:
    """Write the pairs with their scores; return how often these agree with them."""
    chosen, rejected = scores[0::2], scores[1::2]
    scored = [
        replace(pair, chosen_score=good, rejected_score=bad)
        for pair, good, bad in zip(pairs, chosen, rejected, strict=True)
    ]
    write_records(out, scored, format="preftune")
    return pair_accuracy(pairs, chosen, rejected)


def _report(scorer: RewardScorer, scores: Sequence[float]) -> ScoreReport:
    values = torch.tensor(scores, dtype=torch.float64)
    several = len(scorer.rewards.members) > 1
    return ScoreReport(
        scored=len(scores),
        mean=float(values.mean()),
        std=float(values.std(correction=0)),
        clipped=scorer.clipped,
        weights=tuple(map(str, scorer.rewards.describe())) if several else (),
    )


def _answered(responses: Sequence[Response], source: Path, prompts: Path | None) -> list[Answer]:
    """Return the responses with their prompts, after checking that all of these are there."""
    if prompts is None:
        raise DataError(f"{source}: responses name their prompts by id only. Give --prompts FILE.")
    asked: dict[str, Prompt] = {prompt.id: prompt for prompt in read_prompts(prompts)}
    missing = [response for response in responses if response.prompt_id not in asked]
    if missing:
        raise DataError(
            f"{prompts}: {len(missing)} responses answer prompts that are not there, the first is "
            f"{missing[0].prompt_id}. Give the file they were sampled from."
        )
    return [(asked[response.prompt_id], response.messages) for response in responses]


def _kinds(records: Sequence[Record]) -> str:
    return ", ".join(sorted({type(record).__name__ for record in records})) or "no rows"
