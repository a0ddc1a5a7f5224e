"""A reward model of the server as the grader of a job: a score_model whose model scores text."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from preftune.errors import ModelError
from preftune.graders.model_graders import Row, as_reply, no_answer, of_reward_model
from preftune.graders.results import Graded, GradingError, failed
from preftune.graders.scorer import Answer, Scorer
from preftune.graders.specs import ScoreModel
from preftune.inference.reward_scorer import load_scorer


class RewardGrader:
    """Scores samples as replies to the grader's messages, as POST …/graders/run does."""

    def __init__(self, grader: ScoreModel, folder: Path, *, clip: bool) -> None:
        """Load the reward model.

        Args:
            grader: its `input` is the chat that a sample answers.
            folder: of the reward model.
            clip: whether scores are brought into the grader's range.

        Raises:
            ModelError: the folder is damaged.
        """
        self._grader, self._clip = grader, clip
        self._scorer: Scorer = load_scorer([folder])

    def __call__(self, rows: Sequence[Row]) -> list[Graded]:
        """Return one grading per row, in the same order; what goes wrong is in the gradings."""
        faults: dict[int, Graded] = {}
        replies: dict[int, Answer] = {}
        for place, (sample, item) in enumerate(rows):
            try:
                replies[place] = as_reply(self._grader, sample, item)
            except GradingError as fault:
                faults[place] = failed(fault)
        graded = dict(zip(replies, self._graded([*replies.values()]), strict=True))
        return [faults.get(place) or graded[place] for place in range(len(rows))]

    def _graded(self, replies: Sequence[Answer]) -> list[Graded]:
        """Return the gradings of replies; of several, one that does not fit fails alone."""
        began = perf_counter()
        try:
            scores = self._scorer.score(replies) if replies else []
        except ModelError as error:
            if len(replies) > 1:
                return [self._graded([reply])[0] for reply in replies]
            return [failed(no_answer(f"model {self._grader.model}: {error}"))]
        seconds = (perf_counter() - began) / max(1, len(scores))
        return [self._one(score, seconds) for score in scores]

    def _one(self, score: float | None, seconds: float) -> Graded:
        if score is None:
            return failed(no_answer(f"model {self._grader.model}: no score"), seconds)
        graded = of_reward_model(self._grader, score, clip=self._clip)
        return replace(graded, seconds=seconds)
