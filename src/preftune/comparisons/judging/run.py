"""Ask a judge about comparisons: both orders, every paid answer kept, what has no verdict named."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from msgspec import Meta

from preftune.comparisons.judging.calls import CallLog
from preftune.comparisons.judging.prompt import Asked, compare_prompt, same_words, step_prompt
from preftune.comparisons.judging.rubric import Rubric, Step
from preftune.comparisons.judging.verdict import verdict_of
from preftune.comparisons.votes import units
from preftune.errors import DataError, HealthError
from preftune.progress import progress
from preftune.responses.chat_client import ChatAnswer, ChatClient, ChatFailure, ChatRequest
from preftune.types import Comparison, Judgment, Prompt, Rater, content_id

LABEL_TOKENS = 8  # enough for any label and the end of the turn
BYTES_PER_TOKEN = 4  # of notes that are not written yet, for the estimate
Notes = dict[str, dict[Step, str]]  # by prompt id


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeSettings:
    """How a judge is asked."""

    both_orders: Annotated[
        bool, Meta(description="Ask A/B and B/A; one order is half the price and shows no flips.")
    ] = True
    temperature: Annotated[float, Meta(ge=0, description="0 gives the likeliest answer.")] = 0.0
    max_tokens: Annotated[
        int, Meta(gt=0, description="Longest explanation or note, in tokens; a label needs few.")
    ] = 1024
    top_logprobs: Annotated[
        int, Meta(ge=0, le=20, description="First tokens to weigh labels by; 0: parse the text.")
    ] = 10
    seed: Annotated[int, Meta(ge=0, description="Sent to the server; draws a lone order.")] = 0
    max_unparsed: Annotated[
        float, Meta(ge=0, le=1, description="Largest share of answers without a verdict.")
    ] = 0.05
    keep_self_judged: Annotated[
        bool, Meta(description="Also judge comparisons in which the judge wrote an answer.")
    ] = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """What was asked, found in the log, and paid in this run."""

    asked: int = 0
    reused: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    failures: Mapping[str, str] = field(default_factory=dict)  # by key of the request

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            asked=self.asked + other.asked,
            reused=self.reused + other.reused,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            failures={**self.failures, **other.failures},
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """Every verdict of one judge, and everything that has none, by its reason."""

    judge: str
    dimension: str
    guideline: str
    comparisons: list[Comparison]  # in every order that was asked
    judgments: list[Judgment]  # one per order, `unparsed` among them
    failures: dict[str, str]  # comparison in its order → why no answer came
    identical: list[str]  # two equal responses; not asked
    self_judged: list[str]  # the judge wrote one of them; not asked unless kept
    spelt_out: dict[str, int]  # what was made harmless in the material, by kind
    tally: Tally

    @property
    def unparsed(self) -> list[Judgment]:
        """The answers without a verdict."""
        return [judgment for judgment in self.judgments if judgment.kind == "unparsed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Selected:
    """Which comparisons a judge is asked about, and which not."""

    shown: list[Comparison]  # in every order
    identical: list[str]
    self_judged: list[str]


def judge_comparisons(
    comparisons: Iterable[Comparison],
    client: ChatClient,
    rubric: Rubric,
    settings: JudgeSettings,
    calls: CallLog,
    *,
    mark: str = "",
) -> Judged:
    """Return the judge's verdicts on comparisons of two responses.

    An answer found in the log is not asked for again, unless it has no verdict. Two orders give
    two judgments; where they contradict each other both stay, and joining them gives a tie.
    `scores` of a judgment are the probabilities that the first and the second is better, where the
    server gave log-probabilities.

    Args:
        comparisons: a comparison and its `swap()` count once.
        client: who judges; its name signs the judgments.
        rubric: what is asked.
        settings: how it is asked.
        calls: where answers are kept.
        mark: written behind the guideline of every judgment, such as "(unqualified)".

    Raises:
        DataError: not two responses, or two comparisons with one id.
    """
    chosen = select(comparisons, client.name, settings)
    job = _Job(client=client, rubric=rubric, settings=settings, calls=calls)
    notes, steps = job.take_steps(chosen.shown)
    requests, counts = job.verdict_requests(chosen.shown, notes)
    tally = steps + job.ask(list(requests.values()), job.parses, f"judging: {client.name}")
    failures = _failures(chosen.shown, requests, tally)
    guideline = f"{rubric.guideline} {mark}".strip()
    judgments = [
        job.judgment(c, requests[c.id].key, guideline) for c in chosen.shown if c.id not in failures
    ]
    return Judged(
        judge=client.name,
        dimension=rubric.judged,
        guideline=guideline,
        comparisons=chosen.shown,
        judgments=judgments,
        failures=failures,
        identical=chosen.identical,
        self_judged=chosen.self_judged,
        spelt_out=dict(counts),
        tally=tally,
    )


def plan_calls(
    comparisons: Iterable[Comparison],
    client: ChatClient,
    rubric: Rubric,
    settings: JudgeSettings,
    calls: CallLog,
) -> list[ChatRequest]:
    """Return all that `judge_comparisons` may have to send; the log answers the rest.

    Notes that the judge has yet to write stand in the prompts at their full length.
    """
    job = _Job(client=client, rubric=rubric, settings=settings, calls=calls)
    return job.to_come(select(comparisons, client.name, settings).shown)


def select(comparisons: Iterable[Comparison], judge: str, settings: JudgeSettings) -> Selected:
    """Return what is worth asking: two different responses, none of them the judge's own.

    Raises:
        DataError: not two responses, or two comparisons with one id.
    """
    first_orders = [unit.comparison for unit in units(comparisons, ())]
    for comparison in first_orders:
        if len(comparison.responses) != 2:
            raise DataError(
                f"comparison {comparison.id}: {len(comparison.responses)} responses. "
                "A judge compares two; make comparisons of two."
            )
    own = [c.id for c in first_orders if wrote_one(judge, c)]
    left_out = set() if settings.keep_self_judged else set(own)
    identical = [c.id for c in first_orders if c.id not in left_out and same_words(c)]
    worth = [c for c in first_orders if c.id not in left_out.union(identical)]
    return Selected(
        shown=[order for c in worth for order in orders(c, settings)],
        identical=identical,
        self_judged=own,
    )


def orders(comparison: Comparison, settings: JudgeSettings) -> tuple[Comparison, ...]:
    """Return the orders to ask in: both, or one drawn from (seed, id) alone."""
    if settings.both_orders:
        return (comparison, comparison.swap())
    drawn = int(content_id("o", settings.seed, comparison.id)[-1], 16) % 2
    return (comparison.swap() if drawn else comparison,)


def wrote_one(judge: str, comparison: Comparison) -> bool:
    """Whether the judge's model generated a response; what follows an @ is not looked at."""
    return any(
        _model(response.generator) == _model(judge)
        for response in comparison.responses
        if response.generator
    )


AGAIN = "Run the same command again: only these are asked anew."


def refuse_failures(judged: Judged) -> None:
    """Raise `HealthError` if a question has no answer: how many, and the first reason."""
    if judged.failures:
        where, why = next(iter(judged.failures.items()))
        raise HealthError(
            f"{judged.judge}: {len(judged.failures)} of {len(judged.comparisons)} questions have "
            f"no answer, the first is {where}: {why}. {AGAIN}"
        )


def refuse_unparsed(judged: Judged, *, most: float) -> None:
    """Raise `HealthError` if a larger share of answers than `most` holds no verdict."""
    share = len(judged.unparsed) / max(1, len(judged.judgments))
    if share > most:
        raise HealthError(
            f"{judged.judge}: {len(judged.unparsed)} of {len(judged.judgments)} answers hold no "
            f"verdict ({share:.1%}, allowed {most:.1%}), the first is "
            f"{judged.unparsed[0].why[:80]!r}. {AGAIN} Or use a judge, or a rubric with explain, "
            "that keeps to the form."
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """One judge, one rubric, one log."""

    client: ChatClient
    rubric: Rubric
    settings: JudgeSettings
    calls: CallLog

    def request(self, name: str, step: str, asked: Asked, max_tokens: int) -> ChatRequest:
        """Return the request under a key of its content: model, prompt, parameters and order."""
        logprobs = 0 if step != "verdict" or self.rubric.explain else self.settings.top_logprobs
        parameters = (self.settings.temperature, self.settings.seed, max_tokens, logprobs)
        digest = content_id("k", self.client.name, asked.messages, parameters)
        return ChatRequest(
            key=f"{name}/{step}/{digest}",
            messages=asked.messages,
            max_tokens=max_tokens,
            temperature=self.settings.temperature,
            seed=self.settings.seed,
            top_logprobs=logprobs,
        )

    def step_requests(self, shown: Sequence[Comparison]) -> dict[tuple[str, Step], ChatRequest]:
        prompts: dict[str, Prompt] = {c.prompt.id: c.prompt for c in shown}
        salt, tokens = self.calls.salt, self.settings.max_tokens
        return {
            (name, step): self.request(
                name, step, step_prompt(prompt, step, self.rubric, salt=salt), tokens
            )
            for name, prompt in prompts.items()
            for step in self.rubric.steps
        }

    def verdict_requests(
        self, shown: Sequence[Comparison], notes: Notes
    ) -> tuple[dict[str, ChatRequest], Counter[str]]:
        """Return a request per comparison whose notes are there, and what was made harmless."""
        requests: dict[str, ChatRequest] = {}
        counts: Counter[str] = Counter()
        tokens = self.settings.max_tokens if self.rubric.explain else LABEL_TOKENS
        for c in shown:
            own = notes.get(c.prompt.id, {})
            if len(own) == len(self.rubric.steps):
                asked = compare_prompt(c, self.rubric, salt=self.calls.salt, notes=own)
                requests[c.id] = self.request(c.id, "verdict", asked, tokens)
                counts += asked.counts
        return requests, counts

    def to_come(self, shown: Sequence[Comparison]) -> list[ChatRequest]:
        """Return all that may have to be sent; notes still to be written count at full length."""
        steps = self.step_requests(shown)
        filler = "x" * (BYTES_PER_TOKEN * self.settings.max_tokens)
        notes: Notes = {}
        for (name, step), request in steps.items():
            known = self.calls.get(request.key)
            notes.setdefault(name, {})[step] = known.text if known else filler
        verdicts, _ = self.verdict_requests(shown, notes)
        return self._missing(steps.values(), _says_something) + self._missing(
            verdicts.values(), self.parses
        )

    def take_steps(self, shown: Sequence[Comparison]) -> tuple[Notes, Tally]:
        """Return the judge's notes on each prompt; one with a note missing is not judged."""
        requests = self.step_requests(shown)
        tally = self.ask(list(requests.values()), _says_something, "judge's own notes")
        notes: Notes = {}
        for (name, step), request in requests.items():
            answer = self.calls.get(request.key)
            if answer is not None and _says_something(answer):
                notes.setdefault(name, {})[step] = answer.text
        return notes, tally

    def ask(
        self, requests: Sequence[ChatRequest], usable: Callable[[ChatAnswer], bool], label: str
    ) -> Tally:
        """Send what the log cannot answer; every answer is in the log before the next is taken."""
        missing = self._missing(requests, usable)
        failures: dict[str, str] = {}
        tokens = [0, 0]
        with progress(label, len(requests), done=len(requests) - len(missing)) as advance:
            for reply in self.client.ask(missing) if missing else ():
                advance()
                if isinstance(reply, ChatFailure):
                    failures[reply.key] = reply.reason
                    continue
                self.calls.put(reply)
                tokens = [tokens[0] + reply.prompt_tokens, tokens[1] + reply.completion_tokens]
        return Tally(
            asked=len(missing),
            reused=len(requests) - len(missing),
            prompt_tokens=tokens[0],
            completion_tokens=tokens[1],
            failures=failures,
        )

    def parses(self, answer: ChatAnswer) -> bool:
        return verdict_of(answer, self.rubric) is not None

    def judgment(self, shown: Comparison, key: str, guideline: str) -> Judgment:
        """Return the judgment in the log's answer to one question."""
        answer = self.calls.get(key)
        if answer is None:
            raise AssertionError(f"{key} was neither answered nor reported as failed")
        verdict = verdict_of(answer, self.rubric)
        known = self.client.name, guideline, self.rubric.judged
        return Judgment(
            id=content_id("j", shown.id, *known),
            comparison_id=shown.id,
            kind=verdict.kind if verdict else "unparsed",
            choice=verdict.choice if verdict else None,
            grade=verdict.grade if verdict else None,
            said=verdict.label if verdict else "",
            scores=verdict.probabilities if verdict else (),
            rater=Rater(id=self.client.name, kind="judge"),
            dimension=self.rubric.judged,
            guideline=guideline,
            why=answer.text if self.rubric.explain or verdict is None else "",
        )

    def _missing(
        self, requests: Iterable[ChatRequest], usable: Callable[[ChatAnswer], bool]
    ) -> list[ChatRequest]:
        found = ((request, self.calls.get(request.key)) for request in requests)
        return [request for request, known in found if known is None or not usable(known)]


def _says_something(answer: ChatAnswer) -> bool:
    return bool(answer.text.strip())


def _failures(
    shown: Sequence[Comparison], requests: Mapping[str, ChatRequest], tally: Tally
) -> dict[str, str]:
    """Return why a comparison has no answer, for those that have none."""
    found: dict[str, str] = {}
    of_prompt = {key.rsplit("/", 2)[0]: why for key, why in tally.failures.items()}
    for c in shown:
        if c.id not in requests:
            found[c.id] = of_prompt.get(c.prompt.id, "the judge wrote nothing for its notes")
        elif requests[c.id].key in tally.failures:
            found[c.id] = tally.failures[requests[c.id].key]
    return found


def _model(name: str) -> str:
    return name.partition("@")[0].casefold()
