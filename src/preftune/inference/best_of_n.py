"""Best-of-n: draw several responses to a prompt, score them, keep the best.

Any `Generator` and any `Scorer` will do. A response is a function of its own request, so the first
k of n draws are those that a run with n = k makes.
"""

import math
import time
from collections.abc import Callable, Collection, Container, Sequence
from dataclasses import dataclass, replace

from preftune.errors import DataError, HealthError, SettingsError
from preftune.graders.scorer import Scorer
from preftune.inference.stopping import Stopping, check_prompts, enough, pooled_sd
from preftune.models.chat import Chat
from preftune.responses.generator import Generator, Request
from preftune.responses.sample import plan
from preftune.text import visible
from preftune.types import Prompt, Response

Answered = tuple[Prompt, Response]
Lengths = Callable[[Sequence[Answered]], list[int]]
Clock = Callable[[], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """One response and what it scored; None where it could not be scored.

    `kept` is False for one that a saving rule would not have drawn to its end: it is there only
    because its prompt is checked.
    """

    response: Response
    score: float | None
    gold: float | None = None
    tokens: int | None = None
    kept: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Best:
    """All that was drawn for one prompt, in the order drawn; `best` is the choice.

    `checked`: drawn in full to see what a saving rule would have lost. `rejected` responses were
    given up early; `extra_tokens` is what beginnings took that are no part of a kept response,
    `drawn_tokens` how many of these are in `draws` all the same, being whole and `checked`.
    """

    prompt_id: str
    draws: tuple[Draw, ...]
    checked: bool = False
    rejected: int = 0
    extra_tokens: int = 0
    drawn_tokens: int = 0

    @property
    def winner(self) -> Draw | None:
        """The draw with the highest score, the first of equals; None when none was scored."""
        return highest(self.draws)

    @property
    def best(self) -> Response | None:
        """The response of the winner; None when no response could be scored."""
        return self.winner.response if self.winner else None

    @property
    def tokens(self) -> int | None:
        """What a saving rule takes for this prompt, in tokens; None without a count."""
        counts = [draw.tokens for draw in self.draws if draw.kept]
        known = [count for count in counts if count is not None]
        return self.extra_tokens + sum(known) if len(known) == len(counts) else None

    @property
    def unscored(self) -> int:
        """How many draws could not be scored; they never win."""
        return sum(draw.score is None for draw in self.draws)


def highest(draws: Sequence[Draw]) -> Draw | None:
    """Return the draw with the highest score, the first of equals, unscored ones left out."""
    scored = [draw for draw in draws if draw.score is not None]
    return max(scored, key=lambda draw: draw.score or 0.0, default=None)


def best_of_n(
    generator: Generator,
    scorer: Scorer,
    prompts: Sequence[Prompt],
    *,
    n: int,
    seed: int,
    gold: Scorer | None = None,
    lengths: Lengths | None = None,
    deadline_s: float | None = None,
    stopping: Stopping | None = None,
    checked: Collection[str] | None = None,
    clock: Clock = time.monotonic,
) -> list[Best]:
    """Return the best of `n` responses to each prompt, with all draws and scores, in their order.

    n = 1 is plain sampling. A prompt none of whose responses could be scored has no best.

    Args:
        generator: who answers.
        scorer: who chooses.
        prompts: each with an id of its own.
        n: responses per prompt, >= 1.
        seed: any number >= 0; draw number i of a prompt is that of `sample` with this seed.
        gold: a second scorer that chooses nothing, to see what the choice is truly worth.
        lengths: counts the tokens of responses; `token_lengths(chat)` for a model in this process.
        deadline_s: draw in rounds while another round is expected to end in time, in seconds. The
            first round, one response per prompt, is always drawn to its end.
        stopping: stop drawing for a prompt when one more draw is not worth its cost.
        checked: ids of prompts to draw in full all the same; None: the share that `stopping` says.
        clock: tells the time in seconds.

    Raises:
        DataError: no prompts, two with one id, or answers and scores that are not those asked for.
        HealthError: a score that is NaN or infinite.
        SettingsError: `n`, `seed` or `deadline_s` out of range, `n` > 1 at temperature 0, or both
            ways to stop at once.
    """
    if deadline_s is not None and (stopping is not None or not 0 < deadline_s < math.inf):
        raise SettingsError(
            f"deadline_s {deadline_s}. Give a finite time above 0, and not together with stopping."
        )
    requests = plan(prompts, generator, n=n, seed=seed)
    generator.check(prompts)
    queues = [requests[start : start + n] for start in range(0, len(requests), n)]
    desk = Desk(generator, scorer, gold, lengths)
    if stopping is not None:
        if checked is None:
            checked = check_prompts([prompt.id for prompt in prompts], stopping.check_frac, seed)
        return _until_enough(desk, queues, stopping, checked)
    drawn = _in_time(desk, queues, deadline_s, clock) if deadline_s else desk.draw_all(queues)
    return [
        Best(prompt_id=q[0].prompt.id, draws=tuple(d)) for q, d in zip(queues, drawn, strict=True)
    ]


def token_lengths(chat: Chat) -> Lengths:
    """Return a function that counts the tokens of responses to prompts.

    One that was cut has as many as it was allowed. A whole one has those of its text and its end
    of turn: "yes ." is 3 tokens of a word-level model.
    """

    def lengths(answered: Sequence[Answered]) -> list[int]:
        rows = [(prompt, response.messages) for prompt, response in answered]
        return [
            sum(sequence.own)
            if response.finished or response.sampling is None
            else response.sampling.max_new_tokens
            for sequence, (_, response) in zip(chat.encode_all(rows), answered, strict=True)
        ]

    return lengths


@dataclass(frozen=True)
class Desk:
    """Answers requests, scores the answers and counts their tokens."""

    generator: Generator
    scorer: Scorer
    gold: Scorer | None
    lengths: Lengths | None

    def draw(self, requests: Sequence[Request]) -> list[Draw]:
        """Return one scored draw per request, in the same order."""
        responses = self.generator.respond(requests)
        if [r.id for r in responses] != [q.response_id for q in requests]:
            raise DataError(
                f"{self.generator.name}: did not answer what was asked, in order. "
                "Let respond() return one response per request, under its id."
            )
        return self.score([(q.prompt, r) for q, r in zip(requests, responses, strict=True)])

    def draw_all(self, queues: Sequence[Sequence[Request]]) -> list[list[Draw]]:
        """Return the scored draws of each queue; all are drawn together."""
        draws = iter(self.draw([request for queue in queues for request in queue]))
        return [[next(draws) for _ in queue] for queue in queues]

    def score(self, answered: Sequence[Answered]) -> list[Draw]:
        """Return the draws of these responses."""
        nothing: list[None] = [None] * len(answered)
        scores = scores_of(self.scorer, answered)
        golds = scores_of(self.gold, answered) if self.gold else nothing
        tokens = self.lengths(answered) if self.lengths else nothing
        return [
            Draw(response=response, score=score, gold=gold, tokens=count)
            for (_, response), score, gold, count in zip(
                answered, scores, golds, tokens, strict=True
            )
        ]


def scores_of(scorer: Scorer, answered: Sequence[Answered]) -> list[float | None]:
    """Return one score per response, None where there is none.

    Raises:
        DataError: another number of scores than of responses.
        HealthError: a score that is NaN or infinite.
    """
    if not answered:
        return []
    given = scorer.score([(prompt, response.messages) for prompt, response in answered])
    if len(given) != len(answered):
        raise DataError(
            f"{scorer.name}: {len(given)} scores for {len(answered)} responses. Give one each."
        )
    scores = [None if score is None else float(score) for score in given]  # of numpy, or bools
    for score, (prompt, _) in zip(scores, answered, strict=True):
        if score is not None and not math.isfinite(score):
            raise HealthError(
                f"{scorer.name}: a response to prompt {visible(prompt.id)} scores {score}. "
                "Give a finite number, or None for no score."
            )
    return scores


def _in_time(
    desk: Desk, queues: Sequence[Sequence[Request]], deadline_s: float, clock: Clock
) -> list[list[Draw]]:
    """Draw in rounds, each at most as large as all before it, while they fit before the end."""
    end = clock() + deadline_s
    drawn: list[list[Draw]] = [[] for _ in queues]
    done, size, slowest_s = 0, 1, 0.0
    while size > 0:
        began = clock()
        new = desk.draw_all([queue[done : done + size] for queue in queues])
        drawn = [[*old, *more] for old, more in zip(drawn, new, strict=True)]
        slowest_s = max(slowest_s, (clock() - began) / size)
        done += size
        left_s = max(0.0, end - clock())
        fits = math.floor(left_s / slowest_s) if slowest_s else done
        size = min(len(queues[0]) - done, done, fits)
    return drawn


def _until_enough(
    desk: Desk,
    queues: Sequence[Sequence[Request]],
    stopping: Stopping,
    checked: Collection[str],
) -> list[Best]:
    """Draw one more for every open prompt, round by round; checked prompts are never closed."""
    ids = [queue[0].prompt.id for queue in queues]
    n = len(queues[0])
    count = min(stopping.least, n)
    drawn = desk.draw_all([queue[:count] for queue in queues])
    ends = [n] * len(queues)  # where each prompt stopped, or would have
    while count < n:
        scores = [[draw.score for draw in draws if draw.score is not None] for draws in drawn]
        spread = pooled_sd(scores)
        for place, own in enumerate(scores):
            if ends[place] == n and enough(own, spread, stopping.cost):
                ends[place] = count
        open_places = [p for p, end in enumerate(ends) if end == n or ids[p] in checked]
        if not open_places:
            break
        for place, draw in zip(
            open_places, desk.draw([queues[place][count] for place in open_places]), strict=True
        ):
            drawn[place].append(draw)
        count += 1
    return [
        Best(
            prompt_id=id_,
            draws=tuple(mark_kept(draws, range(end))),
            checked=id_ in checked,
        )
        for id_, draws, end in zip(ids, drawn, ends, strict=True)
    ]


def mark_kept(draws: Sequence[Draw], kept: Container[int]) -> list[Draw]:
    """Return the draws with `kept` set for these places only."""
    return [
        draw if place in kept else replace(draw, kept=False) for place, draw in enumerate(draws)
    ]
