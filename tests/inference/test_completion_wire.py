"""What a server answers is taken when it is whole and agrees with itself, else refused by name."""

from typing import Any

import msgspec
import pytest

from preftune.errors import DataError
from preftune.inference.completion_wire import Completion, completion_request, read_completion
from preftune.responses.generator import GenerateSettings

PROMPT, END = (5, 6), 0


def answer(**changed: Any) -> bytes:
    choice = {
        "finish_reason": "stop",
        "token_ids": [3, END],
        "prompt_token_ids": list(PROMPT),
        "logprobs": {"token_logprobs": [-1.0, -2.0], "tokens": ["token_id:3", "token_id:0"]},
    }
    return msgspec.json.encode({"model": "policy-1", "choices": [choice | changed]})


def read(body: bytes) -> Completion:
    return read_completion(body, PROMPT, max_new_tokens=3, end_ids=(END,), vocab_size=13)


def test_a_whole_answer_is_read() -> None:
    found = Completion(model="policy-1", ids=(3, 0), finished=True, logprobs=(-1.0, -2.0))
    assert read(answer()) == found
    assert read(answer(token_ids=None)) == found  # the ids stand in the names of the tokens
    assert read(answer(prompt_token_ids=None)) == found


def test_a_reply_cut_at_the_limit_is_not_finished() -> None:
    found = read(
        answer(finish_reason="length", token_ids=[3, 4, 5], logprobs={"token_logprobs": [-1] * 3})
    )
    assert (found.ids, found.finished) == ((3, 4, 5), False)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"token_ids": [4, 0]}, "two lists of ids that differ"),
        ({"finish_reason": "length"}, "end token and"),
        ({"finish_reason": None}, "neither finished nor cut"),
        ({"logprobs": None}, "0 log-probs for 2 tokens"),
        ({"logprobs": {"token_logprobs": [None, -1.0]}}, "1 log-probs for 2 tokens"),
        ({"logprobs": {"token_logprobs": [2.0, -1.0]}}, "above 0"),
        ({"prompt_token_ids": [5, 7]}, "another prompt"),
        ({"token_ids": [0, 0], "logprobs": {"token_logprobs": [-1, -1]}}, "before the end"),
        ({"token_ids": [99, 0], "logprobs": {"token_logprobs": [-1, -1]}}, "outside the vocab"),
        ({"token_ids": [], "logprobs": {"token_logprobs": []}}, "no tokens"),
        ({"token_ids": [3] * 4, "logprobs": {"token_logprobs": [-1] * 4}}, "4 tokens where 3"),
        (
            {"token_ids": None, "logprobs": {"token_logprobs": [-1, -1], "tokens": ["a", "b"]}},
            "text, where ids",
        ),
    ],
)
def test_an_answer_that_disagrees_with_itself_is_refused(
    changed: dict[str, Any], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        read(answer(**changed))


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model": "m", "choices": []}', b"\xff"])
def test_what_is_no_completion_is_refused(body: bytes) -> None:
    with pytest.raises(DataError, match="not a completion"):
        read(body)


def test_a_request_asks_for_one_draw_in_token_ids_with_its_logprobs() -> None:
    draw = GenerateSettings(max_new_tokens=3, top_k=7)
    body = completion_request("policy-1", PROMPT, draw, seed=9, end_ids=(END,))
    assert body["prompt"] == [5, 6]
    assert (body["n"], body["seed"], body["max_tokens"], body["top_k"]) == (1, 9, 3, 7)
    assert (body["logprobs"], body["return_token_ids"]) == (0, True)
    assert body["stop_token_ids"] == [END]
    # what is left out a server takes from the model's generation settings
    plain = completion_request("policy-1", PROMPT, GenerateSettings(), seed=9, end_ids=(END,))
    assert (plain["top_k"], plain["min_p"], plain["repetition_penalty"]) == (-1, 0, 1)
    assert (plain["presence_penalty"], plain["frequency_penalty"], plain["top_p"]) == (0, 0, 1)
