import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.errors import DataError, HealthError, SettingsError
from preftune.graders.scorer import FunctionScorer
from preftune.inference.best_of_n import best_of_n, token_lengths
from preftune.inference.stopping import Stopping, check_prompts
from preftune.models.chat import load_chat
from preftune.responses.generator import GenerateSettings, Request
from preftune.responses.sample import plan
from preftune.types import (
    Message,
    Prompt,
    Response,
    Sampling,
    assistant,
    make_prompt,
    text_of,
    user,
)

PROMPTS = [make_prompt(user(f"question {i}")) for i in range(4)]


class Counter:
    """Answers with the sample number, `step_s` seconds of its own clock per response."""

    def __init__(self, *, step_s: float = 1.0) -> None:
        self.name, self.step_s, self.now_s = "counter@1", step_s, 0.0
        self.rounds: list[list[Request]] = []

    def sampling(self, seed: int) -> Sampling:
        return GenerateSettings(max_new_tokens=4).sampling(seed)

    def check(self, prompts: Sequence[Prompt]) -> None:
        pass

    def respond(self, requests: Sequence[Request]) -> list[Response]:
        self.rounds.append(list(requests))
        self.now_s += self.step_s * len(requests)
        return [
            Response(
                id=request.response_id,
                prompt_id=request.prompt.id,
                messages=(assistant(str(request.index)),),
                generator=self.name,
                sampling=self.sampling(request.seed),
                origin="sampled",
            )
            for request in requests
        ]

    def clock(self) -> float:
        return self.now_s


def number(_: Prompt, response: tuple[Message, ...]) -> float:
    return float(text_of(response))


BY_NUMBER = FunctionScorer(name="number", function=number)
PEAK_AT_3 = FunctionScorer(name="peak", function=lambda p, r: -abs(number(p, r) - 3))


def test_best_is_the_highest_score_and_all_draws_are_kept() -> None:
    found = best_of_n(Counter(), PEAK_AT_3, PROMPTS, n=6, seed=1, gold=BY_NUMBER)
    assert [b.prompt_id for b in found] == [p.id for p in PROMPTS]
    for best in found:
        assert best.best is not None
        assert text_of(best.best.messages) == "3"
        assert [d.score for d in best.draws] == [-3, -2, -1, 0, -1, -2]
        assert [d.gold for d in best.draws] == [0, 1, 2, 3, 4, 5]
        assert best.winner == best.draws[3]


def test_draws_are_those_that_sample_plans() -> None:
    generator = Counter()
    best_of_n(generator, BY_NUMBER, PROMPTS, n=3, seed=7)
    assert generator.rounds == [plan(PROMPTS, generator, n=3, seed=7)]


@given(st.lists(st.sampled_from([None, -1.0, 0.0, 2.0]), min_size=1, max_size=6))
def test_the_first_of_equals_wins_and_unscored_draws_never_do(scores: list[float | None]) -> None:
    scorer = FunctionScorer(name="table", function=lambda p, r: scores[int(number(p, r))])
    (best,) = best_of_n(Counter(), scorer, PROMPTS[:1], n=len(scores), seed=0)
    assert best.unscored == scores.count(None)
    known = [score for score in scores if score is not None]
    if not known:
        assert best.best is None
        assert best.winner is None
    else:
        assert best.best == best.draws[scores.index(max(known))].response


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_stops_the_work(bad: float) -> None:
    scorer = FunctionScorer(name="broken", function=lambda p, r: bad)
    with pytest.raises(HealthError, match=f"broken: a response to prompt {PROMPTS[0].id} scores"):
        best_of_n(Counter(), scorer, PROMPTS, n=2, seed=0)


def test_what_cannot_be_asked_is_refused() -> None:
    with pytest.raises(SettingsError, match="n 0"):
        best_of_n(Counter(), BY_NUMBER, PROMPTS, n=0, seed=0)
    with pytest.raises(DataError, match="no prompts"):
        best_of_n(Counter(), BY_NUMBER, [], n=2, seed=0)
    with pytest.raises(SettingsError, match="deadline_s"):
        best_of_n(Counter(), BY_NUMBER, PROMPTS, n=2, seed=0, deadline_s=0.0)
    with pytest.raises(SettingsError, match=r"deadline_s inf\. Give a finite time"):
        best_of_n(Counter(), BY_NUMBER, PROMPTS, n=2, seed=0, deadline_s=math.inf)
    with pytest.raises(SettingsError, match="not together"):
        stopping = Stopping(cost=1.0)
        best_of_n(Counter(), BY_NUMBER, PROMPTS, n=2, seed=0, deadline_s=1.0, stopping=stopping)


class Swapper(Counter):
    """Answers in another order than asked."""

    def respond(self, requests: Sequence[Request]) -> list[Response]:
        return super().respond(requests)[::-1]


class Short:
    name = "short"

    def score(self, rows: Sequence[object]) -> list[float | None]:
        return [1.0]


def test_answers_and_scores_of_something_else_are_refused() -> None:
    with pytest.raises(DataError, match="did not answer what was asked"):
        best_of_n(Swapper(), BY_NUMBER, PROMPTS, n=2, seed=0)
    with pytest.raises(DataError, match="short: 1 scores for 8 responses"):
        best_of_n(Counter(), Short(), PROMPTS, n=2, seed=0)


@pytest.mark.parametrize(
    ("deadline_s", "rounds", "counted"),
    [
        (1.0, [1], 1),  # the first round takes 4 s and is never cut
        (7.9, [1], 1),
        (8.0, [1, 1], 2),
        (20.0, [1, 1, 2, 1], 5),
        (1000.0, [1, 1, 2, 4, 2], 10),
    ],
)
def test_deadline_takes_rounds_while_they_fit(
    deadline_s: float, rounds: list[int], counted: int
) -> None:
    generator = Counter()
    found = best_of_n(
        generator, BY_NUMBER, PROMPTS, n=10, seed=0, deadline_s=deadline_s, clock=generator.clock
    )
    assert [len(asked) // len(PROMPTS) for asked in generator.rounds] == rounds
    assert [len(best.draws) for best in found] == [counted] * len(PROMPTS)
    assert [number(PROMPTS[0], b.best.messages) for b in found if b.best] == [counted - 1] * 4
    if len(generator.rounds) > 1:
        assert generator.now_s <= deadline_s


def test_deadline_draws_are_the_first_of_all_draws() -> None:
    generator, whole = Counter(), Counter()
    best_of_n(generator, BY_NUMBER, PROMPTS, n=9, seed=3, deadline_s=12.0, clock=generator.clock)
    best_of_n(whole, BY_NUMBER, PROMPTS, n=9, seed=3)
    drawn = {request.response_id for asked in generator.rounds for request in asked}
    first = {request.response_id for request in whole.rounds[0] if request.index < 3}
    assert drawn == first


def test_stopping_closes_prompts_and_draws_the_checked_ones_in_full() -> None:
    scores = [0.0, 1.0, 0.0, 5.0, 0.0, 0.0, 0.0, 0.0, 9.0, 0.0]
    scorer = FunctionScorer(name="table", function=lambda p, r: scores[int(number(p, r))])
    prompts = [make_prompt(user(f"ask {i}")) for i in range(10)]
    stopping = Stopping(cost=0.3, least=4, check_frac=0.2)
    found = best_of_n(Counter(), scorer, prompts, n=10, seed=5, stopping=stopping)
    checked = check_prompts([p.id for p in prompts], 0.2, 5)
    assert {b.prompt_id for b in found if b.checked} == set(checked)
    assert len(checked) == 2
    # all prompts have the same scores, so all stop at the same place
    stops = {sum(draw.kept for draw in best.draws) for best in found}
    assert len(stops) == 1
    (stop,) = stops
    assert 4 <= stop < 9
    for best in found:
        assert len(best.draws) == (10 if best.checked else stop)
        assert [d.kept for d in best.draws] == [place < stop for place in range(len(best.draws))]
        assert best.winner is not None
        assert best.winner.score == (9.0 if best.checked else 5.0)


def test_stopping_goes_on_for_prompts_without_a_score() -> None:
    scorer = FunctionScorer(name="none", function=lambda p, r: None)
    stopping = Stopping(cost=100.0, least=2, check_frac=0.0)
    found = best_of_n(Counter(), scorer, PROMPTS, n=5, seed=0, stopping=stopping)
    assert [len(best.draws) for best in found] == [5] * 4
    assert not any(best.checked for best in found)


def test_a_cost_above_every_gain_stops_at_the_first_look() -> None:
    stopping = Stopping(cost=1e9, least=3, check_frac=0.0)
    generator = Counter()
    found = best_of_n(generator, BY_NUMBER, PROMPTS, n=50, seed=0, stopping=stopping)
    assert [len(best.draws) for best in found] == [3] * 4
    assert len(generator.rounds) == 1


def test_tokens_are_those_of_the_response_and_its_end(policy_folder: object) -> None:
    chat = load_chat(str(policy_folder))
    lengths = token_lengths(chat)
    asked = make_prompt(user("wash it ?"))
    sampling = GenerateSettings(max_new_tokens=9).sampling(0)
    reply = Response(
        id="r", prompt_id=asked.id, messages=(assistant("yes , wash it ."),), sampling=sampling
    )
    assert lengths([(asked, reply), (asked, replace(reply, finished=False))]) == [6, 9]
