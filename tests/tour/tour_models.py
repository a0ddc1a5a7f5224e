"""The tour's end: models, chats, streams, completions, and what deleting leaves."""

from typing import Any

from tests.tour.touring import Tour, check, refused, same


@check
def models_are_listed(tour: Tour) -> None:
    models = {model.id: model for model in tour.client.models.list()}
    for name in ("tiny", tour.story["sft_model"], tour.story["sft_checkpoint"]):
        same((models[name].object, models[name].id), ("model", name))
        assert models[name].created > 0
        assert models[name].owned_by


@check
def a_tuned_model_is_retrieved(tour: Tour) -> None:
    same(tour.client.models.retrieve(tour.story["sft_model"]).id, tour.story["sft_model"])


@check
def a_base_with_a_slash_in_its_name_is_retrieved(tour: Tour) -> None:
    same(tour.client.models.retrieve("org/tiny").id, "org/tiny")


@check
def an_unknown_model_is_not_found(tour: Tour) -> None:
    for call in (
        lambda: tour.client.models.retrieve("ft:none:o::12345678"),
        lambda: tour.chat("none"),
        lambda: tour.chat("none", stream=True),
    ):
        refused(tour, call, "NotFoundError", code="model_not_found")


@check
def a_base_is_not_deleted(tour: Tour) -> None:
    refused(tour, lambda: tour.client.models.delete("tiny"), "PermissionDeniedError")


@check
def a_tuned_model_answers(tour: Tour) -> None:
    got = tour.chat(tour.story["sft_model"])
    same((got.object, got.model), ("chat.completion", tour.story["sft_model"]))
    assert got.id.startswith("chatcmpl-")
    (choice,) = got.choices
    same((choice.index, choice.message.role, choice.logprobs), (0, "assistant", None))
    assert choice.finish_reason in ("stop", "length")
    usage = got.usage
    same(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)
    assert usage.completion_tokens <= 6


@check
def a_checkpoint_answers(tour: Tour) -> None:
    assert tour.chat(tour.story["sft_checkpoint"]).choices


@check
def a_base_answers(tour: Tour) -> None:
    assert tour.chat("tiny").choices


@check
def temperature_0_and_equal_seeds_give_the_same_text(tour: Tour) -> None:
    for drawn in ({"temperature": 0}, {"seed": 3}):
        first, again = (text(tour.chat(tour.story["sft_model"], **drawn)) for _ in range(2))
        same(again, first)


def text(got: Any, at: int = 0) -> str:
    found: str = got.choices[at].message.content
    return found


@check
def two_replies_are_drawn(tour: Tour) -> None:
    got = tour.chat(tour.story["sft_model"], n=2)
    same([choice.index for choice in got.choices], [0, 1])


@check
def a_stream_says_what_the_whole_answer_says(tour: Tour) -> None:
    model = tour.story["sft_model"]
    chunks = list(tour.chat(model, stream=True))
    same({chunk.object for chunk in chunks}, {"chat.completion.chunk"})
    same(len({chunk.id for chunk in chunks}), 1)
    same(chunks[0].choices[0].delta.role, "assistant")
    said = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    same("".join(said), text(tour.chat(model)))
    ends = [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason]
    same(len(ends), 1)


@check
def a_stream_of_two_replies_ends_both(tour: Tour) -> None:
    model = tour.story["sft_model"]
    chunks = list(tour.chat(model, stream=True, n=2))
    ends = [c.index for chunk in chunks for c in chunk.choices if c.finish_reason]
    same(sorted(ends), [0, 1])
    whole = tour.chat(model, n=2)
    for at in (0, 1):
        parts = [c for chunk in chunks for c in chunk.choices if c.index == at]
        same("".join(part.delta.content or "" for part in parts), text(whole, at))


@check
def a_stream_tells_its_usage_at_the_end(tour: Tour) -> None:
    more = {"stream": True, "stream_options": {"include_usage": True}}
    *before, last = tour.chat(tour.story["sft_model"], **more)
    same(last.choices, [])
    assert last.usage.completion_tokens > 0
    assert all(chunk.usage is None for chunk in before)


@check
def an_answer_ends_at_the_limit_with_length(tour: Tour) -> None:
    got = tour.chat("tiny", max_tokens=1, temperature=0)
    same(got.usage.completion_tokens, 1)
    same(tour.chat("tiny", max_tokens=None, max_completion_tokens=1).usage.completion_tokens, 1)


@check
def an_answer_ends_before_a_stop(tour: Tour) -> None:
    model = tour.story["sft_model"]
    whole = text(tour.chat(model, temperature=0, max_tokens=12))
    assert len(whole) > 2, whole
    stop = whole[1:3]
    got = tour.chat(model, temperature=0, max_tokens=12, stop=stop)
    same((text(got), got.choices[0].finish_reason), (whole[: whole.index(stop)], "stop"))


@check
def each_token_has_its_logprob(tour: Tour) -> None:
    got = tour.chat(tour.story["sft_model"], logprobs=True, top_logprobs=3)
    tokens = got.choices[0].logprobs.content
    same(len(tokens), got.usage.completion_tokens)
    for token in tokens:
        same(len(token.top_logprobs), 3)
        drawn = [other.logprob for other in token.top_logprobs]
        same(drawn, sorted(drawn, reverse=True))
        assert token.logprob <= 0
    assert isinstance(tokens[0].bytes, list)


@check
def roles_and_text_parts_are_taken(tour: Tour) -> None:
    got = tour.client.chat.completions.create(
        model="tiny",
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "what is the answer"}]},
            {"role": "assistant", "content": "yes"},
            {"role": "user", "content": "sure"},
        ],
        max_tokens=2,
    )
    assert got.choices


@check
def chats_out_of_bounds_are_refused(tour: Tour) -> None:
    for param, value in {
        "temperature": 2.1,
        "top_p": 1.1,
        "n": 129,
        "presence_penalty": -2.1,
        "frequency_penalty": 2.1,
        "max_tokens": 0,
        "top_logprobs": 21,
        "stop": ["a", "b", "c", "d", "e"],
    }.items():
        refused(tour, lambda given={param: value}: tour.chat("tiny", **given))  # type: ignore[misc]  # a default binds the loop's value


@check
def top_logprobs_need_logprobs(tour: Tour) -> None:
    refused(tour, lambda: tour.chat("tiny", top_logprobs=2), param="top_logprobs")


@check
def a_chat_without_messages_is_refused(tour: Tour) -> None:
    chats = tour.client.chat.completions
    refused(tour, lambda: chats.create(model="tiny", messages=[]), param="messages")


@check
def a_chat_that_is_too_long_is_refused(tour: Tour) -> None:
    long = [{"role": "user", "content": "the answer is " * 2000}]
    chats = tour.client.chat.completions
    refused(
        tour,
        lambda: chats.create(model="tiny", messages=long),
        code="context_length_exceeded",
    )


@check
def a_completion_is_written(tour: Tour) -> None:
    got = tour.client.completions.create(model=tour.story["sft_model"], prompt="what", max_tokens=3)
    same(got.object, "text_completion")
    assert got.id.startswith("cmpl-")
    assert isinstance(got.choices[0].text, str)
    assert got.usage.completion_tokens <= 3


@check
def several_prompts_are_completed_in_order(tour: Tour) -> None:
    got = tour.client.completions.create(model="tiny", prompt=["a", "b"], max_tokens=1, n=2)
    same([choice.index for choice in got.choices], [0, 1, 2, 3])


@check
def a_given_text_is_scored(tour: Tour) -> None:
    got = tour.lenient.completions.create(  # the strict types know no null for the first token
        model=tour.story["sft_model"], prompt="what is", max_tokens=0, echo=True, logprobs=1
    )
    (choice,) = got.choices
    same(choice.text, "what is")
    scored = choice.logprobs
    same(len(scored.tokens), len(scored.token_logprobs))
    same((scored.token_logprobs[0], "".join(scored.tokens)), (None, "what is"))
    assert all(value <= 0 for value in scored.token_logprobs[1:])


@check
def a_deleted_model_is_gone_and_its_job_stays(tour: Tour) -> None:
    name = tour.story["sft_checkpoint"]
    gone = tour.client.models.delete(name)
    same((gone.id, gone.deleted, gone.object), (name, True, "model"))
    refused(tour, lambda: tour.client.models.retrieve(name), "NotFoundError")
    refused(tour, lambda: tour.chat(name), "NotFoundError")
    assert name not in {model.id for model in tour.client.models.list()}
    same(tour.client.fine_tuning.jobs.retrieve(tour.story["sft_job"]).status, "succeeded")


@check
def a_deleted_training_file_leaves_its_job_and_model(tour: Tour) -> None:
    tour.client.files.delete(tour.story["sft"])
    job = tour.client.fine_tuning.jobs.retrieve(tour.story["sft_job"])
    same((job.status, job.training_file), ("succeeded", tour.story["sft"]))
    assert tour.chat(tour.story["sft_model"]).choices
