"""A grader as a `Scorer`, so that whatever takes a reward model takes a grader as well."""

from collections import Counter
from collections.abc import Mapping, Sequence

from preftune.errors import DataError
from preftune.graders.run import GraderRunner
from preftune.graders.sample import Item, Sample
from preftune.graders.scorer import Answer
from preftune.text import visible
from preftune.types import content_id


class GraderScorer:
    """Scores responses with a grader; a grading that went wrong is None and counted by its name.

    `errors` counts by kind of error, `problems` keeps the first of each kind in words.
    """

    def __init__(self, runner: GraderRunner, items: Mapping[str, Item]) -> None:
        """Take an open runner, and the item of each prompt by the prompt's id.

        An RFT file's are `items_of(read_rft_rows(path))`.
        """
        self._runner, self._items = runner, items
        self._hash = content_id("g", runner.key, items).removeprefix("g-")[:12]
        self.errors: Counter[str] = Counter()
        self.problems: dict[str, str] = {}

    @property
    def name(self) -> str:
        """Return the grader's name and a hash of it, of the models it asks and of all items."""
        return f"{self._runner.grader.name}@{self._hash}"

    def score(self, rows: Sequence[Answer]) -> list[float | None]:
        """Return one reward per row, in the same order; None where the grading went wrong.

        Raises:
            DataError: a prompt without an item; nothing was graded.
        """
        missing = [prompt.id for prompt, _ in rows if prompt.id not in self._items]
        if missing:
            raise DataError(
                f"prompt {missing[0]}: no item to grade with, and {len(missing) - 1} others. "
                "Give the rows that the prompts came from."
            )
        asked = [(Sample.of(messages), self._items[prompt.id]) for prompt, messages in rows]
        scores: list[float | None] = []
        for result in self._runner.run_all(asked):
            scores.append(None if result.failed else result.reward)
            for kind in result.metadata.errors.kinds:
                self.errors[kind] += 1
                self.problems.setdefault(kind, visible(result.problem))
        return scores
