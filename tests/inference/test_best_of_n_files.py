"""What a run of best-of-n takes for its own, and what it leaves on disk when little came of it."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.inference.conftest import TEXTS
from tests.inference.test_best_of_n_run import GOLD, PROMPTS, Digits, job

from preftune.datasets.read import read_responses
from preftune.errors import DataError
from preftune.graders.grader_scorer import GraderScorer
from preftune.graders.rft_rows import items_of, read_rft_rows
from preftune.graders.run import GraderRunner
from preftune.graders.scorer import FunctionScorer
from preftune.graders.specs import validate
from preftune.inference.best_of_n_run import best_of_n_file, run_best_of_n
from preftune.inference.best_of_n_settings import BestOfNSettings, SavingSettings
from preftune.inference.stopping import check_prompts
from preftune.models.new import new_model
from preftune.responses.generator import GenerateSettings, Request
from preftune.types import Response, make_prompt, text_of, user

RIGHT = {
    "type": "string_check",
    "name": "right",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.answer }}",
    "operation": "eq",
}
SHORT = GenerateSettings(max_new_tokens=4, batch_size=8)


def rft(path: Path, answers: list[str], *, text: str = "wash it ?") -> Path:
    rows = [{"messages": [{"role": "user", "content": text}], "answer": one} for one in answers]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def test_scores_of_other_right_answers_are_never_taken_for_these(tmp_path: Path) -> None:
    for answer in ("0", "1"):
        rows = read_rft_rows(rft(tmp_path / "rft.jsonl", [answer]))
        with GraderRunner(validate(RIGHT)) as runner:
            made = replace(job(), scorer=GraderScorer(runner, items_of(rows)), gold=None)
            if answer == "0":
                best_of_n_file(made, [rows[0].prompt], out=tmp_path / "best.jsonl")
                continue
            with pytest.raises(DataError, match="made with another scorer"):
                best_of_n_file(made, [rows[0].prompt], out=tmp_path / "best.jsonl")


@pytest.mark.parametrize("block", [1024, 32, 16])
def test_checked_prompts_are_chosen_once_however_small_the_blocks(
    tmp_path: Path, block: int
) -> None:
    prompts = [make_prompt(user(f"ask {i}")) for i in range(20)]
    saving = SavingSettings(stop_cost=1e6, check_frac=0.1)
    made = replace(job(n=16, saving=saving), scorer=GOLD)
    report = best_of_n_file(made, prompts, out=tmp_path / "best.jsonl", block=block)
    assert report.saved is not None
    assert report.saved.checked == len(check_prompts([p.id for p in prompts], 0.1, 3)) == 2
    assert report.responses == 18 * 4 + 2 * 16


@pytest.mark.parametrize("place", ["out", "draws", "distil"])
def test_a_file_that_is_read_or_written_twice_is_refused_before_work(
    tmp_path: Path, place: str
) -> None:
    out, generator = tmp_path / "best.jsonl", Digits()
    where = {"out": out, "draws": tmp_path / "best.draws.jsonl", "distil": tmp_path / "sft.jsonl"}
    where["distil"].write_text("mine")
    with pytest.raises(DataError, match=r"is an input, or written twice"):
        best_of_n_file(job(generator), PROMPTS, out=out, distil=where["distil"], pairs=where[place])
    assert not generator.asked
    assert [path.name for path in tmp_path.iterdir()] == ["sft.jsonl"]
    assert where["distil"].read_text() == "mine"


def test_the_prompts_are_never_written_over(
    policy_folder: Path, reward_folder: Path, tmp_path: Path
) -> None:
    prompts = rft(tmp_path / "p.jsonl", ["18"])
    before = prompts.read_bytes()
    asked = BestOfNSettings(
        model=str(policy_folder), prompts=prompts, out=prompts, reward=(str(reward_folder),)
    )
    for settings in (asked, replace(asked, out=tmp_path / "o.jsonl", pairs=prompts)):
        with pytest.raises(DataError, match=r"p\.jsonl: is an input"):
            run_best_of_n(settings)
    assert prompts.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["p.jsonl"]


def test_an_empty_export_is_a_note_and_the_report_is_there(tmp_path: Path) -> None:
    one = FunctionScorer(name="one", function=lambda p, r: 1.0)
    made = replace(job(Cut()), scorer=one)
    distil, pairs = tmp_path / "sft.jsonl", tmp_path / "pairs.jsonl"
    for _ in range(2):
        report = best_of_n_file(
            made, PROMPTS, out=tmp_path / "best.jsonl", distil=distil, pairs=pairs
        )
        assert report.notes[-2:] == (
            f"no demonstrations, {distil} is not written; left out: 6 prompts have a best response "
            "that was cut or is empty",
            f"no pairs, {pairs} is not written; left out: 6 prompts have fewer than two whole, "
            "scored responses",
        )
    kept = json.loads((tmp_path / "best.report.json").read_text())
    assert tuple(kept["notes"]) == report.notes
    assert (tmp_path / "best.svg").exists()
    assert not distil.exists()
    assert not pairs.exists()


def test_an_export_that_fails_leaves_the_report(tmp_path: Path) -> None:
    distil = tmp_path / "folder" / "sft.jsonl"
    distil.parent.write_text("no folder")
    with pytest.raises(OSError, match="folder"):
        best_of_n_file(job(), PROMPTS, out=tmp_path / "best.jsonl", distil=distil)
    assert (tmp_path / "best.report.json").exists()
    assert (tmp_path / "best.svg").exists()


@pytest.mark.parametrize("kind", [np.float64, np.float32, int, bool])
def test_scores_of_any_kind_of_number_are_kept_and_found_again(
    tmp_path: Path, kind: type[float]
) -> None:
    scorer = FunctionScorer(name=kind.__name__, function=lambda p, r: kind(int(text_of(r)) > 500))
    made = replace(job(), scorer=scorer, gold=scorer)
    for generator in (Digits(), Digits(blocks=0)):
        found = best_of_n_file(
            replace(made, generator=generator), PROMPTS, out=tmp_path / "best.jsonl"
        )
        assert found.unscored == 0


def test_another_batch_size_goes_on_where_a_run_was(
    policy_folder: Path, reward_folder: Path, tmp_path: Path
) -> None:
    prompts = tmp_path / "p.jsonl"
    prompts.write_text("".join(f'{{"prompt": "wash {i}"}}\n' for i in range(9)))
    asked = BestOfNSettings(
        model=str(policy_folder),
        prompts=prompts,
        out=tmp_path / "best.jsonl",
        reward=(str(reward_folder),),
        n=4,
        draw=SHORT,
    )
    run_best_of_n(asked)
    before = (tmp_path / "best.jsonl").read_bytes()
    run_best_of_n(replace(asked, draw=replace(SHORT, batch_size=1)))
    assert (tmp_path / "best.jsonl").read_bytes() == before


def test_another_model_under_the_same_name_is_refused(
    policy_folder: Path, reward_folder: Path, tmp_path: Path
) -> None:
    other = new_model(
        tmp_path / "other", preset="tiny", texts=TEXTS, vocab_size=64, seed=1, tokenizer="words"
    )
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"prompt": "wash it ?"}\n')
    asked = BestOfNSettings(
        model=str(policy_folder),
        prompts=prompts,
        out=tmp_path / "best.jsonl",
        reward=(str(reward_folder),),
        n=2,
        name="sft",
        draw=SHORT,
    )
    assert run_best_of_n(asked).generator == "sft"
    assert {one.generator for one in read_responses(asked.out)} == {"sft"}
    with pytest.raises(DataError, match="made with another generator"):
        run_best_of_n(replace(asked, model=str(other)))


def test_rft_rows_given_twice_are_one_prompt(policy_folder: Path, tmp_path: Path) -> None:
    grader = tmp_path / "grader.json"
    grader.write_text(json.dumps(RIGHT))
    report = run_best_of_n(
        BestOfNSettings(
            model=str(policy_folder),
            prompts=rft(tmp_path / "rft.jsonl", ["18", "18"]),
            out=tmp_path / "best.jsonl",
            grader=grader,
            n=2,
            draw=SHORT,
        )
    )
    assert (report.prompts, report.responses) == (1, 2)


class Cut(Digits):
    """Answers that were all cut."""

    def respond(self, requests: Sequence[Request]) -> list[Response]:
        return [replace(one, finished=False) for one in super().respond(requests)]
