"""`preftune`: the whole of preference tuning as commands that can be chained."""

import sys
from collections.abc import Sequence

import typer

from preftune import __version__
from preftune.cli import (
    audit,
    best_of_n,
    data,
    data_check,
    data_preview,
    demo,
    evaluate,
    grade,
    job_files,
    jobs,
    judge,
    keys,
    label,
    model,
    plan,
    prompts,
    raters,
    rlaif,
    sample,
    score,
    serve,
    store,
    trace,
    train,
    train_more,
    train_policy,
)
from preftune.errors import PreftuneError

app = typer.Typer(
    name="preftune",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Preference tuning of language models: from comparisons to a model proven better.",
)


def show_version(wanted: bool) -> None:
    """Print the version and leave."""
    if wanted:
        typer.echo(f"preftune {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", callback=show_version, is_eager=True),
) -> None:
    """Preference tuning of language models: from comparisons to a model proven better.

    Start here: preftune demo
    """


for part in (
    data,
    data_check,
    data_preview,
    audit,
    prompts,
    sample,
    score,
    label,
    judge,
    rlaif,
    raters,
    store,
    trace,
    model,
    plan,
    train,
    train_more,
    train_policy,
    grade,
    best_of_n,
    evaluate,
    demo,
    serve,
    jobs,
    job_files,
    keys,
):
    part.register(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a user's mistake is one line on stderr and exit code 2."""
    try:
        code = app(args=arguments, standalone_mode=False)
    except PreftuneError as error:
        typer.echo(f"error: {error}", err=True)
        return 2
    except typer.Exit as left:
        return left.exit_code
    except (KeyboardInterrupt, typer.Abort) as stop:
        said = str(stop) or str(stop.__cause__ or "")  # typer wraps an interrupt in an Abort
        typer.echo(said or "stopped", err=True)
        return 130
    except Exception as error:
        if not hasattr(error, "exit_code") or not hasattr(error, "show"):
            raise
        error.show()
        return 2
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())
