"""Replies that end at a stop text: their tokens are told and counted, in a stream or not."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from preftune.types import user
from preftune.wire.chat import Answer, Choice, Done, Drawing, Token

Answers = Callable[..., list[Answer]]
DRAWING = Drawing(max_tokens=60, seed=5, stop=("e", "a", "i"), logprobs=0)


def told(answers: Sequence[Answer]) -> tuple[list[Choice], int]:
    """Return the replies in order and how many tokens they count together."""
    done = answers[-1]
    assert isinstance(done, Done), done
    choices = [one for one in answers if isinstance(one, Choice)]
    return sorted(choices, key=lambda one: one.index), done.completion_tokens


def length(tokens: Sequence[Token]) -> int:
    """Return how many characters tokens spell."""
    return len(b"".join(token.raw for token in tokens).decode(errors="replace"))


@pytest.mark.parametrize(
    "asked",
    [
        {"messages": (user("wash it?"),), "n": 3},
        {"text": "wash it?", "echo": True, "n": 3},
        {"messages": (user("wash it?"),), "n": 2, "best_of": 5},
    ],
    ids=["chat", "echo", "best_of"],
)
def test_the_tokens_that_begin_before_the_stop_are_counted(
    answers: Answers, model_folder: Path, asked: dict[str, Any]
) -> None:
    common = {"model": str(model_folder), "drawing": DRAWING, **asked}
    choices, count = told(answers(**common))
    assert "stop" in {choice.finish for choice in choices}
    for choice in choices:
        assert length(choice.tokens[:-1]) < len(choice.text) <= length(choice.tokens)
    assert count == sum(len(choice.tokens) for choice in choices)
    assert told(answers(**common, stream=True)) == (choices, count)
