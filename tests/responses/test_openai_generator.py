from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from preftune.errors import ModelError, RowError, SettingsError
from preftune.records import decode
from preftune.responses.chat_client import ChatAnswer, ChatFailure, ChatRequest
from preftune.responses.generator import GenerateSettings
from preftune.responses.journal import Journal
from preftune.responses.openai_generator import Answers, MissingResponsesError, OpenAIGenerator
from preftune.responses.sample import plan
from preftune.types import Message, ToolCall, assistant, make_prompt, user

PROMPTS = [make_prompt(user(f"question {i}"), tools=({"name": "t"},)) for i in range(4)]
SETTINGS = GenerateSettings(max_new_tokens=8, temperature=0.5, top_p=0.9)
CALL = ToolCall(id="1", name="t", arguments="{}")


class Backwards:
    """Answers the last request first; one whose prompt holds a word of `fails` has no answer."""

    name = "back@host"

    def __init__(self, fails: str = "nothing") -> None:
        self.fails = fails
        self.asked: list[ChatRequest] = []

    def ask(self, requests: Sequence[ChatRequest]) -> Iterator[ChatAnswer | ChatFailure]:
        for request in reversed(requests):
            self.asked.append(request)
            text = request.messages[-1].content
            if self.fails in text:
                yield ChatFailure(key=request.key, reason="HTTP 400: no")
            else:
                yield ChatAnswer(
                    key=request.key, text=f"re {text}", tool_calls=(CALL,), finished=False
                )


def test_responses_come_in_order_and_say_how_they_were_drawn(tmp_path: Path) -> None:
    client = Backwards()
    with Journal(tmp_path / "a") as journal:
        generator = OpenAIGenerator(client, SETTINGS, Answers(journal))
        requests = plan(PROMPTS, generator, n=2, seed=3)
        responses = generator.respond(requests)
    assert [r.id for r in responses] == [q.response_id for q in requests]
    first = responses[0]
    assert first.messages == (
        Message(role="assistant", content="re question 0", tool_calls=(CALL,)),
    )
    assert (first.generator, first.origin, first.finished) == ("back@host", "sampled", False)
    assert first.sampling == SETTINGS.sampling(requests[0].seed)
    assert client.asked[-1] == ChatRequest(
        key=requests[0].response_id,
        messages=PROMPTS[0].messages,
        tools=({"name": "t"},),
        max_tokens=8,
        temperature=0.5,
        top_p=0.9,
        seed=requests[0].seed,
    )


def test_each_answer_is_on_disk_before_the_next_and_never_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with Journal(path) as journal:
        generator = OpenAIGenerator(Backwards(), SETTINGS, Answers(journal))
        requests = plan(PROMPTS, generator, n=1, seed=3)
        for count, response in enumerate(generator.gather(requests), start=1):
            lines = path.read_bytes().splitlines()
            assert len(lines) == count
            assert decode(lines[-1]) == response
            if count == 3:
                break
    again = Backwards()
    with Journal(path) as journal:
        generator = OpenAIGenerator(again, SETTINGS, Answers(journal))
        assert len(generator.missing(requests)) == 1
        assert len(generator.respond(requests)) == 4
    assert [request.key for request in again.asked] == [requests[0].response_id]


def test_failures_are_named_after_all_the_others_are_kept(tmp_path: Path) -> None:
    with Journal(tmp_path / "a") as journal:
        answers = Answers(journal)
        generator = OpenAIGenerator(Backwards("question 2"), SETTINGS, answers)
        requests = plan(PROMPTS, generator, n=3, seed=3)
        with pytest.raises(MissingResponsesError) as caught:
            generator.respond(requests)
        error = caught.value
        assert str(error) == (
            "3 responses could not be had. 3 from back@host: HTTP 400: no "
            f"(prompt {PROMPTS[2].id}). The others are kept; the same command asks only for these."
        )
        assert len(generator.missing(requests)) == 3
        assert {f.prompt_id for f in error.failures} == {PROMPTS[2].id}
        assert error.__reduce__() == (MissingResponsesError, (error.failures,))
        assert answers.besides(set()) == 9
        assert answers.besides({q.response_id for q in requests}) == 0


def test_other_settings_are_other_requests(tmp_path: Path) -> None:
    with Journal(tmp_path / "a") as journal:
        answers = Answers(journal)
        OpenAIGenerator(Backwards(), SETTINGS, answers).respond(
            plan(PROMPTS, OpenAIGenerator(Backwards(), SETTINGS, answers), n=1, seed=3)
        )
        warmer = OpenAIGenerator(Backwards(), GenerateSettings(temperature=0.6), answers)
        assert len(warmer.missing(plan(PROMPTS, warmer, n=1, seed=3))) == 4


def test_prompt_with_nothing_to_answer_is_refused(tmp_path: Path) -> None:
    with Journal(tmp_path / "a") as journal:
        generator = OpenAIGenerator(Backwards(), SETTINGS, Answers(journal))
        generator.check(PROMPTS)
        for messages in ((), (user("?"), assistant("!"))):
            with pytest.raises(ModelError, match="no user turn at its end"):
                generator.check([make_prompt(*messages)])
        with pytest.raises(SettingsError, match="top_k 5: chat APIs have none"):
            OpenAIGenerator(Backwards(), GenerateSettings(top_k=5), Answers(journal))
        with pytest.raises(SettingsError, match="not asked of a server"):
            OpenAIGenerator(Backwards(), GenerateSettings(stop=("!",)), Answers(journal))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"type": "response"}\n', "damaged row"),
        (b'{"type":"prompt","id":"p","messages":[]}\n', "not a response"),
    ],
)
def test_damaged_answers_are_refused_by_line(tmp_path: Path, line: bytes, said: str) -> None:
    (tmp_path / "a").write_bytes(line)
    with Journal(tmp_path / "a") as journal, pytest.raises(RowError, match=f"a:1: {said}"):
        Answers(journal)
