"""Red-teaming dialogues, one of two last turns preferred by a person; contains offensive text.

The product reads this format itself; broken prefixes, empty turns and odd turns are named.

Example: python examples/import_hh_harmless.py FOLDER --out hh.jsonl
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from _importing import run
from preftune.datasets.read import scan
from preftune.datasets.scanned import Scanned
from preftune.types import PreferencePair, Provenance

PROVENANCE = Provenance(source="hh-harmless", rater_kind="human")


def records(folder: Path) -> Iterator[Scanned]:
    for row in scan(folder / "harmless-base-test.jsonl.gz", format="hh").rows:
        if isinstance(row.record, PreferencePair):
            said = replace(row.record, dimension="harmless", provenance=PROVENANCE)
            yield replace(row, record=said)
        else:
            yield row


if __name__ == "__main__":
    run(records)
