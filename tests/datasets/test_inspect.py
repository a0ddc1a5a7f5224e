import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from preftune.comparisons.bias import LengthBias
from preftune.datasets.card import card, escaped, shortened, write_inspection
from preftune.datasets.inspect import (
    inspect_file,
    inspect_rows,
    length_bias,
    lengths_of,
    summarise,
    summary,
)
from preftune.datasets.scanned import Problem, Scanned
from preftune.types import (
    Comparison,
    Judgment,
    Message,
    PreferencePair,
    Provenance,
    RankedList,
    Rater,
    Record,
    Response,
    assistant,
    make_prompt,
    user,
)

HH = "hh-harmless/harmless-base-test.jsonl.gz"


def pair(prompt: str, chosen: str, rejected: str, **fields: Any) -> PreferencePair:
    return PreferencePair(
        id="x",
        prompt=make_prompt(user(prompt)),
        chosen=(assistant(chosen),),
        rejected=(assistant(rejected),),
        **fields,
    )


def inspected(*records: Record) -> dict[str, str]:
    rows = [Scanned(line=place, record=record) for place, record in enumerate(records, 1)]
    return dict(summary(inspect_rows(rows, source="made.jsonl", format="preftune")))


def test_hh_gives_the_known_answers(shared_data: Path) -> None:
    found = inspect_file(shared_data / HH)
    assert found.rows == sum(found.kinds.values()) == found.kinds["pairs"] == 1548
    assert (found.bias.shorter, found.bias.longer, found.bias.equal) == (858, 684, 6)
    assert found.bias.shorter_wins_frac == pytest.approx(0.554264, abs=1e-6)
    assert found.bias.longer_wins_frac == pytest.approx(0.443580, abs=1e-6)
    assert found.bias.unequal == 1542
    lines = {finding.kind: finding.lines for finding in found.findings}
    assert lines["broken_prefix"] == (855, 1138, 1310)
    assert lines["empty_response"] == (70, 352, 752)
    assert lines["odd_turns"] == (455, 520, 855, 1138, 1310)
    assert found.usable == 1545


def test_length_bias_counts_the_last_turn_of_each_response() -> None:
    two_turns = (assistant("a long first turn"), user("go on"), assistant("b"))
    multi = PreferencePair(
        id="m", prompt=make_prompt(user("q")), chosen=two_turns, rejected=(assistant("cc"),)
    )
    assert length_bias([multi]) == LengthBias(shorter=1, longer=0, equal=0)


def test_length_bias_counts_what_lists_and_judgments_imply() -> None:
    asked = make_prompt(user("q"))
    ranked = RankedList(
        id="l",
        prompt=asked,
        responses=((assistant("aaa"),), (assistant("bb"),), (assistant("c"),)),
        ranks=(0, 1, 1),  # two wins of the longer; the tied two give none
    )
    shown = tuple(
        Response(id=t, prompt_id=asked.id, messages=(assistant(t),)) for t in ("a", "bbb")
    )
    compared = Comparison(id="c", prompt=asked, responses=shown)
    judged = Judgment(id="j", comparison_id="c", kind="binary", choice=0, rater=Rater(id="ann"))
    assert length_bias([ranked, compared, judged]) == LengthBias(shorter=1, longer=2, equal=0)


@pytest.mark.parametrize(
    ("shorter", "longer", "words"),
    [(10, 90, "LONGER"), (90, 10, "SHORTER"), (50, 50, "no clear"), (0, 0, "no pair")],
)
def test_direction_of_the_length_bias_follows_its_interval(
    shorter: int, longer: int, words: str
) -> None:
    assert words in LengthBias(shorter=shorter, longer=longer, equal=3).direction()


def test_lengths_are_summarised_by_hand_figures() -> None:
    found = summarise([0, 10, 20, 30, 40])  # 95 % of the way: 4 · 0.95 = 3.8, so 30 + 0.8 · 10
    assert (found.n, found.mean, found.median, found.p95, found.longest) == (5, 20, 20, 38, 40)


def test_lengths_are_kept_by_side() -> None:
    system = make_prompt(Message(role="system", content="12345"), user("678"))
    shown = PreferencePair(
        id="x", prompt=system, chosen=(assistant("a"),), rejected=(assistant("bb"),)
    )
    assert lengths_of([shown, system]) == {"prompt": [8, 8], "chosen": [1], "rejected": [2]}


def test_summary_counts_what_the_rows_hold() -> None:
    by = Provenance(raters=("ann", "bob"))
    lines = inspected(
        pair("q", "yes", "no", strength=0, provenance=by),
        pair("Q ", "yes", "no", strength=2, dimension="tone"),
        pair("q", "no", "yes", strength=2, provenance=Provenance(raters=("ann",))),
        make_prompt(user("q"), assistant("a"), user("r")),
    )
    assert lines["rows"] == "4, of them 4 usable"
    assert lines["holds"] == "3 pairs, 1 prompts"
    assert lines["prompts"] == "3 different; 2 rows share theirs with another row"
    assert lines["first turns"] == "1 different"
    assert lines["multi-turn"] == "1 of 4 rows (25.0 %)"
    assert lines["ties"] == "1"
    assert lines["strength"] == "0: 1, 2: 2"
    assert lines["conflicts"] == "2 rows contradict another"
    assert lines["raters"] == "2, with 1 to 2 verdicts each"
    assert lines["dimensions"] == "overall 2, tone 1"


def test_rows_that_cannot_be_used_are_counted_but_not_hashed() -> None:
    bad = Problem(kind="empty_response", what="empty", fix="Remove the row")
    good = Scanned(line=1, record=pair("q", "yes", "no"))
    refused = Scanned(line=2, record=pair("q", "yes", " "), problems=(bad,))
    both, one = (inspect_rows(rows, source="a", format="b") for rows in ([good, refused], [good]))
    assert (both.rows, both.usable, both.bias.n) == (2, 1, 2)
    assert both.dataset_hash == one.dataset_hash


def test_summary_of_a_file_without_records_says_so() -> None:
    assert inspected() == {
        "file": "made.jsonl (format preftune)",
        "rows": "0, of them 0 usable",
        "holds": "no record",
        "dataset hash": inspected()["dataset hash"],
        "ties": "0",
        "strength": "not said",
        "duplicates": "0 rows repeat an earlier one",
        "conflicts": "0 rows contradict another",
        "raters": "not named",
        "dimensions": "none",
    }


def test_card_holds_no_word_of_the_data_and_no_live_markup() -> None:
    rows = [
        Scanned(line=1, record=pair("secret question", "secret answer", "no", dimension="<b>|x"))
    ]
    text = card(inspect_rows(rows, source="a*b.jsonl", format="preftune"))
    assert "secret" not in text
    assert text.startswith("# a\\*b.jsonl\n")
    assert "\\<b\\>\\|x 1" in text
    assert text.endswith("Nothing to look at.\n")


def test_text_for_a_card_is_escaped_and_printable() -> None:
    assert escaped("a|b\n<c>\x1b[2J") == "a\\|b \\<c\\>�\\[2J"


def test_many_lines_are_shortened_with_their_number() -> None:
    assert shortened(range(1, 7)) == "1, 2, 3, 4, 5, 6"
    assert shortened(range(1, 1010)) == "1, 2, 3, 4, 5, 6 and 1,003 more"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    texts = [("q", "Short.", "A longer answer here."), ("r", "Also short.", "Another long answer.")]
    names = ("prompt", "chosen", "rejected")
    path.write_text("".join(json.dumps(dict(zip(names, t, strict=True))) + "\n" for t in texts))
    return path


def test_inspect_command_prints_the_table_and_writes_card_and_plot(
    tmp_path: Path, source: Path, run_cli: Callable[..., Any]
) -> None:
    ran = run_cli("data", "inspect", source, "--out", tmp_path / "look")
    assert ran.code == 0, ran.err
    assert '"shorter wins" is right in 100.0 % of 2 pairs' in ran.out
    assert all(len(line) <= 100 for line in ran.out.split("\n") if not line.startswith("wrote"))
    assert str(tmp_path / "look/inspect.png") in ran.out
    assert (tmp_path / "look/inspect.png").read_bytes().startswith(b"\x89PNG")
    assert "shorter wins" in (tmp_path / "look/inspect.svg").read_text()
    assert "(inspect.svg)" in (tmp_path / "look/card.md").read_text()


def test_inspecting_twice_writes_the_same_bytes(tmp_path: Path, source: Path) -> None:
    found = inspect_file(source)
    for one, two in zip(*(write_inspection(found, tmp_path / out) for out in "ab"), strict=True):
        assert one.read_bytes() == two.read_bytes()


def test_inspect_command_shows_control_characters_and_markup_of_the_data_as_text(
    tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    path = tmp_path / "pairs.jsonl"
    row = {"prompt": "q", "chosen": "yes", "rejected": "no", "dimension": "\u001b[31m[bold]x"}
    path.write_text(json.dumps(row) + "\n")
    ran = run_cli("data", "inspect", path)
    assert ran.code == 0, ran.err
    assert "\\x1b[31m[bold]x 1" in ran.out
    assert "\x1b" not in ran.out


def test_inspect_command_of_a_missing_file_is_one_line_and_exit_2(
    tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    ran = run_cli("data", "inspect", tmp_path / "none.jsonl")
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.count("\n") == 1
    assert "none.jsonl" in ran.err
