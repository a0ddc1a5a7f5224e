"""Datasets: every format of the field in and out, looked at, checked and split."""

from preftune.datasets.convert import Target, convert
from preftune.datasets.read import (
    Loaded,
    Scan,
    read_comparisons,
    read_demonstrations,
    read_pairs,
    read_prompts,
    read_rankings,
    read_records,
    read_references,
    read_responses,
    read_unpaired,
    scan,
)
from preftune.datasets.scanned import Problem, Scanned
from preftune.datasets.transfer import Transferred, convert_file, import_file
from preftune.datasets.write import Lost, dataset_hash, write_records

__all__ = [
    "Loaded",
    "Lost",
    "Problem",
    "Scan",
    "Scanned",
    "Target",
    "Transferred",
    "convert",
    "convert_file",
    "dataset_hash",
    "import_file",
    "read_comparisons",
    "read_demonstrations",
    "read_pairs",
    "read_prompts",
    "read_rankings",
    "read_records",
    "read_references",
    "read_responses",
    "read_unpaired",
    "scan",
    "write_records",
]
