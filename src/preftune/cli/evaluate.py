"""`preftune judge`, `evaluate`, `gate` and `report`: from two sets of responses to a verdict."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from preftune.cli.judge import group
from preftune.errors import SettingsError

if TYPE_CHECKING:
    from preftune.evaluation.evaluate import Evaluation
    from preftune.evaluation.gate import GateReport
    from preftune.evaluation.regression import PairedSlice


def judge_rules(
    *,
    first: Annotated[Path, typer.Option(help="Responses of one system, such as base.jsonl.")],
    second: Annotated[Path, typer.Option(help="Responses of the other, to the same prompts.")],
    prompts: Annotated[Path, typer.Option(help="The prompts both answered.")],
    rule: Annotated[
        str, typer.Option(help="bleu, rouge-1, rouge-2, rouge-l, exact, regex or length.")
    ],
    out: Annotated[Path, typer.Option(help="File of comparisons and judgments to write.")],
    references: Annotated[
        Path | None,
        typer.Option(help="Right answers: responses, chats, or what pairs chose."),
    ] = None,
    pattern: Annotated[str, typer.Option(help="Regular expression of the rule regex.")] = "",
    prefer: Annotated[
        str, typer.Option(help="higher or lower: which score wins. length, lower: shorter wins.")
    ] = "higher",
    tie_within: Annotated[
        float, typer.Option(help="Scores at most this far apart are a tie.")
    ] = 0.0,
) -> None:
    """Judge two sets of responses by a rule, prompt by prompt and sample by sample.

    Example: preftune judge rules --first base.jsonl --second tuned.jsonl --prompts prompts.jsonl
    --rule rouge-l --references answers.jsonl --out judged.jsonl
    """
    from preftune.comparisons.rules import Rule, judge_by_rule, pair_responses
    from preftune.datasets.read import read_prompts, read_references, read_responses
    from preftune.datasets.write import write_records
    from preftune.settings import build

    settings = build(
        Rule,
        {"rule": rule, "pattern": pattern, "prefer": prefer, "tie_within": tie_within},
        where="command line",
    )
    known = read_references(references) if references is not None else None
    comparisons = pair_responses(
        read_prompts(prompts), read_responses(first), read_responses(second)
    )
    judgments = judge_by_rule(comparisons, settings, known)
    write_records(out, [*comparisons, *judgments], format="preftune")
    wins = [sum(j.choice == side for j in judgments) for side in (0, 1)]
    ties = sum(j.kind == "tie" for j in judgments)
    typer.echo(
        f"{len(judgments)} comparisons: first wins {wins[0]}, second wins {wins[1]}, ties {ties}"
    )
    typer.echo(f"written: {out}")


def evaluate(
    *,
    judged: Annotated[Path, typer.Option(help="Comparisons and their judgments.")],
    candidate: Annotated[str, typer.Option(help="Generator name of the new model.")],
    baseline: Annotated[str, typer.Option(help="Generator name of the old model.")],
    out: Annotated[Path, typer.Option(help="Evaluation to write, as JSON.")],
    checks: Annotated[
        Path | None, typer.Option(help="Pass/fail items of both models, JSON Lines.")
    ] = None,
    measures: Annotated[
        Path | None, typer.Option(help="Other measures: a JSON array of name, value, n, …")
    ] = None,
    dimension: Annotated[str, typer.Option(help="Which judgments count.")] = "overall",
    policy: Annotated[
        str | None, typer.Option(help="Folder of the candidate, to measure its sampled KL.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="Folder of the model it was tuned from; with --policy.")
    ] = None,
    simulated_labels: Annotated[
        bool, typer.Option("--simulated-labels", help="The raters are programs; reports say so.")
    ] = False,
) -> None:
    """Measure a candidate against a baseline: wins, regressions, slices, length; with intervals.

    With --policy and --reference also the sampled KL per reply.

    Example: preftune evaluate --judged judged.jsonl --candidate tuned --baseline base
    --checks checks.jsonl --out evaluation.json
    """
    from preftune.datasets.read import read_comparisons
    from preftune.evaluation.evaluate import evaluate as measure
    from preftune.evaluation.evaluate import read_checks, read_measures, write_evaluation
    from preftune.files import sha256_of

    if (policy is None) != (reference is None):
        raise SettingsError("command line: --policy needs --reference, and it --policy. Give both.")
    comparisons, judgments = read_comparisons(judged)
    extra = list(read_measures(measures)) if measures else []
    if policy is not None and reference is not None:
        from preftune.evaluation.kl import kl_of_comparisons

        extra.append(
            kl_of_comparisons(comparisons, candidate=candidate, policy=policy, reference=reference)
        )
    sources = [path for path in (judged, checks, measures) if path is not None]
    found = measure(
        comparisons,
        judgments,
        candidate=candidate,
        baseline=baseline,
        dimension=dimension,
        checks=read_checks(checks) if checks else (),
        measures=extra,
        simulated_labels=simulated_labels,
        provenance={path.name: f"sha256 {sha256_of(path)}" for path in sources},
    )
    write_evaluation(out, found)
    _print_evaluation(found)
    typer.echo(f"written: {out}")


def gate(
    evaluation: Annotated[Path, typer.Argument(help="What `preftune evaluate` wrote.")],
    suite: Annotated[Path, typer.Option(help="The rules, as YAML.")],
    out: Annotated[Path | None, typer.Option(help="Verdict to write, as JSON.")] = None,
) -> None:
    """Say ship, don't ship, or can't tell; exit code 0, 1 or 3.

    Example: preftune gate evaluation.json --suite gates.yaml --out gate.json
    """
    from preftune.evaluation.evaluate import read_evaluation
    from preftune.evaluation.gate import gate as decide
    from preftune.evaluation.gate import read_suite, write_gate

    name, rules = read_suite(suite)
    report = decide(read_evaluation(evaluation), rules, suite=name)
    if out is not None:
        write_gate(out, report)
    _print_gate(report)
    raise typer.Exit(code=report.exit_code)


def report(
    evaluation: Annotated[Path, typer.Argument(help="What `preftune evaluate` wrote.")],
    out: Annotated[Path, typer.Option(help="HTML page to write.")],
    *,
    gate: Annotated[Path | None, typer.Option(help="What `preftune gate --out` wrote.")] = None,
    judged: Annotated[
        Path | None, typer.Option(help="Comparisons to draw before-and-after examples from.")
    ] = None,
    examples: Annotated[int, typer.Option(min=1, help="How many to draw, by chance.")] = 5,
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Is the new model better?",
) -> None:
    """Write one HTML page that can be forwarded: verdict, figures with intervals, gates, slices.

    Example: preftune report evaluation.json --gate gate.json --out report.html
    """
    from preftune.datasets.read import read_comparisons
    from preftune.evaluation.evaluate import read_evaluation
    from preftune.evaluation.gate import read_gate
    from preftune.evaluation.report import ReportData, draw_examples, write_report

    found = read_evaluation(evaluation)
    page = ReportData(
        title=title,
        evaluation=found,
        gate=read_gate(gate) if gate else None,
        examples=draw_examples(read_comparisons(judged)[0], found, n=examples) if judged else (),
    )
    write_report(out, page)
    typer.echo(f"written: {out}")


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    group.command("rules")(judge_rules)
    app.command("evaluate")(evaluate)
    app.command("gate")(gate)
    app.command("report")(report)


def _print_evaluation(found: "Evaluation") -> None:
    from preftune.evaluation.report import measure_row

    rows = [("measure", "value", "95 % interval", "note")]
    rows += [measure_row(measure) for measure in found.all_measures().values()]
    _print_rows(rows)
    parts = [
        (check.name, part) for check in found.checks for part in (check.overall, *check.slices)
    ]
    if parts:
        typer.echo("")
        header = ("check", "passed before", "after", "lost", "gained", "of", "lower bound", "p")
        _print_rows([header, *(_check_row(name, part) for name, part in parts)])
    if found.simulated_labels:
        typer.echo("the labels are simulated")


def _check_row(name: str, part: "PairedSlice") -> tuple[str, ...]:
    d = part.difference
    return (
        f"{name}[{part.tag}]" if part.tag else name,
        f"{100 * part.baseline_frac:.1f} %",
        f"{100 * part.candidate_frac:.1f} %",
        str(d.lost),
        str(d.gained),
        str(d.n),
        f"{100 * d.low:+.2f} points",
        f"{part.p_holm:.3g}",
    )


def _print_gate(report: "GateReport") -> None:
    _print_rows([(r.outcome, r.name, r.sentence) for r in report.results])
    typer.echo(f"verdict: {report.verdict}")


def _print_rows(rows: Iterable[tuple[str, ...]]) -> None:
    from preftune.text import visible_page

    shown = [[visible_page(cell).replace("\n", " ") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        typer.echo("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())
