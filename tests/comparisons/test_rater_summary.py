from pathlib import Path

import numpy as np
import pytest

from preftune.comparisons.rater_model import RaterModel
from preftune.comparisons.rater_plot import plot_raters
from preftune.comparisons.rater_report import RaterRow
from preftune.comparisons.rater_summary import RaterSummary, gold_answers, summarise_raters
from preftune.errors import DataError
from preftune.types import (
    Comparison,
    Judgment,
    Rater,
    RaterKind,
    Response,
    assistant,
    make_prompt,
    user,
)

ACCURACIES = {"ann": 0.9, "bob": 0.85, "cid": 0.8, "odd": 0.5}


def judged(items: int = 60, *, seed: int = 0) -> tuple[list[Comparison], list[Judgment]]:
    """Every rater on every item in the seven grades; an expert knows; a judge says first."""
    rng = np.random.default_rng(seed)
    comparisons, judgments = [], []
    for n in range(items):
        prompt = make_prompt(user(f"question {n}"))
        responses = tuple(
            Response(id=f"{n}-{k}", prompt_id=prompt.id, messages=(assistant(text),))
            for k, text in enumerate(("an answer", "another answer"))
        )
        comparisons.append(Comparison(id=f"c{n}", prompt=prompt, responses=responses))
        truth = int(rng.integers(2))
        for rater, accuracy in ACCURACIES.items():
            side = truth if rng.random() < accuracy else 1 - truth
            grade = int(rng.integers(1, 4)) if side == 0 else int(rng.integers(5, 8))
            judgments.append(verdict(n, rater, "human", grade))
        judgments.append(verdict(n, "expert", "human", 1 if truth == 0 else 7))
        judgments.append(verdict(n, "machine", "judge", 2))
    return comparisons, judgments


def verdict(item: int, rater: str, kind: RaterKind, grade: int) -> Judgment:
    return Judgment(
        id=f"j{item}-{rater}",
        comparison_id=f"c{item}",
        kind="scale",
        grade=grade,
        rater=Rater(id=rater, kind=kind),
    )


@pytest.fixture(scope="module")
def found() -> RaterSummary:
    return summarise_raters(*judged(), gold="expert", kinds=["human"], without="odd", rounds=200)


def test_gold_is_counted_and_left_out_of_the_table(found: RaterSummary) -> None:
    rows = {row.rater: row for row in found.rows}
    assert set(rows) == set(ACCURACIES)
    for rater, accuracy in ACCURACIES.items():
        gold = rows[rater].gold
        assert gold is not None
        assert gold.n == 60
        assert gold.low < accuracy < gold.high
    assert [flag.split(":")[0] for flag in rows["odd"].flags] == ["random"]


def test_agreement_is_shown_in_both_levels_with_an_interval(found: RaterSummary) -> None:
    assert [(a.dimension, a.kind, a.level, a.raters) for a in found.agreement] == [
        ("overall", "human", "nominal", 4),
        ("overall", "human", "ordinal", 4),
    ]
    for agreement in found.agreement:
        assert agreement.alpha is not None
        assert agreement.low is not None
        assert agreement.high is not None
        assert agreement.low < agreement.alpha < agreement.high
    assert found.clusters == "prompt"


def test_leaving_the_odd_one_out_raises_agreement(found: RaterSummary) -> None:
    change = found.change
    assert change is not None
    assert (change.rater, change.judgments) == ("odd", 60)
    assert change.alpha_after is not None
    assert change.alpha_before is not None
    assert change.alpha_after > change.alpha_before + 0.05


def test_kinds_are_counted_apart() -> None:
    both = summarise_raters(*judged(40), rounds=100)
    assert {(lean.who, lean.sign) for lean in both.positions} == {("human", 0), ("judge", 1)}
    judge = next(a for a in both.agreement if a.kind == "judge")
    assert (judge.raters, judge.alpha) == (1, None)  # nobody to agree with


def test_no_model_says_why() -> None:
    comparisons, judgments = judged(40)
    alone = summarise_raters(comparisons, judgments, kinds=["judge"])
    assert alone.model is None
    assert "no pair has two votes" in alone.why_no_model


def test_gold_answers_are_counted_in_the_first_order() -> None:
    said = [verdict(1, "expert", "human", 1), verdict(2, "expert", "human", 4)]
    swapped = Judgment(
        id="s", comparison_id="c3~swapped", kind="binary", choice=0, rater=Rater(id="expert")
    )
    assert gold_answers([*said, swapped]) == {"c1": 1, "c2": 0, "c3": -1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gold": "nobody"}, "rater nobody: no verdict"),
        ({"kinds": ["person"]}, "kind 'person'"),
        ({"dimension": "tone"}, "in dimension tone.*overall"),
        ({"kinds": ["rule"]}, "of these raters: none"),
        ({"without": "ghost"}, "rater ghost"),
    ],
)
def test_what_is_not_there_is_named(options: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        summarise_raters(*judged(10), **options)  # type: ignore[arg-type]  # one of them at a time


def row(rater: str, *flags: str) -> RaterRow:
    return RaterRow(
        rater=rater, kind="human", votes=40, tie_frac=0.0, median_s=None, gold=None, repeats=None,
        first=None, others=None, chance=None, flags=flags,
    )  # fmt: skip


def test_the_plot_names_flagged_raters_and_draws_no_mathematics(tmp_path: Path) -> None:
    names = ["ann", "$x^2$ & <b>", "bell\a", "long " * 20]
    model = RaterModel(
        skill={name: 1.0 + n for n, name in enumerate(names)},
        side=dict.fromkeys(names, 0.1),
        tie=dict.fromkeys(names, 0.0),
        rounds=1,
    )
    rows = [row(name, "random: x") for name in names]
    plot_raters(rows, model, tmp_path / "raters.svg")
    drawn = (tmp_path / "raters.svg").read_text()
    assert "$x^2$ &amp; &lt;b&gt;" in drawn
    assert "\a" not in drawn
    assert "long long long long lon…" in drawn
    assert "skill (nats" in drawn
