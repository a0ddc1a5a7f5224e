"""The gate at the end of a job: the tuned model beside the one it started from, on validation rows.

Both answer every validation prompt once, by their likeliest tokens. Measures: `reward` and
`reward_gain` by the gate's grader, `pair_accuracy` of a job on pairs, `length_tokens`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from preftune.datasets import read_prompts, read_references
from preftune.errors import PreftuneError, SettingsError
from preftune.evaluation.evaluate import Evaluation
from preftune.evaluation.gate import gate
from preftune.evaluation.measures import Measure, mean_measure
from preftune.evaluation.regression import PairedCheck, paired_check
from preftune.graders.rft_rows import items_of, read_rft_rows
from preftune.graders.run import GraderRunner
from preftune.graders.sample import Item, Sample
from preftune.graders.specs import Grader
from preftune.inference.generate import GenerateSettings, generate
from preftune.jobs.clone import RUN
from preftune.jobs.failures import VALIDATION, clean
from preftune.jobs.gate_spec import WHERE, GateOptions, JobGate
from preftune.jobs.rewards import who_grades
from preftune.models.chat import load_chat
from preftune.models.load import load_policy
from preftune.training.held_out import FILE as HELD_OUT
from preftune.training.held_out import read_held_out
from preftune.training.rows import UNLIMITED
from preftune.types import Message, Prompt
from preftune.wire.job import JobSpec

STARTED, TUNED = "start", "tuned"


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A validation prompt, and what is known of a right answer to it."""

    prompt: Prompt
    item: Item


def verdict_of(spec: JobSpec, wanted: JobGate, *, start: str, tuned: Path) -> dict[str, Any]:
    """Return the verdict of a job's gate as plain values: ship, don't ship, or can't tell.

    A gate that cannot be run can't tell, and says why: the trained model is there all the same.

    Args:
        spec: the job.
        wanted: its gate.
        start: folder of the model that training started from.
        tuned: folder of the tuned one.
    """
    try:
        return _judged(spec, wanted, start, tuned)
    except PreftuneError as error:
        suite, why = wanted.options.suite, clean(str(error), spec)
        return {"suite": suite, "verdict": "can't tell", "results": [], "why": why}


def check_possible(spec: JobSpec) -> None:
    """Refuse a gate with nobody to ask, before anything is trained.

    Raises:
        SettingsError: there are no validation rows.
    """
    if not spec.validation:
        raise SettingsError(f"{WHERE}: needs prompts to ask. Give a validation_file.")


def _judged(spec: JobSpec, wanted: JobGate, start: str, tuned: Path) -> dict[str, Any]:
    asked = list(_asked(spec))
    longest = wanted.options.max_tokens
    answers = {STARTED: _answers(start, asked, longest), TUNED: _answers(tuned, asked, longest)}
    lengths = [float(tokens) for _, tokens in answers[TUNED]]
    ids = [one.prompt.id for one in asked]
    measures = [mean_measure("length_tokens", lengths, ids, unit="tokens", seed=spec.seed)]
    measures += _pair_accuracy()
    checks: list[PairedCheck] = []
    if wanted.grader is not None:
        said = {name: [m for m, _ in found] for name, found in answers.items()}
        check, graded = _graded(spec, wanted.grader, wanted.options, asked, said)
        checks.append(check)
        measures += graded
    evaluation = Evaluation(
        candidate=TUNED,
        baseline=STARTED,
        win_rate=None,
        checks=tuple(checks),
        measures=tuple(measures),
    )
    report = gate(evaluation, wanted.rules, suite=wanted.options.suite)
    plain: dict[str, Any] = msgspec.to_builtins(report)
    return plain | {"measures": msgspec.to_builtins(measures)}


def _asked(spec: JobSpec) -> Iterator[Asked]:
    """Yield the validation prompts; a right answer is `item.reference`, if the rows have one."""
    path = Path(VALIDATION)
    if spec.method == "reinforcement":
        rows = read_rft_rows(path)
        items = items_of(rows)
        yield from (Asked(prompt=row.prompt, item=items[row.prompt.id]) for row in rows)
        return
    known = read_references(path)
    for prompt in read_prompts(path):
        yield Asked(prompt=prompt, item={"reference": known[prompt.id][0]})


def _answers(folder: str | Path, asked: list[Asked], longest: int) -> list[tuple[Message, int]]:
    """Return what a model answers to each prompt, and in how many tokens."""
    chat, model = load_chat(folder), load_policy(folder)
    prompts = [chat.prompt_ids(one.prompt) for one in asked]
    room = (chat.max_length or UNLIMITED) - max(map(len, prompts))
    replies = generate(
        model,
        prompts,
        GenerateSettings(max_new_tokens=max(1, min(longest, room)), temperature=0.0),
        seeds=[0] * len(asked),
        end_ids=chat.end_ids,
        pad_id=chat.pad_id,
    )
    return [(chat.decode(reply.ids)[0], len(reply.ids)) for reply in replies]


def _graded(
    spec: JobSpec,
    grader: Grader,
    options: GateOptions,
    asked: list[Asked],
    said: Mapping[str, list[Message]],
) -> tuple[PairedCheck, list[Measure]]:
    """Return what the grader says of both models, prompt by prompt."""
    with GraderRunner(grader, **who_grades(spec, grader, options.grader)) as runner:
        rewards = {
            name: [
                result.reward
                for result in runner.run_all(
                    [(Sample.of([m]), one.item) for m, one in zip(messages, asked, strict=True)]
                )
            ]
            for name, messages in said.items()
        }
    ids = [one.prompt.id for one in asked]
    passed = {
        name: {
            (prompt, 0): reward >= options.pass_threshold
            for prompt, reward in zip(ids, found, strict=True)
        }
        for name, found in rewards.items()
    }
    gains = [after - before for before, after in zip(rewards[STARTED], rewards[TUNED], strict=True)]
    return (
        paired_check(grader.name, baseline=passed[STARTED], candidate=passed[TUNED]),
        [
            mean_measure("reward", rewards[TUNED], ids, seed=spec.seed),
            mean_measure("reward_gain", gains, ids, seed=spec.seed),
        ],
    )


def _pair_accuracy() -> list[Measure]:
    """Return how often the tuned model prefers what the raters chose, of validation pairs."""
    if not (RUN / HELD_OUT).exists():
        return []
    share = read_held_out(RUN).model
    return [
        Measure(
            name="pair_accuracy",
            value=share.share,
            low=share.low,
            high=share.high,
            n=share.n,
            unit="frac",
        )
    ]
