"""The generation process behind the API: when it dies, when clients go, and servers elsewhere."""

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.api.chat_world import CANARY, Live, running

from preftune.errors import SettingsError
from preftune.serving.api.errors import ApiError
from preftune.serving.backend import BackendSettings, OwnBackend, Places, Question
from preftune.serving.url_backend import KEY_ENV, UrlBackend
from preftune.types import user
from preftune.wire.chat import Answer, Ask, Begun, Choice, Done, Drawing, Echo, Piece

ASKED: Any = [{"role": "user", "content": "can i wash my bear ?"}]
LONG = 900  # tokens: seconds of writing


@pytest.fixture(scope="module")
def live() -> Live:
    return running()


def chat(live: Live, **fields: Any) -> Any:
    asked = {"model": "tiny", "messages": ASKED, "max_tokens": 8, "seed": 1, **fields}
    return live.loose.chat.completions.create(**asked)


def wait(until: Callable[[], object], most_s: float = 60.0) -> None:
    ends = time.monotonic() + most_s
    while not until():
        assert time.monotonic() < ends
        time.sleep(0.02)


def writing(live: Live) -> float:
    """Return how many replies are being written, as the server's own figures say."""
    figures = live.http.get(live.url.removesuffix("/v1") + "/metrics").text
    found = re.search(r"^preftune_replies (\d+)", figures, re.M)
    return float(found[1]) if found else -1.0


def test_a_client_that_drops_a_stream_frees_its_place(live: Live) -> None:
    stream = chat(live, stream=True, max_tokens=LONG)
    next(iter(stream))
    wait(lambda: writing(live) == 1)
    stream.close()
    wait(lambda: writing(live) == 0, most_s=15)


def test_a_client_that_drops_a_whole_answer_frees_its_places(live: Live) -> None:
    hasty = live.loose.with_options(timeout=0.3)
    with pytest.raises(openai.APITimeoutError):
        hasty.chat.completions.create(model="tiny", messages=ASKED, max_tokens=LONG, n=4)
    wait(lambda: writing(live) == 0, most_s=15)


def test_the_process_has_none_of_the_servers_secrets(live: Live) -> None:
    chat(live)
    told = [
        Path(f"/proc/{pid}/environ").read_bytes() for pid in (live.process.pid, live.generation)
    ]
    assert [CANARY.encode() in one for one in told] == [True, False]


def test_a_killed_process_ends_streams_with_an_error_and_is_started_again(live: Live) -> None:
    endless: dict[str, Any] = {"max_tokens": LONG, "temperature": 0}  # repeats itself, never ends
    body = {"model": "tiny", "messages": ASKED, "stream": True, **endless}
    before = chat(live)
    stream = iter(chat(live, stream=True, **endless))
    next(stream)
    with ThreadPoolExecutor(1) as pool:
        with live.http.stream("POST", "/chat/completions", json=body) as answer:
            lines = answer.iter_lines()
            read = [line for line, _ in zip(lines, range(8), strict=False) if line]
            whole = pool.submit(chat, live, **endless)  # not told yet: is asked again
            wait(lambda: writing(live) == 3)
            killed = live.generation
            os.kill(killed, signal.SIGKILL)
            read += [line for line in lines if line]
        with pytest.raises(openai.APIError, match="ended while it answered"):
            list(stream)
        assert whole.result().usage.completion_tokens == LONG
    events = [json.loads(line.removeprefix("data: ")) for line in read]
    assert [list(event) == ["error"] for event in events].count(True) == 1
    assert events[-1]["error"]["code"] == "backend_lost"
    assert live.generation not in (0, killed)
    assert chat(live).choices == before.choices


def test_places_are_bounded_and_given_back() -> None:
    places = Places(4)
    with places.take(9):  # alone, anything fits
        with pytest.raises(ApiError) as caught, places.take(1):
            pass
        assert (caught.value.status, caught.value.retry_after_s) == (429, 1.0)
    with places.take(3), places.take(1):
        assert places.taken == 4
    assert places.taken == 0


def test_a_process_that_does_not_start_in_time_is_said(tmp_path: Path) -> None:
    backend = OwnBackend(BackendSettings(generation_start_s=0.2), log=tmp_path / "log")
    question = Question(name="tiny", ask=Ask(model="none", text="a"))

    async def first() -> Answer:
        return await anext(backend.answers(question))

    try:
        assert backend.pid is None
        with pytest.raises(ApiError, match="does not start") as caught:
            asyncio.run(first())
        assert (caught.value.status, caught.value.code) == (503, "backend_unavailable")
    finally:
        backend.close()
    assert backend.pid is None


def elsewhere(live: Live, monkeypatch: pytest.MonkeyPatch) -> UrlBackend:
    """The live server, as one that answers for another."""
    monkeypatch.setenv(KEY_ENV, live.key)
    return UrlBackend(live.url, BackendSettings())


def answered(backend: UrlBackend, ask: Ask, name: str = "tiny") -> list[Answer]:
    async def gather() -> list[Answer]:
        return [record async for record in backend.answers(Question(name=name, ask=ask))]

    return asyncio.run(gather())


def test_a_server_elsewhere_answers_chats(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    drawing = Drawing(max_tokens=12, seed=3, stop=("zzz",), logprobs=2, presence_penalty=0.5)
    ask = Ask(model="", messages=(user(ASKED[0]["content"]),), drawing=drawing, n=2)
    records = answered(elsewhere(live, monkeypatch), ask)
    how: dict[str, Any] = {"max_tokens": 12, "seed": 3, "presence_penalty": 0.5, "n": 2}
    expected = chat(live, **how, logprobs=True, top_logprobs=2)
    assert isinstance(records[0], Begun)
    assert records[0].fingerprint == expected.system_fingerprint
    choices = [record for record in records if isinstance(record, Choice)]
    for choice in sorted(choices, key=lambda one: one.index):
        same = expected.choices[choice.index]
        assert choice.text == same.message.content
        assert choice.finish == same.finish_reason
        assert [token.logprob for token in choice.tokens] == [
            token.logprob for token in same.logprobs.content
        ]
        assert [token.raw for token in choice.tokens] == [
            bytes(token.bytes) for token in same.logprobs.content
        ]
        pieces = [r.text for r in records if isinstance(r, Piece) and r.index == choice.index]
        assert "".join(pieces) == choice.text
    done = records[-1]
    assert isinstance(done, Done)
    assert done.prompt_tokens == expected.usage.prompt_tokens
    assert done.completion_tokens == expected.usage.completion_tokens


def test_a_server_elsewhere_scores_texts(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    drawing = Drawing(max_tokens=0, logprobs=1)
    ask = Ask(model="", text="can i wash it", echo=True, drawing=drawing)
    records = answered(elsewhere(live, monkeypatch), ask)
    expected = live.loose.completions.create(
        model="tiny", prompt="can i wash it", echo=True, logprobs=1, max_tokens=0
    )
    told = expected.choices[0].logprobs
    assert told is not None
    (choice,) = (record for record in records if isinstance(record, Choice))
    assert choice.text == expected.choices[0].text == "can i wash it"
    assert [token.logprob for token in choice.tokens] == told.token_logprobs
    assert not any(isinstance(record, Echo) for record in records)


@pytest.mark.parametrize(
    ("name", "ask", "status", "says"),
    [
        ("nobody", Ask(model="", messages=(user("a"),)), 404, "loads it there"),
        ("tiny", Ask(model="", text="x" * 4000), 400, "context length"),
        ("tiny", Ask(model="", text="a", n=1, best_of=2), 400, "without --inference-url"),
    ],
)
def test_what_a_server_elsewhere_refuses_is_said(
    live: Live, monkeypatch: pytest.MonkeyPatch, name: str, ask: Ask, status: int, says: str
) -> None:
    with pytest.raises(ApiError, match=says) as caught:
        answered(elsewhere(live, monkeypatch), ask, name)
    assert caught.value.status == status


def test_a_wrong_key_elsewhere_is_no_fault_of_the_client(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_ENV, "pft_wrong-wrong-wrong")
    with pytest.raises(ApiError, match="status 401") as caught:
        answered(UrlBackend(live.url, BackendSettings()), Ask(model="", text="a"))
    assert (caught.value.status, caught.value.code) == (503, "backend_unavailable")


def test_a_server_elsewhere_that_is_away_is_503() -> None:
    backend = UrlBackend("http://127.0.0.1:9/v1", BackendSettings())
    with pytest.raises(ApiError, match="does not answer") as caught:
        answered(backend, Ask(model="", text="a"))
    assert (caught.value.status, caught.value.retry_after_s) == (503, 2.0)


def test_an_address_that_is_none_is_refused_at_the_start() -> None:
    with pytest.raises(SettingsError, match="user name or password"):
        UrlBackend("http://me:secret@127.0.0.1/v1", BackendSettings())
