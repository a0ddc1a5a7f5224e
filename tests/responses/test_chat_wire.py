import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.errors import DataError
from preftune.responses.chat_client import ChatAnswer, ChatRequest
from preftune.responses.chat_wire import (
    Dialect,
    FilteredError,
    decode_answer,
    encode_request,
    refusal_text,
    shown,
)
from preftune.types import Message, ToolCall, user

CALL = ToolCall(id="c1", name="look_up", arguments='{"order": 7}')
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}


def body(**choice: Any) -> bytes:
    given = {"message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"} | choice
    return json.dumps({"model": "m-1", "choices": [given]}).encode()


def test_request_is_what_the_api_documents() -> None:
    request = ChatRequest(
        key="k",
        messages=(
            user("where is it?"),
            Message(role="assistant", content="", tool_calls=(CALL,)),
            Message(role="tool", content="in Ulm", tool_call_id="c1", name="look_up"),
        ),
        tools=(TOOL,),
        max_tokens=9,
        temperature=0.5,
        top_p=0.9,
        seed=3,
        top_logprobs=2,
    )
    assert json.loads(encode_request(request, "m", Dialect())) == {
        "model": "m",
        "messages": [
            {"role": "user", "content": "where is it?"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "look_up", "arguments": '{"order": 7}'},
                    }
                ],
            },
            {"role": "tool", "content": "in Ulm", "tool_call_id": "c1", "name": "look_up"},
        ],
        "tools": [TOOL],
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 3,
        "logprobs": True,
        "top_logprobs": 2,
    }


def test_dialect_leaves_out_what_the_server_refused() -> None:
    request = ChatRequest(key="k", messages=(user("?"),), max_tokens=9, seed=3, top_logprobs=2)
    dialect = Dialect()
    for refusal in (
        "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
        "logprobs is not supported",
        "unknown field: seed",
    ):
        assert dialect.after(refusal) != dialect
        dialect = dialect.after(refusal)
        assert dialect.after(refusal) == dialect
    sent = json.loads(encode_request(request, "m", dialect))
    assert sent.keys() == {"model", "messages", "max_completion_tokens", "temperature", "top_p"}
    assert Dialect().after("the prompt is too long") == Dialect()


def test_answer_keeps_text_calls_counts_and_first_logprobs() -> None:
    top = [{"token": "A", "logprob": -0.25}, {"token": "B", "logprob": -1.5}]
    sent = json.dumps(
        {
            "model": "m-1",
            "choices": [
                {
                    "message": {
                        "content": None,
                        "tool_calls": [
                            {
                                "id": "c1",
                                "function": {"name": "look_up", "arguments": CALL.arguments},
                            }
                        ],
                    },
                    "finish_reason": "length",
                    "logprobs": {
                        "content": [
                            {"token": "A", "logprob": -0.25, "top_logprobs": top},
                            {"token": "x", "logprob": -3, "top_logprobs": []},
                        ]
                    },
                }
            ],
            "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
        }
    )
    assert decode_answer(sent.encode(), "k") == ChatAnswer(
        key="k",
        text="",
        tool_calls=(CALL,),
        finished=False,
        logprobs=(("A", -0.25), ("B", -1.5)),
        prompt_tokens=7,
        completion_tokens=2,
        model="m-1",
    )


def test_answer_cut_by_a_filter_is_no_answer() -> None:
    with pytest.raises(FilteredError, match="content filter"):
        decode_answer(body(finish_reason="content_filter"), "k")


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"<html>502</html>",
        b"{}",
        b'{"choices": []}',
        b'{"choices": [{"message": {"content": 7}}]}',
        b'{"choices": [{"message": {"content": "\\ud800"}}]}',
        b'{"choices": [{"message": {"content": "\xff"}}]}',
        b'{"choices": [{"message": {"content": ""}}], "usage": {"prompt_tokens": -1}}',
        b'{"choices": [{"message": {"content": ""}}], "usage": {"prompt_tokens": 1e400}}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"NaN",
    ],
)
def test_garbage_is_a_named_error(garbage: bytes) -> None:
    with pytest.raises(DataError, match="not a chat completion"):
        decode_answer(garbage, "k")
    assert len(refusal_text(garbage)) <= 201


@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_a_named_error(sent: bytes) -> None:
    with pytest.raises(DataError):
        decode_answer(sent, "k")
    refusal_text(sent)


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b'{"error": {"message": "no such model", "code": 7}}', "no such model"),
        (b'{"error": "no such model"}', "no such model"),
        (b'{"detail": "no such model"}', "no such model"),
        (b'{"detail": [{"loc": ["seed"]}]}', '[{"loc":["seed"]}]'),
        (b'{"message": null}', "null"),
        (b"<html>", ""),
    ],
)
def test_refusal_is_found_where_servers_put_it(sent: bytes, said: str) -> None:
    assert refusal_text(sent) == said


def test_words_of_a_server_cannot_act_on_a_terminal() -> None:
    assert shown("a\x1b[2Jb\u202ec\n d\x07") == "a⟨U+001B⟩[2Jb⟨U+202E⟩c d⟨U+0007⟩"
    assert shown("[bold]x[/bold]") == "[bold]x[/bold]"
    assert len(shown("x" * 10_000)) == 201
    assert shown("key sk-abcdefgh") == "key [key]"
