"""Turn a settings class into command-line options: one home for names, types, ranges and help."""

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from types import GenericAlias, UnionType
from typing import Annotated, Any, Literal, TypeVar, cast, get_args, get_origin

import typer

from preftune.settings import build, options, read_yaml

T = TypeVar("T")
CONFIG_HELP = "YAML file of settings; flags given here win over it."


def from_flags(cls: type[T], run: Callable[[T], None]) -> Callable[..., None]:
    """Return a typer command that takes every setting of `cls` as a flag and calls `run`.

    A flag left out falls back to `--config`, then to the default of the class.
    """

    def command(**flags: Any) -> None:
        config: Path | None = flags.pop("config")
        given = {name: value for name, value in flags.items() if value is not None}
        where = str(config) if config else "command line"
        run(build(cls, {**(read_yaml(config) if config else {}), **given}, where=where))

    shown = [_parameter("config", Path | None, CONFIG_HELP)]
    for option in options(cls):
        default = "" if option.default is dataclasses.MISSING else f" [default: {option.default}]"
        shown.append(_parameter(option.name, option.type | None, f"{option.help}{default}"))
    command.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]  # typer reads it
    command.__annotations__ = {p.name: p.annotation for p in shown} | {"return": None}
    command.__doc__ = run.__doc__
    return command


def _parameter(name: str, kind: Any, help_text: str) -> inspect.Parameter:
    flag = f"--{name.replace('_', '-')}"
    names = (f"{flag}/--no-{flag[2:]}",) if bool in (kind, *get_args(kind)) else (flag,)
    shown: Any = typer.Option(*names, help=help_text, show_default=False)
    annotation = cast(Any, Annotated)[_typer_type(kind), shown]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )


def _typer_type(kind: Any) -> Any:
    """Return a type typer understands: a choice is shown as text, `build` checks it."""
    parts = (
        [part for part in get_args(kind) if part is not type(None)] if _is_union(kind) else [kind]
    )
    part = str if any(get_origin(part) is Literal for part in parts) else parts[0]
    if get_origin(part) is tuple:
        part = GenericAlias(list, get_args(part)[:1])
    return part | None


def _is_union(kind: Any) -> bool:
    return isinstance(kind, UnionType) or str(get_origin(kind)) == "typing.Union"
