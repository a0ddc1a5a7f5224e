"""A panel of judges over comparisons: the card first, then the cost, the answers, the files."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from pathlib import Path

from preftune.comparisons.aggregate import Aggregated
from preftune.comparisons.judging.calls import CallLog
from preftune.comparisons.judging.card import require_card
from preftune.comparisons.judging.panel import judge_pairs
from preftune.comparisons.judging.qualify import (
    Card,
    Labelled,
    QualifySettings,
    plan_qualify,
    qualify,
)
from preftune.comparisons.judging.report import (
    JudgeReport,
    Written,
    beside,
    report_of,
    write_judged,
    write_records,
)
from preftune.comparisons.judging.rubric import Rubric
from preftune.comparisons.judging.run import (
    Judged,
    JudgeSettings,
    judge_comparisons,
    plan_calls,
    refuse_failures,
    refuse_unparsed,
)
from preftune.comparisons.votes import units
from preftune.errors import DataError, SettingsError
from preftune.responses.chat_client import ChatClient, ChatRequest
from preftune.responses.spending import Estimate, Ledger, Prices, estimate
from preftune.types import Comparison, Judgment, Prompt, Response, content_id

UNQUALIFIED = "(unqualified)"
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """Where costs are booked and at which prices; without one nothing is booked or refused."""

    ledger: Ledger
    prices: Prices

    def allow(self, requests: Sequence[ChatRequest]) -> Estimate:
        """Return what these cost at most.

        Raises:
            SettingsError: it is above the cap; nothing was sent.
        """
        found = estimate(requests, self.prices)
        self.ledger.refuse_above_cap(found.cost_usd)
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class PanelRun:
    """What a panel said, the report on it, and the files."""

    comparisons: list[Comparison]  # in their first order
    judged: list[Judged]
    report: JudgeReport
    written: Written


def run_panel(
    comparisons: Iterable[Comparison],
    clients: Sequence[ChatClient],
    rubric: Rubric,
    settings: JudgeSettings,
    *,
    out: Path,
    cards: Sequence[Path] = (),
    unqualified: bool = False,
    people: Iterable[Judgment] = (),
    budget: Budget | None = None,
    say: Say = lambda _text: None,
) -> PanelRun:
    """Let one or several judges label comparisons, and write what they said.

    Stopped at any moment, the same call goes on: every answer is kept in `OUT.calls.jsonl`.

    Args:
        comparisons: of two responses.
        clients: the judges, with different names.
        rubric: what is asked.
        settings: how.
        out: file of comparisons and judgments to make; the others lie beside it.
        cards: one per judge, in any order, unless `unqualified`.
        unqualified: label without cards; every judgment and the report say so.
        people: labels of people on some of the comparisons; the report joins them with the judges'.
        budget: prices and cap.
        say: told the estimate before anything is sent.

    Raises:
        SettingsError: two judges of one name, no passing card, or an estimate above the cap.
        HealthError: questions without an answer, or too many answers without a verdict.
    """
    first_orders = [unit.comparison for unit in units(comparisons, ())]
    names = [client.name for client in clients]
    if len(set(names)) < len(names) or not names:
        raise SettingsError(f"judges {', '.join(names) or 'none'}. Name each judge once.")
    if not unqualified:
        _require_cards(clients, cards, rubric, settings)
    with CallLog(beside(out, "calls.jsonl")) as calls:
        plans = (plan_calls(first_orders, c, rubric, settings, calls) for c in clients)
        say(_announce(chain.from_iterable(plans), budget))
        judged = []
        for client in clients:
            mark = UNQUALIFIED if unqualified else ""
            said = judge_comparisons(first_orders, client, rubric, settings, calls, mark=mark)
            refuse_failures(said)
            refuse_unparsed(said, most=settings.max_unparsed)
            judged.append(said)
    spent = budget.ledger.spent_usd if budget else 0.0
    heard = [j for j in people if j.rater.kind == "human" and j.dimension == rubric.judged]
    report = report_of(first_orders, judged, settings, people=heard, cost_usd=spent)
    written = write_judged(out, first_orders, judged, report)
    return PanelRun(comparisons=first_orders, judged=judged, report=report, written=written)


def run_qualify(
    client: ChatClient,
    rubric: Rubric,
    known: Labelled,
    *,
    out: Path,
    asking: JudgeSettings,
    settings: QualifySettings,
    budget: Budget | None = None,
    say: Say = lambda _text: None,
) -> Card:
    """Return the card of a judge; its answers are kept in `OUT.calls.jsonl`. See `qualify`.

    Raises:
        SettingsError: an estimate above the cap.
        DataError: too few labelled items.
        HealthError: questions without an answer.
    """
    with CallLog(beside(out, "calls.jsonl")) as calls:
        planned = plan_qualify(client, rubric, known, calls, asking=asking, settings=settings)
        say(_announce(planned, budget))
        return qualify(client, rubric, known, calls, asking=asking, settings=settings)


def every_two(prompts: Iterable[Prompt], responses: Iterable[Response]) -> list[Comparison]:
    """Return a comparison of every two responses to a prompt, in the order of the prompts.

    Raises:
        DataError: a response to a prompt that is not there, or a prompt with one response only.
    """
    asked = {prompt.id: prompt for prompt in prompts}
    answers: dict[str, list[Response]] = {prompt_id: [] for prompt_id in asked}
    for response in responses:
        if response.prompt_id not in answers:
            raise DataError(
                f"response {response.id}: answers {response.prompt_id}, which is not among the "
                "prompts. Give the prompts it was sampled from."
            )
        answers[response.prompt_id].append(response)
    lonely = [prompt_id for prompt_id, given in answers.items() if len(given) == 1]
    if lonely or not any(answers.values()):
        raise DataError(
            f"{len(lonely)} prompts have one response, nothing to compare it with; the first is "
            f"{next(iter(lonely), 'none: there is no response at all')}. Sample two or more each."
        )
    return [
        Comparison(
            id=content_id("c", prompt_id, one.id, two.id),
            prompt=asked[prompt_id],
            responses=(one, two),
        )
        for prompt_id, given in answers.items()
        for one, two in combinations(given, 2)
    ]


def write_pairs(out: Path, run: PanelRun, rubric: Rubric) -> Aggregated:
    """Write the pairs in the verdicts of a panel; see `judge_pairs`. Return what became of all.

    Raises:
        DataError: not one pair.
    """
    shown = {c.id: c for one in run.judged for c in one.comparisons}
    judgments = [j for one in run.judged for j in one.judgments]
    joined = judge_pairs([*shown.values()], judgments, dimension=rubric.judged)
    if not joined.pairs:
        raise DataError(
            f"{out}: no pairs: {len(joined.ties)} ties and flips, {joined.unparsed} answers "
            "without a verdict. Look at the report, or use another judge."
        )
    write_records(out, joined.pairs)
    return joined


def _require_cards(
    clients: Sequence[ChatClient], cards: Sequence[Path], rubric: Rubric, settings: JudgeSettings
) -> None:
    """Refuse a judge for whom no card passes; the error is that of the last card tried."""
    for client in clients:
        trouble: SettingsError | None = SettingsError(
            f"{client.name}: no card. Run: preftune judge qualify, then give --card; or "
            "--unqualified, which is written on every judgment."
        )
        for path in cards:
            try:
                require_card(path, client.name, rubric, settings)
                trouble = None
                break
            except SettingsError as error:
                trouble = error
        if trouble is not None:
            raise trouble


def _announce(planned: Iterable[ChatRequest], budget: Budget | None) -> str:
    requests = list(planned)
    if budget is None:
        return f"to come: {estimate(requests)}; no prices given, no account kept"
    found = budget.allow(requests)
    return f"to come: {found}, at most {found.cost_usd:.4f} USD"
