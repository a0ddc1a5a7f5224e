from typing import Any

import pytest

from preftune.comparisons.rater_change import without_rater
from preftune.comparisons.rater_model import RaterModel
from preftune.errors import DataError
from preftune.types import Comparison, Judgment, Rater, Response, assistant, make_prompt, user

NAMES = ("lost", "gained", "flipped", "kept", "elsewhere")


def response(name: str, text: str) -> Response:
    return Response(id=f"{name}-{text}", prompt_id="p", messages=(assistant(text),))


def shown(name: str) -> Comparison:
    prompt = make_prompt(user(name))
    return Comparison(id=name, prompt=prompt, responses=(response(name, "A"), response(name, "B")))


COMPARISONS = [shown(name) for name in NAMES]
VOTES = {  # who said A (0) or B (1), None a tie
    "lost": {"odd": 0, "ann": 0, "bob": 1},
    "gained": {"odd": 1, "ann": 0},
    "flipped": {"odd": 0, "eve": 0, "ann": 1},
    "kept": {"odd": 0, "ann": 0, "bob": 0},
    "elsewhere": {"ann": 0, "bob": 0},
}


def judged(unit: str, rater: str, choice: int | None, **fields: Any) -> Judgment:
    return Judgment(
        id=f"j-{unit}-{rater}",
        comparison_id=unit,
        kind="tie" if choice is None else "binary",
        choice=choice,
        rater=Rater(id=rater, kind="human"),
        **fields,
    )


JUDGMENTS = [judged(u, r, choice) for u, votes in VOTES.items() for r, choice in votes.items()]


def test_pairs_lost_gained_and_kept_match_a_count_by_hand() -> None:
    change = without_rater(COMPARISONS, JUDGMENTS, "odd")
    assert change.lost == ["lost/overall", "flipped/overall"]  # both become even splits
    assert change.gained == ["gained/overall"]
    assert (change.flipped, change.kept, change.judgments) == ([], 1, 4)


def test_a_pair_turns_round_where_a_heavy_voice_goes() -> None:
    everybody = ("odd", "eve", "ann", "bob")
    model = RaterModel(
        skill={"odd": 6.0, "eve": 0.1, "ann": 2.0, "bob": 1.0},
        side=dict.fromkeys(everybody, 0.0),
        tie=dict.fromkeys(everybody, 0.0),
        rounds=0,
    )
    change = without_rater(COMPARISONS, JUDGMENTS, "odd", model=model)
    assert change.flipped == ["gained/overall", "flipped/overall"]  # odd outweighed ann in both
    assert (change.gained, change.lost, change.kept) == ([], [], 2)


def test_agreement_is_shown_before_and_after() -> None:
    change = without_rater(COMPARISONS, JUDGMENTS, "odd")
    # after: lost A B, flipped A B, kept A A, elsewhere A A: observed 4/8, expected 2·6·2 / (8·7)
    assert change.alpha_after == pytest.approx(1 - (4 / 8) / (2 * 6 * 2 / (8 * 7)))
    assert change.alpha_before is not None
    alone = without_rater(COMPARISONS, [judged("kept", "ann", 0), judged("kept", "bob", 1)], "ann")
    assert (alone.alpha_before, alone.alpha_after) == (0.0, None)
    assert alone.gained == ["kept/overall"]


def test_a_rewrite_goes_with_its_author() -> None:
    rewrite = Judgment(
        id="j-r",
        comparison_id="kept",
        kind="rewrite",
        rewrite=response("kept", "C"),
        rater=Rater(id="odd", kind="human"),
    )
    change = without_rater(COMPARISONS, [*JUDGMENTS, rewrite], "odd")
    assert [pair for pair in change.lost if "rewrite" in pair] == [
        "kept/overall/rewrite-0-0",
        "kept/overall/rewrite-0-1",
    ]


def test_a_rater_who_gave_no_judgment_is_refused() -> None:
    with pytest.raises(DataError, match="rater ghost: no judgment in dimension overall"):
        without_rater(COMPARISONS, JUDGMENTS, "ghost")
