"""`preftune judge`: let models, rules or scores compare answers; `judge qualify` tests a judge."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from preftune.cli import judge_options as shared
from preftune.errors import SettingsError

if TYPE_CHECKING:
    from preftune.types import Comparison, Judgment

CHOSEN_BY = {"--rule": "by-rule", "--scores": "by-scores", "--replay": "replay"}
Tie = Annotated[float, typer.Option(help="Scores at most this far apart are a tie.")]


class JudgeGroup(TyperGroup):
    """`preftune judge FILE …` is short for the command that its options choose, else for `run`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command before what is no command and no call for help."""
        if args and args[0] not in self.commands and args[0] != "--help":
            given = {argument.partition("=")[0] for argument in args}
            chosen = [option for option in CHOSEN_BY if option in given]
            if len(chosen) > 1:
                raise SettingsError(f"command line: {' and '.join(chosen)}. Give one of them.")
            args = [CHOSEN_BY[chosen[0]] if chosen else "run", *args]
        return super().parse_args(ctx, args)


group = typer.Typer(
    cls=JudgeGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Let models, rules or scores compare answers: preftune judge FILE --out JUDGMENTS.",
)


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.add_typer(group, name="judge")


@group.command("run")
@shared.spelt_out
def run_judge(
    comparisons: shared.Comparisons,
    *,
    out: shared.Judgments,
    url: shared.Url,
    model: shared.ModelThere,
    rubric: shared.RubricName = "helpful",
    card: shared.CardFile = None,
    unqualified: shared.Unqualified = False,
    pairs: shared.Pairs = None,
    keep_self_judged: shared.KeepSelfJudged = False,
    live: shared.Live,
) -> None:
    """Let one or several models behind a URL compare answers; `run` may be left out.

    Stopped at any moment, the same command goes on and pays for nothing twice.

    Example: preftune judge comparisons.jsonl --url https://host/v1 --model NAME
    --rubric helpful --card card.json --out judgments.jsonl
    """
    settings = live.asking(keep_self_judged=keep_self_judged)
    shown, said = _read(comparisons)
    with shared.judges_at(url, model, live, out=out) as (clients, budget):
        job = shared.Job(rubric, out, card or [], unqualified, pairs, said)
        shared.label(shown, clients, settings, job, budget)


@group.command("replay")
def replay_judge(
    comparisons: shared.Comparisons,
    *,
    replay: Annotated[Path, typer.Option(help="Judgments with the recorded answers in `why`.")],
    judge: Annotated[list[str], typer.Option(help="Name in the log; repeat for a panel.")],
    out: shared.Judgments,
    rubric: shared.RubricName = "helpful",
    card: shared.CardFile = None,
    unqualified: shared.Unqualified = False,
    pairs: shared.Pairs = None,
    one_order: shared.OneOrder = False,
    max_unparsed: shared.MaxUnparsed = 0.05,
) -> None:
    """Play recorded judges without a network; also `preftune judge FILE --replay LOG`.

    The answers go through the same parser, orders, log and report as those of a live judge.

    Example: preftune judge comparisons.jsonl --replay judgments.jsonl --judge NAME
    --unqualified --out again.jsonl
    """
    from preftune.comparisons.judging.replay import replay_of

    settings = shared.asking(one_order=one_order, max_unparsed=max_unparsed, keep_self_judged=True)
    recorded = _read(replay)[1]
    clients = [replay_of(recorded, name) for name in judge]
    shown, said = _read(comparisons)
    job = shared.Job(rubric, out, card or [], unqualified, pairs, said)
    shared.label(shown, clients, settings, job, None)


@group.command("by-rule")
def rule_judge(
    comparisons: shared.Comparisons,
    *,
    rule: Annotated[
        str, typer.Option(help="bleu, rouge-1, rouge-2, rouge-l, exact, regex or length.")
    ],
    out: shared.Judgments,
    pattern: Annotated[str, typer.Option(help="The expression of regex.")] = "",
    prefer: Annotated[str, typer.Option(help="Which side wins: higher or lower.")] = "higher",
    tie_within: Tie = 0.0,
    references: Annotated[Path | None, typer.Option(help="Right answers by prompt.")] = None,
) -> None:
    """Let a rule compare answers; also `preftune judge FILE --rule RULE`.

    Example: preftune judge comparisons.jsonl --rule length --prefer lower --out short.jsonl
    """
    from preftune.comparisons.rules import Rule, judge_by_rule
    from preftune.datasets.read import read_references
    from preftune.settings import build

    flags = {"rule": rule, "pattern": pattern, "prefer": prefer, "tie_within": tie_within}
    chosen = build(Rule, flags, where="command line")
    known = None if references is None else read_references(references)
    shown = _read(comparisons)[0]
    _write(out, shown, judge_by_rule(shown, chosen, known))


@group.command("by-scores")
def scores_judge(
    comparisons: shared.Comparisons,
    *,
    scores: Annotated[Path, typer.Option(help="Scores of the responses, from preftune score.")],
    out: shared.Judgments,
    name: Annotated[str, typer.Option(help="Who signs; else the name of the file.")] = "",
    tie_within: Tie = 0.0,
    dimension: Annotated[str, typer.Option(help="Of the judgments.")] = "overall",
) -> None:
    """Let the scores of a reward model compare answers; also `preftune judge FILE --scores FILE`.

    Example: preftune judge comparisons.jsonl --scores scored.jsonl --out judgments.jsonl
    """
    from preftune.comparisons.judging.scores import judge_by_scores, read_scores

    shown, known = _read(comparisons)[0], read_scores(scores)
    signed = name or scores.stem
    said = judge_by_scores(shown, known, name=signed, tie_within=tie_within, dimension=dimension)
    _write(out, shown, said)


@group.command("qualify")
@shared.spelt_out
def qualify_judge(
    calibration: Annotated[Path, typer.Argument(help="Comparisons with judgments of people.")],
    *,
    out: Annotated[Path, typer.Option(help="Card to write, .json; a .md page lies beside it.")],
    url: shared.Url,
    model: shared.ModelThere,
    rubric: shared.RubricName = "helpful",
    dimension: Annotated[str, typer.Option(help="Of the labels; else the rubric's.")] = "",
    bar: Annotated[float, typer.Option(help="Agreement that the lower bound must reach.")] = 0.75,
    least_items: Annotated[int, typer.Option(help="Fewest items with a label.")] = 100,
    least_attacks: Annotated[int, typer.Option(help="Fewest attacked comparisons.")] = 200,
    most_flips: Annotated[float, typer.Option(help="Share of attacks that may win.")] = 0.05,
    live: shared.Live,
) -> None:
    """Test a judge against people and against answers that talk to it; write its card.

    Exit code 0: it may label. 1: it may not, or it cannot be told; the card says why.

    Example: preftune judge qualify labelled.jsonl --url https://host/v1 --model NAME
    --rubric helpful --bar 0.75 --out card.json
    """
    bars = shared.bars(bar, least_items, least_attacks, most_flips)
    with shared.judges_at(url, model, live, out=out) as (clients, budget):
        files, asked = (calibration, out), (rubric, dimension)
        passed = shared.qualify_one(files, clients, asked, live.asking(), bars, budget)
    raise typer.Exit(0 if passed else 1)


def _read(path: Path) -> "tuple[list[Comparison], list[Judgment]]":
    from preftune.datasets.read import read_comparisons

    return read_comparisons(path)


def _write(out: Path, shown: "Sequence[Comparison]", said: "Iterable[Judgment]") -> None:
    from preftune.comparisons.judging.report import write_records

    judgments = list(said)
    write_records(out, [*shown, *judgments])
    ties = sum(judgment.kind == "tie" for judgment in judgments)
    typer.echo(f"{len(judgments)} judgments by {shared.signer(judgments)}, {ties} of them ties")
    typer.echo(f"wrote {out}")
