from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from preftune.errors import SettingsError
from preftune.graders.scorer import FunctionScorer
from preftune.inference.backend import TransformersGenerator, load_generator
from preftune.inference.best_of_n import Best, best_of_n, token_lengths
from preftune.inference.early_rejection import EarlyRejection, best_of_n_rejecting
from preftune.responses.generator import GenerateSettings
from preftune.types import Message, Prompt, make_prompt, text_of, user

N, PREFIX = 8, 3
PROMPTS = [make_prompt(user(text)) for text in ("wash it ?", "dry it or iron it ?", "cat", "it")]


def commas(_: Prompt, response: tuple[Message, ...]) -> float:
    """How many commas: a beginning has no more of them than the whole."""
    return float(text_of(response).count(","))


def words(_: Prompt, response: tuple[Message, ...]) -> float:
    return float(len(text_of(response).split()))


COMMAS, WORDS = (
    FunctionScorer(name="commas", function=commas),
    FunctionScorer(name="words", function=words),
)


@pytest.fixture(scope="module")
def generator(policy_folder: Path) -> TransformersGenerator:
    return load_generator(policy_folder, GenerateSettings(max_new_tokens=16))


@pytest.fixture(scope="module")
def whole(generator: TransformersGenerator) -> list[Best]:
    lengths = token_lengths(generator.chat)
    return best_of_n(generator, COMMAS, PROMPTS, n=N, seed=2, gold=WORDS, lengths=lengths)


@pytest.fixture(scope="module")
def rejecting(generator: TransformersGenerator) -> Callable[[EarlyRejection], list[Best]]:
    def run(early: EarlyRejection) -> list[Best]:
        return best_of_n_rejecting(generator, COMMAS, PROMPTS, n=N, seed=2, early=early, gold=WORDS)

    return run


@pytest.fixture(scope="module")
def begun(generator: TransformersGenerator, whole: list[Best]) -> list[Best]:
    """All beginnings: the first words of the whole responses."""
    short = replace(generator.settings, max_new_tokens=PREFIX)
    drawer = generator.drawing(short)
    lengths = token_lengths(generator.chat)
    found = best_of_n(drawer, COMMAS, PROMPTS, n=N, seed=2, lengths=lengths)
    for best, full in zip(found, whole, strict=True):
        for draw, of in zip(best.draws, full.draws, strict=True):
            if not draw.response.finished:  # a beginning really is one
                assert text_of(of.response.messages).startswith(text_of(draw.response.messages))
    return found


def test_kept_responses_are_the_full_draws_of_the_best_beginnings(
    whole: list[Best], begun: list[Best], rejecting: Callable[[EarlyRejection], list[Best]]
) -> None:
    found = rejecting(EarlyRejection(tokens=PREFIX, keep_frac=0.3, check_frac=0.0))
    for best, full, started in zip(found, whole, begun, strict=True):
        ranked = sorted(range(N), key=lambda place: -(started.draws[place].score or 0.0))
        assert best.draws == tuple(full.draws[place] for place in sorted(ranked[:3])), "ceil(2.4)"
        assert not best.checked
        assert best.rejected == N - 3


def test_checked_prompts_are_whole_and_know_what_would_have_been_kept(
    whole: list[Best], begun: list[Best], rejecting: Callable[[EarlyRejection], list[Best]]
) -> None:
    lean = rejecting(EarlyRejection(tokens=PREFIX, keep_frac=0.3, check_frac=0.0))
    found = rejecting(EarlyRejection(tokens=PREFIX, keep_frac=0.3, check_frac=1.0))
    for best, full, thin, started in zip(found, whole, lean, begun, strict=True):
        assert best.checked
        assert [replace(draw, kept=True) for draw in best.draws] == list(full.draws)
        assert [draw for draw in best.draws if draw.kept] == list(thin.draws)
        assert best.tokens == thin.tokens  # the check is no cost of the rule
        again = [draw.tokens or 0 for draw in started.draws if not draw.response.finished]
        assert best.extra_tokens - best.drawn_tokens == sum(again)  # the others are in the draws


def test_tokens_count_each_beginning_once_and_what_is_drawn_after_it(
    whole: list[Best], begun: list[Best], rejecting: Callable[[EarlyRejection], list[Best]]
) -> None:
    found = rejecting(EarlyRejection(tokens=PREFIX, keep_frac=0.3, check_frac=0.0))
    for best, full, started in zip(found, whole, begun, strict=True):
        cut = {
            f.response.id
            for f, b in zip(full.draws, started.draws, strict=True)
            if not b.response.finished
        }
        again = sum(d.tokens or 0 for d in best.draws if d.response.id in cut)
        assert best.tokens == (started.tokens or 0) + again
        assert all(d.tokens == 16 for d in full.draws if not d.response.finished)


def test_what_rejects_nothing_or_everything_is_refused(
    rejecting: Callable[[EarlyRejection], list[Best]],
) -> None:
    with pytest.raises(SettingsError, match="rejects nothing early"):
        rejecting(EarlyRejection(tokens=16))
    for wrong in ({"tokens": 0}, {"keep_frac": 0.0}, {"keep_frac": 1.0}, {"check_frac": -0.1}):
        with pytest.raises(SettingsError, match="early rejection:"):
            EarlyRejection(**{"tokens": 3, **wrong})  # type: ignore[arg-type]  # one table, two types


def test_the_caller_may_say_which_prompts_are_checked(generator: TransformersGenerator) -> None:
    early = EarlyRejection(tokens=PREFIX, keep_frac=0.3, check_frac=1.0)
    found = best_of_n_rejecting(
        generator, COMMAS, PROMPTS, n=N, seed=2, early=early, checked=[PROMPTS[1].id]
    )
    assert [best.prompt_id for best in found if best.checked] == [PROMPTS[1].id]
    assert len(found[1].draws) == N > len(found[0].draws)
