"""POST /v1/completions with the openai client against a real server."""

from typing import Any

import openai
import pytest
import torch
from openai.types import Completion
from tests.api.chat_world import Live, running

from preftune.models.load import load_policy
from preftune.serving.backend import BackendSettings

PROMPT = "can i wash it"


@pytest.fixture(scope="module")
def live() -> Live:
    return running()


def complete(live: Live, **fields: Any) -> Completion:
    asked = {"model": "tiny", "prompt": PROMPT, "max_tokens": 8, "seed": 1, **fields}
    found: Completion = live.client.completions.create(**asked)
    return found


def raw(live: Live, **fields: Any) -> dict[str, Any]:
    asked = {"model": "tiny", "prompt": PROMPT, "max_tokens": 8, "seed": 1, **fields}
    answer = live.http.post("/completions", json=asked)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_an_answer_has_all_that_the_client_reads(live: Live) -> None:
    answer = complete(live)
    (choice,) = answer.choices
    assert answer.id.startswith("cmpl-")
    assert (answer.object, answer.model) == ("text_completion", "tiny")
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "length", None)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8


def test_the_default_is_16_tokens(live: Live) -> None:
    answer = live.client.completions.create(model="tiny", prompt=PROMPT, seed=1)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16


def test_echo_with_no_tokens_scores_a_text_as_the_model_does(live: Live) -> None:
    answer = raw(live, echo=True, logprobs=2, max_tokens=0)
    (choice,) = answer["choices"]
    told = choice["logprobs"]
    assert choice["text"] == PROMPT == "".join(told["tokens"])
    assert told["token_logprobs"][0] is None
    assert told["top_logprobs"][0] is None
    assert told["text_offset"] == [
        len("".join(told["tokens"][:place])) for place in range(len(told["tokens"]))
    ]
    assert answer["usage"]["completion_tokens"] == 0
    model = load_policy(live.folder / "tiny").eval()
    from preftune.models.chat import load_chat

    ids = load_chat(live.folder / "tiny").tokenizer(PROMPT, add_special_tokens=False).input_ids
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = [float(logits[place, token]) for place, token in enumerate(ids[1:])]
    assert told["token_logprobs"][1:] == pytest.approx(expected, abs=1e-4)
    best = logits[:-1].topk(2).values.flatten().tolist()
    tops = [value for top in told["top_logprobs"][1:] for value in top.values()]
    assert tops == pytest.approx(best, abs=1e-4)


def test_token_ids_and_their_text_are_the_same_prompt(live: Live) -> None:
    from preftune.models.chat import load_chat

    ids = load_chat(live.folder / "tiny").tokenizer(PROMPT, add_special_tokens=False).input_ids
    assert complete(live, prompt=ids).choices[0].text == complete(live).choices[0].text


def test_several_prompts_have_n_replies_each_in_order(live: Live) -> None:
    answer = complete(live, prompt=[PROMPT, "yes"], n=2, echo=True)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    starts = [choice.text.startswith(PROMPT) for choice in answer.choices]
    assert starts == [True, True, False, False]
    assert answer.choices[0].text == PROMPT + complete(live).choices[0].text
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 32


@pytest.mark.parametrize("stop", [None, "e"])
def test_a_stream_says_what_the_whole_answer_says(live: Live, stop: str | None) -> None:
    how: dict[str, Any] = {
        "stop": stop,
        "model": "tiny",
        "prompt": [PROMPT, "yes"],
        "n": 2,
        "max_tokens": 20,
        "seed": 3,
        "echo": True,
        "logprobs": 1,
    }
    whole = live.loose.completions.create(**how)
    events = list(
        live.loose.completions.create(stream=True, stream_options={"include_usage": True}, **how)
    )
    for choice in whole.choices:
        own = [c for event in events for c in event.choices if c.index == choice.index]
        assert "".join(c.text for c in own) == choice.text
        assert [c.finish_reason for c in own if c.finish_reason] == [choice.finish_reason]
        assert choice.logprobs is not None
        offsets = [o for c in own if c.logprobs for o in c.logprobs.text_offset or []]
        assert offsets == choice.logprobs.text_offset
    assert events[-1].choices == []
    assert events[-1].usage == whole.usage
    assert whole.usage is not None
    assert whole.usage.completion_tokens > 0


def test_best_of_gives_the_likeliest(live: Live) -> None:
    drawn = complete(live, n=4, logprobs=0)

    def mean(place: int) -> float:
        told = drawn.choices[place].logprobs
        values = (told.token_logprobs if told else None) or []
        return sum(values) / len(values)

    best = complete(live, best_of=4)
    assert best.choices[0].text == drawn.choices[max(range(4), key=mean)].text


def test_as_many_replies_as_the_server_writes_at_once_are_taken(live: Live) -> None:
    answer = complete(live, prompt=["a"] * 128, n=8, max_tokens=0)
    assert len(answer.choices) == BackendSettings().most_replies


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": []}, "prompt", "token ids"),
    ({"prompt": [[]]}, "prompt", "token ids"),
    ({"prompt": [1, "a"]}, "prompt", "token ids"),
    ({"prompt": [-1]}, "prompt", "token ids"),
    ({"prompt": [True]}, "prompt", "token ids"),
    ({"prompt": {"text": "x"}}, "prompt", "token ids"),
    ({"prompt": ["x"] * 129}, "prompt", "128"),
    ({"prompt": [2**31 - 1]}, "prompt", ""),
    ({"prompt": ["a"] * 128, "n": 16}, "prompt", "are 2048, and this server writes 1024 at once"),
    ({"prompt": ["a"] * 103, "n": 9, "best_of": 10}, "prompt", "are 1030"),
    ({"max_tokens": 10**400}, "prompt", "context length"),
    ({"temperature": 10**400}, "temperature", "number"),
    ({"max_tokens": -1}, "max_tokens", "0"),
    ({"logprobs": 6}, "logprobs", "5"),
    ({"logprobs": True}, "logprobs", "integer"),
    ({"best_of": 21}, "best_of", "20"),
    ({"best_of": 1, "n": 2}, "best_of", "less than n"),
    ({"n": 129}, "n", "128"),
    ({"reward_model": "reward", "best_of": 2}, "reward_model", "Unknown"),
    ({"suffix": "end"}, "suffix", "end alone"),
    ({"logit_bias": {"1": 1}}, "logit_bias", "not applied"),
    ({"echos": True}, "echos", "'echo'"),
    ({"prompt": "x" * 5000}, "prompt", "context length"),
]


@pytest.mark.parametrize(
    ("fields", "param", "says"), REFUSED, ids=[f"{f}"[1:40] for f, _, _ in REFUSED]
)
def test_what_cannot_be_done_is_refused_by_name(
    live: Live, fields: dict[str, Any], param: str, says: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        complete(live, extra_body=fields)
    assert caught.value.param == param
    assert says in caught.value.message


def test_one_prompt_of_several_that_is_too_long_is_said_before_a_stream_begins(live: Live) -> None:
    with pytest.raises(openai.BadRequestError, match="context length"):
        live.loose.completions.create(model="tiny", prompt=[PROMPT, "x" * 5000], stream=True)


def test_a_missing_prompt_is_named(live: Live) -> None:
    answer = live.http.post("/completions", json={"model": "tiny"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "prompt"
