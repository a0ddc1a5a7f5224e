from dataclasses import replace
from pathlib import Path

import pytest

from preftune.errors import DataError, RowError
from preftune.evaluation.evaluate import (
    evaluate,
    read_checks,
    read_evaluation,
    read_measures,
    write_evaluation,
)
from preftune.evaluation.measures import Measure
from preftune.evaluation.regression import PairedCheck, paired_check
from preftune.types import Comparison, Judgment, Rater, Response, assistant, make_prompt, user


def rows(n: int = 6) -> tuple[list[Comparison], list[Judgment]]:
    comparisons, judgments = [], []
    for k in range(n):
        prompt = make_prompt(user(f"{k} ?"), tags=("even",) if k % 2 == 0 else ())
        shown = tuple(
            Response(
                id=f"{name}{k}", prompt_id=prompt.id, messages=(assistant(text),), generator=name
            )
            for name, text in (("base", "no"), ("tuned", "yes" * k))
        )
        comparisons.append(Comparison(id=f"c{k}", prompt=prompt, responses=shown))
        if k:
            judgments.append(
                Judgment(
                    id=f"j{k}",
                    comparison_id=f"c{k}",
                    kind="binary",
                    choice=int(k > 2),
                    rater=Rater(id="r", kind="rule"),
                )
            )
    return comparisons, judgments


def facts(name: str = "facts") -> PairedCheck:
    return paired_check(
        name,
        baseline={("p", 0): True, ("q", 0): True},
        candidate={("p", 0): True, ("q", 0): False},
        tags={"p": ["danger"]},
    )


KL = Measure(name="kl", value=1.0, low=0.5, high=1.5, n=20, unit="nats")


def test_evaluation_reads_back_equal(tmp_path: Path) -> None:
    found = evaluate(
        *rows(),
        candidate="tuned",
        baseline="base",
        checks=[facts()],
        measures=[KL],
        provenance={"seed": "0"},
    )
    write_evaluation(tmp_path / "e.json", found)
    assert read_evaluation(tmp_path / "e.json") == found


def test_every_figure_has_a_name_a_gate_can_ask_for() -> None:
    found = evaluate(*rows(), candidate="tuned", baseline="base", measures=[KL]).all_measures()
    assert set(found) == {
        "win_rate",
        "win_rate[even]",
        "length_ratio",
        "length_controlled_win_rate",
        "unparsed_frac",
        "kl",
    }
    assert found["win_rate"].value == pytest.approx(0.6)
    assert found["unparsed_frac"].value == pytest.approx(1 / 6)


def test_a_simulated_rater_marks_the_evaluation() -> None:
    comparisons, judgments = rows()
    assert not evaluate(comparisons, judgments, candidate="tuned", baseline="base").simulated_labels
    judgments[0] = replace(judgments[0], rater=Rater(id="r", kind="simulated"))
    assert evaluate(comparisons, judgments, candidate="tuned", baseline="base").simulated_labels


def test_one_name_for_two_figures_is_refused() -> None:
    with pytest.raises(DataError, match="'win_rate' is there twice"):
        evaluate(
            *rows(), candidate="tuned", baseline="base", measures=[replace(KL, name="win_rate")]
        )
    with pytest.raises(DataError, match="'facts' is there twice"):
        evaluate(*rows(), candidate="tuned", baseline="base", checks=[facts(), facts()])


def test_checks_are_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "checks.jsonl"
    path.write_text(
        '{"check": "facts", "prompt_id": "p", "tags":["x"], "baseline": true, "candidate": false}\n'
        '{"check": "facts", "prompt_id": "q", "sample": 1, "baseline": true, "candidate": true}\n'
        '{"check": "safe", "prompt_id": "p", "baseline": true, "candidate": true, "cluster": "k"}\n'
    )
    first, second = read_checks(path)
    assert (first.name, first.overall.difference.lost, first.overall.difference.n) == (
        "facts",
        1,
        2,
    )
    assert [s.tag for s in first.slices] == ["x"]
    assert (second.name, second.overall.difference.n) == ("safe", 1)


@pytest.mark.parametrize(
    ("second_line", "message"),
    [
        ("{", r"checks\.jsonl:2: "),
        ('{"check": "f", "prompt_id": "q", "baseline": 1, "candidate": true}', ":2: .*bool"),
        ('{"check": "f", "prompt_id": "q", "baseline": true}', ":2: .*candidate"),
        ('{"check": "f", "prompt_id": "p", "baseline": true, "candidate": true}', ":2: .*twice"),
        ('{"check": "f", "prompt_id": "q", "baseline": true, "candidate": true, "tag": 1}', "tag"),
    ],
)
def test_a_wrong_row_is_named_by_its_line(tmp_path: Path, second_line: str, message: str) -> None:
    path = tmp_path / "checks.jsonl"
    good = '{"check": "f", "prompt_id": "p", "baseline": true, "candidate": true}\n'
    path.write_text(good + second_line + "\n")
    with pytest.raises(RowError, match=message):
        read_checks(path)


def test_files_that_hold_nothing_of_the_kind_are_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("")
    with pytest.raises(DataError, match="no rows"):
        read_checks(empty)
    with pytest.raises(DataError, match="preftune evaluate"):
        read_evaluation(empty)
    with pytest.raises(DataError, match="array of objects"):
        read_measures(empty)
    with pytest.raises(DataError, match="Give a JSON Lines file"):
        read_checks(tmp_path)
    with pytest.raises(DataError, match="missing"):
        read_evaluation(tmp_path / "missing")


def test_measures_are_read_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(
        '[{"name": "kl", "value": 1, "low": 0.5, "high": 1.5, "n": 20, "unit": "nats"}]'
    )
    assert read_measures(path) == [KL]
    path.write_text('[{"name": "kl", "value": 1, "low": 2, "high": 1, "n": 20}]')
    with pytest.raises(DataError, match="Swap them"):
        read_measures(path)
