import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from preftune.datasets.read import read_demonstrations, read_pairs, read_responses
from preftune.errors import DataError, RowError, SettingsError
from preftune.graders.scorer import FunctionScorer
from preftune.inference.best_of_n_report import BestOfNReport, report_lines
from preftune.inference.best_of_n_run import Job, best_of_n_file
from preftune.inference.best_of_n_settings import BestOfNSettings, SavingSettings
from preftune.responses.generator import GenerateSettings, Request
from preftune.responses.sample import row_seed, sample
from preftune.settings import build
from preftune.types import (
    Message,
    Prompt,
    Response,
    Sampling,
    assistant,
    make_prompt,
    text_of,
    user,
)

N, BLOCK = 4, 8  # two prompts a block
PROMPTS = [make_prompt(user(f"question {i} \x1b[31m")) for i in range(6)]


class Digits:
    """Answers with a number made of the seed, every fifth cut; interrupted after some blocks."""

    def __init__(self, *, blocks: int = 99) -> None:
        self.name, self.blocks = "digits@1", blocks
        self.asked: list[Request] = []

    def sampling(self, seed: int) -> Sampling:
        return GenerateSettings(max_new_tokens=8).sampling(seed)

    def check(self, prompts: Sequence[Prompt]) -> None:
        pass

    def respond(self, requests: Sequence[Request]) -> list[Response]:
        if self.blocks == 0:
            raise KeyboardInterrupt
        self.blocks -= 1
        self.asked += requests
        return [
            Response(
                id=request.response_id,
                prompt_id=request.prompt.id,
                messages=(assistant(str(request.seed % 1000)),),
                generator=self.name,
                sampling=self.sampling(request.seed),
                origin="sampled",
                finished=request.seed % 5 != 0,
            )
            for request in requests
        ]


def number(_: Prompt, response: tuple[Message, ...]) -> float | None:
    value = float(text_of(response))
    return None if value % 7 == 0 else value


def mod_100(_: Prompt, response: tuple[Message, ...]) -> float:
    return float(text_of(response)) % 100


NUMBER, GOLD = (
    FunctionScorer(name="number", function=number),
    FunctionScorer(name="mod", function=mod_100),
)


def job(
    generator: Digits | None = None, *, n: int = N, saving: SavingSettings | None = None
) -> Job:
    return Job(
        generator=generator or Digits(),
        scorer=NUMBER,
        gold=GOLD,
        n=n,
        seed=3,
        saving=saving or SavingSettings(),
    )


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "best.jsonl"
    best_of_n_file(job(), PROMPTS, out=out, block=BLOCK)
    return out


def test_files_hold_the_best_and_all_that_was_drawn(whole: Path, tmp_path: Path) -> None:
    best, draws = read_responses(whole), read_responses(whole.with_name("best.draws.jsonl"))
    seeds = {(p.id, i): row_seed(3, p.id, i) % 1000 for p in PROMPTS for i in range(N)}
    assert [text_of(r.messages) for r in draws] == [str(value) for value in seeds.values()]
    for prompt, response in zip(PROMPTS, best, strict=True):
        own = [seeds[prompt.id, i] for i in range(N)]
        assert response.prompt_id == prompt.id
        assert int(text_of(response.messages)) == max(x for x in own if x % 7)
    lines = whole.with_name("best.scores.jsonl").read_text().splitlines()
    scores = [json.loads(line) for line in lines]
    assert [row["response_id"] for row in scores] == [r.id for r in draws]
    assert [row["score"] for row in scores] == [x if x % 7 else None for x in seeds.values()]
    assert [row["gold"] for row in scores] == [x % 100 for x in seeds.values()]
    sampled = tmp_path / "sampled.jsonl"
    sample(PROMPTS, Digits(), n=N, seed=3, out=sampled)
    assert sampled.read_bytes() == whole.with_name("best.draws.jsonl").read_bytes()


def test_report_counts_what_could_not_be_scored_and_says_upper_bound(whole: Path) -> None:
    report = best_of_n_file(job(), PROMPTS, out=whole, block=BLOCK)
    values = [row_seed(3, p.id, i) % 1000 for p in PROMPTS for i in range(N)]
    assert report.unscored == sum(value % 7 == 0 for value in values)
    assert report.unfinished == sum(
        row_seed(3, p.id, i) % 5 == 0 for p in PROMPTS for i in range(N)
    )
    said = "\n".join(report_lines(report))
    assert "KL upper bound" in said
    assert f"{report.unscored} not scored" in said
    kept = json.loads(whole.with_name("best.report.json").read_text())
    assert kept["rows"][N - 1]["kl_upper_bound"] == pytest.approx(0.636294, abs=1e-6)
    assert kept["rows"][0]["score"]["prompts"] == len(PROMPTS)
    first = [[v for v in values[p * N :][:N] if v % 7] for p in range(len(PROMPTS))]
    mean = sum(sum(own) / len(own) for own in first) / len(first)
    assert kept["rows"][0]["score"]["mean"] == pytest.approx(mean)
    assert whole.with_name("best.svg").read_text().count("upper bound") == 1


def test_a_second_run_draws_nothing_and_changes_no_byte(whole: Path) -> None:
    generator, before = Digits(), files(whole.parent)
    best_of_n_file(job(generator), PROMPTS, out=whole, block=BLOCK)
    assert not generator.asked
    assert files(whole.parent) == before


def test_another_job_is_refused_by_name(whole: Path) -> None:
    with pytest.raises(DataError, match=r"made with another n\. Give"):
        best_of_n_file(job(n=2), PROMPTS, out=whole, block=BLOCK)
    with pytest.raises(DataError, match="made with another prompts"):
        best_of_n_file(job(), PROMPTS[::-1], out=whole, block=BLOCK)


def test_a_stopped_run_goes_on_and_draws_each_response_once(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "best.jsonl"
    with pytest.raises(KeyboardInterrupt):
        best_of_n_file(job(Digits(blocks=1)), PROMPTS, out=out, block=BLOCK)
    assert not out.exists()
    journal = out.with_name("best.journal.jsonl")
    with journal.open("ab") as file:
        file.write(b'[{"prompt_id":"torn')
    generator = Digits()
    best_of_n_file(job(generator), PROMPTS, out=out, block=BLOCK)
    assert [q.prompt.id for q in generator.asked] == [p.id for p in PROMPTS[2:] for _ in range(N)]
    assert files(out.parent) == files(whole.parent)


def test_a_damaged_journal_is_named_by_its_row(whole: Path, tmp_path: Path) -> None:
    lines = whole.with_name("best.journal.jsonl").read_bytes().splitlines(keepends=True)
    lines[2] = b'[{"prompt_id": 3}]\n'
    (tmp_path / "best.journal.jsonl").write_bytes(b"".join(lines))
    with pytest.raises(RowError, match=r"best\.journal\.jsonl:3: damaged row"):
        best_of_n_file(job(), PROMPTS, out=tmp_path / "best.jsonl", block=BLOCK)


def test_demonstrations_and_pairs_leave_out_what_was_cut(whole: Path) -> None:
    distil, pairs = whole.with_name("demos.jsonl"), whole.with_name("pairs.jsonl")
    report = best_of_n_file(job(), PROMPTS, out=whole, block=BLOCK, distil=distil, pairs=pairs)
    best = read_responses(whole)
    demos = read_demonstrations(distil)
    whole_ones = [r for r in best if r.finished]
    assert [demo.response for demo in demos] == [r.messages for r in whole_ones]
    assert [demo.prompt.messages for demo in demos] == [
        p.messages for p, r in zip(PROMPTS, best, strict=True) if r.finished
    ]
    cut = len(best) - len(whole_ones)
    assert any(
        f"{cut} prompts have a best response that was cut or" in note for note in report.notes
    )
    for pair in read_pairs(pairs):
        own = [row_seed(3, pair.prompt.id, i) for i in range(N)]
        usable = [s % 1000 for s in own if s % 5 and s % 1000 % 7]
        assert (pair.chosen_score, pair.rejected_score) == (max(usable), min(usable))
        assert text_of(pair.chosen) == str(max(usable))
        assert pair.provenance.raters == ("number",)
    distil.unlink()
    pairs.unlink()


def lines_of(scorer: FunctionScorer, tmp_path: Path, **more: object) -> tuple[BestOfNReport, str]:
    made = replace(job(), scorer=scorer, gold=None, **more)  # type: ignore[arg-type]  # any field
    report = best_of_n_file(made, PROMPTS, out=tmp_path / "best.jsonl", block=BLOCK)
    return report, "\n".join(report_lines(report))


def test_prompts_without_a_score_are_listed_and_the_others_go_on(tmp_path: Path) -> None:
    hopeless = PROMPTS[1].id
    scorer = FunctionScorer(name="some", function=lambda p, r: None if p.id == hopeless else 1.0)
    report, said = lines_of(scorer, tmp_path)
    assert report.failed == (hopeless,)
    assert f"error: 1 prompts have no scored response: {hopeless}" in said
    assert len(read_responses(tmp_path / "best.jsonl")) == 5
    assert "5 of 5 prompts: all their scores are equal: no signal" in said


def test_a_scorer_that_scores_nothing_is_an_error(tmp_path: Path) -> None:
    scorer = FunctionScorer(name="mute", function=lambda p, r: None)
    with pytest.raises(DataError, match="mute: no response to any of 6 prompts could be scored"):
        lines_of(scorer, tmp_path)


def test_one_draw_and_a_constant_reward_are_said_to_choose_nothing(tmp_path: Path) -> None:
    _, said = lines_of(NUMBER, tmp_path / "one", n=1)
    assert "n = 1 is plain sampling: nothing is chosen" in said
    constant = FunctionScorer(name="constant", function=lambda p, r: 2.5)
    _, said = lines_of(constant, tmp_path / "flat")
    assert "6 of 6 prompts: all their scores are equal: no signal" in said


def test_stopping_says_what_it_saved_and_lost(tmp_path: Path) -> None:
    saving = SavingSettings(stop_cost=1e6, check_frac=1.0)
    report, said = lines_of(NUMBER, tmp_path, n=12, saving=saving)
    assert report.saved is not None
    assert report.saved.checked == 6
    assert report.saved.frac == pytest.approx(8 / 12)  # stopped after 4 of 12, everywhere
    values = [[row_seed(3, p.id, i) % 1000 for i in range(12)] for p in PROMPTS]
    known = [[v if v % 7 else -1 for v in own] for own in values]
    losses = [max(own) - max(own[:4]) for own in known]
    assert report.saved.lost_score == pytest.approx(sum(losses) / 6)
    assert report.saved.lost_frac == pytest.approx(sum(loss > 0 for loss in losses) / 6)
    assert "saved 66.7%; lost the winner of" in said
    assert report.rows[-1].k == max(sum(v % 7 > 0 for v in own) for own in values)


def test_stopping_without_a_check_says_that_the_loss_is_unknown(tmp_path: Path) -> None:
    saving = SavingSettings(stop_cost=1e6, check_frac=0.0)
    report, said = lines_of(NUMBER, tmp_path, n=12, saving=saving)
    assert report.saved is None
    assert report.rows == ()
    assert report.responses == 6 * 4
    assert "stopping: what it lost is not known" in said


def test_deadline_says_how_many_were_counted(tmp_path: Path) -> None:
    saving = SavingSettings(deadline_s=1e-9)
    report, said = lines_of(NUMBER, tmp_path, saving=saving)
    assert report.responses == len(PROMPTS)
    assert "time was up: the best of 1 of 4 responses per prompt" in said


@pytest.mark.parametrize(
    "flags",
    [
        {"deadline_s": 1.0, "stop_cost": 1.0},
        {"keep_frac": 0.5},
        {"check_frac": 0.5},
        {"deadline_s": 2.0, "check_frac": 0.5},
        {"reward": []},
        {"grader": "g.yaml"},
        {"reward": [], "grader": "g.yaml", "combine": "c.yaml"},
        {"reward": [], "grader": "g.yaml", "reject_at_tokens": 3},
    ],
)
def test_options_that_change_nothing_are_refused(flags: dict[str, object]) -> None:
    given = {"model": "m", "prompts": "p", "out": "o", "reward": ["r"], **flags}
    with pytest.raises(SettingsError, match=r"Give|give|Leave"):
        build(BestOfNSettings, given)


def test_beginnings_need_a_model_in_this_process(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match="digits@1: beginnings can be scored of a model in this"
    ):
        lines_of(NUMBER, tmp_path, saving=SavingSettings(reject_at_tokens=2))
