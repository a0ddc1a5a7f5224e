"""Cells and tables of the page."""

from collections.abc import Iterable, Sequence

from benchmarks.config import RunConfig
from benchmarks.contests import Goal
from benchmarks.results import Summary

Found = dict[str, Summary]  # by label
NOTHING = "–"


def section(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], text: str = "") -> str:
    """Return a titled table, and nothing at all without rows."""
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    return "\n\n".join(part for part in (f"## {title}", text, table) if part)


def known(found: Found, configs: Iterable[RunConfig]) -> list[Summary]:
    """Return the summaries of those configurations that were run."""
    return [found[config.label] for config in configs if config.label in found]


def rate_of(got: Summary) -> float:
    """Return the pairs per second, to order by."""
    return got.rate


def setting(config: RunConfig) -> str:
    """Return what the tables call a setting of TRL."""
    return {"default": "default", "grouped": f"mb{config.micro} grouped"}.get(
        config.flags, f"mb{config.micro}"
    )


def judged(goal: Goal | None, ratio: float) -> list[str]:
    """Return the cells must, aim and verdict of a ratio where more is better."""
    return [*bars(goal), goal.verdict(ratio) if goal else ""]


def bars(goal: Goal | None) -> list[str]:
    """Return the cells must and aim."""
    return [f"{goal.must:g}", f"{goal.aim:g}"] if goal else [NOTHING, NOTHING]


def figure(value: float) -> str:
    """Return a number with three digits that count."""
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
