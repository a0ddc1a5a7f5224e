from collections.abc import Sequence

import pytest
from transformers import LlamaForCausalLM

from preftune.errors import SettingsError
from preftune.inference.generate import GenerateSettings, generate
from preftune.inference.stops import Stops, cut

LETTERS = "abcdefghijklm"
PROMPTS = [(3, 1, 4, 1, 5), (9, 2), (9, 2), (6, 5, 3, 5)]


def spell(ids: Sequence[int]) -> str:
    return "".join(LETTERS[id_] for id_ in ids)


def utf8(ids: Sequence[int]) -> str:
    return bytes(ids).decode(errors="replace")


def first(ids: Sequence[int], *texts: str) -> int | None:
    """Where a reply ends when each token is looked at as it is written."""
    stops = Stops(texts=texts, decode=spell)
    ends = (stops.ended_at(ids[:count], 1) for count in range(1, len(ids) + 1))
    return next((end for end in ends if end is not None), None)


def test_reply_ends_with_the_token_that_completes_a_stop() -> None:
    assert first((0, 1, 2, 3), "bc") == 3
    assert first((0, 1, 2, 3), "bd") is None
    assert first((0, 1, 2, 3), "cd", "b") == 2
    assert first((), "a") is None


def test_several_new_tokens_are_looked_at_one_after_the_other() -> None:
    stops = Stops(texts=("bc",), decode=spell)
    assert stops.ended_at((0, 1, 2, 3, 1, 2), 6) == 3
    assert stops.ended_at((0, 1, 2, 3, 1, 2), 1) == 6
    assert stops.ended_at((0, 1, 2, 3), 0) is None


def test_stop_of_a_character_in_four_tokens_is_found_when_it_is_whole() -> None:
    ids = tuple("ab🙂".encode())
    stops = Stops(texts=("🙂",), decode=utf8)
    assert [stops.ended_at(ids[:n], 1) for n in range(1, 7)] == [None] * 5 + [6]


def test_stop_behind_many_tokens_without_text_is_found() -> None:
    def silent(ids: Sequence[int]) -> str:  # tokens from 2 on are no text
        return "".join("xy"[id_] for id_ in ids if id_ < 2)

    ids = (0, *[2] * 100, 1)
    assert Stops(texts=("xy",), decode=silent).ended_at(ids, 1) == 102


def test_text_is_cut_before_the_first_stop() -> None:
    assert cut("abcabd", ("d", "ca")) == ("ab", True)
    assert cut("abc", ("x",)) == ("abc", False)
    assert cut("abc", ()) == ("abc", False)


def draw(model: LlamaForCausalLM, prompts: list[tuple[int, ...]], **settings: object) -> list:  # type: ignore[type-arg]  # tests only
    return generate(
        model,
        prompts,
        GenerateSettings(max_new_tokens=24, **settings),  # type: ignore[arg-type]  # each its own
        seeds=list(range(len(prompts))),
        end_ids=(0,),
        pad_id=0,
        decode=spell,
    )


def test_replies_with_stops_are_the_others_up_to_the_first_stop(llama: LlamaForCausalLM) -> None:
    prompts, stops = PROMPTS * 6, ("e", "gh", "mm")
    free, stopped = draw(llama, prompts), draw(llama, prompts, stop=stops)
    shorter = 0
    for whole, short in zip(free, stopped, strict=True):
        end = first(whole.ids, *stops)
        assert short.ids == whole.ids[:end]
        assert short.logprobs == pytest.approx(whole.logprobs[:end], abs=1e-5)
        assert short.finished == (end is not None or whole.finished)
        shorter += end is not None and end < len(whole.ids)
    assert 6 < shorter < 24
    small = draw(llama, prompts, stop=stops, batch_size=5)
    assert [reply.ids for reply in small] == [reply.ids for reply in stopped]


def test_stops_without_decode_and_empty_stops_are_refused(llama: LlamaForCausalLM) -> None:
    settings = GenerateSettings(stop=("a",), max_new_tokens=8)
    with pytest.raises(SettingsError, match="Give generate a `decode`"):
        generate(llama, PROMPTS, settings, seeds=range(4), end_ids=(0,), pad_id=0)
    with pytest.raises(SettingsError, match="an empty text would end every reply"):
        GenerateSettings(stop=("a", ""))
