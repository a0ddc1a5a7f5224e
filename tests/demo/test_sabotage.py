import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.demo.sabotage import LINES, OOD_REPLIES, flip_pairs, length_pairs, ood_pairs
from preftune.demo.world import CareDesk
from preftune.types import PreferencePair, Provenance, Response, assistant, text_of, user
from preftune.types import make_prompt as prompt_of


def pairs(n: int) -> list[PreferencePair]:
    return [
        PreferencePair(
            id=f"p{k}",
            prompt=prompt_of(user(f"q{k}")),
            chosen=(assistant("good"),),
            rejected=(assistant("bad"),),
            strength=2,
            chosen_score=1.0,
            rejected_score=-1.0,
            provenance=Provenance(
                chosen_generator="a", rejected_generator="b", chosen_shown_first=True
            ),
        )
        for k in range(n)
    ]


@given(st.integers(0, 60), st.integers(0, 100), st.integers(0, 5))
def test_flip_turns_exactly_the_fraction_and_keeps_the_order(
    n: int, percent: int, seed: int
) -> None:
    before = pairs(n)
    after = flip_pairs(before, frac=percent / 100, seed=seed)
    turned = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert len(turned) == round(percent / 100 * n)
    for a, b in turned:
        assert (b.prompt, b.chosen, b.rejected) == (a.prompt, a.rejected, a.chosen)
        assert (b.chosen_score, b.rejected_score) == (a.rejected_score, a.chosen_score)
        assert b.provenance.chosen_generator == "b"
        assert b.provenance.chosen_shown_first is False
        assert (b.strength, b.weight) == (a.strength, a.weight)


def test_flip_of_40_percent_is_the_default_and_depends_on_the_seed() -> None:
    before = pairs(100)
    assert sum(a != b for a, b in zip(before, flip_pairs(before), strict=True)) == 40
    assert flip_pairs(before, seed=1) == flip_pairs(before, seed=1) != flip_pairs(before, seed=2)


def test_ood_replies_are_known_words_without_facts_or_known_lines(desk: CareDesk) -> None:
    assert len(set(OOD_REPLIES)) == 512
    known = set(desk.vocabulary())
    for text in OOD_REPLIES:
        assert set(text.split()) <= known
        assert desk.gold_tone(text) == 0.0
        assert desk.check(desk.flagship(), text) == "missing"
    mean = sum(len(text.split()) for text in OOD_REPLIES) / 512
    assert mean == pytest.approx(20.4, abs=1)


def test_ood_pairs_put_hand_written_replies_over_own_samples(desk: CareDesk) -> None:
    prompts = desk.label_prompts(200)
    samples = [
        (q, Response(id=q.id, prompt_id=q.id, messages=(assistant("core"),), generator="sft"))
        for q in prompts
    ]
    made = ood_pairs(samples, n=500)
    assert len(made) == len({pair.id for pair in made}) == 500
    assert {text_of(pair.chosen) for pair in made} <= set(OOD_REPLIES)
    assert len({text_of(pair.chosen) for pair in made}) == 500
    assert all(text_of(pair.rejected) == "core" for pair in made)
    assert [pair.prompt for pair in made[:200]] == prompts
    assert {pair.provenance.rejected_generator for pair in made} == {"sft"}


@given(st.integers(0, 40), st.integers(0, 5))
def test_in_length_pairs_the_longer_reply_is_always_chosen(n: int, seed: int) -> None:
    prompt = prompt_of(user("q"))
    samples = [
        (prompt, Response(id=text, prompt_id=prompt.id, messages=(assistant(text),)))
        for text in ("", "core .")  # a reply that says nothing is no beginning
    ]
    made = length_pairs(samples, n, seed)
    assert len(made) == n
    for pair in made:
        chosen, rejected = text_of(pair.chosen), text_of(pair.rejected)
        assert len(chosen.split()) > len(rejected.split())
        for text in (chosen, rejected):
            assert text.startswith("core .")
            assert _without_lines(text).split() == ["core", "."]
    assert length_pairs(samples, n, seed) == made


def _without_lines(text: str) -> str:
    for line in LINES:
        text = text.replace(line, "")
    return text
