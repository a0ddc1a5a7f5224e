"""The few lines a person wants to read when a run has ended."""

from pathlib import Path

from preftune.training.held_out import FILE, read_held_out
from preftune.training.run import read_rows


def summary(folder: Path) -> str:
    """Return steps, first and last loss, warnings and held-out accuracy of a run, as text."""
    rows = read_rows(folder / "metrics.jsonl")
    lines = [
        f"{len(rows)} steps, loss {rows[0]['loss']:.4f} → {rows[-1]['loss']:.4f} nats",
        *(f"warning: {row['warning']}" for row in read_rows(folder / "warnings.jsonl")),
    ]
    if (folder / FILE).exists():
        lines.append(str(read_held_out(folder)))
    lines.append(f"model: {folder / 'final'}")
    lines.append(f"curves: {folder / 'plots' / 'curves.svg'}")
    return "\n".join(lines)
