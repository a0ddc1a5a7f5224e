from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preftune.errors import DataError
from preftune.evaluation.win_rate import WinRate, outcome_of, win_rate
from preftune.types import (
    Comparison,
    Judgment,
    Prompt,
    Rater,
    Response,
    assistant,
    user,
)

RULE = Rater(id="rule", kind="rule")
BASE, TUNED = "base", "tuned"


def judged(
    number: int,
    verdict: str,
    *,
    prompt: str | None = None,
    tags: tuple[str, ...] = (),
    texts: tuple[str, str] = ("aaaa", "bbbb"),
    tuned_first: bool = False,
) -> tuple[Comparison, Judgment | None]:
    """Return one comparison of base and tuned, and a verdict: win, tie, loss, unparsed or none."""
    asked = Prompt(id=prompt or f"p{number}", messages=(user("?"),), tags=tags)
    sides = [
        Response(
            id=f"{name}{number}", prompt_id=asked.id, messages=(assistant(text),), generator=name
        )
        for name, text in zip((BASE, TUNED), texts, strict=True)
    ]
    if tuned_first:
        sides.reverse()
    shown = Comparison(id=f"c{number}", prompt=asked, responses=tuple(sides))
    if verdict == "none":
        return shown, None
    if verdict in ("tie", "unparsed"):
        kind, choice = verdict, None
    else:
        kind, choice = "binary", int((verdict == "win") != tuned_first)
    said = Judgment(
        id=f"j{number}",
        comparison_id=shown.id,
        kind=kind,  # type: ignore[arg-type]  # one of the kinds of a judgment
        choice=choice,
        rater=RULE,
    )
    return shown, said


def rate(rows: list[tuple[Comparison, Judgment | None]], **options: str) -> WinRate:
    names = {"candidate": TUNED, "baseline": BASE} | options
    return win_rate([c for c, _ in rows], [j for _, j in rows if j is not None], **names)  # type: ignore[arg-type]  # only names here


def test_win_rate_matches_hand_calculation() -> None:
    rows = [judged(n, v) for n, v in enumerate(["win"] * 10 + ["tie"] * 4 + ["loss"] * 6)]
    found = rate(rows).overall
    assert found.value == pytest.approx(0.6)
    assert (found.wins, found.ties, found.losses, found.prompts) == (10, 4, 6, 20)
    assert found.low < 0.6 < found.high


def test_swapping_the_systems_mirrors_the_rate() -> None:
    rows = [judged(n, v) for n, v in enumerate(["win"] * 7 + ["tie"] * 2 + ["loss"] * 3)]
    one, other = rate(rows).overall, rate(rows, candidate=BASE, baseline=TUNED).overall
    assert one.value + other.value == pytest.approx(1.0)
    assert (one.wins, one.losses) == (other.losses, other.wins)


@settings(max_examples=25)
@given(st.lists(st.sampled_from(["win", "tie", "loss"]), min_size=2, max_size=20), st.data())
def test_side_and_order_of_rows_change_nothing(verdicts: list[str], data: st.DataObject) -> None:
    sides = data.draw(
        st.lists(st.booleans(), min_size=len(verdicts), max_size=len(verdicts)), label="sides"
    )
    rows = [
        judged(n, v, tuned_first=s) for n, (v, s) in enumerate(zip(verdicts, sides, strict=True))
    ]
    plain = [judged(n, v) for n, v in enumerate(verdicts)]
    assert rate(rows).overall.value == pytest.approx(rate(plain).overall.value)
    assert rate(rows).candidate_first_frac == pytest.approx(sum(sides) / len(sides))
    assert rate(rows[::-1]).overall.wins == rate(rows).overall.wins


def test_unparsed_verdicts_are_counted_and_never_half() -> None:
    rows = [judged(0, "win"), judged(1, "win"), judged(2, "none"), judged(3, "unparsed")]
    found = rate(rows)
    assert (found.overall.value, found.overall.verdicts) == (1.0, 2)
    assert (found.comparisons, found.unparsed) == (4, 2)


def test_slices_follow_the_tags_of_the_prompts() -> None:
    rows = [
        judged(0, "win", tags=("fact", "tail")),
        judged(1, "loss", tags=("fact",)),
        judged(2, "tie", tags=("tail",)),
        judged(3, "win"),
    ]
    found = {s.tag: (s.value, s.prompts) for s in rate(rows).slices}
    assert found == {"fact": (0.5, 2), "tail": (0.75, 2)}


def test_more_samples_of_a_prompt_do_not_narrow_the_interval() -> None:
    rows = [judged(n, "win" if n % 3 else "loss") for n in range(30)]
    copies = [
        judged(100 * k + n, "win" if n % 3 else "loss", prompt=f"p{n}")
        for n in range(30)
        for k in range(4)
    ]
    once, copied = rate(rows).overall, rate(copies).overall
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))
    assert copied.prompts == once.prompts == 30


def test_a_and_a_on_the_evaluator_raises_few_false_alarms() -> None:
    alarms = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        rows = []
        for n in range(60):
            chance = rng.uniform()
            for k in range(2):
                verdict = "win" if rng.uniform() < chance else "loss"
                rows.append(judged(2 * n + k, verdict, prompt=f"p{n}"))
        found = rate(rows).overall
        alarms += not found.low <= 0.5 <= found.high
    assert alarms / 200 <= 0.07


def test_length_is_compared_on_the_same_comparisons() -> None:
    rows = [judged(n, "win", texts=("ab", "abcd")) for n in range(4)]
    found = rate(rows)
    assert found.length_ratio is not None
    assert (found.length_ratio.value, found.length_ratio.low) == (2.0, 2.0)
    assert found.length_controlled is None  # always two more characters: cannot be told apart


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"kind": "scale", "grade": 1}, 0.0),
        ({"kind": "scale", "grade": 3}, 0.0),
        ({"kind": "scale", "grade": 4}, 0.5),
        ({"kind": "scale", "grade": 7}, 1.0),
        ({"kind": "ranking", "ranking": ((1,), (2, 0))}, 1.0),
        ({"kind": "ranking", "ranking": ((2,), (0, 1))}, 0.5),
        ({"kind": "ranking", "ranking": ((0,), (1,))}, 0.0),
        ({"kind": "ranking", "ranking": ((0,), (2,))}, None),
        ({"kind": "binary", "choice": 2}, None),
        ({"kind": "tie"}, 0.5),
        ({"kind": "unparsed"}, None),
    ],
)
def test_every_kind_of_judgment_has_its_outcome(
    fields: dict[str, object], expected: float | None
) -> None:
    said = Judgment(id="j", comparison_id="c", rater=RULE, **fields)  # type: ignore[arg-type]  # the fields of each kind
    assert outcome_of(said, candidate=1, baseline=0) == expected


def test_other_dimensions_and_other_systems_are_left_out() -> None:
    shown, said = judged(0, "win")
    _, other = judged(0, "loss")
    assert said is not None and other is not None
    tone = replace(other, id="j9", dimension="tone")
    stranger = replace(
        shown, id="c9", responses=tuple(replace(r, generator="other") for r in shown.responses)
    )
    found = win_rate([shown, stranger], [said, tone], candidate=TUNED, baseline=BASE)
    assert (found.overall.wins, found.overall.losses, found.comparisons) == (1, 0, 1)


def test_what_cannot_be_counted_is_refused() -> None:
    rows = [judged(0, "win"), judged(1, "none")]
    with pytest.raises(DataError, match="both 'base'"):
        rate(rows, candidate=BASE)
    with pytest.raises(DataError, match="Generators in the file: base, tuned"):
        rate(rows, candidate="tunned")
    with pytest.raises(DataError, match=r"dimension 'tone'\. Dimensions in the file: overall"):
        rate(rows, dimension="tone")
    with pytest.raises(DataError, match="comparison c0 is not there"):
        rate([rows[1], (rows[1][0], rows[0][1])])
    with pytest.raises(DataError, match="two comparisons have this id"):
        rate([rows[0], (rows[0][0].swap(), None), (replace(rows[1][0], id="c0"), None)])
