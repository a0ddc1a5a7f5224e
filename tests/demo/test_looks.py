"""What the demo says of the looks at a run, from looks known by hand."""

from pathlib import Path

from preftune.demo.looks import asked_to_stop, looks_lines
from preftune.files import append_jsonl
from preftune.stats.over_optimisation import Evaluation
from preftune.training.watch import looks as looks_in


def looks(*gold: float | None) -> list[Evaluation]:
    return [
        Evaluation(
            step=10 * place,
            proxy=0.5 * place,
            kl=float(place),
            length_tokens=30.0,
            repetition=0.0,
            gold=value,
            gold_se=None if value is None else 0.1,
        )
        for place, value in enumerate(gold)
    ]


def test_the_first_look_that_asks_to_stop_is_found_though_the_run_went_on() -> None:
    rows = looks(0.2, 1.2, 1.3, 0.4, -1.0)
    asked = asked_to_stop(rows)
    assert asked is not None
    assert (asked[0].step, asked[1].name) == (30, "over-optimisation")
    assert asked_to_stop(rows[:3]) is None


def test_lines_say_start_best_end_and_alarm() -> None:
    first, second = looks_lines(looks(0.2, 1.2, 1.3, 0.4, -1.0)).splitlines()
    assert "reward 0.00 → 2.00; gold 0.20, at its best 1.30 (before step 20), -1.00" in first
    assert first.endswith("at the end (KL 4.0)")
    assert second.startswith("   ALARM before step 30: proxy rose from 1.00 to 1.50")


def test_a_run_that_stays_well_has_no_alarm_line() -> None:
    assert len(looks_lines(looks(0.2, 0.8, 1.3)).splitlines()) == 1


def test_without_gold_or_looks_nothing_is_said(tmp_path: Path) -> None:
    assert looks_lines(looks(None, None, None)) == ""
    assert looks_in(tmp_path) == []
    append_jsonl(
        tmp_path / "probes.jsonl",
        {"step": 0, "proxy": 1.0, "kl": 0.0, "length_tokens": 9.0, "repetition": 0.0},
    )
    assert [row.proxy for row in looks_in(tmp_path)] == [1.0]
    assert looks_lines(looks_in(tmp_path)) == ""
