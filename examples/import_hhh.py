"""Helpful, honest, harmless and other: pairs written and labelled by people.

The category is the dimension. Some prompts hold several turns under the marks of HH transcripts.

Example: python examples/import_hhh.py FOLDER --out hhh.jsonl
"""

from collections.abc import Iterator
from pathlib import Path

from _importing import Row, converted, read_rows, run
from preftune.datasets.formats.hh import read_transcript
from preftune.datasets.scanned import Scanned
from preftune.types import PreferencePair, Provenance, Record, assistant, make_prompt

PROVENANCE = Provenance(source="hhh", rater_kind="human")


def records(folder: Path) -> Iterator[Scanned]:
    yield from converted(read_rows(folder / "pairs.jsonl"), convert)


def convert(_line: int, row: Row) -> Iterator[Record]:
    turns = read_transcript(f"\n\nHuman: {row['prompt']}", "prompt")
    yield PreferencePair(
        id=row["id"],
        prompt=make_prompt(*turns, source="hhh", origin="written"),
        chosen=(assistant(row["chosen"]),),
        rejected=(assistant(row["rejected"]),),
        dimension=row["category"],
        provenance=PROVENANCE,
    )


if __name__ == "__main__":
    run(records)
