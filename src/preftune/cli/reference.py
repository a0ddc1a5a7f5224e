"""The command-line reference, written from the commands themselves: `make docs`."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from preftune.files import write_atomic

TITLE = """# Command line

Written by `make docs` from the commands themselves; a test keeps it equal to them.
Every command exits with 0 when it did its work and 2 when the input or a setting is wrong (one
line on standard error says where, what, and what to do). `preftune gate` answers with 0 (ship),
1 (don't ship) or 3 (can't tell).
"""


def commands() -> Iterator[tuple[str, Any]]:
    """Yield every command that does something, with its full name."""
    from preftune.cli.main import app

    yield from _leaves("preftune", typer.main.get_command(app))


def reference() -> str:
    """Return the reference as Markdown."""
    return TITLE + "".join(_section(name, command) for name, command in commands())


def _leaves(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
        return
    for part in sorted(inner):
        yield from _leaves(f"{name} {part}", inner[part])


def _section(name: str, command: Any) -> str:
    rows = [_row(parameter) for parameter in command.params if parameter.name != "help"]
    table = "".join(rows)
    head = "| option | meaning |\n| --- | --- |\n" if rows else ""
    paragraphs = "\n\n".join(" ".join(p.split()) for p in (command.help or "").split("\n\n"))
    return f"\n## {name}\n\n{paragraphs}\n\n{head}{table}"


def _row(parameter: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    if parameter.param_type_name == "argument":
        names = f"`{parameter.name.upper()}`"
    return f"| {names} | {_escaped(getattr(parameter, 'help', None) or '')} |\n"


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    write_atomic(Path(sys.argv[1]), reference())
