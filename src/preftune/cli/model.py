"""`preftune model …`: make a small model from nothing, look at any model."""

from pathlib import Path
from typing import Annotated

import typer

group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Make and look at models.")


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.add_typer(group, name="model")


@group.command("new")
def new(
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    *,
    text: Annotated[
        Path, typer.Option(help="Text to train the tokenizer on: .txt, or any data format.")
    ],
    preset: Annotated[str, typer.Option(help="Size: tiny, small, medium, or encoder.")] = "tiny",
    vocab_size: Annotated[int, typer.Option(help="At most so many different tokens.")] = 4096,
    tokenizer: Annotated[
        str, typer.Option(help="bpe spells any text from bytes; words knows whole words only.")
    ] = "bpe",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random weights.")] = 0,
) -> None:
    """Make a small model with random weights and a tokenizer of its own.

    Example: preftune model new base --preset tiny --text chats.jsonl
    """
    from preftune.models.new import new_model
    from preftune.models.texts import read_texts

    made = new_model(
        out,
        preset=preset,
        texts=read_texts(text),
        vocab_size=vocab_size,
        seed=seed,
        tokenizer=tokenizer,
    )
    typer.echo(f"made {made}; look at it: preftune model show {made}")


@group.command("show")
def show(
    folder: Annotated[str, typer.Argument(help="Model folder, adapter folder or hub id.")],
) -> None:
    """Show size, vocabulary, chat template and fingerprint of a model.

    Example: preftune model show base
    """
    from preftune.models.about import about
    from preftune.models.preview import visible

    a = about(folder)
    kind = f"reward model on a {a.kind}" if a.is_reward_model else a.kind
    typer.echo(f"architecture   {visible(a.architecture)} ({kind})")
    typer.echo(f"parameters     {a.parameters:,}")
    typer.echo(f"trainable      {a.trainable_parameters:,}")
    typer.echo(f"vocabulary     {a.vocab_size:,} tokens")
    typer.echo(f"reads at most  {f'{a.max_length:,} tokens' if a.max_length else 'not said'}")
    typer.echo(f"a turn ends on {visible(', '.join(a.end_tokens))}")
    typer.echo(f"fingerprint    {a.fingerprint}")
    typer.echo(f"template       {a.template_hash}")
    for line in a.template.splitlines():
        typer.echo("  | " + " ".join(visible(word) for word in line.split(" ")))
