"""`preftune data …`: the group all data commands hang on, and import and convert."""

import typer

group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Read, check, split and convert data.")


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.add_typer(group, name="data")
