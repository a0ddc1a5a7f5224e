"""What `preftune judge`, `judge qualify` and `rlaif` share: who judges, how, at what cost."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from preftune.errors import SettingsError

if TYPE_CHECKING:
    from preftune.comparisons.judging.panel_run import Budget, PanelRun
    from preftune.comparisons.judging.qualify import QualifySettings
    from preftune.comparisons.judging.run import JudgeSettings
    from preftune.responses.chat_client import ChatClient
    from preftune.responses.http_client import HttpChatClient
    from preftune.responses.remote import HttpSettings
    from preftune.responses.spending import Prices
    from preftune.types import Comparison, Judgment

Comparisons = Annotated[Path, typer.Argument(help="Comparisons of two responses each.")]
Judgments = Annotated[Path, typer.Option(help="Comparisons and judgments to write; JSON lines.")]
Pairs = Annotated[Path | None, typer.Option(help="Also write the pairs in the verdicts.")]
Url = Annotated[
    list[str],
    typer.Option(help="OpenAI-compatible URL of the judge; one for all models, or one each."),
]
ModelThere = Annotated[
    list[str], typer.Option(help="Name of the judge at the URL; repeat for a panel.")
]
RubricName = Annotated[
    str, typer.Option(help="helpful, harmless, honest, tone, overall, or a YAML file.")
]
CardFile = Annotated[
    list[Path] | None, typer.Option(help="Card of a qualified judge; one per judge.")
]
Unqualified = Annotated[
    bool, typer.Option("--unqualified", help="Label without a card; written on every judgment.")
]
OneOrder = Annotated[
    bool, typer.Option("--one-order", help="Ask in one drawn order; shows no flips.")
]
MaxUnparsed = Annotated[
    float, typer.Option(help="Largest share of answers without a verdict; more ends the run.")
]
KeepSelfJudged = Annotated[
    bool, typer.Option("--keep-self-judged", help="Also judge the judge's own answers.")
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Live:
    """The options of every command that asks a live judge: how, where, at what cost."""

    one_order: OneOrder = False
    max_unparsed: MaxUnparsed = 0.05
    temperature: Annotated[float, typer.Option(help="0: the likeliest answer.")] = 0.0
    max_tokens: Annotated[
        int, typer.Option(help="Longest explanation or note, in tokens; a label needs few.")
    ] = 1024
    top_logprobs: Annotated[
        int, typer.Option(help="First tokens to weigh the labels by; 0: parse the text alone.")
    ] = 10
    seed: Annotated[int, typer.Option(help="Of all that is drawn; sent to the server too.")] = 0
    allow_url: Annotated[
        list[str] | None, typer.Option(help="URL that may be http or not on the open internet.")
    ] = None
    key_env: Annotated[str, typer.Option(help="Name of the environment variable with the key.")] = (
        ""
    )
    key_file: Annotated[
        Path | None, typer.Option(help="File that holds the key and nothing else.")
    ] = None
    concurrency: Annotated[int, typer.Option(help="Most requests under way at once.")] = 8
    timeout: Annotated[float, typer.Option(help="Longest time for one attempt, in seconds.")] = 30.0
    price_in: Annotated[float | None, typer.Option(help="USD per million prompt tokens.")] = None
    price_out: Annotated[
        float | None, typer.Option(help="USD per million tokens that the judge writes.")
    ] = None
    cost_cap: Annotated[
        float | None, typer.Option(help="Most to spend on OUT in all runs, USD.")
    ] = None

    def asking(self, *, keep_self_judged: bool = False) -> "JudgeSettings":
        """Return how the judge is asked."""
        return asking(
            one_order=self.one_order,
            max_unparsed=self.max_unparsed,
            keep_self_judged=keep_self_judged,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            top_logprobs=self.top_logprobs,
            seed=self.seed,
        )

    def reached(self, url: str) -> "HttpSettings":
        """Return how the server at a URL is reached."""
        from preftune.responses.remote import HttpSettings
        from preftune.settings import build

        flags = {
            "url": url,
            "allow_urls": self.allow_url or [],
            "key_env": self.key_env,
            "key_file": self.key_file,
            "concurrency": self.concurrency,
            "timeout_s": self.timeout,
        }
        return build(HttpSettings, flags, where="command line")

    def prices(self) -> "Prices | None":
        """Return the prices, None when no account is kept."""
        from preftune.responses.spending import Prices

        if self.price_in is not None and self.price_out is not None:
            return Prices(usd_in=self.price_in, usd_out=self.price_out)
        if (self.price_in, self.price_out, self.cost_cap) == (None, None, None):
            return None
        raise SettingsError(
            "command line: a price or a cap alone. Give --price-in and --price-out together."
        )


def spelt_out(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command whose parameter `live` is taken apart into the options of `Live`."""

    @wraps(command)
    def run(*args: Any, **flags: Any) -> None:
        live = Live(**{field.name: flags.pop(field.name) for field in fields(Live)})
        command(*args, **flags, live=live)

    shape = inspect.signature(command)
    options = inspect.signature(Live).parameters.values()
    shown = [p for p in shape.parameters.values() if p.name != "live"]
    run.__signature__ = shape.replace(parameters=[*shown, *options])  # type: ignore[attr-defined]  # typer reads it
    run.__annotations__ = {p.name: p.annotation for p in (*shown, *options)}
    return run


class Job(NamedTuple):
    """What is asked, and what is written."""

    rubric: str
    out: Path
    cards: list[Path]
    unqualified: bool
    pairs: Path | None
    people: "Sequence[Judgment]" = ()  # their labels on some of the comparisons


def asking(*, one_order: bool, **flags: Any) -> "JudgeSettings":
    """Return the judge's settings from flags."""
    from preftune.comparisons.judging.run import JudgeSettings
    from preftune.settings import build

    return build(JudgeSettings, {**flags, "both_orders": not one_order}, where="command line")


def bars(bar: float, least_items: int, least_attacks: int, most_flips: float) -> "QualifySettings":
    """Return what a judge must reach from flags."""
    from preftune.comparisons.judging.qualify import QualifySettings
    from preftune.settings import build

    given = {"bar": bar, "least_items": least_items, "least_attacks": least_attacks}
    return build(QualifySettings, {**given, "most_flips": most_flips}, where="command line")


@contextmanager
def judges_at(
    urls: Sequence[str], models: Sequence[str], live: Live, *, out: Path
) -> "Iterator[tuple[list[HttpChatClient], Budget | None]]":
    """Yield the judges behind URLs and the budget they book on, kept in `OUT.ledger`."""
    from preftune.comparisons.judging.panel_run import Budget
    from preftune.comparisons.judging.report import beside
    from preftune.responses.http_client import HttpChatClient
    from preftune.responses.journal import Journal
    from preftune.responses.spending import Bill, Ledger

    if len(urls) not in (1, len(models)):
        raise SettingsError(
            f"command line: {len(urls)} --url, {len(models)} --model. "
            "Give one URL for all models, or one for each."
        )
    each = urls if len(urls) == len(models) else [urls[0]] * len(models)
    price = live.prices()
    with ExitStack() as files:
        bill = None
        if price is not None:
            journal = files.enter_context(Journal(beside(out, "ledger")))
            bill = Bill(ledger=Ledger(journal, cap_usd=live.cost_cap), prices=price)
        clients = []
        for url, model in zip(each, models, strict=True):
            clients.append(HttpChatClient(live.reached(url), model, bill=bill))
        yield clients, Budget(ledger=bill.ledger, prices=bill.prices) if bill else None
        for note in (note for client in clients for note in client.notes):
            typer.echo(note)


def label(
    comparisons: "Sequence[Comparison]",
    clients: "Sequence[ChatClient]",
    settings: "JudgeSettings",
    job: Job,
    budget: "Budget | None",
) -> None:
    """Let the judges label, print what they did, write the pairs when asked."""
    from preftune.comparisons.judging.panel_run import run_panel, write_pairs
    from preftune.comparisons.judging.rubric import read_rubric

    rubric = read_rubric(job.rubric)
    run = run_panel(
        comparisons,
        clients,
        rubric,
        settings,
        out=job.out,
        cards=job.cards,
        unqualified=job.unqualified,
        people=job.people,
        budget=budget,
        say=typer.echo,
    )
    print_run(run)
    if job.pairs is not None:
        joined = write_pairs(job.pairs, run, rubric)
        typer.echo(
            f"{len(joined.pairs)} pairs in {job.pairs}; not pairs: {len(joined.ties)} ties and "
            f"flips, {len(joined.unjudged)} without a verdict"
        )


def qualify_one(
    files: tuple[Path, Path],
    clients: "Sequence[ChatClient]",
    asked: tuple[str, str],
    settings: "JudgeSettings",
    bars: "QualifySettings",
    budget: "Budget | None",
) -> bool:
    """Qualify one judge, print and write its card; return whether it may label."""
    from preftune.cli.data_check import show_table
    from preftune.comparisons.judging.card import card_rows, write_card
    from preftune.comparisons.judging.panel_run import run_qualify
    from preftune.comparisons.judging.qualify import labelled
    from preftune.comparisons.judging.rubric import read_rubric
    from preftune.datasets.read import read_comparisons

    if len(clients) != 1:
        raise SettingsError(f"command line: {len(clients)} --model. Qualify one judge at a time.")
    calibration, out = files
    rubric = read_rubric(asked[0])
    shown, said = read_comparisons(calibration)
    known = labelled(shown, said, dimension=asked[1] or rubric.judged)
    card = run_qualify(
        clients[0],
        rubric,
        known,
        out=out,
        asking=settings,
        settings=bars,
        budget=budget,
        say=typer.echo,
    )
    show_table(("", ""), card_rows(card))
    typer.echo(f"wrote {', '.join(map(str, write_card(card, out)))}")
    return card.verdict == "pass"


def signer(judgments: "Sequence[Judgment]") -> str:
    """Return who signed the judgments, fit for a terminal."""
    from preftune.text import visible

    return visible(", ".join(sorted({judgment.rater.id for judgment in judgments})))


def print_run(run: "PanelRun") -> None:
    """Print what the judges did, the signs to look at, and the files."""
    from preftune.cli.data_check import show_table
    from preftune.text import visible

    report = run.report
    counts = list(report.judges.values())
    rows = [
        (name, *(f"{one[name]:,}" for one in counts))
        for name in counts[0]
        if any(one[name] for one in counts)
    ]
    show_table(("", *report.judges), rows, right=True)
    if report.signs:
        show_table(
            ("sign", "of", "share", "95 % interval", "n", "", "what"),
            [
                (
                    sign.kind,
                    sign.who,
                    f"{sign.share:.1%}",
                    f"{sign.low:.1%} to {sign.high:.1%}",
                    f"{sign.n:,}",
                    "ALARM" if sign.alarm else "",
                    sign.what,
                )
                for sign in report.signs
            ],
        )
    for pair in report.agreement:
        kappa = "" if pair.kappa is None else f", kappa {pair.kappa:.3f}"
        names = " and ".join(pair.judges)
        typer.echo(visible(f"{names}: agree on {pair.share:.1%} of {pair.n}{kappa}"))
    for rate in report.win_rates:
        typer.echo(visible(str(rate)))
    for kind, count in report.spelt_out.items():
        typer.echo(f"{kind}: {count} in the material, seen by the judge as text")
    if report.cost_usd:
        typer.echo(f"spent so far: {report.cost_usd:.4f} USD")
    typer.echo(f"guideline: {visible(report.guideline)}")
    if run.written.for_people is not None:
        typer.echo(f"{report.for_people} flips for people to settle: {run.written.for_people}")
    written = (run.written.judgments, run.written.report, run.written.plot)
    typer.echo(f"wrote {', '.join(str(path) for path in written if path is not None)}")
