"""The few lines a person wants to read when a run has ended."""

from pathlib import Path

import msgspec

from preftune.files import read_json
from preftune.training.held_out import HeldOut
from preftune.training.run import read_rows


def summary(folder: Path) -> str:
    """Return steps, first and last loss, warnings and held-out accuracy of a run, as text."""
    rows = read_rows(folder / "metrics.jsonl")
    lines = [
        f"{len(rows)} steps, loss {rows[0]['loss']:.4f} → {rows[-1]['loss']:.4f} nats",
        *(f"warning: {row['warning']}" for row in read_rows(folder / "warnings.jsonl")),
    ]
    held_out = folder / "held_out.json"
    if held_out.exists():
        lines.append(str(msgspec.convert(read_json(held_out), HeldOut)))
    lines.append(f"model: {folder / 'final'}")
    lines.append(f"curves: {folder / 'plots' / 'curves.svg'}")
    return "\n".join(lines)
