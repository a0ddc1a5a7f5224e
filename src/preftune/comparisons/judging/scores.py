"""A reward model as a judge: the higher score wins. It reads scores, it never computes them."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from preftune.errors import DataError, RowError
from preftune.files import open_binary
from preftune.types import Comparison, Judgment, Rater, content_id


class _Row(msgspec.Struct):
    """One line that `preftune score` writes about a response."""

    response_id: str
    score: float


def read_scores(path: Path) -> dict[str, float]:
    """Return the score of each response id, from a file of `preftune score RESPONSES`.

    Raises:
        RowError: a line that is no such row, or two scores of one response that differ.
    """
    found: dict[str, float] = {}
    decoder = msgspec.json.Decoder(_Row)
    with open_binary(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                row = decoder.decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                fix = "Give the file that preftune score wrote about responses"
                raise RowError(path, number, str(error), fix) from error
            if found.setdefault(row.response_id, row.score) != row.score:
                fix = "Score every response once"
                raise RowError(path, number, f"another score of {row.response_id}", fix)
    return found


def judge_by_scores(
    comparisons: Iterable[Comparison],
    scores: Mapping[str, float],
    *,
    name: str,
    tie_within: float = 0.0,
    dimension: str = "overall",
) -> list[Judgment]:
    """Return one binary or tie judgment per comparison of two, with both scores on it.

    Args:
        comparisons: two responses each.
        scores: by response id; higher is better.
        name: who signs, such as the name of the reward model.
        tie_within: scores at most this far apart are a tie, >= 0.
        dimension: of the judgments.

    Raises:
        DataError: not two responses, or a response without a score.
    """
    return [_judge(c, scores, name, tie_within, dimension) for c in comparisons]


def _judge(
    shown: Comparison, scores: Mapping[str, float], name: str, tie_within: float, dimension: str
) -> Judgment:
    if len(shown.responses) != 2:
        raise DataError(
            f"comparison {shown.id}: {len(shown.responses)} responses. "
            "Scores compare two; make comparisons of two."
        )
    missing = [response.id for response in shown.responses if response.id not in scores]
    if missing:
        raise DataError(
            f"comparison {shown.id}: no score of response {missing[0]}. "
            "Score the responses that are compared."
        )
    first, second = (scores[response.id] for response in shown.responses)
    tied = abs(first - second) <= tie_within
    return Judgment(
        id=content_id("j", shown.id, name, dimension, first, second),
        comparison_id=shown.id,
        kind="tie" if tied else "binary",
        choice=None if tied else int(second > first),
        rater=Rater(id=name, kind="judge"),
        dimension=dimension,
        scores=(first, second),
    )
