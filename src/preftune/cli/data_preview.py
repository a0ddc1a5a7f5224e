"""`preftune data preview`: rows as a model's tokens, its own ones marked."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from preftune.cli.data import group

if TYPE_CHECKING:
    from preftune.models.preview import ShownSequence

STYLES: dict[str, dict[str, Any]] = {
    "own": {"bg": "green", "fg": "black"},
    "control": {"dim": True},
    "context": {},
}
LEGEND = "⟦ ⟧ the model's own tokens · blank  ⏎ new line  ⇥ tab  │ between tokens"


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""


@group.command("preview")
def preview_data(
    file: Annotated[Path, typer.Argument(help="File in any known format.")],
    model: Annotated[str, typer.Option(help="Model folder or hub id whose tokens to show.")],
    rows: Annotated[int, typer.Option(min=1, help="How many rows.")] = 3,
) -> None:
    """Show rows as tokens: what is trained on, and what is only read.

    The model's own tokens stand in brackets, on green where the terminal has colour; control tokens
    are dim.

    Example: preftune data preview pairs.jsonl --model base --rows 2
    """
    from preftune.models.chat import load_chat
    from preftune.models.preview import preview

    chat = load_chat(model)
    typer.echo(LEGEND)
    for sequence in preview(file, chat, rows=rows):
        own = sum(token.whose == "own" for token in sequence.tokens)
        typer.echo(
            f"\nrow {sequence.line}, {sequence.label}: {len(sequence.tokens)} tokens, "
            f"{sequence.prompt_length} of the prompt, {own} own"
        )
        typer.echo(_painted(sequence))


def _painted(sequence: "ShownSequence") -> str:
    """Return the tokens in one line, runs of own tokens in brackets."""
    pieces: list[str] = []
    before = "context"
    for token in sequence.tokens:
        edge = "⟦" if token.whose == "own" else "⟧"
        changes = (token.whose == "own") != (before == "own")
        pieces.append(edge if changes else "│" if pieces else "")
        pieces.append(typer.style(token.text, **STYLES[token.whose]))
        before = token.whose
    return "".join(pieces) + ("⟧" if before == "own" else "")
