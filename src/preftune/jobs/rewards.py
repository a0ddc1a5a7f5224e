"""Graders of a job: run as ever, with every grading counted by grader, and models of this server.

A score_model or label_model grader asks a model of the server by its name; the worker loads it. A
score_model that stands alone may name a reward model as well, see `reward_grader.py`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from preftune.errors import DataError, ModelError
from preftune.graders.grader_scorer import GraderScorer
from preftune.graders.model_graders import ClientOf, Row
from preftune.graders.results import GradeResult
from preftune.graders.rft_rows import items_of, read_rft_rows
from preftune.graders.run import Engine, EngineOf, GraderRunner
from preftune.graders.sample import Item
from preftune.graders.sandbox import SandboxSettings
from preftune.graders.specs import Grader, Leaf, ScoreModel, leaves, validate
from preftune.inference.generate import GenerateSettings, generate
from preftune.jobs.figures import ERRORS, GRADERS
from preftune.jobs.reward_grader import RewardGrader
from preftune.models.chat import load_chat
from preftune.models.heads import is_reward_model
from preftune.models.load import load_policy, max_length
from preftune.responses.chat_client import ChatAnswer, ChatClient, ChatFailure, ChatRequest
from preftune.types import make_prompt
from preftune.wire.job import JobSpec


class CountingRunner(GraderRunner):
    """Runs a grader, and keeps what came of it until somebody asks."""

    def __init__(
        self,
        grader: Grader,
        *,
        client_of: ClientOf,
        sandbox: SandboxSettings,
        engine_of: EngineOf = lambda _leaf: None,
    ) -> None:
        """Make ready what the grader needs, as `GraderRunner`."""
        self._results: list[GradeResult] = []
        super().__init__(grader, client_of=client_of, sandbox=sandbox, engine_of=engine_of)

    def run_all(self, rows: Sequence[Row]) -> list[GradeResult]:
        """Return one result per row, in the same order, and keep them."""
        found = super().run_all(rows)
        self._results += found
        return found

    def taken(self) -> list[GradeResult]:
        """Return all results since this was asked last."""
        found, self._results = self._results, []
        return found


def by_grader(runner: GraderRunner, results: Sequence[GradeResult], part: str) -> dict[str, float]:
    """Return the mean reward of each grader, and share and number of gradings with each error.

    Args:
        runner: whose graders.
        results: of some gradings.
        part: train or valid.
    """
    names = list(leaves(runner.grader))
    found: dict[str, float] = {}
    errors = Counter(kind for result in results for kind in result.metadata.errors.kinds)
    for name in names:
        rewards = [
            result.sub_rewards.get(name, result.reward) for result in results if not result.failed
        ]
        if rewards:
            found[f"{GRADERS}{name}/{part}_reward_mean"] = sum(rewards) / len(rewards)
    for kind, count in sorted(errors.items()):
        found[f"{ERRORS}{runner.grader.name}/{kind}_mean"] = count / len(results)
        found[f"{ERRORS}{runner.grader.name}/{kind}_count"] = float(count)
    return found


@contextmanager
def graders_of(
    spec: JobSpec, files: Sequence[Path]
) -> Iterator[tuple[CountingRunner, GraderScorer]]:
    """Yield the runner of a job's grader and the scorer over it; the rows give the items.

    Args:
        spec: the job.
        files: rows of training and validation.

    Raises:
        SettingsError: a grader that is none, or is not allowed here.
        DataError: the same question with two right answers.
    """
    grader = validate(spec.grader)
    with CountingRunner(grader, **who_grades(spec, grader, spec.grader)) as runner:
        yield runner, GraderScorer(runner, _items(files))


def who_grades(spec: JobSpec, grader: Grader, sent: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what a `GraderRunner` of a job takes besides its grader: models, and the sandbox.

    Args:
        spec: the job.
        grader: the grader.
        sent: the same as it was sent: only a range that is in it bounds a reward model's scores.
    """
    models = LocalModels(folders=spec.models)
    clip = (sent or {}).get("range") is not None

    def engine_of(leaf: Leaf) -> Engine | None:
        return models.reward_engine(leaf, clip=clip) if leaf is grader else None

    return {
        "client_of": models.of,
        "sandbox": SandboxSettings(allow_python=spec.python_graders),
        "engine_of": engine_of,
    }


def _items(files: Sequence[Path]) -> Mapping[str, Item]:
    items: dict[str, Item] = {}
    for file in files:
        for prompt_id, item in items_of(read_rft_rows(file)).items():
            if items.setdefault(prompt_id, item) != item:
                raise DataError(
                    f"{file}: prompt {prompt_id} is in the training file with another item. "
                    "Keep one of them."
                )
    return items


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalModels:
    """The models of the server that graders may ask, each loaded when it is first needed."""

    folders: Mapping[str, str]
    loaded: dict[str, "LocalModel"] = field(default_factory=dict)

    def of(self, name: str) -> ChatClient:
        """Return the model of a name.

        Raises:
            ModelError: there is none, it is damaged, or it is a reward model; names it.
        """
        folder = self._folder(name)
        if is_reward_model(folder):
            raise ModelError(
                f"grader: model {name!r} is a reward model, it scores and writes no text. It can "
                "be the model of a score_model that stands alone."
            )
        if name not in self.loaded:
            with _named(name):
                self.loaded[name] = LocalModel(name, folder)
        return self.loaded[name]

    def reward_engine(self, leaf: Leaf, *, clip: bool) -> Engine | None:
        """Return who scores where a grader's model is a reward model; None where it is not.

        Args:
            leaf: a grader that stands alone.
            clip: whether scores are brought into its range.

        Raises:
            ModelError: there is none, or it is damaged; names it.
        """
        if not isinstance(leaf, ScoreModel) or not is_reward_model(self._folder(leaf.model)):
            return None
        with _named(leaf.model):
            return RewardGrader(leaf, self._folder(leaf.model), clip=clip)

    def _folder(self, name: str) -> Path:
        if name not in self.folders:
            known = ", ".join(self.folders) or "none"
            raise ModelError(f"grader: model {name!r} is not on this server. There are: {known}.")
        return Path(self.folders[name])


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Put the name that users know before what is wrong with a model."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"grader: model {name!r}: {error}") from error


class LocalModel:
    """A model in this process that answers as a chat model behind a URL would (a `ChatClient`)."""

    def __init__(self, name: str, folder: Path) -> None:
        """Load a model folder."""
        self._name, self._chat = name, load_chat(folder)
        self._model: Any = load_policy(folder)
        self._longest = max_length(self._model.config.to_dict())

    @property
    def name(self) -> str:
        """Its name on this server."""
        return self._name

    def ask(self, requests: Sequence[ChatRequest]) -> Iterator[ChatAnswer | ChatFailure]:
        """Yield one answer per request; what does not fit is a failure."""
        for request in requests:
            ids = self._chat.prompt_ids(make_prompt(*request.messages, tools=request.tools))
            room = (self._longest or len(ids) + request.max_tokens) - len(ids)
            if room < 1:
                reason = f"{len(ids)} tokens do not fit into model {self._name}"
                yield ChatFailure(key=request.key, reason=reason)
                continue
            how = GenerateSettings(
                max_new_tokens=min(room, request.max_tokens),
                temperature=request.temperature,
                top_p=request.top_p if request.temperature else 1.0,
            )
            (reply,) = generate(
                self._model,
                [ids],
                how,
                seeds=[request.seed or 0],
                end_ids=self._chat.end_ids,
                pad_id=self._chat.pad_id,
            )
            message, finished = self._chat.decode(reply.ids)
            yield ChatAnswer(
                key=request.key,
                text=message.content,
                tool_calls=message.tool_calls,
                finished=finished and reply.finished,
                prompt_tokens=len(ids),
                completion_tokens=len(reply.ids),
                model=self._name,
            )
