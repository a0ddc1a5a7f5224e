"""Best-of-n as a job: draws on disk as they come, then the best, the report, and what it teaches.

`OUT.journal.jsonl` holds a line per block of prompts and is all that a run needs to go on: a block
is drawn whole or not at all, so every response is drawn once. All other files are made from it.
"""

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from preftune.datasets.read import read_prompts
from preftune.datasets.write import dataset_hash
from preftune.errors import DataError, RowError, SettingsError
from preftune.files import atomic_open
from preftune.graders.grader_scorer import GraderScorer
from preftune.graders.rft_rows import items_of, read_rft_rows
from preftune.graders.run import GraderRunner
from preftune.graders.scorer import Scorer
from preftune.graders.specs import read_grader
from preftune.inference.backend import TransformersGenerator, load_generator
from preftune.inference.best_of_n import Best, best_of_n, token_lengths
from preftune.inference.best_of_n_distil import write_demonstrations, write_pairs
from preftune.inference.best_of_n_plot import draw_plot
from preftune.inference.best_of_n_report import BestOfNReport, make_report, write_report
from preftune.inference.best_of_n_settings import BestOfNSettings, SavingSettings
from preftune.inference.combine import CombineSettings
from preftune.inference.early_rejection import best_of_n_rejecting
from preftune.inference.reward_scorer import load_scorer
from preftune.inference.stopping import check_prompts
from preftune.progress import progress
from preftune.prompts.rows import check_paths
from preftune.records import encode
from preftune.responses.generator import Generator
from preftune.responses.journal import Journal
from preftune.responses.sample import BLOCK, plan, who_answers
from preftune.settings import build, read_yaml
from preftune.types import Prompt

BESIDE = ("draws.jsonl", "scores.jsonl", "report.json", "svg", "journal.jsonl")


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Who answers, who chooses, and how; `gold` chooses nothing."""

    generator: Generator
    scorer: Scorer
    n: int
    seed: int
    gold: Scorer | None = None
    saving: SavingSettings = field(default_factory=SavingSettings)

    def draw(self, prompts: Sequence[Prompt], checked: Collection[str]) -> list[Best]:
        """Return the best of n for these prompts, drawn together; those checked in full."""
        early = self.saving.early_rejection
        model = self.generator if isinstance(self.generator, TransformersGenerator) else None
        if early is None:
            return best_of_n(
                self.generator,
                self.scorer,
                prompts,
                n=self.n,
                seed=self.seed,
                gold=self.gold,
                lengths=token_lengths(model.chat) if model else None,
                deadline_s=self.saving.deadline_s or None,
                stopping=self.saving.stopping,
                checked=checked,
            )
        if model is None:
            raise SettingsError(
                f"{self.generator.name}: beginnings can be scored of a model in this process only. "
                "Leave early rejection out."
            )
        return best_of_n_rejecting(
            model,
            self.scorer,
            prompts,
            n=self.n,
            seed=self.seed,
            early=early,
            gold=self.gold,
            checked=checked,
        )

    @property
    def names(self) -> tuple[str, str, str]:
        """Of the generator, the scorer and the gold scorer, "" without one."""
        return self.generator.name, self.scorer.name, self.gold.name if self.gold else ""


def best_of_n_file(
    job: Job,
    prompts: Sequence[Prompt],
    *,
    out: Path,
    block: int = BLOCK,
    distil: Path | None = None,
    pairs: Path | None = None,
) -> BestOfNReport:
    """Write the best response to each prompt, all draws, their scores, a report and a plot.

    Beside `OUT` lie `.draws.jsonl`, `.scores.jsonl`, `.report.json`, `.svg` and `.journal.jsonl`.
    Killed at any moment, the same call goes on after the last whole block.

    Args:
        job: who answers, who chooses, and how.
        prompts: each with an id of its own.
        out: file of responses to make, one per prompt that has a scored one.
        block: about how many responses are drawn together; go on with the same number. With a
            deadline all prompts are one block, and stopping knows the scores of its block only.
        distil: demonstrations to write as chat rows: what each prompt's best response was.
        pairs: preference pairs to write: best against worst.

    Raises:
        DataError: as `best_of_n`, a journal of another job, one file for two outputs, or no
            response that could be scored.
        HealthError: a score that is NaN or infinite.
        SettingsError: as `best_of_n`.
    """
    check_paths([], _outputs(out, distil, pairs))
    plan(prompts, job.generator, n=job.n, seed=job.seed)  # refuses what cannot be asked
    job.generator.check(prompts)
    bests = _drawn(job, prompts, block, _beside(out, "journal.jsonl"))
    report = make_report(bests, n=job.n, names=job.names, saving=job.saving.rule)
    if len(report.failed) == len(prompts):
        raise DataError(
            f"{job.scorer.name}: no response to any of {len(prompts)} prompts could be scored. "
            "Look at the scorer; the draws are kept."
        )
    _write(bests, out)
    report = _with_notes(report, _grading_trouble(job))
    write_report(report, _beside(out, "report.json"))
    if report.rows:
        draw_plot(report.rows, _beside(out, "svg"))
    taught = []
    if distil is not None:
        taught.append(write_demonstrations(bests, prompts, distil))
    if pairs is not None:
        taught.append(write_pairs(bests, prompts, pairs, scorer=job.scorer.name))
    report = _with_notes(report, taught)
    write_report(report, _beside(out, "report.json"))
    return report


def run_best_of_n(s: BestOfNSettings) -> BestOfNReport:
    """Load the model and what scores, and do the job.

    Graders need the rows that bring their items, so with one `prompts` is a file of RFT rows.

    Raises:
        PreftuneError: as `best_of_n_file`, `load_generator`, `load_scorer` and `read_grader`; or
            an output in the place of what is read.
    """
    read = [s.prompts, s.grader, s.combine, Path(s.gold) if s.gold_is_grader else None]
    check_paths(read, _outputs(s.out, s.distil, s.pairs))
    rows = read_rft_rows(s.prompts) if s.has_grader else []
    asked = {row.prompt.id: row.prompt for row in rows}
    prompts = list(asked.values()) or read_prompts(s.prompts)
    generator = load_generator(s.model, s.draw, name=s.name, trust_remote_code=s.trust_remote_code)
    with ExitStack() as held:

        def graded(path: Path) -> Scorer:
            runner = held.enter_context(GraderRunner(read_grader(path)))
            return GraderScorer(runner, items_of(rows))

        gold = (
            graded(Path(s.gold)) if s.gold_is_grader else load_scorer([s.gold]) if s.gold else None
        )
        job = Job(
            generator=generator,
            scorer=graded(s.grader) if s.grader else load_scorer(s.reward, _combination(s)),
            n=s.n,
            seed=s.seed,
            gold=gold,
            saving=s.saving,
        )
        return best_of_n_file(job, prompts, out=s.out, distil=s.distil, pairs=s.pairs)


def _combination(s: BestOfNSettings) -> CombineSettings | None:
    if s.combine is None:
        return None
    return build(CombineSettings, read_yaml(s.combine), where=str(s.combine))


def _grading_trouble(job: Job) -> list[str]:
    """Return what kept graders from scoring in this run, by kind, with the first of each."""
    return [
        f"{scorer.name}: {count} times {kind}, first: {scorer.problems[kind]}"
        for scorer in (job.scorer, job.gold)
        if isinstance(scorer, GraderScorer)
        for kind, count in scorer.errors.items()
    ]


def _with_notes(report: BestOfNReport, notes: Sequence[str]) -> BestOfNReport:
    return replace(report, notes=(*report.notes, *notes))


def _drawn(job: Job, prompts: Sequence[Prompt], block: int, path: Path) -> list[Best]:
    """Return the best of every prompt: those of the journal, then those drawn now."""
    size = len(prompts) if job.saving.deadline_s else max(1, block // job.n)
    checked = check_prompts([prompt.id for prompt in prompts], job.saving.check_frac, job.seed)
    blocks = [prompts[start : start + size] for start in range(0, len(prompts), size)]
    with Journal(path) as journal:
        found = _found(journal, _header(job, prompts, block))
        done = sum(map(len, found))
        with progress("best of n", len(prompts), done=done) as advance:
            for part in blocks[len(found) :]:
                found.append(job.draw(part, checked))
                journal.add(msgspec.json.encode(found[-1]) + b"\n")
                advance(len(part))
    return [best for part in found for best in part]


def _header(job: Job, prompts: Sequence[Prompt], block: int) -> dict[str, Any]:
    """Return all that the draws and scores depend on."""
    name, scorer, gold = job.names
    return {
        "generator": [name, who_answers(job.generator)],
        "scorer": scorer,
        "gold": gold,
        "prompts": dataset_hash(prompts),
        "n": job.n,
        "seed": job.seed,
        "sampling": asdict(job.generator.sampling(job.seed)),
        "saving": asdict(job.saving),
        "block": block,
    }


def _found(journal: Journal, header: dict[str, Any]) -> list[list[Best]]:
    """Return the blocks of the journal; a new one gets its header."""
    line = msgspec.json.encode(header)
    if not journal.found:
        journal.add(line + b"\n")
        return []
    asked, held = msgspec.json.decode(line), _decoded(journal, 1, dict[str, Any])
    found = [_decoded(journal, row, list[Best]) for row in range(2, len(journal.found) + 1)]
    if other := [name for name in asked if held.get(name) != asked[name]]:
        raise DataError(
            f"{journal.path}: made with another {', '.join(other)}. Give another --out, or the "
            "settings it was made with."
        )
    return found


def _decoded(journal: Journal, row: int, kind: Any) -> Any:
    try:
        return msgspec.json.decode(journal.found[row - 1], type=kind)
    except msgspec.MsgspecError as error:
        raise RowError(
            journal.path, row, f"damaged row: {error}", "Delete the file and draw anew"
        ) from error


def _write(bests: Sequence[Best], out: Path) -> None:
    """Write all draws, their scores, and the best."""
    draws = [(best.prompt_id, draw) for best in bests for draw in best.draws]
    with atomic_open(_beside(out, "draws.jsonl")) as file:
        file.writelines(encode(draw.response) for _, draw in draws)
    with atomic_open(_beside(out, "scores.jsonl")) as file:
        for prompt_id, draw in draws:
            row = {"response_id": draw.response.id, "prompt_id": prompt_id, "score": draw.score}
            row |= {"gold": draw.gold, "tokens": draw.tokens}
            file.write(msgspec.json.encode(row) + b"\n")
    with atomic_open(out) as file:
        file.writelines(encode(best.best) for best in bests if best.best is not None)


def _outputs(out: Path, *exports: Path | None) -> list[Path | None]:
    """Return all files that a run writes."""
    return [out, *(_beside(out, ending) for ending in BESIDE), *exports]


def _beside(out: Path, ending: str) -> Path:
    return out.with_name(f"{out.name.removesuffix('.jsonl')}.{ending}")
