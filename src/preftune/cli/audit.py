"""`preftune audit`: what should be known of a preference file before a model learns from it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from preftune.errors import SettingsError

if TYPE_CHECKING:
    from preftune.datasets.audit import Audit
    from preftune.evaluation.audit_models import AuditModelSettings
    from preftune.evaluation.audit_page import AuditRequest

WITH_MODEL = "With --model: "
Judgments = Annotated[
    Path | None, typer.Option(help="The votes behind the pairs, in a file of their own.")
]
Comparisons = Annotated[
    Path | None, typer.Option(help="What was judged, where it is in a file of its own.")
]
Against = Annotated[
    list[Path] | None,
    typer.Option(help="A held-out file that must share nothing with it; may be given again."),
]
Without = Annotated[
    list[str] | None,
    typer.Option(help="Rebuild the dataset without this rater; may be given again."),
]


def register(app: typer.Typer) -> None:
    """Add this module's command to the command line."""
    app.command("audit")(audit)


def audit(
    data: Annotated[Path, typer.Argument(help="Pairs, ranked lists, or comparisons with votes.")],
    out: Annotated[Path, typer.Option(help="Folder for audit.html, audit.json, card.md, plots.")],
    *,
    judgments: Judgments = None,
    comparisons: Comparisons = None,
    against: Against = None,
    without: Without = None,
    format: Annotated[str | None, typer.Option(help="Format of DATA; detected otherwise.")] = None,
    model: Annotated[
        str | None, typer.Option(help="SFT model folder: find wrong labels and off-policy pairs.")
    ] = None,
    folds: Annotated[int | None, typer.Option(help=f"{WITH_MODEL}reward models [5].")] = None,
    lr: Annotated[float | None, typer.Option(help=f"{WITH_MODEL}learning rate [0.0001].")] = None,
    epochs: Annotated[float | None, typer.Option(help=f"{WITH_MODEL}passes [1].")] = None,
    batch_size: Annotated[int | None, typer.Option(help=f"{WITH_MODEL}pairs a step [16].")] = None,
    prompts: Annotated[
        int | None, typer.Option(help=f"{WITH_MODEL}prompts it answers itself [200].")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help=f"{WITH_MODEL}longest reply of its own [128].")
    ] = None,
    seed: Annotated[int | None, typer.Option(help=f"{WITH_MODEL}seed [0].")] = None,
) -> None:
    """Audit a preference file: agreement, raters, bias, copies, leaks, wrong labels, poison.

    Every finding has a size, an interval where it is an estimate, a verdict (ok, look, stop) and
    what to do. Exit code 0: nothing stops the training, 1: a finding says stop, 2: bad input.

    Example: preftune audit pairs.jsonl --judgments votes.jsonl --comparisons shown.jsonl
    --against test.jsonl --out audit
    """
    from preftune.evaluation.audit_page import AuditRequest, run_audit

    flags = {
        "folds": folds,
        "lr": lr,
        "epochs": epochs,
        "batch_size": batch_size,
        "prompts": prompts,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
    }
    request = AuditRequest(
        data=data,
        out=out,
        judgments=judgments,
        comparisons=comparisons,
        against=tuple(against or ()),
        format=format,
        without=tuple(without or ()),
    )
    models = _model_settings(model, {k: v for k, v in flags.items() if v is not None})
    found = run_audit(request, models=models, train=_train_reward if models else None)
    _show(request, found)
    raise typer.Exit(found.exit_code)


def _model_settings(model: str | None, flags: dict[str, object]) -> "AuditModelSettings | None":
    if model is None:
        if flags:
            flag = next(iter(flags)).replace("_", "-")
            raise SettingsError(
                f"command line: --{flag} needs --model. Give a model, or leave it out."
            )
        return None
    from preftune.evaluation.audit_models import AuditModelSettings
    from preftune.settings import build

    return build(AuditModelSettings, {"model": model, **flags}, where="command line")


def _train_reward(settings: "AuditModelSettings", *, data: Path, out: Path) -> Path:
    """Train one of the fold models; evaluation may not import training, so it comes from here."""
    from preftune.engine.settings import OptimizerSettings
    from preftune.training import reward
    from preftune.training.method_settings import RewardSettings
    from preftune.training.settings import RunSettings

    return reward.train(
        RewardSettings(
            model=settings.model,
            data=data,
            run=RunSettings(out=out, seed=settings.seed),
            optimizer=OptimizerSettings(
                lr=settings.lr, epochs=settings.epochs, batch_size=settings.batch_size
            ),
        )
    )


def _show(request: "AuditRequest", found: "Audit") -> None:
    from preftune.cli.data_check import show_table
    from preftune.datasets.audit import about, finding_rows
    from preftune.text import visible

    show_table(("", ""), about(found))
    for note in found.notes:
        typer.echo(visible(note))
    show_table(
        ("verdict", "kind", "size", "what, and what to do"),
        [
            (verdict, kind, size, f"{what}. {fix}".strip())
            for verdict, kind, size, what, fix in finding_rows(found)
        ],
    )
    words = {"ok": "nothing stands out", "look": "look before you train", "stop": "stop"}
    typer.echo(f"{visible(found.source)}: {words[found.verdict]}")
    typer.echo(f"written: {visible(str(request.out / 'audit.html'))}")
