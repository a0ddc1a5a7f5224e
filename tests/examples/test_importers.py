"""Each real set becomes records with the counts of its README, nothing lost in silence."""

import importlib
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from _importing import import_set, read_rows, usable
from preftune.datasets.read import read_comparisons, read_pairs
from preftune.datasets.scanned import Scanned
from preftune.errors import DataError, RowError
from preftune.records import decode, encode
from preftune.types import Comparison, Judgment, PreferencePair, RankedList, text_of

Load = Callable[[str], list[Scanned]]

COUNTS = {  # counts of data/README.md, times what one row holds
    "arena-verdicts": {"Comparison": 17_927, "Judgment": 4 * 17_927},
    # 7 dimensions: 5 votes and a label per row; 2 modes of a judge on the 458 rows in both orders
    "crag25": {"Comparison": 829, "Judgment": 7 * (6 * 829 + 2 * 458), "RankedList": 7 * 40},
    "gsm8k-solutions": {
        "Demonstration": 927,
        "Comparison": 927,
        "Judgment": 927,
        "PreferencePair": 1724,
    },
    "hh-harmless": {"PreferencePair": 1548},
    "hhh": {"PreferencePair": 137},
    "llmbar": {"Comparison": 2 * 260, "Judgment": 260 + 2 * 6760},
    "llmfao": {"Comparison": 1513 + 7, "Judgment": 6277 + 2 * 1513 + 7},
    "mtbench-prompts": {"Prompt": 2 * 52, "Response": 2 * 18 + 2 * 24},
    "oasst-rank": {"RankedList": 145 + 518, "Response": 441},
    "pandalm": {"Comparison": 651, "Judgment": 5 * 651},
    "squality-listwise": {"Comparison": 75, "Judgment": 75 * 3 * 3},
    "tau-airline": {"Comparison": 39, "Judgment": 39, "PreferencePair": 73},
    "tulu1-human": {"Comparison": 711, "Judgment": 758},  # 711 units, each order its own
    "ukp-convarg": {"Comparison": 12_234, "Judgment": 61_020 + 11_642},
}


def judgments(scanned: list[Scanned], kind: str) -> list[Judgment]:
    found = [item.record for item in scanned if isinstance(item.record, Judgment)]
    return [judgment for judgment in found if judgment.rater.kind == kind]


@pytest.mark.parametrize("name", COUNTS)
def test_every_set_has_the_counts_of_its_readme(name: str, imported: Load) -> None:
    assert Counter(type(item.record).__name__ for item in imported(name)) == COUNTS[name]


@pytest.mark.parametrize("name", COUNTS)
def test_ids_of_one_kind_are_unique(name: str, imported: Load) -> None:
    seen = Counter((type(r).__name__, r.id) for r in usable(imported(name)))
    assert not [found for found, times in seen.items() if times > 1]


@pytest.mark.parametrize("name", COUNTS)
def test_records_are_the_same_after_a_trip_through_json(name: str, imported: Load) -> None:
    records = usable(imported(name))[:3000]
    assert [decode(encode(record)) for record in records] == records


def test_every_judgment_is_on_a_comparison_of_its_set(imported: Load) -> None:
    for name in ("crag25", "llmbar", "tulu1-human", "squality-listwise"):
        records = usable(imported(name))
        shown = {record.id for record in records if isinstance(record, Comparison)}
        assert {r.comparison_id for r in records if isinstance(r, Judgment)} <= shown


def test_hh_names_the_lines_that_are_odd(imported: Load) -> None:
    lines: dict[str, list[int]] = {}
    for item in imported("hh-harmless"):
        for problem in item.problems:
            lines.setdefault(problem.kind, []).append(item.line)
    assert lines["broken_prefix"] == [855, 1138, 1310]
    assert lines["empty_response"] == [70, 352, 752]
    assert lines["odd_turns"] == [455, 520, 855, 1138, 1310]


def test_pandalm_refuses_rows_with_a_boolean_for_a_text(imported: Load) -> None:
    shown = [item for item in imported("pandalm") if isinstance(item.record, Comparison)]
    problems = Counter(problem.kind for item in shown for problem in item.problems)
    assert problems == {"boolean_response": 6, "empty_response": 32}
    assert sum(item.usable for item in shown) == 645


def test_a_judges_garbage_is_kept_and_is_no_verdict(imported: Load) -> None:
    garbage = [j for j in judgments(imported("pandalm"), "judge") if j.kind == "unparsed"]
    assert [(j.rater.id, j.said) for j in garbage] == [("gpt-3.5-turbo", "garbage")] * 23
    failures = [j for j in judgments(imported("llmbar"), "judge") if j.kind == "unparsed"]
    assert len(failures) == 33
    assert sum(bool(j.why) for j in failures) == 14  # the other 19 completions are empty


def test_reasons_and_labels_stay_as_written(imported: Load) -> None:
    ukp = judgments(imported("ukp-convarg"), "human")
    assert ukp[0].why.startswith("A2 is talking about bottled water")
    assert Counter(j.said for j in ukp) == {"a1": 24_185, "a2": 23_725, "equal": 13_110}
    arena = judgments(imported("arena-verdicts"), "human")
    assert Counter(j.said for j in arena)["bothbad"] == 3388
    assert Counter(j.kind for j in arena)["tie"] == 3388 + 1931
    golden = judgments(imported("llmfao"), "unknown")
    assert golden[0].why == "System A followed the prompt better."


def test_people_judges_and_labels_are_different_kinds_of_rater(imported: Load) -> None:
    llmfao = imported("llmfao")
    assert len({j.rater.id for j in judgments(llmfao, "human")}) <= 124
    assert {j.rater.id for j in judgments(llmfao, "judge")} == {"gpt-4", "gpt-3.5-turbo-instruct"}
    assert {j.guideline[:28] for j in judgments(llmfao, "human")} == {
        "crowd-instruction.md sha256:"
    }
    assert {j.rater.id for j in judgments(imported("ukp-convarg"), "rule")} == {"mace-label"}


def test_tulu_keeps_levels_marks_rater_and_time(imported: Load) -> None:
    said = judgments(imported("tulu1-human"), "human")
    assert Counter(j.grade for j in said) == {2: 134, 3: 135, 4: 255, 5: 123, 6: 111}
    assert sum(j.scores[0] for j in said) == 596
    assert sum(j.scores[1] for j in said) == 595
    assert len({j.rater.id for j in said}) == 16
    assert said[0].at == "2023-05-19T13:11:45"


def test_crag_shows_229_pairs_in_both_orders(imported: Load) -> None:
    shown = [r for r in usable(imported("crag25")) if isinstance(r, Comparison)]
    by_id = {comparison.id: comparison for comparison in shown}
    both = [c for c in shown if not c.id.endswith("~swapped") and c.swap().id in by_id]
    assert len(both) == 229
    assert all(by_id[c.swap().id] == c.swap() for c in both)


def test_chinese_groups_with_a_duplicate_answer_are_named_and_kept(imported: Load) -> None:
    odd = [item for item in imported("oasst-rank") if item.problems]
    assert [item.problems[0].kind for item in odd] == ["duplicate_answer"] * 4
    assert all(item.usable for item in odd)


def test_hhh_prompts_with_turn_marks_become_turns(imported: Load) -> None:
    pairs = [r for r in usable(imported("hhh")) if isinstance(r, PreferencePair)]
    several = [pair for pair in pairs if len(pair.prompt.messages) > 1]
    assert {m.role for pair in several for m in pair.prompt.messages} == {"user", "assistant"}
    assert all(pair.prompt.messages[-1].role == "user" for pair in pairs)
    assert Counter(p.dimension for p in pairs) == {
        "harmless": 48,
        "helpful": 38,
        "other": 26,
        "honest": 25,
    }


def test_squality_notes_ranks_and_marks_are_all_there(imported: Load) -> None:
    said = judgments(imported("squality-listwise"), "human")
    assert sum(j.why.count("\n") + 1 for j in said if j.why) >= 2285
    for judgment in said:  # the better the rank, the higher the mark
        ranked = [judgment.scores[place] for group in judgment.ranking for place in group]
        assert ranked == sorted(ranked, reverse=True)


def test_agent_pairs_share_a_prefix_and_end_in_the_agents_own_turn(imported: Load) -> None:
    pairs = [r for r in usable(imported("tau-airline")) if isinstance(r, PreferencePair)]
    assert len({pair.provenance.comparison_id for pair in pairs}) == 22
    for pair in pairs:
        assert pair.prompt.messages[0].role == "system"
        assert pair.chosen[0] != pair.rejected[0]
        assert pair.chosen[-1].role == pair.rejected[-1].role == "assistant"
    runs = [r for r in usable(imported("tau-airline")) if isinstance(r, Comparison)]
    assert sum(len(run.responses) for run in runs) == 156
    calls = [m for run in runs for r in run.responses for m in r.messages if m.tool_calls]
    tools = [m for run in runs for r in run.responses for m in r.messages if m.role == "tool"]
    assert len(calls) == len(tools) == 925
    assert all(message.tool_call_id and message.name for message in tools)


def test_graded_answers_are_ranked_lists_best_first(imported: Load) -> None:
    lists = [r for r in usable(imported("crag25")) if isinstance(r, RankedList)]
    assert {ranked.ranks for ranked in lists} == {(1, 2, 3, 4, 5, 6)}
    assert {ranked.scores for ranked in lists} == {(6.0, 5.0, 4.0, 3.0, 2.0, 1.0)}


def test_import_writes_records_and_refused_rows(
    tmp_path: Path, imported: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pandalm.jsonl"
    import_set(imported("pandalm"), out)
    shown, said = read_comparisons(out)
    assert (len(shown), len(said)) == (645, 5 * 645)
    refused = [msgspec.json.decode(line) for line in out.with_suffix(".refused.jsonl").open("rb")]
    assert [row["kind"] for row in refused] == ["boolean_response"] * 6
    printed = capsys.readouterr().out
    assert "6 rows boolean_response (refused): lines" in printed
    assert "645 Comparison, 3225 Judgment" in printed


def test_import_joins_votes_into_pairs(
    tmp_path: Path, imported: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "ukp.jsonl"
    import_set(imported("ukp-convarg"), out, pairs="rule", dimension="overall")
    pairs = read_pairs(out)
    assert len(pairs) == 4758 + 4699  # labels a1 and a2 of the source
    printed = capsys.readouterr().out
    assert "9457 pairs; not pairs: 2185 ties, 0 identical, 592 unjudged" in printed
    sizes = [(len(text_of(p.chosen)), len(text_of(p.rejected))) for p in pairs]
    longer = [c > r for c, r in sizes if c != r]
    assert len(longer) == 9439
    assert sum(longer) / len(longer) == pytest.approx(0.749232, abs=1e-6)


def test_import_writes_one_kind_when_asked(tmp_path: Path, imported: Load) -> None:
    out = tmp_path / "gsm8k.jsonl"
    import_set(imported("gsm8k-solutions"), out, only="pair")
    assert len(read_pairs(out)) == 1724


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"only": "pears"}, "no such kind"),
        ({"only": "pair", "pairs": "human"}, "Give one of them"),
        ({"pairs": "judge"}, "no verdicts of such raters"),
    ],
)
def test_import_refuses_what_makes_no_sense(
    tmp_path: Path, imported: Load, wanted: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        import_set(imported("squality-listwise"), tmp_path / "out.jsonl", **wanted)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n[2]\n', encoding="utf-8")
    with pytest.raises(RowError, match=r"rows\.jsonl:2: "):
        list(read_rows(path))


def test_every_set_has_an_importer(shared_data: Path) -> None:
    names = {folder.name for folder in shared_data.iterdir() if folder.is_dir()}
    assert names == set(COUNTS)
    for name in names:
        assert importlib.import_module(f"import_{name.replace('-', '_')}").__doc__


def test_an_importer_runs_as_a_command(root: Path, shared_data: Path, tmp_path: Path) -> None:
    script = [sys.executable, str(root / "examples" / "import_hhh.py")]
    out = tmp_path / "hhh.jsonl"
    done = subprocess.run(
        [*script, str(shared_data / "hhh"), "--out", str(out)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "137 PreferencePair\n", "")
    refused = subprocess.run(
        [*script, str(tmp_path), "--out", str(out)], check=False, capture_output=True, text=True
    )
    assert refused.returncode == 2
    assert refused.stderr == (
        f"error: {tmp_path}/pairs.jsonl: No such file or directory. Give the folder of the set.\n"
    )
