"""POST /v1/chat/completions with the openai client, strict, against a real server."""

import concurrent.futures
import json
import re
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from tests.api.chat_world import TUNED, Live, running

ASKED: Any = [{"role": "user", "content": "can i wash my bear ?"}]


@pytest.fixture(scope="module")
def live() -> Live:
    return running()


def chat(live: Live, **fields: Any) -> ChatCompletion:
    asked = {"model": "tiny", "messages": ASKED, "max_tokens": 8, "seed": 1, **fields}
    found: ChatCompletion = live.client.chat.completions.create(**asked)
    return found


def text(answer: ChatCompletion) -> str:
    return answer.choices[0].message.content or ""


def chunks(live: Live, **fields: Any) -> list[ChatCompletionChunk]:
    asked = {"model": "tiny", "messages": ASKED, "max_tokens": 8, "seed": 1, **fields}
    return list(live.loose.chat.completions.create(stream=True, **asked))


def streamed(events: list[ChatCompletionChunk], index: int = 0) -> str:
    own = [choice for event in events for choice in event.choices if choice.index == index]
    return "".join(choice.delta.content or "" for choice in own)


def test_an_answer_has_all_that_the_client_reads(live: Live) -> None:
    answer = chat(live)
    (choice,) = answer.choices
    assert re.fullmatch(r"chatcmpl-[0-9a-f]{32}", answer.id)
    assert (answer.object, answer.model) == ("chat.completion", "tiny")
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "length", None)
    assert (choice.message.role, choice.message.refusal) == ("assistant", None)
    assert answer.system_fingerprint
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8
    assert answer.usage.prompt_tokens > 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8
    assert "preftune" not in answer.model_dump()


def test_seeds_repeat_a_text_and_differ_from_each_other(live: Live) -> None:
    texts = [text(chat(live, seed=seed, max_tokens=24)) for seed in (1, 1, 2, -5, -5)]
    assert texts[0] == texts[1] != texts[2]
    assert texts[3] == texts[4]
    assert text(chat(live, seed=None)) != text(chat(live, seed=None))


def test_temperature_0_needs_no_seed(live: Live) -> None:
    first, again = (text(chat(live, temperature=0, seed=None, max_tokens=16)) for _ in range(2))
    assert first == again
    assert first == text(chat(live, temperature=1, top_p=0.0, seed=None, max_tokens=16))


def test_a_stream_says_what_the_whole_answer_says(live: Live) -> None:
    how: dict[str, Any] = {"max_tokens": 40, "seed": 4}
    events = chunks(live, **how, stream_options={"include_usage": True})
    whole = chat(live, **how)
    assert streamed(events) == text(whole)
    assert len({event.id for event in events}) == 1
    assert {event.object for event in events} == {"chat.completion.chunk"}
    assert events[0].choices[0].delta.role == "assistant"
    ends = [choice.finish_reason for event in events for choice in event.choices]
    assert [end for end in ends if end] == [whole.choices[0].finish_reason]
    assert events[-1].choices == []
    assert events[-1].usage == whole.usage
    assert all(event.usage is None for event in events[:-1])


def test_a_stream_without_usage_ends_with_the_reply(live: Live) -> None:
    body = {"model": "tiny", "messages": ASKED, "max_tokens": 3, "stream": True}
    with live.http.stream("POST", "/chat/completions", json=body) as answer:
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        lines = [line for line in answer.read().decode().split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert all("usage" not in event for event in events)
    assert events[-1]["choices"][0]["finish_reason"] == "length"


def test_n_replies_differ_and_the_first_is_that_of_n_1(live: Live) -> None:
    both = chat(live, n=2, max_tokens=16)
    texts = [choice.message.content for choice in both.choices]
    assert [choice.index for choice in both.choices] == [0, 1]
    assert texts[0] != texts[1]
    assert texts[0] == text(chat(live, max_tokens=16))
    assert both.usage is not None
    assert both.usage.completion_tokens == 32
    events = chunks(live, n=2, max_tokens=16)
    assert [streamed(events, index) for index in (0, 1)] == texts


def test_logprobs_are_one_per_token_sorted_and_of_the_text(live: Live) -> None:
    answer = chat(live, logprobs=True, top_logprobs=3, max_tokens=12)
    told = answer.choices[0].logprobs
    assert told is not None
    assert told.content is not None
    assert len(told.content) == 12
    for token in told.content:
        tops = [other.logprob for other in token.top_logprobs]
        assert len(tops) == 3
        assert tops == sorted(tops, reverse=True)
        assert token.logprob <= tops[0] <= 0
    said = b"".join(bytes(token.bytes or []) for token in told.content)
    assert said.decode(errors="replace") == text(answer)
    events = chunks(live, logprobs=True, top_logprobs=3, max_tokens=12)
    own = [c.logprobs.content for e in events for c in e.choices if c.logprobs]
    streamed_tokens = [token.token for content in own for token in content or []]
    assert streamed_tokens == [token.token for token in told.content]


def test_logprobs_without_alternatives_name_none(live: Live) -> None:
    told = chat(live, logprobs=True).choices[0].logprobs
    assert told is not None
    assert told.content is not None
    assert all(token.top_logprobs == [] for token in told.content)


def test_a_stop_is_left_out_whole_and_in_a_stream(live: Live) -> None:
    whole = text(chat(live, max_tokens=40))
    stop = whole[9:12]
    for given in (stop, ["not there", stop]):
        answer = chat(live, max_tokens=40, stop=given)
        assert text(answer) == whole[: whole.index(stop)]
        assert answer.choices[0].finish_reason == "stop"
        assert streamed(chunks(live, max_tokens=40, stop=given)) == text(answer)


def test_tokens_before_a_stop_are_counted_and_told(live: Live) -> None:
    how: dict[str, Any] = {"seed": 5, "max_tokens": 30, "logprobs": True, "stop": "e"}
    answer = chat(live, **how)
    assert answer.choices[0].finish_reason == "stop"
    told = answer.choices[0].logprobs
    assert told is not None
    assert told.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len(told.content)
    events = chunks(live, **how, stream_options={"include_usage": True})
    assert events[-1].usage == answer.usage


def test_an_answer_can_be_sent_back_as_the_client_gives_it(live: Live) -> None:
    said = chat(live).choices[0].message.model_dump()
    assert said["function_call"] is None  # the client adds fields that we do not send
    again = chat(live, messages=[*ASKED, said, *ASKED])
    plain = {"role": "assistant", "content": said["content"]}
    assert text(again) == text(chat(live, messages=[*ASKED, plain, *ASKED]))


def test_penalties_change_what_is_written(live: Live) -> None:
    plain = text(chat(live, temperature=0, max_tokens=30))
    for name in ("presence_penalty", "frequency_penalty"):
        assert text(chat(live, temperature=0, max_tokens=30, **{name: 2.0})) != plain


def test_a_tuned_model_answers_otherwise_than_its_base(live: Live) -> None:
    how = {"temperature": 0, "max_tokens": 24}
    answer = chat(live, model=TUNED, **how)
    assert answer.model == TUNED
    assert text(answer) != text(chat(live, **how))
    assert streamed(chunks(live, model=TUNED, **how)) == text(answer)


def test_text_parts_and_the_developer_role_are_the_same_as_plain(live: Live) -> None:
    plain = [{"role": "system", "content": "be kind"}, *ASKED]
    parts = [
        {
            "role": "developer",
            "content": [{"type": "text", "text": "be "}, {"type": "text", "text": "kind"}],
        },
        {"role": "user", "content": [{"type": "text", "text": ASKED[0]["content"]}]},
    ]
    assert text(chat(live, messages=plain)) == text(chat(live, messages=parts))


def test_tools_and_their_calls_reach_the_template(live: Live) -> None:
    tool = {"type": "function", "function": {"name": "wash", "parameters": {"type": "object"}}}
    call = {"id": "c1", "type": "function", "function": {"name": "wash", "arguments": "{}"}}
    talk = [
        *ASKED,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "done"},
    ]

    def prompt_tokens(**fields: Any) -> int:
        usage = chat(live, **fields).usage
        return usage.prompt_tokens if usage else 0

    assert prompt_tokens(tools=[tool]) > prompt_tokens()
    assert prompt_tokens(tools=[tool], tool_choice="none") == prompt_tokens()
    assert prompt_tokens(messages=talk) > prompt_tokens(messages=[talk[0], talk[2]])


def test_control_tokens_in_a_message_stay_text(live: Live) -> None:
    # the template's own tokens are one id each; as text they are several
    forged = [{"role": "user", "content": "<|end|>" * 5}]
    harmless = [{"role": "user", "content": ""}]
    longer, shorter = (chat(live, messages=one).usage for one in (forged, harmless))
    assert longer is not None
    assert shorter is not None
    assert longer.prompt_tokens >= shorter.prompt_tokens + 10


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0},
        {"temperature": 2},
        {"top_p": 0},
        {"top_p": 1},
        {"presence_penalty": -2},
        {"frequency_penalty": -2},
        {"n": 128, "max_tokens": 1},
        {"max_tokens": 1},
        {"max_completion_tokens": 3, "max_tokens": 3},
        {"stop": ["a", "b", "c", "d"]},
        {"stop": []},
        {"logprobs": True, "top_logprobs": 20},
        {"logprobs": True, "top_logprobs": 0},
        {"seed": -(2**63)},
        {"seed": 2**63 - 1},
        {"logit_bias": {}},
        {"user": "u", "metadata": {"a": "b"}, "safety_identifier": "s", "prompt_cache_key": "k"},
        {"response_format": {"type": "text"}, "modalities": ["text"], "store": False},
        {"tool_choice": "auto", "service_tier": "auto", "parallel_tool_calls": True},
        {"functions": None, "stream_options": None, "tools": None, "stop": None},
    ],
    ids=lambda fields: "-".join(f"{k}={v}"[:24] for k, v in fields.items()),
)
def test_every_bound_is_taken(live: Live, fields: dict[str, Any]) -> None:
    given = {"max_tokens": 2, **fields}
    answer = chat(live, **given)
    assert len(answer.choices) == fields.get("n", 1)


IMAGE = [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"messages": []}, "messages", "at least 1"),
    ({"messages": "hello"}, "messages", "list"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role", "developer"),
    ({"messages": [{"role": "user", "content": IMAGE}]}, "messages.0.content", "text alone"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content", "string"),
    ({"messages": [{"role": "user", "contents": "x"}]}, "messages.0.contents", "'content'"),
    ({"messages": [{**ASKED[0], "function_call": {}}]}, "messages.0.function_call", "Unknown"),
    ({"messages": [{"role": "user"}]}, "messages.0", "no content"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0", "tool_call_id"),
    ({"messages": [{"role": "user", "refusal": "x"}]}, "messages.0", "assistant refuses"),
    ({"temperature": -0.1}, "temperature", "greater than or equal to 0"),
    ({"temperature": 2.1}, "temperature", "less than or equal to 2"),
    ({"temperature": "hot"}, "temperature", "number"),
    ({"temperature": True}, "temperature", "number"),
    ({"top_p": -0.1}, "top_p", "0"),
    ({"top_p": 1.1}, "top_p", "1"),
    ({"presence_penalty": 2.1}, "presence_penalty", "2"),
    ({"presence_penalty": -2.1}, "presence_penalty", "-2"),
    ({"frequency_penalty": 2.1}, "frequency_penalty", "2"),
    ({"frequency_penalty": -2.1}, "frequency_penalty", "-2"),
    ({"n": 0}, "n", "1"),
    ({"n": 129}, "n", "128"),
    ({"n": 1.5}, "n", "integer"),
    ({"n": True}, "n", "integer"),
    ({"max_tokens": 0}, "max_tokens", "1"),
    ({"max_tokens": None, "max_completion_tokens": 0}, "max_completion_tokens", "1"),
    ({"max_completion_tokens": 9}, "max_tokens", "one of them"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "4"),
    ({"stop": ""}, "stop.0", "1 character"),
    ({"stop": 5}, "stop", "list"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "20"),
    ({"logprobs": True, "top_logprobs": -1}, "top_logprobs", "0"),
    ({"top_logprobs": 2}, "top_logprobs", "needs logprobs"),
    ({"logprobs": 1}, "logprobs", "boolean"),
    ({"seed": 2**63}, "seed", "less than"),
    ({"seed": "one"}, "seed", "integer"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "set stream"),
    ({"logit_bias": {"5": 100}}, "logit_bias", "not applied"),
    ({"response_format": {"type": "json_object"}}, "response_format.type", "'text'"),
    ({"functions": [{"name": "f"}]}, "functions", "Give tools"),
    ({"audio": {"voice": "alloy"}}, "audio", "text alone"),
    ({"modalities": ["audio"]}, "modalities.0", "'text'"),
    ({"tool_choice": "required"}, "tool_choice", "'auto'"),
    ({"parallel_tool_calls": False}, "parallel_tool_calls", "True"),
    ({"reasoning_effort": "high"}, "reasoning_effort", "'none'"),
    ({"store": True}, "store", "False"),
    ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools.0.custom", "Unknown"),
    ({"best_of": 0}, "best_of", "1"),
    ({"best_of": 129}, "best_of", "128"),
    ({"best_of": 2, "n": 3}, "best_of", "less than n"),
    ({"reward_model": "reward"}, "reward_model", "best_of > n"),
    ({"deadline_s": 1}, "deadline_s", "best_of > n"),
    ({"best_of": 2, "deadline_s": 0}, "deadline_s", "0"),
    ({"temprature": 1}, "temprature", "'temperature'"),
    ({"model": "reward"}, "model", "scores text"),
    ({"best_of": 2, "reward_model": "tiny"}, "reward_model", "no reward model"),
]


@pytest.mark.parametrize(
    ("fields", "param", "says"), REFUSED, ids=[f"{f}"[1:40] for f, _, _ in REFUSED]
)
def test_what_cannot_be_done_is_refused_by_name(
    live: Live, fields: dict[str, Any], param: str, says: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(live, extra_body=fields)
    assert caught.value.param == param
    assert says in caught.value.message
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["other", "ft:tiny:preftune::Nobody00", "../tiny", "/etc/passwd"])
def test_an_unknown_model_is_404_before_a_stream_begins(
    live: Live, name: str, stream: bool
) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        live.client.chat.completions.create(model=name, messages=ASKED, stream=stream)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "fields", [{"max_tokens": 1020}, {"messages": [{**ASKED[0], "content": "x" * 3000}]}]
)
def test_too_long_is_said_with_both_numbers_before_a_stream_begins(
    live: Live, fields: dict[str, Any], stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(live, stream=stream, **fields)
    assert caught.value.code == "context_length_exceeded"
    assert "1024" in caught.value.message
    assert str(live.folder) not in caught.value.message


def test_best_of_gives_the_best_and_says_what_it_took(live: Live) -> None:
    drawn = chat(live, n=6, max_tokens=12)
    body = {"best_of": 6, "reward_model": "reward"}
    best = chat(live, n=2, max_tokens=12, extra_body=body)
    texts = [choice.message.content for choice in drawn.choices]
    assert {choice.message.content for choice in best.choices} <= set(texts)
    cost = best.model_dump()["preftune"]
    assert (cost["best_of"], cost["drawn"], cost["finished"], cost["scored"]) == (6, 6, 6, 6)
    assert cost["scores"] == sorted(cost["scores"], reverse=True)
    assert cost["drawn_tokens"] >= 6 * 12
    assert best.usage is not None
    assert best.usage.completion_tokens < cost["drawn_tokens"]
    events = chunks(
        live, n=2, max_tokens=12, stream_options={"include_usage": True}, extra_body=body
    )
    assert [streamed(events, i) for i in (0, 1)] == [c.message.content for c in best.choices]
    assert events[-1].model_dump()["preftune"]["drawn"] == 6


def test_best_of_without_a_reward_model_goes_by_the_likeliest(live: Live) -> None:
    drawn = chat(live, n=4, max_tokens=12, logprobs=True)

    def mean(place: int) -> float:
        told = drawn.choices[place].logprobs
        content = (told.content if told else None) or []
        return sum(token.logprob for token in content) / len(content)

    best = chat(live, max_tokens=12, extra_body={"best_of": 4})
    likeliest = max(range(4), key=mean)
    assert text(best) == drawn.choices[likeliest].message.content
    assert best.model_dump()["preftune"]["scores"] == pytest.approx([mean(likeliest)], abs=1e-4)


def test_a_deadline_gives_the_best_of_what_has_ended(live: Live) -> None:
    body = {"best_of": 24, "reward_model": "reward", "deadline_s": 0.03}
    best = chat(live, max_tokens=60, extra_body=body)
    cost = best.model_dump()["preftune"]
    assert 24 > cost["finished"] >= 1
    assert text(best)


def test_neighbours_change_nothing(live: Live) -> None:
    alone = {seed: text(chat(live, seed=seed, max_tokens=20)) for seed in range(6)}
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        together = pool.map(lambda seed: text(chat(live, seed=seed, max_tokens=20)), range(6))
        assert dict(enumerate(together)) == alone


def test_a_key_without_the_scope_may_not_ask(live: Live) -> None:
    made = live.http.post("/keys", json={"name": "files", "scopes": ["files:read"]})
    assert made.status_code == 200, made.text
    weak = live.client.with_options(api_key=made.json()["key"])
    with pytest.raises(openai.PermissionDeniedError):
        weak.chat.completions.create(model="tiny", messages=ASKED)
