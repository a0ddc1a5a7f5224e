"""Run a grader over samples: the rewards in the order of the rows, and what went wrong by name."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from time import perf_counter
from typing import Any, Self

from preftune.errors import SettingsError
from preftune.graders.formula import Formula, parse_formula
from preftune.graders.model_graders import ClientOf, Row, grade_by_model
from preftune.graders.results import (
    NO_ERRORS,
    Graded,
    GradeMetadata,
    GradeResult,
    GradingError,
    failed,
)
from preftune.graders.sample import Item, Sample
from preftune.graders.sandbox import Said, Sandbox, SandboxSettings
from preftune.graders.similarity import METRICS
from preftune.graders.specs import (
    Grader,
    LabelModel,
    Leaf,
    MultiGrader,
    PythonGrader,
    ScoreModel,
    StringCheck,
    TextSimilarity,
    leaves,
)
from preftune.graders.templates import parse_template
from preftune.types import content_id

Engine = Callable[[Sequence[Row]], list[Graded]]
EngineOf = Callable[[Leaf], Engine | None]
"""Who grades in the place of what is here; None: nobody."""
CHECKS: dict[str, Callable[[str, str], bool]] = {
    "eq": lambda text, reference: text == reference,
    "ne": lambda text, reference: text != reference,
    "neq": lambda text, reference: text != reference,
    "like": lambda text, reference: reference in text,
    "ilike": lambda text, reference: reference.casefold() in text.casefold(),
}
MOST_AT_ONCE = 8  # graders of one multi grader, each with its own bound on what it does at once
STOPPED = {
    "timeout": "no reward before the deadline",
    "said_too_much": "the answer was longer than a reward is",
    "died": "the process ended",
    "lost": "the sandbox was lost",
    "abandoned": "the caller went away",
}


class GraderRunner:
    """One grader, ready to run; python graders have their jail open until `close`."""

    def __init__(
        self,
        grader: Grader,
        *,
        client_of: ClientOf | None = None,
        sandbox: SandboxSettings | None = None,
        engine_of: EngineOf = lambda _leaf: None,
    ) -> None:
        """Make ready what the grader needs.

        Args:
            grader: from `validate`.
            client_of: who asks the model of a name; needed by model graders.
            sandbox: limits of python graders.
            engine_of: asked first, whether a grader is graded in a way of the caller's own.

        Raises:
            SettingsError: a model grader and no client, python graders forbidden, or no isolation.
        """
        self.grader = grader
        self.formula = _formula(grader)
        self._client_of, self._sandbox = client_of, sandbox or SandboxSettings()
        self._open, self._asked = ExitStack(), set[str]()
        with ExitStack() as until_ready:
            until_ready.callback(self.close)
            self._engines = {
                name: engine_of(leaf) or self._engine(leaf) for name, leaf in leaves(grader).items()
            }
            until_ready.pop_all()

    @property
    def key(self) -> str:
        """Return a hash of the grader and of the models it asks, by name and server."""
        return content_id("g", self.grader, sorted(self._asked))

    def run(self, sample: Sample, item: Item) -> GradeResult:
        """Return what the grader says of one sample."""
        return self.run_all([(sample, item)])[0]

    def run_all(self, rows: Sequence[Row]) -> list[GradeResult]:
        """Return one result per row, in the same order; what goes wrong is in the results."""
        engines = self._engines
        with ThreadPoolExecutor(min(len(engines), MOST_AT_ONCE)) as pool:
            graded = pool.map(lambda engine: engine(rows), engines.values())
            by_name = dict(zip(engines, graded, strict=True))
        if self.formula is None:
            ((name, found),) = by_name.items()
            leaf = leaves(self.grader)[name]
            return [_one(leaf, graded) for graded in found]
        return [
            _joined(self.grader, self.formula, dict(zip(by_name, parts, strict=True)))
            for parts in zip(*by_name.values(), strict=True)
        ]

    def close(self) -> None:
        """End what python graders run in."""
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _engine(self, leaf: Leaf) -> Engine:
        match leaf:
            case StringCheck():
                return _texts(leaf, _checked(leaf))
            case TextSimilarity():
                return _texts(leaf, _measured(leaf))
            case PythonGrader():
                jail = self._open.enter_context(Sandbox(leaf.source, self._sandbox))
                return lambda rows: _by_python(jail, rows)
            case ScoreModel() | LabelModel():
                return self._model_engine(leaf)

    def _model_engine(self, leaf: ScoreModel | LabelModel) -> Engine:
        if self._client_of is None:
            raise SettingsError(
                f"grader {leaf.name!r}: asks model {leaf.model!r} of no known server. Name one."
            )
        client = self._client_of(leaf.model)
        self._asked.add(client.name)

        def grade(rows: Sequence[Row]) -> list[Graded]:
            began = perf_counter()
            found = {
                place: (graded, perf_counter() - began)
                for place, graded in grade_by_model(leaf, rows, client)
            }
            return [_timed(*found[place]) for place in range(len(rows))]

        return grade


def run(
    grader: Grader,
    sample: Sample,
    item: Item,
    *,
    client_of: ClientOf | None = None,
    sandbox: SandboxSettings | None = None,
) -> GradeResult:
    """Return what a grader says of one sample; for many rows make one `GraderRunner`.

    Raises:
        SettingsError: as `GraderRunner`.
    """
    with GraderRunner(grader, client_of=client_of, sandbox=sandbox) as runner:
        return runner.run(sample, item)


Mark = Callable[[str, str], tuple[float, dict[str, Any]]]


def _texts(leaf: StringCheck | TextSimilarity, mark: Mark) -> Engine:
    given, reference = parse_template(leaf.input), parse_template(leaf.reference)

    def grade(rows: Sequence[Row]) -> list[Graded]:
        return list(each(rows))

    def each(rows: Sequence[Row]) -> Iterator[Graded]:
        for sample, item in rows:
            began = perf_counter()
            try:
                reward, scores = mark(given.fill(sample, item), reference.fill(sample, item))
            except GradingError as fault:
                yield failed(fault, perf_counter() - began)
            else:
                yield Graded(reward=reward, scores=scores, seconds=perf_counter() - began)

    return grade


def _checked(leaf: StringCheck) -> Mark:
    check = CHECKS[leaf.operation]
    return lambda text, reference: (float(check(text, reference)), {})


def _measured(leaf: TextSimilarity) -> Mark:
    metric, bar = METRICS[leaf.evaluation_metric], leaf.pass_threshold

    def mark(text: str, reference: str) -> tuple[float, dict[str, Any]]:
        value = metric(text, reference)
        passed = {} if bar is None else {"passed": value >= bar}
        return value, {leaf.evaluation_metric: value, **passed}

    return mark


def _by_python(jail: Sandbox, rows: Sequence[Row]) -> list[Graded]:
    def grade(row: Row) -> Graded:
        began = perf_counter()
        said = jail.grade(row[0].as_dict(), row[1])
        return _timed(_of_python(said), perf_counter() - began)

    with ThreadPoolExecutor(jail.settings.workers) as pool:
        return list(pool.map(grade, rows))


def _of_python(said: Said) -> Graded:
    if said.kind == "ok":
        return Graded(reward=said.reward)
    if said.kind in STOPPED:
        problem = f"python grader: {STOPPED[said.kind]} {said.details}".rstrip()
        return failed(
            GradingError(
                problem,
                python_grader_server_error=True,
                python_grader_server_error_type=said.kind,
                unresponsive_reward_error=said.kind == "timeout",
            )
        )
    return failed(
        GradingError(
            f"python grader: {said.details}",
            python_grader_runtime_error=True,
            python_grader_runtime_error_details=said.details,
        )
    )


def _timed(graded: Graded, seconds: float) -> Graded:
    return replace(graded, seconds=seconds)


def _one(leaf: Leaf, graded: Graded) -> GradeResult:
    used = {graded.model or "": graded.tokens} if graded.tokens is not None else {}
    return GradeResult(
        reward=graded.reward,
        metadata=GradeMetadata(
            name=leaf.name,
            type=leaf.type,
            errors=graded.errors,
            execution_time=graded.seconds,
            scores=graded.scores,
            token_usage=graded.tokens,
            sampled_model_name=graded.model,
        ),
        sub_rewards={},
        model_grader_token_usage_per_model=used,
        problem=graded.problem,
    )


def _joined(grader: Grader, formula: Formula, parts: dict[str, Graded]) -> GradeResult:
    """Return the result of a multi grader; a part that went wrong counts 0 and is named."""
    rewards = {name: part.reward for name, part in parts.items()}
    errors = NO_ERRORS
    for part in parts.values():
        errors = errors.join(part.errors)
    problems = [f"{name}: {part.problem}" for name, part in parts.items() if part.problem]
    try:
        reward = formula(rewards)
    except GradingError as fault:
        reward, errors = 0.0, errors.join(fault.errors)
        problems.append(fault.problem)
    used: dict[str, int] = {}
    for part in parts.values():
        if part.tokens is not None:
            used[part.model or ""] = used.get(part.model or "", 0) + part.tokens
    return GradeResult(
        reward=reward,
        metadata=GradeMetadata(
            name=grader.name,
            type=grader.type,
            errors=errors,
            execution_time=sum(part.seconds for part in parts.values()),
            scores={name: dict(part.scores) for name, part in parts.items() if part.scores},
            token_usage=sum(used.values()) if used else None,
            sampled_model_name=", ".join(used) or None,
        ),
        sub_rewards=rewards,
        model_grader_token_usage_per_model=used,
        problem="; ".join(problems),
    )


def _formula(grader: Grader) -> Formula | None:
    if not isinstance(grader, MultiGrader):
        return None
    return parse_formula(grader.calculate_output, grader.graders)
