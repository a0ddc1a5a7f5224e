"""Best-of-n made training data, so that a model learns to give the best of n at once."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from preftune.datasets.write import write_records
from preftune.inference.best_of_n import Best, Draw
from preftune.types import (
    Demonstration,
    PreferencePair,
    Prompt,
    Provenance,
    Record,
    Response,
    content_id,
    text_of,
)


def write_demonstrations(bests: Sequence[Best], prompts: Sequence[Prompt], path: Path) -> str:
    """Write the best response to each prompt as a chat to imitate; return what was written.

    A best response that was cut at its longest length teaches no end, an empty one nothing; both
    are left out and counted. With nothing to write there is no file.
    """
    left: Counter[str] = Counter()
    rows = []
    for prompt, best in zip(prompts, bests, strict=True):
        if best.best is None:
            left["have no scored response"] += 1
        elif not _teaches(best.best):
            left["have a best response that was cut or is empty"] += 1
        else:
            id_ = content_id("demo", prompt.id, best.best.messages)
            rows.append(Demonstration(id=id_, prompt=prompt, response=best.best.messages))
    return _written(rows, "demonstrations", path, "chat", left)


def write_pairs(
    bests: Sequence[Best], prompts: Sequence[Prompt], path: Path, *, scorer: str
) -> str:
    """Write the best against the worst response to each prompt; return what was written.

    A response that was cut, or that is empty, is neither. With nothing to write there is no file.
    """
    left: Counter[str] = Counter()
    rows = []
    for prompt, best in zip(prompts, bests, strict=True):
        whole = [d for d in best.draws if d.score is not None and _teaches(d.response)]
        if len(whole) < 2:
            left["have fewer than two whole, scored responses"] += 1
            continue
        chosen, rejected = max(whole, key=_score), min(whole, key=_score)
        if _score(chosen) == _score(rejected):
            left["have responses of one score only"] += 1
        elif text_of(chosen.response.messages) == text_of(rejected.response.messages):
            left["have a best and a worst of equal text"] += 1
        else:
            rows.append(_pair(prompt, chosen, rejected, scorer))
    return _written(rows, "pairs", path, "preftune", left)


def _pair(prompt: Prompt, chosen: Draw, rejected: Draw, scorer: str) -> PreferencePair:
    return PreferencePair(
        id=content_id("pair", prompt.id, chosen.response.id, rejected.response.id),
        prompt=prompt,
        chosen=chosen.response.messages,
        rejected=rejected.response.messages,
        chosen_score=chosen.score,
        rejected_score=rejected.score,
        provenance=Provenance(
            source=prompt.source,
            raters=(scorer,),
            chosen_generator=chosen.response.generator,
            rejected_generator=rejected.response.generator,
        ),
    )


def _teaches(response: Response) -> bool:
    return response.finished and bool(text_of(response.messages).strip())


def _score(draw: Draw) -> float:
    return draw.score or 0.0


def _written(rows: Sequence[Record], what: str, path: Path, format: str, left: Counter[str]) -> str:
    """Write the rows, if there are any; return what was written and left out."""
    if rows:
        write_records(path, rows, format=format)
    said = f"{len(rows)} {what} in {path}" if rows else f"no {what}, {path} is not written"
    out = ", ".join(f"{count} prompts {why}" for why, count in left.items())
    return said + (f"; left out: {out}" if out else "")
