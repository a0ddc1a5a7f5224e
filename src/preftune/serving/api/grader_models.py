"""Models of this server as graders: chat models that judge, and reward models that score."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from time import perf_counter

from preftune.graders.model_graders import LONGEST_ANSWER, as_reply, no_answer, of_reward_model
from preftune.graders.results import GradeMetadata, GradeResult, GradingError, failed
from preftune.graders.sample import Item, Sample
from preftune.graders.specs import Grader, LabelModel, ScoreModel, leaves
from preftune.responses.chat_client import ChatAnswer, ChatFailure, ChatRequest
from preftune.serving.api.asking import Served
from preftune.serving.api.errors import ApiError
from preftune.serving.backend import Backend, Question
from preftune.wire.chat import Choice, Done, Drawing, Score, ScoreRow


def models_asked(grader: Grader) -> Iterator[tuple[str, bool]]:
    """Yield the name of each model that a grader asks, and whether a reward model may be it.

    A reward model is a score_model that stands alone; all others write text.
    """
    for leaf in leaves(grader).values():
        if isinstance(leaf, ScoreModel | LabelModel):
            yield leaf.model, leaf is grader and isinstance(leaf, ScoreModel)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """Where a thread that grades asks the models of this server, and how long it waits."""

    loop: asyncio.AbstractEventLoop
    backend: Backend
    deadline_s: float

    def client(self, model: Served) -> "ServedClient":
        """Return who asks a chat model."""
        return ServedClient(self, model)

    def reward(
        self, grader: ScoreModel, model: Served, sample: Sample, item: Item, *, clip: bool
    ) -> GradeResult:
        """Return what a reward model says of a sample as the reply to the grader's messages.

        Args:
            grader: its `input` is the chat that the sample answers.
            model: the reward model.
            sample: the reply.
            item: fills the templates.
            clip: whether the score is brought into the grader's range.
        """
        began = perf_counter()
        try:
            score = self._score(grader, model, sample, item)
            graded = of_reward_model(grader, score, clip=clip)
        except GradingError as fault:
            graded = failed(fault)
        metadata = GradeMetadata(
            name=grader.name,
            type=grader.type,
            errors=graded.errors,
            execution_time=perf_counter() - began,
            scores=graded.scores,
            sampled_model_name=model.name,
        )
        return GradeResult(
            reward=graded.reward,
            metadata=metadata,
            sub_rewards={},
            model_grader_token_usage_per_model={},
            problem=graded.problem,
        )

    def _score(self, grader: ScoreModel, model: Served, sample: Sample, item: Item) -> float:
        """Return the score itself.

        Raises:
            GradingError: a template that cannot be filled, or no answer.
        """
        prompt, response = as_reply(grader, sample, item)
        row = ScoreRow(messages=prompt.messages, response=response)
        asked = self.backend.scores(Score(reward_model=str(model.folder), rows=(row,)))
        waiting = asyncio.run_coroutine_threadsafe(asked, self.loop)
        try:
            return waiting.result(self.deadline_s)[0]
        except (ApiError, TimeoutError) as error:
            waiting.cancel()
            raise no_answer(_why(error, self.deadline_s)) from error


class ServedClient:
    """A `ChatClient` that asks a model of this server from a thread beside its event loop."""

    def __init__(self, bench: Bench, model: Served) -> None:
        self._bench, self._model = bench, model

    @property
    def name(self) -> str:
        """Return the model's name."""
        return self._model.name

    def ask(self, requests: Sequence[ChatRequest]) -> Iterator[ChatAnswer | ChatFailure]:
        """Yield one answer or failure per request, in their order."""
        bench = self._bench
        waiting = [
            (request, asyncio.run_coroutine_threadsafe(self._answer(request), bench.loop))
            for request in requests
        ]
        for request, future in waiting:
            try:
                yield future.result(bench.deadline_s)
            except (ApiError, TimeoutError) as error:
                future.cancel()
                yield ChatFailure(key=request.key, reason=_why(error, bench.deadline_s))

    async def _answer(self, request: ChatRequest) -> ChatAnswer:
        model = self._model
        drawing = Drawing(  # a grader that names no longest answer gets what the model has room for
            max_tokens=None if request.max_tokens == LONGEST_ANSWER else request.max_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            seed=abs(request.seed or 0),
        )
        ask = model.ask(messages=request.messages, drawing=drawing)
        answers = self._bench.backend.answers(Question(name=model.name, ask=ask))
        async with aclosing(answers):
            records = [record async for record in answers]
        choice = next(record for record in records if isinstance(record, Choice))
        done = next(record for record in records if isinstance(record, Done))
        return ChatAnswer(
            key=request.key,
            text=choice.text,
            finished=choice.finish == "stop",
            prompt_tokens=done.prompt_tokens,
            completion_tokens=done.completion_tokens,
            model=model.name,
        )


def _why(error: ApiError | TimeoutError, deadline_s: float) -> str:
    if isinstance(error, ApiError):
        return error.message
    return f"no answer within {deadline_s:g} s"
