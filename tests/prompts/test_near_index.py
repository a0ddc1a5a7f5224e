"""The index agrees with comparing everything, and a crowd of look-alikes stays in bounds."""

import random
from collections.abc import Iterable
from tempfile import TemporaryFile

import pytest

from preftune.errors import SettingsError
from preftune.prompts.near_index import NearIndex, bands_and_rows
from preftune.prompts.similar import Likeness, likeness
from preftune.types import Prompt, assistant, make_prompt, user


def variants(rng: random.Random, n: int) -> list[Prompt]:
    """Prompts of 20 words, each with a few words changed: likenesses all over 0..1."""
    found: list[Prompt] = []
    for number in range(n):
        if found and rng.random() < 0.8:
            words = rng.choice(found).messages[-1].content.split()
            for _ in range(rng.randrange(1, 5)):
                words[rng.randrange(20)] = f"w{rng.randrange(999)}"
        else:
            words = [f"w{rng.randrange(999)}" for _ in range(20)]
        before = (user(words[0]), assistant("yes")) if number % 3 == 0 else ()
        found.append(make_prompt(*before, user(" ".join(words))))
    return found


def joined(prompts: Iterable[Prompt], near: float) -> list[tuple[int, float] | None]:
    with TemporaryFile() as file:
        index = NearIndex(near, file)
        places = [index.add(prompt) for prompt in prompts]
        assert places == list(range(len(places)))
        return list(index.near(places))


@pytest.mark.parametrize("near", [0.5, 0.8, 1.0])
def test_index_is_never_wrong_and_finds_what_is_near(near: float) -> None:
    prompts = variants(random.Random(0), 800)
    told = [likeness(prompt) for prompt in prompts]
    staying: list[Likeness] = []
    missed = near_ones = 0
    for one, found in zip(told, joined(prompts, near), strict=True):
        best = max(map(one.to, staying), default=0.0)
        near_ones += best >= near
        if found is None:
            missed += best >= near
            staying.append(one)
        else:
            place, alike = found
            assert alike == one.to(told[place]) >= near
    assert missed <= 0.01 * near_ones
    assert near_ones > 10 or near == 1.0


def test_places_may_be_gone_through_in_another_order() -> None:
    words = [f"w{n}" for n in range(30)]
    prompts = [make_prompt(user(" ".join(words[:length]))) for length in (30, 29, 10)]
    with TemporaryFile() as file:
        index = NearIndex(0.8, file)
        for prompt in prompts:
            index.add(prompt)
        assert list(index.near([2, 1, 0])) == [None, None, (1, 27 / 28)]


def test_a_template_filled_in_many_ways_stays_in_bounds_and_its_first_copies_are_found() -> None:
    # two fillings share 57 of 83 runs: likely enough to meet in a band, never near
    rng = random.Random(0)
    template = " ".join(f"t{n}" for n in range(60))
    filled = [f"{template} {' '.join(f'f{rng.random()}' for _ in range(12))}" for _ in range(700)]
    prompts = [make_prompt(user(text)) for text in [*filled, *(f"{t} pls" for t in filled[:20])]]
    found = joined(prompts, 0.8)
    assert found[:700] == [None] * 700
    assert [place for place, _ in filter(None, found)] == list(range(20))


@pytest.mark.parametrize("near", [0.1, 0.5, 0.8, 0.95, 1.0])
def test_bands_find_99_of_100_at_the_threshold(near: float) -> None:
    bands, rows = bands_and_rows(near)
    assert bands * rows <= 128
    assert bands >= 2
    found = 1 - (1 - near**rows) ** bands
    assert found >= 0.99


@pytest.mark.parametrize("near", [0.0, -0.1, 1.1])
def test_threshold_out_of_range_is_an_error(near: float) -> None:
    with TemporaryFile() as file, pytest.raises(SettingsError, match="above 0 and at most 1"):
        NearIndex(near, file)
