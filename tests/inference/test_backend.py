from dataclasses import replace
from pathlib import Path

import pytest

from preftune.errors import ModelError, RowError
from preftune.inference.backend import TransformersGenerator, load_generator
from preftune.models.chat import load_chat
from preftune.models.load import load_policy
from preftune.responses.generator import GenerateSettings
from preftune.responses.sample import plan, sample
from preftune.types import make_prompt, text_of, user

PROMPTS = [make_prompt(user(text)) for text in ("wash it ?", "dry it or iron it ?", "cat")]
SETTINGS = GenerateSettings(max_new_tokens=12)


def test_responses_carry_all_that_is_needed_to_draw_them_again(policy_folder: Path) -> None:
    generator = load_generator(policy_folder, SETTINGS)
    requests = plan(PROMPTS, generator, n=2, seed=3)
    responses = generator.respond(requests)
    assert [r.id for r in responses] == [q.response_id for q in requests]
    assert [r.sampling for r in responses] == [SETTINGS.sampling(q.seed) for q in requests]
    assert {r.origin for r in responses} == {"sampled"}
    again = generator.respond(requests[3:4])
    assert again == responses[3:4]


def test_text_is_the_decoded_tokens_without_the_end_token(policy_folder: Path) -> None:
    generator = load_generator(policy_folder, SETTINGS)
    special = generator.chat.tokenizer.all_special_tokens
    responses = generator.respond(plan(PROMPTS, generator, n=8, seed=0))
    assert any(response.finished for response in responses)
    for response in responses:
        [message] = response.messages
        assert message.role == "assistant"
        assert not any(token in message.content for token in special)


def test_name_says_which_weights_these_are(policy_folder: Path, tmp_path: Path) -> None:
    chat, model = load_chat(policy_folder), load_policy(policy_folder)
    same, other = tmp_path / "a" / "policy", tmp_path / "b" / "policy"
    for folder in (same, other):
        model.save_pretrained(folder)
        chat.save(folder)
        model.lm_head.weight.data[0, 0] += 1.0
    names = [load_generator(f, SETTINGS).name for f in (policy_folder, same, other)]
    assert names[0] == names[1] != names[2]
    assert all(name.startswith("policy@") for name in names)


def test_a_name_of_ones_own_hides_no_other_weights(policy_folder: Path, tmp_path: Path) -> None:
    chat, model = load_chat(policy_folder), load_policy(policy_folder)
    model.lm_head.weight.data[0, 0] += 1.0
    model.save_pretrained(tmp_path / "policy")
    chat.save(tmp_path / "policy")
    here, there = (
        load_generator(folder, SETTINGS, name="sft")
        for folder in (policy_folder, tmp_path / "policy")
    )
    assert here.name == there.name == "sft"
    out = tmp_path / "out.jsonl"
    sample(PROMPTS, here, n=2, seed=0, out=out)
    with pytest.raises(RowError, match="not a response of this model"):
        sample(PROMPTS, there, n=2, seed=0, out=out)
    assert plan(PROMPTS, here.drawing(SETTINGS), n=2, seed=0) == plan(PROMPTS, here, n=2, seed=0)


def test_prompt_too_long_is_named_before_work_begins(policy_folder: Path, tmp_path: Path) -> None:
    generator = load_generator(policy_folder, SETTINGS)
    long = make_prompt(user("wash " * 5000))
    with pytest.raises(ModelError, match=f"prompt {long.id}: .* exceed the model's"):
        sample([*PROMPTS, long], generator, n=1, seed=0, out=tmp_path / "out.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_file_resumed_between_blocks_has_the_same_bytes(
    policy_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    generator = load_generator(policy_folder, SETTINGS)
    report = sample(PROMPTS, generator, n=4, seed=1, out=out, block=5)
    assert report.responses == 12
    whole = out.read_bytes()
    out.rename(out.with_name("out.jsonl.part"))
    with out.with_name("out.jsonl.part").open("r+b") as file:
        file.truncate(len(whole) * 2 // 3)
    fresh = TransformersGenerator(
        load_policy(policy_folder), load_chat(policy_folder), SETTINGS, generator.name
    )
    assert sample(PROMPTS, fresh, n=4, seed=1, out=out, block=5).kept == 5
    assert out.read_bytes() == whole


def test_greedy_text_is_the_same_for_every_seed(policy_folder: Path) -> None:
    greedy = GenerateSettings(max_new_tokens=12, temperature=0)
    generator = load_generator(policy_folder, greedy)
    texts = [
        [text_of(r.messages) for r in generator.respond(plan(PROMPTS, generator, n=1, seed=seed))]
        for seed in (0, 1)
    ]
    assert texts[0] == texts[1]


def test_text_ends_before_a_stop_and_says_what_stopped_it(policy_folder: Path) -> None:
    free = load_generator(policy_folder, SETTINGS)
    stop = ("wash", "iron", ",")
    stopped = TransformersGenerator(free.model, free.chat, replace(SETTINGS, stop=stop), free.name)
    requests = plan(PROMPTS, free, n=8, seed=0)
    ended = 0
    for whole, short in zip(free.respond(requests), stopped.respond(requests), strict=True):
        text = text_of(whole.messages)
        places = [text.find(one) for one in stop if one in text]
        assert text_of(short.messages) == (text[: min(places)] if places else text)
        assert short.finished == (whole.finished or bool(places))
        assert whole.sampling is not None
        assert short.sampling == replace(whole.sampling, stop=stop)
        ended += bool(places)
    assert ended > 3
