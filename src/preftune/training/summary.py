"""The few lines a person wants to read when a run has ended."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from preftune.files import read_json
from preftune.training.held_out import FILE, read_held_out
from preftune.training.logs import read_rows


def summary(folder: Path) -> str:
    """Return steps, first and last loss, warnings and held-out accuracy of a run, as text."""
    rows = read_rows(folder / "metrics.jsonl")
    lines = [
        f"{len(rows)} steps, {_fell(rows)}",
        *_moved(rows[-max(1, len(rows) // 4) :]),
        *(f"warning: {row['warning']}" for row in read_rows(folder / "warnings.jsonl")),
    ]
    if (folder / FILE).exists():
        lines.append(str(read_held_out(folder)))
    lines += _roles(folder / "roles.json")
    lines.append(f"model: {folder / 'final'}")
    lines.append(f"curves: {folder / 'plots' / 'curves.svg'}")
    return "\n".join(lines)


def _fell(rows: Sequence[Mapping[str, float]]) -> str:
    """Return first and last loss; in preference tuning the NLL term stands beside it."""
    first, last = rows[0], rows[-1]
    rewards = [row["reward"] for row in rows if "reward" in row]
    if rewards:
        return (
            f"reward {rewards[0]:.3f} → {rewards[-1]:.3f}, KL to the reference "
            f"{last['kl']:.2f} nats a response"
        )
    if "preference_loss" not in first:
        return f"loss {first['loss']:.4f} → {last['loss']:.4f} nats"
    return (
        f"loss {first['preference_loss']:.4f} → {last['preference_loss']:.4f} nats, "
        f"NLL of chosen {first['nll']:.4f} → {last['nll']:.4f} nats a token"
    )


def _roles(file: Path) -> list[str]:
    """Return which weights existed, of a run in which several models took part."""
    return [f"{role}: {size}" for role, size in read_json(file).items()] if file.exists() else []


def _moved(rows: Sequence[Mapping[str, float]]) -> list[str]:
    """Return a line on what preference tuning did to both sides by the last quarter of the run."""
    if "reward_margin" not in rows[0] or "unscored" in rows[0]:
        return []

    def mean(name: str) -> float:
        return fmean(row[name] for row in rows)

    line = f"last quarter: accuracy {mean('accuracy'):.2f}, margin {mean('margin'):+.2f} nats"
    if "chosen_logratio" in rows[0]:
        line += (
            f", chosen {mean('chosen_logratio'):+.2f} and rejected {mean('rejected_logratio'):+.2f}"
            " nats from the reference"
        )
    return [line]
