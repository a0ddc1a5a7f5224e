"""Length and style: what is counted, its sign, its size, and the known answers of real sets."""

import importlib
import random
from pathlib import Path

import numpy as np
import pytest

from preftune.datasets.audit_material import material_of
from preftune.datasets.audit_style import HABITS, Style, counts, relative, style_of, style_section
from preftune.datasets.scanned import Scanned
from preftune.types import PreferencePair, assistant, make_prompt, user


def rows(texts: list[tuple[str, str]], *, per_prompt: int = 1) -> list[Scanned]:
    """Return a row per (chosen, rejected), so many on each prompt."""
    return [
        Scanned(
            line=n + 1,
            record=PreferencePair(
                id=f"p{n}",
                prompt=make_prompt(user(f"question {n // per_prompt} ?")),
                chosen=(assistant(chosen),),
                rejected=(assistant(rejected),),
            ),
        )
        for n, (chosen, rejected) in enumerate(texts)
    ]


def style(scanned: list[Scanned]) -> Style:
    material = material_of(scanned, source="x.jsonl")
    return style_of(counts(material.pairs), material.clusters(material.pairs))


def signs(found: Style) -> dict[str, int]:
    return {habit.name: habit.sign for habit in found.habits if habit.share is not None}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- one\n- two\n3. three\nnot - one", {"list": 3}),
        ("# Title\n## Part\n#nothing", {"headers": 2}),
        ("**bold** and __bold__ but 2 ** 3", {"bold": 2}),
        ("`x` and ```\ny\n```", {"code": 3}),
        ("I'm sorry, but I can't help with that.", {"refusal": 1, "apology": 1}),
        ("I cannot do this.", {"refusal": 1, "apology": 0}),
        ("As an AI, I have no taste.", {"refusal": 1}),
        ("You can't wash it.", {"refusal": 0, "apology": 0}),
        ("I apologize for the delay! We are so sorry!", {"apology": 1, "exclamations": 2}),
        ("I do not feel sorry for the bear.", {"apology": 0}),
        ("Great 🎉🎉 why? 为什么？", {"emoji": 2, "questions": 2}),
        ("", dict.fromkeys(HABITS, 0)),
    ],
)
def test_habits_are_counted_by_hand(text: str, expected: dict[str, int]) -> None:
    assert {name: HABITS[name](text) for name in expected} == expected


def test_relative_difference_by_hand() -> None:
    counted = np.array([[[3.0, 0.0], [1.0, 0.0]], [[0.0, 2.0], [5.0, 0.0]]])
    assert relative(counted).tolist() == [[0.5, 0.0], [-1.0, 1.0]]


def test_a_planted_habit_is_found_with_its_sign_and_the_others_are_not() -> None:
    rng = random.Random(0)

    def reply(merry: bool) -> str:
        return " ".join(rng.choices(["warm", "cold", "dry"], k=20)) + ("!" if merry else ".")

    texts = [(reply(rng.random() < 0.6), reply(rng.random() < 0.3)) for _ in range(600)]
    found = signs(style(rows(texts)))
    assert found == {"length": 0, "exclamations": 1}


def test_turning_every_pair_round_turns_every_sign() -> None:
    rng = random.Random(1)
    texts = [
        (f"yes! {'word ' * rng.randint(5, 9)}", f"no? {'word ' * rng.randint(1, 6)}")
        for _ in range(100)
    ]
    found, turned = style(rows(texts)), style(rows([(b, a) for a, b in texts]))
    assert signs(turned) == {name: -sign for name, sign in signs(found).items()}
    assert found.length_only is not None
    assert turned.length_only is not None
    assert turned.length_only.value == found.length_only.value
    assert (found.length_rule, turned.length_rule) == ("longer wins", "shorter wins")


def test_what_rides_on_length_alone_vanishes_when_length_is_held_equal() -> None:
    # who wins is decided by length; a list comes with length and decides nothing of its own
    rng = random.Random(2)
    texts = []
    for _ in range(1500):
        a, b = rng.sample(range(5, 61), 2)
        longer, shorter = max(a, b), min(a, b)
        first, second = (longer, shorter) if rng.random() < 0.8 else (shorter, longer)
        chosen, rejected = (
            "word " * n + ("\n- item" if rng.random() < n / 60 else "\nitem  ")
            for n in (first, second)
        )
        texts.append((chosen, rejected))
    found = {habit.name: habit for habit in style(rows(texts)).habits}
    assert found["list"].share is not None
    assert found["list"].share.low > 0.5
    assert found["list"].adjusted is not None
    assert found["list"].adjusted.low < 0 < found["list"].adjusted.high
    assert found["length"].adjusted is not None
    assert found["length"].adjusted.low > 0


def test_rows_of_one_prompt_count_as_one_witness() -> None:
    texts = [("a long reply to it", "short")] * 60 + [("short", "a long reply to it")] * 40
    alone, together = style(rows(texts)), style(rows(texts, per_prompt=2))
    assert alone.length_only is not None
    assert together.length_only is not None
    widths = [e.high - e.low for e in (alone.length_only, together.length_only)]
    assert widths[1] > 1.2 * widths[0]


def test_pairs_without_words_have_no_style() -> None:
    empty = [Scanned(line=1, record=None), *rows([("", "\n")])]
    section = style_section(material_of(empty, source="x.jsonl"))
    assert "nothing can be said" not in section.text  # a line break is a character
    assert not [f for f in section.findings if f.verdict != "ok"]


@pytest.mark.parametrize(
    ("name", "share", "sign"),
    [
        ("hh-harmless", 0.443580, -1),
        ("oasst-rank", None, 1),
        ("llmfao", None, -1),
        ("hhh", 2 / 3, 1),
    ],
)
def test_length_has_the_known_share_and_sign_in_real_sets(
    name: str, share: float | None, sign: int, shared_data: Path
) -> None:
    module = importlib.import_module(f"import_{name.replace('-', '_')}")
    material = material_of(list(module.records(shared_data / name)), source=name)
    section = style_section(material)
    length = next(finding for finding in section.findings if finding.kind == "length")
    assert length.verdict == "look"
    assert ("MORE" in length.what, "LESS" in length.what) == (sign == 1, sign == -1)
    if share is not None:
        assert length.value == pytest.approx(share, abs=1e-3)
