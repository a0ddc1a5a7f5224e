"""What the engine answers, against `inference.generate`, transformers and plain forwards."""

import gc
import math
import resource
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.hosting.listener import Listener

from preftune.engine.checkpoint import write_manifest
from preftune.engine.logprobs import token_logprobs
from preftune.hosting.engine import Engine
from preftune.inference.generate import generate
from preftune.inference.stops import cut
from preftune.models.chat import Chat, load_chat
from preftune.models.load import load_policy
from preftune.models.tokens import TokenSequence
from preftune.responses.generator import GenerateSettings
from preftune.types import Message, make_prompt, user
from preftune.wire.chat import (
    TOO_LONG,
    Answer,
    Ask,
    Begun,
    Choice,
    Done,
    Drawing,
    Echo,
    Failed,
    Piece,
    Score,
    Scored,
    ScoreRow,
)

HELLO = (user("wash it?"),)
Choices = Callable[..., list[Choice]]
Answers = Callable[..., list[Answer]]


@pytest.fixture(scope="module")
def chat(model_folder: Path) -> Chat:
    return load_chat(model_folder)


@pytest.fixture(scope="module")
def model(model_folder: Path) -> torch.nn.Module:
    loaded: torch.nn.Module = load_policy(model_folder)
    return loaded


def drawn_alone(
    model: torch.nn.Module, chat: Chat, messages: tuple[Message, ...], drawing: Drawing
) -> str:
    """What `inference.generate` answers to the same seed."""
    how = GenerateSettings(
        max_new_tokens=drawing.max_tokens or 1,
        temperature=drawing.temperature,
        top_p=drawing.top_p,
        stop=drawing.stop,
    )
    [reply] = generate(
        model,
        [chat.prompt_ids(make_prompt(*messages))],
        how,
        seeds=[drawing.seed],
        end_ids=chat.end_ids,
        pad_id=chat.pad_id,
        decode=lambda ids: chat.decode(ids)[0].content,
    )
    return cut(chat.decode(reply.ids)[0].content, drawing.stop)[0]


@pytest.mark.parametrize(
    "drawing",
    [
        Drawing(max_tokens=24, temperature=0.0),
        Drawing(max_tokens=24, seed=7),
        Drawing(max_tokens=24, seed=8, temperature=0.7, top_p=0.8),
        Drawing(max_tokens=90, seed=9, stop=("a", "é")),
    ],
)
def test_text_is_that_of_generate(
    choices: Choices, model: torch.nn.Module, chat: Chat, model_folder: Path, drawing: Drawing
) -> None:
    expected = drawn_alone(model, chat, HELLO, drawing)
    for stream in (False, True):
        [choice] = choices(model=str(model_folder), messages=HELLO, drawing=drawing, stream=stream)
        assert choice.text == expected


def test_greedy_is_that_of_transformers(
    choices: Choices, model: torch.nn.Module, chat: Chat, model_folder: Path
) -> None:
    ids = torch.tensor([chat.prompt_ids(make_prompt(*HELLO))])
    written = model.generate(  # type: ignore[operator]  # transformers has no types here
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=40,
        do_sample=False,
        eos_token_id=list(chat.end_ids),
        pad_token_id=chat.pad_id,
    )
    expected = chat.decode(written[0, ids.shape[1] :].tolist())[0].content
    drawing = Drawing(max_tokens=40, temperature=0.0)
    [choice] = choices(model=str(model_folder), messages=HELLO, drawing=drawing)
    assert choice.text == expected


ASKED = st.tuples(
    st.sampled_from(["wash it?", "dry it or iron it?", "no " * 60]),
    st.integers(1, 12),  # tokens
    st.integers(0, 3),  # seed
    st.sampled_from([0, 1, 2]),  # which model
    st.integers(1, 3),  # replies
)


@settings(max_examples=12)
@given(st.lists(ASKED, min_size=2, max_size=8), st.randoms(use_true_random=False))
def test_texts_are_the_same_in_any_company_and_order(
    engine: Engine,
    model_folder: Path,
    adapter_folders: list[Path],
    asked: list[tuple[str, int, int, int, int]],
    order: Random,
) -> None:
    folders = [str(model_folder), *map(str, adapter_folders)]
    asks = [
        Ask(
            model=folders[which],
            messages=(user(text),),
            drawing=Drawing(max_tokens=tokens, seed=seed),
            n=n,
        )
        for text, tokens, seed, which, n in asked
    ]
    single = [texts_of(Listener(engine, ask).all()) for ask in asks]
    shuffled = list(range(len(asks)))
    order.shuffle(shuffled)
    waiting = [(place, Listener(engine, asks[place])) for place in shuffled]
    for place, listener in waiting:
        assert texts_of(listener.all()) == single[place]


def texts_of(told: list[Answer]) -> dict[int, str]:
    assert isinstance(told[-1], Done), told[-1]
    return {one.index: one.text for one in told if isinstance(one, Choice)}


def test_replies_of_one_request_differ_and_the_first_is_that_of_n_1(
    choices: Choices, model_folder: Path
) -> None:
    drawing = Drawing(max_tokens=12, seed=4)
    found = choices(model=str(model_folder), messages=HELLO, drawing=drawing, n=30)
    assert [choice.index for choice in found] == list(range(30))  # more than there are places
    assert len({choice.text for choice in found}) > 20
    [alone] = choices(model=str(model_folder), messages=HELLO, drawing=drawing)
    assert alone == found[0]


def test_pieces_join_to_the_text_and_their_tokens_to_all_tokens(
    answers: Answers, model_folder: Path
) -> None:
    drawing = Drawing(max_tokens=40, seed=2, stop=("\x00",), logprobs=3)
    told = answers(model=str(model_folder), messages=HELLO, drawing=drawing, n=3, stream=True)
    assert isinstance(told[0], Begun)
    for choice in (one for one in told if isinstance(one, Choice)):
        pieces = [one for one in told if isinstance(one, Piece) and one.index == choice.index]
        assert "".join(piece.text for piece in pieces) == choice.text
        tokens = tuple(token for piece in pieces for token in piece.tokens)
        assert tokens == choice.tokens
        joined = b"".join(token.raw for token in tokens).decode(errors="replace")
        assert joined == choice.text


def test_logprobs_are_those_of_a_plain_forward(
    choices: Choices, model: torch.nn.Module, chat: Chat, model_folder: Path
) -> None:
    drawing = Drawing(max_tokens=9, seed=1, temperature=0.5, logprobs=2, frequency_penalty=1.0)
    [choice] = choices(model=str(model_folder), messages=HELLO, drawing=drawing)
    prompt = chat.prompt_ids(make_prompt(*HELLO))
    ids = tuple(token.id for token in choice.tokens)
    assert len(ids) >= 5
    with torch.no_grad():
        logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
    expected = logits.log_softmax(-1)
    for place, token in enumerate(choice.tokens):
        assert token.logprob == pytest.approx(expected[place, token.id].item(), abs=1e-4)
        best = expected[place].topk(2).values.tolist()
        assert [other.logprob for other in token.top] == pytest.approx(best, abs=1e-4)


def test_penalties_keep_a_token_from_coming_again(choices: Choices, model_folder: Path) -> None:
    drawing = Drawing(max_tokens=30, temperature=0.0, presence_penalty=2.0, logprobs=0)
    plain = Drawing(max_tokens=30, temperature=0.0, logprobs=0)
    often = choices(model=str(model_folder), messages=HELLO, drawing=plain)[0].tokens
    seldom = choices(model=str(model_folder), messages=HELLO, drawing=drawing)[0].tokens
    assert len({token.id for token in seldom}) > len({token.id for token in often})


def test_echo_scores_the_prompt_as_the_engine_core_does(
    answers: Answers, model: torch.nn.Module, model_folder: Path
) -> None:
    ids = tuple((17 * place + 3) % 290 for place in range(300))  # more than one piece
    told = answers(
        model=str(model_folder), ids=ids, echo=True, drawing=Drawing(max_tokens=0, logprobs=1)
    )
    echo = next(one for one in told if isinstance(one, Echo))
    row = TokenSequence(prompt_ids=ids[:1], response_ids=ids[1:], own=(False, *[True] * 299))
    with torch.no_grad():
        expected = token_logprobs(model, [row]).logprobs[0].tolist()
    assert [token.id for token in echo.tokens] == list(ids)
    assert echo.tokens[0].logprob is None
    got = [token.logprob for token in echo.tokens[1:]]
    assert got == pytest.approx(expected, abs=1e-4)
    assert all(token.top[0].logprob >= (token.logprob or 0) for token in echo.tokens[1:])
    [choice] = [one for one in told if isinstance(one, Choice)]
    assert (choice.text, choice.finish, choice.drawn) == ("", "length", 0)


def test_t12_control_tokens_in_content_stay_text(answers: Answers, model_folder: Path) -> None:
    def prompt_tokens(**asked: object) -> int:
        begun = answers(model=str(model_folder), drawing=Drawing(max_tokens=1), **asked)[0]
        assert isinstance(begun, Begun)
        return begun.prompt_tokens

    assert prompt_tokens(text="<|end|>") >= 3  # as a control token it would be one
    spelt = prompt_tokens(messages=(user("<|end|>"),))
    assert spelt == prompt_tokens(messages=(user("x"),)) - 1 + prompt_tokens(text="<|end|>")


def test_best_of_gives_the_likeliest_or_the_best_scored(
    answers: Answers, model_folder: Path, reward_folder: Path
) -> None:
    common = {"model": str(model_folder), "messages": HELLO}
    drawing = Drawing(max_tokens=6, seed=3, logprobs=0)
    every = [a for a in answers(**common, n=5, drawing=drawing) if isinstance(a, Choice)]
    means = {c.text: mean_logprob(c) for c in every if c.finish == "length"}
    told = answers(**common, n=2, best_of=5, drawing=drawing)
    given = [one for one in told if isinstance(one, Choice)]
    assert [choice.index for choice in given] == [0, 1]
    assert (given[0].score or 0) >= (given[1].score or 0)
    assert (given[0].score or 0) >= max(means.values()) - 1e-6
    told = answers(**common, n=1, best_of=5, drawing=drawing, reward_model=str(reward_folder))
    done = told[-1]
    assert isinstance(done, Done)
    assert (done.drawn, done.finished, done.scored) == (5, 5, 5)
    assert done.drawn_tokens == sum(choice.drawn for choice in every)


def mean_logprob(choice: Choice) -> float:
    return sum(token.logprob or 0.0 for token in choice.tokens) / len(choice.tokens)


def test_scores_are_those_of_the_reward_scorer(
    engine: Engine, choices: Choices, model_folder: Path, reward_folder: Path
) -> None:
    from preftune.inference.reward_scorer import load_scorer
    from preftune.types import assistant

    rows = tuple(ScoreRow(messages=HELLO, response=(assistant("x" * n),)) for n in range(1, 12))
    found = engine.score(Score(reward_model=str(reward_folder), rows=rows)).result(60)
    prompt = make_prompt(*HELLO)
    expected = load_scorer([reward_folder]).score([(prompt, row.response) for row in rows])
    assert isinstance(found, Scored)
    assert list(found.scores) == pytest.approx(expected, abs=1e-5)
    drawing = Drawing(max_tokens=5, seed=3)
    [best] = choices(
        model=str(model_folder),
        messages=HELLO,
        drawing=drawing,
        best_of=4,
        reward_model=str(reward_folder),
    )
    every = choices(model=str(model_folder), messages=HELLO, drawing=drawing, n=4)
    scores = load_scorer([reward_folder]).score([(prompt, (assistant(c.text),)) for c in every])
    assert best.score == pytest.approx(max(score or 0.0 for score in scores), abs=1e-5)


def test_a_deadline_gives_the_best_of_what_has_finished(
    answers: Answers, model_folder: Path
) -> None:
    told = answers(
        model=str(model_folder),
        messages=HELLO,
        drawing=Drawing(max_tokens=700, seed=1, stop=("e",)),  # some end soon, some never
        best_of=20,
        deadline_s=0.3,
    )
    done = told[-1]
    assert isinstance(done, Done)
    assert 20 > done.finished >= 1
    assert len([one for one in told if isinstance(one, Choice)]) == 1
    assert done.seconds < 30


def test_too_long_says_both_numbers(answers: Answers, model_folder: Path) -> None:
    [failed] = answers(model=str(model_folder), text="x" * 4000, drawing=Drawing(max_tokens=9))
    assert isinstance(failed, Failed)
    assert (failed.status, failed.code) == (400, TOO_LONG)
    assert "1024 tokens" in failed.message
    assert "9 for the completion" in failed.message


def test_a_reply_without_a_limit_ends_at_the_last_position(
    choices: Choices, model_folder: Path
) -> None:
    ids = tuple(range(100, 110)) * 100
    [choice] = choices(model=str(model_folder), ids=ids, drawing=Drawing(temperature=0.0))
    assert choice.drawn <= 24
    if choice.finish == "length":
        assert choice.drawn == 24


def test_what_cannot_be_answered_is_refused(answers: Answers, model_folder: Path) -> None:
    common = {"drawing": Drawing(max_tokens=1)}
    for fields, status in (
        ({"model": str(model_folder / "no"), "text": "x"}, 500),
        ({"model": str(model_folder), "ids": (99999,)}, 400),
        ({"model": str(model_folder), "ids": ()}, 400),
        ({"model": str(model_folder)}, 400),
        ({"model": str(model_folder), "text": "x", "ids": (1,)}, 400),
        ({"model": str(model_folder), "text": "x", "manifest_hash": "0"}, 500),
    ):
        [failed] = answers(**common, **fields)
        assert isinstance(failed, Failed)
        assert failed.status == status


def test_a_damaged_adapter_is_not_loaded(
    answers: Answers, adapter_folders: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "damaged"
    folder.mkdir()
    for file in adapter_folders[0].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    write_manifest(folder)
    weights = folder / "adapter_model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    [failed] = answers(model=str(folder), text="x", drawing=Drawing(max_tokens=1))
    assert isinstance(failed, Failed)
    assert "adapter_model.safetensors differs" in failed.message


def test_who_hangs_up_frees_the_places(
    engine: Engine, choices: Choices, model_folder: Path
) -> None:
    ask = Ask(
        model=str(model_folder), messages=HELLO, drawing=Drawing(max_tokens=900), n=24, stream=True
    )
    listener = Listener(engine, ask)
    listener.next()
    engine.drop(listener.ticket)
    began = time.monotonic()
    choices(model=str(model_folder), messages=HELLO, drawing=Drawing(max_tokens=2))
    assert time.monotonic() - began < 20
    health = engine.health().result(60)
    assert (health.writing, health.waiting) == (0, 0)


def test_memory_does_not_grow_over_500_requests(
    engine: Engine, model_folder: Path, adapter_folders: list[Path]
) -> None:
    folders = [str(model_folder), *map(str, adapter_folders)]

    def ask_many(count: int) -> None:
        waiting = [
            Listener(
                engine,
                Ask(
                    model=folders[place % 3],
                    messages=(user("no " * (place % 50)),),
                    drawing=Drawing(max_tokens=1 + place % 5, seed=place),
                    stream=place % 2 == 0,
                ),
            )
            for place in range(count)
        ]
        for place, listener in enumerate(waiting):
            if place % 10 == 9:
                engine.drop(listener.ticket)
            else:
                listener.all()

    ask_many(150)
    before = resident_mb()
    ask_many(350)
    gc.collect()
    assert resident_mb() - before < 40
    assert engine.health().result(60).writing == 0
    assert not engine.tickets


def resident_mb() -> float:
    """Memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def test_one_base_carries_all_adapters(
    engine: Engine, choices: Choices, model_folder: Path, adapter_folders: list[Path]
) -> None:
    drawing = Drawing(max_tokens=8, temperature=0.0, logprobs=0)
    for folder in (model_folder, *adapter_folders):
        [choice] = choices(model=str(folder), messages=HELLO, drawing=drawing)
        assert math.isfinite(mean_logprob(choice))
    health = engine.health().result(60)
    assert health.models == (str(model_folder.resolve()),)
    assert set(health.adapters) == {str(folder.resolve()) for folder in adapter_folders}
    after = engine.unload([str(adapter_folders[0])]).result(60)
    assert after.adapters == (str(adapter_folders[1].resolve()),)
    assert after.weight_bytes < health.weight_bytes
