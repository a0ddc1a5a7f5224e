"""A judge that plays back what a judge once said: the whole path without a network."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from preftune.errors import DataError
from preftune.responses.chat_client import ChatAnswer, ChatFailure, ChatRequest
from preftune.types import Judgment


class ReplayClient:
    """A `ChatClient` over recorded answers, found by comparison in its order, not by the prompt."""

    def __init__(self, judge: str, completions: Mapping[str, str]) -> None:
        """Take the name that signs, and the raw answer to each comparison by its id."""
        self._judge, self._completions = judge, completions

    @property
    def name(self) -> str:
        """Return the name of the recorded judge."""
        return self._judge

    def ask(self, requests: Sequence[ChatRequest]) -> Iterator[ChatAnswer | ChatFailure]:
        """Yield the recorded answers; a question that was not recorded is a failure."""
        for request in requests:
            shown, step, _ = request.key.rsplit("/", 2)
            if step == "verdict" and shown in self._completions:
                yield ChatAnswer(key=request.key, text=self._completions[shown], model=self._judge)
            else:
                yield ChatFailure(key=request.key, reason=f"the log has no {step} here")


def replay_of(judgments: Iterable[Judgment], judge: str) -> ReplayClient:
    """Return the player of one judge's recorded answers: `why` where it is given, else `said`.

    Raises:
        DataError: the log holds nothing of this judge.
    """
    kept = list(judgments)
    recorded = {j.comparison_id: j.why or j.said for j in kept if j.rater.id == judge}
    if not recorded:
        known = ", ".join(sorted({j.rater.id for j in kept if j.rater.kind == "judge"})) or "none"
        raise DataError(f"replay: no answers of judge {judge!r}. Judges in the log: {known}.")
    return ReplayClient(judge, recorded)
