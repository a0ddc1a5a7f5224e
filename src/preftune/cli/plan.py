"""`preftune plan sft | reward | direct`: what a run needs, said before its first step."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from preftune.cli.data_check import show_table
from preftune.cli.options import from_flags
from preftune.training.method_settings import RewardSettings
from preftune.training.settings import DirectSettings, SftSettings

if TYPE_CHECKING:
    from preftune.training.plan import Plan

T = TypeVar("T", SftSettings, RewardSettings, DirectSettings)
JSON = Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")]
UNITS = {"GB": 1e9, "MB": 1e6, "kB": 1e3}

group = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Say what a run will need: write plan instead of train in its command.",
)


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.add_typer(group, name="plan")
    group.command("sft")(_with_json(SftSettings, sft))
    group.command("reward")(_with_json(RewardSettings, reward))
    group.command("direct")(_with_json(DirectSettings, direct))


def sft(settings: SftSettings, *, json: bool) -> None:
    """Say what `train sft` with the same options will need: rows, memory, disk, time.

    Example: preftune plan sft --model base --data chats.jsonl --out runs/sft
    """
    _show(settings, json=json)


def reward(settings: RewardSettings, *, json: bool) -> None:
    """Say what `train reward` with the same options will need: rows, memory, disk, time.

    Example: preftune plan reward --model base --data train.jsonl --out runs/reward
    """
    _show(settings, json=json)


def direct(settings: DirectSettings, *, json: bool) -> None:
    """Say what `train direct` with the same options will need: rows, memory, disk, time.

    Nothing is written. A few passes are timed on the real model, unless it does not fit.

    Example: preftune plan direct --model runs/sft/final --data train.jsonl --out runs/dpo

    Example: preftune plan direct --model runs/sft/final --data train.jsonl --out runs/dpo
    --lora-rank 16 --json
    """
    _show(settings, json=json)


def _with_json(cls: type[T], run: Callable[..., None]) -> Callable[..., None]:
    """Return the command of a settings class with one more flag, which is no setting."""

    def command(**flags: Any) -> None:
        json = flags.pop("json")
        from_flags(cls, partial(run, json=json))(**flags)

    shape: inspect.Signature = inspect.signature(from_flags(cls, run))
    last = inspect.Parameter("json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=JSON)
    shown = [*shape.parameters.values(), last]
    command.__signature__ = shape.replace(parameters=shown)  # type: ignore[attr-defined]  # typer reads it
    command.__annotations__ = {p.name: p.annotation for p in shown} | {"return": None}
    command.__doc__ = run.__doc__
    return command


def _show(settings: SftSettings | RewardSettings | DirectSettings, *, json: bool) -> None:
    from preftune.training.plan import plan

    found = plan(settings)
    if json:
        import msgspec

        whole = asdict(found) | {"peak_bytes": found.memory.total, "fits": found.fits}
        typer.echo(msgspec.json.format(msgspec.json.encode(whole), indent=2).decode())
        return
    show_table(("", ""), _data_rows(found))
    show_table(("memory at the peak", ""), _memory_rows(found), right=True)
    show_table(("disk at the most", ""), _sizes(asdict(found.disk)), right=True)
    for line in _verdict(found):
        typer.echo(line)


def _data_rows(found: "Plan") -> Iterator[tuple[str, str]]:
    data = found.data
    yield "rows", f"{data.rows:,}"
    if data.too_long:
        yield "rows too long", f"{data.too_long:,} over {data.limit_tokens:,} tokens"
    yield "longest row", f"{data.longest_tokens:,} tokens"
    saved = 1 - data.tokens / data.tokens_apart
    yield "tokens in a pass", f"{data.tokens:,}, each prompt once ({saved:.0%} saved)"
    yield "tokens learnt from", f"{data.own_tokens:,}"
    yield "steps", f"{data.steps:,}, the largest of {data.largest_step_tokens:,} tokens"
    yield "computing in", found.precision
    asked = f"{found.micro_tokens:,}" if found.micro_tokens else "the whole step"
    why = "chosen now" if found.chosen else f"{found.suggested_micro_tokens:,} suggested"
    yield "micro_tokens", f"{asked}; {why}"


def _memory_rows(found: "Plan") -> Iterator[tuple[str, str]]:
    yield from _sizes(asdict(found.memory))
    yield "all", _bytes(found.memory.total)
    yield "there is", _bytes(found.available_bytes)


def _sizes(parts: dict[str, int]) -> Iterator[tuple[str, str]]:
    yield from ((name, _bytes(count)) for name, count in parts.items() if count)


def _verdict(found: "Plan") -> Iterator[str]:
    if found.time is not None:
        t = found.time
        yield (
            f"time: about {_seconds(t.training + t.reference)} "
            f"({_seconds(t.low)} to {_seconds(t.high)}), {_seconds(t.reference)} of it for the "
            f"reference; from {t.timed_tokens:,} tokens timed here and now"
        )
    yield "it fits" if found.fits else "it does not fit; what would help:"
    yield from (f"  {line}" for line in found.advice)


def _bytes(count: int) -> str:
    unit = next((u for u, size in UNITS.items() if count >= size), "kB")
    return f"{count / UNITS[unit]:,.1f} {unit}"


def _seconds(count: float) -> str:
    if count < 120:
        return f"{count:.1f} s"
    return f"{count / 60:.0f} min" if count < 7200 else f"{count / 3600:.1f} h"
